"""A broker that dies, hangs, forgets or is away: work goes on, and is caught up with afterwards."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Event
from time import monotonic, sleep

import pytest
from killing import Broker, Daemon, Killer, broker, daemon, tracebacks_of_ours, wait_for
from kombu.exceptions import OperationalError
from reckoning import as_figures, asked, reckoned, settle
from weather import Weather, weather

from worker.queues import application
from worker.settings import Settings, load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="the processes are found in /proc"),
]

# A sync that is due again as soon as it ends would keep the worker from the broker for minutes.
SCHEDULE = '[schedule]\nincremental = "4s"\nfull = "12s"\ndeliver = "1s"\n'
short, full = pytest.mark.chaos, pytest.mark.soak
Show = Callable[[str, object], None]


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name: the path of a socket has about 100 bytes."""
    with TemporaryDirectory(prefix="up") as folder:
        yield Path(folder)


@contextmanager
def running(folder: Path) -> Iterator[tuple[Weather, Broker, Daemon]]:
    """A daemon with a broker of ours, when its first syncs are over."""
    (folder / "broker").mkdir()
    with weather(seed=0, installs=10) as around, broker(folder / "broker") as ours:
        around.flaky.well = True
        config = f'broker_url = "{ours.url}"\n{SCHEDULE}{around.config}'
        with daemon(folder, config) as up:
            wait_for(lambda: len(around.flaky.arrivals) == 2, what="both baselines")
            yield around, ours, up


def all_answer(folder: Path) -> bool:
    """Whether both workers answer a question that goes through the broker."""
    with closing(application(load(folder / "stocktake.toml", {}), Event())) as app:
        try:
            with app.connection_for_write(transport_options={"max_retries": 0}) as connection:
                return len(app.control.ping(timeout=1.0, connection=connection)) == 2
        except OperationalError:
            return False


def conclude(folder: Path, around: Weather, up: Daemon, killer: Killer) -> dict[str, int]:
    """The figures, when all is caught up with; nothing may be wrong."""
    settings = load(folder / "stocktake.toml", {})
    caught_up_s = settle(settings, around)
    assert up.stop() == 0
    assert tracebacks_of_ours(up.log) == []
    wrong, sizes = reckoned(settings, around, killer.at)
    assert set(as_figures(wrong, {}).values()) == {0}, wrong
    return {"caught_up_s": round(caught_up_s), **as_figures(wrong, sizes)}


def recorded(settings: Settings) -> int:
    """How many events there are."""
    return int(asked(settings, "select count(*) from events")[0][0])


@pytest.mark.parametrize(
    "times", [pytest.param(4, marks=short, id="short"), pytest.param(12, marks=full, id="full")]
)
def test_a_broker_that_is_killed_and_restarted_again_and_again(
    times: int, folder: Path, record_property: Show
) -> None:
    killer, back_s = Killer(Random(0)), []
    with running(folder) as (around, ours, up):
        for _ in range(times):
            with around.blowing(0.3):
                ours.kill(killer)
                ours.start()
                back_s.append(wait_for(lambda: all_answer(folder), what="both answer"))
        figures = conclude(folder, around, up, killer)
    slowest = round(max(back_s), 1)
    record_property("broker", {"killed": times, "answering_again_after_s": slowest, **figures})


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        pytest.param("frozen", 20, marks=short, id="frozen-short"),
        pytest.param("frozen", 40, marks=full, id="frozen-full"),
        pytest.param("away", 20, marks=short, id="away-short"),
        pytest.param("away", 1800, marks=full, id="away-full"),
    ],
)
def test_events_are_recorded_and_delivered_while_the_broker_is(
    how: str, seconds: int, folder: Path, record_property: Show
) -> None:
    killer = Killer(Random(0))
    seconds = int(os.environ.get("OUTAGE_S", seconds))
    with running(folder) as (around, ours, up):
        settings = load(folder / "stocktake.toml", {})
        assert ours.process
        settle(settings, around)
        ours.kill(killer) if how == "away" else killer.hold("broker", ours.process.pid)
        events, arrivals, began = recorded(settings), len(around.flaky.arrivals), monotonic()
        with around.blowing(0.5):
            recorded_s = wait_for(lambda: recorded(settings) > events, what="an event", every_s=0.2)
            wait_for(lambda: len(around.flaky.arrivals) > arrivals, what="a delivery")
            delivered_s = monotonic() - began
            sleep(max(0.0, seconds - delivered_s))
            meanwhile = recorded(settings) - events
            ours.start() if how == "away" else os.kill(ours.process.pid, signal.SIGCONT)
            back_s = wait_for(lambda: all_answer(folder), what="both answer")
        figures = conclude(folder, around, up, killer)
    outage = {"first_event_s": round(recorded_s), "first_delivery_s": round(delivered_s)}
    outage |= {"events_meanwhile": meanwhile, "answering_again_after_s": round(back_s, 1)}
    record_property("broker", {how: seconds, **outage, **figures})


@pytest.mark.chaos
def test_a_broker_that_forgets_everything_costs_nothing(
    folder: Path, record_property: Show
) -> None:
    with running(folder) as (around, ours, up):
        with around.blowing(0.2):
            for _ in range(20):
                assert ours.ask("flushall") is True
                sleep(0.2)
        record_property("broker", {"flushed": 20, **conclude(folder, around, up, Killer(Random()))})


@pytest.mark.chaos
@pytest.mark.parametrize("harm", ["cut off", "garbled"])
def test_the_broker_of_up_starts_whatever_happened_to_its_file(harm: str, folder: Path) -> None:
    with weather(seed=0, installs=5) as around, daemon(folder, SCHEDULE + around.config) as up:
        around.flaky.well = True
        wait_for(lambda: len(around.flaky.arrivals) == 2, what="both baselines")
        kept = folder / "data" / "private" / "broker"
        (file,) = wait_until_written(kept)
        Killer(Random(0)).kill("up", up.pid)
        up.process.wait()
        if harm == "cut off":
            os.truncate(file, file.stat().st_size - 3)
        else:
            file.write_bytes(b"*3\r\n$6\r\nLPUSH#" + os.urandom(200) + file.read_bytes()[200:])
        up.again()
        wait_for(lambda: all_answer(folder), what="a broker through which both workers answer")
        before = len(around.flaky.arrivals)
        around.change()
        wait_for(lambda: len(around.flaky.arrivals) > before)
        assert up.stop() == 0


def wait_until_written(kept: Path) -> list[Path]:
    """The file of the messages, when there are some."""
    wait_for(lambda: any(each.stat().st_size > 100 for each in kept.glob("*.incr.aof")))
    return [each for each in kept.glob("*.incr.aof") if each.stat().st_size]
