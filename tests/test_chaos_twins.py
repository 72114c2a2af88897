"""Two of every process, and a clock that is an hour off: one sync at a time, nothing doubled."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import sleep

import pytest
from killing import Killer, broker, started, wait_for
from reckoning import as_figures, check_store, reckoned, settle
from sqlalchemy import text
from weather import Weather, weather

from worker.settings import Settings, load
from worker.state import connect_state

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

SCHEDULE = '[schedule]\nincremental = "1s"\nfull = "5s"\ndeliver = "1s"\n'
CELERY = (sys.executable, "-m", "celery", "-A", "worker.app", "--quiet")
WORKER = (*CELERY, "worker", "-P", "solo", "--without-gossip", "--without-mingle")
# Python reads it when it starts; nothing of the product knows of it.
OFF = """
from datetime import timedelta
from worker import clock
right = clock.now
clock.now = lambda: right() + timedelta(hours={hours})
"""
Show = Callable[[str, object], None]


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="up") as folder:
        yield Path(folder)


def twins(folder: Path, hours: int) -> Iterator[tuple[str, tuple[str, ...], dict[str, str]]]:
    """Two of every process: a name, the command, and what its environment has more. The clock of
    the second of each is off by `hours`."""
    (folder / "off").mkdir()
    (folder / "off" / "sitecustomize.py").write_text(OFF.format(hours=hours), "utf-8")
    for number, more in enumerate(({}, {"PYTHONPATH": str(folder / "off")} if hours else {})):
        for queue in ("sync", "deliver"):
            yield f"{queue}{number}", (*WORKER, "-Q", queue, "-n", f"{queue}{number}@%h"), more
        yield f"beat{number}", (*CELERY, "beat", "-s", str(folder / f"beat{number}")), more


def overlaps(settings: Settings) -> int:
    """How often a listing was walked by two syncs at a time."""
    engine = connect_state(settings)
    query = "select source, scope, started_at, finished_at from runs order by 1, 2, 3"
    with engine.connect() as state:
        rows = state.execute(text(query)).all()
    engine.dispose()
    return sum(
        a[:2] == b[:2] and datetime.fromisoformat(b[2]) < datetime.fromisoformat(a[3])
        for a, b in pairwise(rows)
    )


@pytest.mark.parametrize("hours", [0, 1, -1])
def test_two_of_every_process_with_one_clock_off_by(
    hours: int, folder: Path, record_property: Show
) -> None:
    (folder / "broker").mkdir()
    with weather(seed=hours, installs=20) as around, broker(folder / "broker") as ours:
        around.flaky.well = True
        (folder / "stocktake.toml").write_text(
            f'broker_url = "{ours.url}"\n{SCHEDULE}{around.config}', "utf-8"
        )
        settings = load(folder / "stocktake.toml", {})
        connect_state(settings).dispose()
        with ExitStack() as stack:
            for name, command, more in twins(folder, hours):
                environ = {**os.environ, **more}
                stack.enter_context(started(command, folder, folder / f"{name}.log", environ))
            wait_for(lambda: len(around.flaky.arrivals) >= 2, what="both baselines")
            with around.blowing(0.2):
                sleep(10)
            settle(settings, around)
        finish(settings, around, hours, record_property)
    assert "Traceback" not in "".join(log.read_text() for log in folder.glob("*.log"))


def finish(settings: Settings, around: Weather, hours: int, record_property: Show) -> None:
    """Nothing is wrong."""
    check_store(settings)
    wrong, sizes = reckoned(settings, around, Killer(Random(0)).at)
    at_once = overlaps(settings) if not hours else 0  # times of two clocks cannot be compared
    record_property("twins", {"clock_h": hours, "at_once": at_once, **as_figures(wrong, sizes)})
    assert at_once == 0
    assert set(as_figures(wrong, {}).values()) == {0}, wrong
