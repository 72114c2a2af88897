"""One worker at a time on one thing, and what becomes of it when the worker dies."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from platforms import Stocktake, Unhurried, source_rows
from sqlalchemy import Engine

from worker import clock
from worker.errors import StoreBusy
from worker.sandbox.seeding import gestal_world
from worker.state import connect, leases, processes, transaction
from worker.state.leases import LIFE, lease
from worker.state.tables import LeaseRow
from worker.sync import Wish, sync

HOLDER = """
import sys
from worker.state import connect, leases
with leases.lease(connect(sys.argv[1]), "sync farm") as fence:
    print(fence, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def engine(state_url: str) -> Iterator[Engine]:
    engine = connect(state_url)
    yield engine
    engine.dispose()


def row(engine: Engine) -> LeaseRow:
    with transaction(engine) as session:
        return session.get_one(LeaseRow, "sync farm")


def held_elsewhere(engine: Engine, left: timedelta, owner: str = "elsewhere/process 1/1") -> None:
    """The lease as another host would have it, with `left` of its life."""
    with transaction(engine) as session:
        expires_at = clock.now() + left
        session.merge(LeaseRow(name="sync farm", owner=owner, fence=5, expires_at=expires_at))


def test_a_second_holder_is_refused_and_told_who_holds(engine: Engine) -> None:
    with lease(engine, "sync farm"):
        with (
            pytest.raises(StoreBusy, match=rf"^sync farm .*process {os.getpid()}\b") as caught,
            lease(engine, "sync farm"),
        ):
            pass
        assert caught.value.wait_s == pytest.approx(LIFE.total_seconds(), abs=30)
        assert f"{os.getpid()}/" not in str(caught.value)


def test_different_things_have_leases_of_their_own(engine: Engine) -> None:
    with lease(engine, "sync farm"), lease(engine, "sync voice"):
        pass


def test_it_is_free_after_the_block_however_it_ends(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), lease(engine, "sync farm"):
        raise ZeroDivisionError
    with lease(engine, "sync farm"):
        pass
    assert (row(engine).owner, row(engine).expires_at) == (None, None)


def test_no_thread_is_left_behind(engine: Engine) -> None:
    before = threading.active_count()
    with lease(engine, "sync farm"):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_the_fence_grows_with_every_holder(engine: Engine) -> None:
    fences = []
    for _ in range(3):
        with lease(engine, "sync farm") as fence:
            fences.append(fence)
    assert fences == [1, 2, 3]


def test_the_fence_is_above_what_the_store_has_seen(engine: Engine) -> None:
    with lease(engine, "sync farm", floor=41) as fence:
        assert fence == 42
    with lease(engine, "sync farm", floor=3) as fence:
        assert fence == 43


@pytest.mark.slow
def test_the_lease_of_a_process_that_died_is_free_at_once(engine: Engine, state_url: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, state_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"1\n"
        with pytest.raises(StoreBusy, match=f"process {holder.pid}"), lease(engine, "sync farm"):
            pass
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        # Dead, but its parent has not noticed: nobody works there any more.
        with lease(engine, "sync farm") as fence:
            assert fence == 2
    with lease(engine, "sync farm") as fence:
        assert fence == 3


def test_a_process_that_reuses_the_number_of_a_dead_one_holds_nothing(engine: Engine) -> None:
    owner = processes.owner().rpartition("/")[0] + "/1"  # this number, started at boot
    held_elsewhere(engine, LIFE, owner)
    with lease(engine, "sync farm"):
        pass


def test_the_lease_of_another_host_is_free_when_it_expires(engine: Engine) -> None:
    held_elsewhere(engine, LIFE)
    with pytest.raises(StoreBusy, match="process 1"), lease(engine, "sync farm"):
        pass
    held_elsewhere(engine, -timedelta(seconds=1))
    with lease(engine, "sync farm") as fence:
        assert fence == 6


def test_who_lost_the_lease_does_not_release_it(engine: Engine) -> None:
    with lease(engine, "sync farm"):
        held_elsewhere(engine, LIFE)  # as after a pause longer than its life
    assert row(engine).owner == "elsewhere/process 1/1"


class Once(threading.Event):
    """Lets one renewal happen."""

    def wait(self, timeout: float | None = None) -> bool:
        was = self.is_set()
        self.set()
        return was


def test_a_lease_is_renewed_while_it_is_held(engine: Engine) -> None:
    held_elsewhere(engine, timedelta(seconds=1))
    leases._renew(engine, "sync farm", 5, Once())
    renewed = row(engine).expires_at
    assert renewed is not None
    assert renewed > clock.now() + LIFE / 2


def test_a_lease_that_was_lost_is_not_renewed(engine: Engine) -> None:
    held_elsewhere(engine, timedelta(seconds=1))
    before = row(engine).expires_at
    leases._renew(engine, "sync farm", 4, Once())
    assert row(engine).expires_at == before


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_frees_no_lease(
    hours: int, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(engine, "sync farm"):
        then = clock.now() + timedelta(hours=hours)
        monkeypatch.setattr(clock, "now", lambda: then)
        with (
            pytest.raises(StoreBusy, match=f"process {os.getpid()}") as caught,
            lease(engine, "sync farm"),
        ):
            pass
        assert caught.value.wait_s
        assert caught.value.wait_s > LIFE.total_seconds() / 2


def test_a_holder_that_renews_no_more_holds_until_its_lease_lapses(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(engine, "sync farm"):
        then, later = clock.now() + LIFE, processes.monotonic() + LIFE.total_seconds() + 1
        monkeypatch.setattr(clock, "now", lambda: then)
        monkeypatch.setattr(processes, "monotonic", lambda: later)
        with lease(engine, "sync farm") as fence:
            assert fence == 2


@pytest.mark.slow
def test_a_state_store_that_is_lost_amid_a_sync_gives_no_fence_twice(
    take: Callable[..., Stocktake],
) -> None:
    """The second sync, whose lease knows of no first one, is the newer one all the same."""
    farm = take(gestal_world(installs=3, seed=1, now=clock.now()))
    lost = iter([True])

    def lose(_scope: str, _seen: int, _total: int | None) -> None:
        if next(lost, False):
            with transaction(farm.engine) as session:
                session.connection().exec_driver_sql("delete from leases")
            farm.sync()

    with pytest.raises(StoreBusy, match=r"a newer sync \(lease 2\) has committed.*\(lease 1\)"):
        sync(farm.settings, farm.engine, farm.source, Wish(), Unhurried(), lose)
    assert farm.active() == set(source_rows(farm.world))
