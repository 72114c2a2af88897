"""Beat's pace, whatever becomes of the clock."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from celery import Celery
from celery.schedules import BaseSchedule
from test_celery import configured

from worker import clock
from worker.beat import Scheduler
from worker.queues import application
from worker.tasks import DELIVER, HEARTBEAT, SYNC

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


class Beat:
    """A scheduler whose clock a test sets; `sent` are the tasks it would wake."""

    def __init__(self, app: Celery, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
        self.now, self.sent = NOON, list[str]()
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(BaseSchedule, "now", lambda schedule: self.now)
        self.app, self.file = app, file
        self.restart()

    def restart(self) -> None:
        """What a new process begins with: the file."""
        if hasattr(self, "scheduler"):
            self.scheduler.close()
        self.scheduler = Scheduler(app=self.app, schedule_filename=str(self.file), lazy=False)
        self.scheduler.apply_entry = self._send  # type: ignore[method-assign]
        self.scheduler.__dict__["producer"] = None  # it would connect

    def _send(self, entry: Any, producer: Any = None) -> None:
        self.sent.append(entry.task)

    def look(self) -> list[str]:
        """All that is due now."""
        self.sent.clear()
        while self.scheduler.tick() == 0:
            pass
        return sorted(self.sent)


@pytest.fixture
def beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beat]:
    settings = configured(tmp_path, 'broker_url = "redis://127.0.0.1:1/0"\n')
    with closing(application(settings, Event())) as app:
        made = Beat(app, monkeypatch, tmp_path / "schedule")
        yield made
        made.scheduler.close()


ALL = sorted([SYNC, DELIVER, HEARTBEAT, HEARTBEAT])


def test_everything_is_sent_at_its_interval(beat: Beat) -> None:
    assert beat.look() == []
    beat.now += 3 * SECOND
    assert beat.look() == [SYNC]
    beat.now += 2 * SECOND
    assert beat.look() == [DELIVER]
    beat.now += 10 * SECOND
    assert beat.look() == ALL
    assert beat.look() == []


def test_it_sleeps_until_something_is_due(beat: Beat) -> None:
    slept_until: list[timedelta] = []
    for _ in range(30):
        if wait_s := beat.scheduler.tick():
            beat.now += timedelta(seconds=wait_s)
            slept_until.append(beat.now - NOON)
    assert slept_until[:6] == [
        3 * SECOND,
        5 * SECOND,
        6 * SECOND,
        9 * SECOND,
        10 * SECOND,
        12 * SECOND,
    ]


@pytest.mark.parametrize("again", [False, True], ids=["at work", "started again"])
def test_nothing_waits_for_a_clock_that_was_set_back(beat: Beat, again: bool) -> None:
    beat.look()
    beat.now += 15 * SECOND
    assert beat.look() == ALL
    beat.now -= HOUR
    if again:
        beat.restart()
    beat.look()
    beat.now += 15 * SECOND
    assert beat.look() == ALL


def test_a_clock_that_was_set_forward_makes_everything_due_once(beat: Beat) -> None:
    beat.look()
    beat.now += HOUR
    assert beat.look() == ALL
    assert beat.look() == []
