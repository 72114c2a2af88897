"""`stocktake up`: one command that is the whole daemon, as real processes with a real broker."""

import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import msgspec
import pytest
from killing import OFTEN, STOCKTAKE, UP, Killer, are_gone, children, daemon, wait_for

from worker import clock
from worker.playground import Playground, playground
from worker.sandbox.faults import Fault
from worker.sandbox.world import World, mutate
from worker.settings import load
from worker.state import heartbeats, opened

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="the processes are found in /proc"),
]


@pytest.fixture
def running() -> Iterator[Playground]:
    with playground(installs=5) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name: the path of a socket has about 100 bytes."""
    with TemporaryDirectory(prefix="up") as folder:
        yield Path(folder)


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
    killer = Killer(Random(0))
    with daemon(folder, running.config + OFTEN) as up:
        wait_for(lambda: len(running.receiver.received) == 2)  # a baseline for each source
        change_arrives(running, running.gestal)

        second = subprocess.run(UP, cwd=folder, capture_output=True, check=False)
        assert second.returncode == 75
        assert f"process {up.pid}".encode() in second.stderr

        first = children(up.pid)
        assert sorted(first) == ["beat", "broker", "deliver", "sync"]
        for role, pid in first.items():
            assert killer.kill(role, pid)
        wait_for(lambda: children(up.pid).keys() == first.keys() and are_gone(first.values()))
        change_arrives(running, running.aeontel)

        again = children(up.pid)
        assert up.stop() == 0
        assert are_gone(again.values())
        assert "Traceback" not in up.log
    ids = told(running)
    assert len(ids) == len(set(ids)) == 2


def test_a_request_goes_through_it_and_status_tells_who_is_alive(
    folder: Path, running: Playground
) -> None:
    def stocktake(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*STOCKTAKE, *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False, text=True)

    with daemon(folder, running.config) as up:  # nothing is due for a minute after the first syncs
        wait_for(lambda: len(running.receiver.received) == 2)
        assert mutate(running.gestal, 1, ("install",))
        done = stocktake("sync", "farm", "--enqueue", "--wait", "--incremental", "--json")
        assert done.returncode == 0, done.stderr
        runs = msgspec.json.decode(done.stdout)["runs"]
        assert sum(run["events"].get("install.created", 0) for run in runs) == 1
        assert done.stderr == ""  # the broker took the wake-up

        live = stocktake("status", "--live")
        assert live.returncode == 0, live.stdout
        beats = {name: seen_at(folder, name) for name in ("sync", "deliver")}
        # Each comes through its own queue again.
        wait_for(lambda: all(seen_at(folder, name) > beat for name, beat in beats.items()))
        assert up.stop() == 0
    with opened(load(folder / "stocktake.toml", {})) as engine:
        for worker in ("sync", "deliver"):
            heartbeats.beat(engine, worker, clock.now() - timedelta(minutes=1))
    dead = stocktake("status", "--live")
    assert dead.returncode == 1
    assert dead.stdout.count("not alive since") == 2
    assert stocktake("status").returncode == 1


def seen_at(folder: Path, worker: str) -> datetime:
    """When a worker was last seen alive."""
    with opened(load(folder / "stocktake.toml", {})) as engine:
        return heartbeats.every(engine)[worker].beat_at


def test_killed_it_leaves_no_process_and_the_next_one_goes_on(
    folder: Path, running: Playground
) -> None:
    with daemon(folder, running.config + OFTEN) as up:
        wait_for(lambda: len(running.receiver.received) == 2)
        parts = children(up.pid)
        Killer(Random(0)).kill("up", up.pid)
        wait_for(lambda: are_gone(parts.values()))
        up.again()
        change_arrives(running, running.gestal)
        assert up.stop() == 0


def test_a_broker_that_is_configured_is_the_only_one(folder: Path, running: Playground) -> None:
    with daemon(folder, f'broker_url = "redis://127.0.0.1:1/0"\n{running.config}') as up:
        wait_for(lambda: len(children(up.pid)) == 3)
        assert sorted(children(up.pid)) == ["beat", "deliver", "sync"]
        assert up.stop() == 0


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_good_order_in_the_middle_of_a_walk_and_of_a_delivery(
    by: int, folder: Path, running: Playground
) -> None:
    # A source that fails is asked again and again; a receiver that resets is, too.
    running.gestal.faults.add(Fault("server_error", times=None))
    running.receiver.then_reset(times=10_000)
    with daemon(folder, running.config + OFTEN) as up:
        wait_for(lambda: len(running.server.requests["gestal"]) > 1)
        wait_for(lambda: running.receiver.received)
        parts = children(up.pid)
        assert up.stop(by) == 0
        assert are_gone(parts.values())
        assert "did not end in time" not in up.log


def test_a_child_that_hangs_is_killed_when_all_is_stopped(
    folder: Path, running: Playground
) -> None:
    with daemon(folder, running.config + OFTEN) as up:
        wait_for(lambda: len(running.receiver.received) == 2)
        parts = children(up.pid)
        Killer(Random(0)).hold("deliver", parts["deliver"])
        assert up.stop() == 0
        assert are_gone(parts.values())
        assert "deliver did not end in time and is killed" in up.log


def test_a_signal_that_comes_while_it_starts_ends_it_as_well(
    folder: Path, running: Playground
) -> None:
    with daemon(folder, running.config + OFTEN) as up:
        wait_for(lambda: "stocktake is up" in up.log)  # it is about to become the supervisor
        assert up.stop() == 0
        assert children(up.pid) == {}
