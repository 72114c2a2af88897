"""`stocktake up`: one command that is the whole daemon, as real processes with a real broker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from worker.playground import Playground, playground
from worker.sandbox.world import World, mutate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="the processes are found in /proc"),
]

HANG_S = 60.0  # how long a broken daemon may block a test
OFTEN = '\n[schedule]\nincremental = "1s"\nfull = "1h"\ndeliver = "1s"\n'
COMMAND = (sys.executable, "-c", "from worker.cli import main; main()", "up")


@pytest.fixture
def running() -> Iterator[Playground]:
    with playground(installs=5) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name: the path of a socket has about 100 bytes."""
    with TemporaryDirectory(prefix="up") as folder:
        yield Path(folder)


@contextmanager
def daemon(folder: Path, running: Playground) -> Iterator[subprocess.Popen[bytes]]:
    """`stocktake up` in a folder; what it logs is in `up.log`."""
    config = folder / "stocktake.toml"
    if not config.exists():
        config.write_text(running.config.rstrip() + OFTEN, "utf-8")
    with (folder / "up.log").open("ab") as log:
        process = subprocess.Popen(COMMAND, cwd=folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def children(parent: int) -> dict[str, int]:
    """The processes of a daemon by what they are."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            words = (stat.parent / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[1]) == parent and fields[0] != "Z" and "worker.leash" not in words:
            found[_kind(words)] = int(stat.parent.name)
    return found


def _kind(words: list[str]) -> str:
    if "-Q" in words:
        return words[words.index("-Q") + 1]
    return "beat" if "beat" in words else "broker"


def wait_for(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_S
    while not look():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def are_gone(pids: Iterable[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def change_arrives(running: Playground, world: World) -> None:
    """Somebody installs something, and the receiver is told."""
    before = len(told(running))
    assert mutate(world, 1, ("install",))
    wait_for(lambda: len(told(running)) > before)


def told(running: Playground) -> list[str]:
    """The ids of the events that arrived."""
    ids = [request.headers["webhook-id"] for request in running.receiver.received]
    return [id for id in ids if id.startswith("evt_")]


def test_it_runs_whatever_ends_but_only_once_until_it_is_stopped(
    folder: Path, running: Playground
) -> None:
    with daemon(folder, running) as up:
        wait_for(lambda: len(running.receiver.received) == 2)  # a baseline for each source
        change_arrives(running, running.gestal)

        second = subprocess.run(COMMAND, cwd=folder, capture_output=True, check=False)
        assert second.returncode == 75
        assert f"process {up.pid}".encode() in second.stderr

        first = children(up.pid)
        assert sorted(first) == ["beat", "broker", "deliver", "sync"]
        for pid in first.values():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: children(up.pid).keys() == first.keys() and are_gone(first.values()))
        change_arrives(running, running.aeontel)

        again = children(up.pid)
        up.terminate()
        assert up.wait(HANG_S) == 0
        assert are_gone(again.values())
    ids = told(running)
    assert len(ids) == len(set(ids)) == 2
    assert b"Traceback" not in (folder / "up.log").read_bytes()


def test_killed_it_leaves_no_process_and_the_next_one_goes_on(
    folder: Path, running: Playground
) -> None:
    with daemon(folder, running) as up:
        wait_for(lambda: len(running.receiver.received) == 2)
        parts = children(up.pid)
        up.kill()
        wait_for(lambda: are_gone(parts.values()))
    with daemon(folder, running) as up:
        change_arrives(running, running.gestal)
        up.terminate()
        assert up.wait(HANG_S) == 0


def test_a_broker_that_is_configured_is_the_only_one(folder: Path, running: Playground) -> None:
    config = f'broker_url = "redis://127.0.0.1:1/0"\n{running.config}'
    (folder / "stocktake.toml").write_text(config, "utf-8")
    with daemon(folder, running) as up:
        wait_for(lambda: len(children(up.pid)) == 3)
        assert sorted(children(up.pid)) == ["beat", "deliver", "sync"]
        up.terminate()
        assert up.wait(HANG_S) == 0
