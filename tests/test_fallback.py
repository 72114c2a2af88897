"""What a worker does by itself when no wake-up reaches it."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from celery import Celery
from test_celery import configured, shell

from worker import fallback
from worker.fallback import PATIENCE, Round, is_overdue, look_after
from worker.queues import application
from worker.tasks import DELIVER, PRUNE, SYNC
from worker.ticks import CronTicks

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
A_SECOND = timedelta(seconds=1)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    settings = configured(tmp_path, 'broker_url = "redis://127.0.0.1:1/0"\n')
    with closing(application(settings, Event())) as app:
        yield app


@pytest.mark.parametrize(
    ("schedule", "last", "overdue"),
    [
        (timedelta(minutes=1), NOON - timedelta(minutes=1), True),
        (timedelta(minutes=1), NOON - timedelta(minutes=1) + A_SECOND, False),
        (timedelta(minutes=1), NOON + PATIENCE, False),  # it has just been done
        (timedelta(minutes=1), NOON + timedelta(hours=1), True),  # the clock was set back
        (CronTicks("0 12 * * *"), NOON - timedelta(hours=1), True),
        (CronTicks("1 12 * * *"), NOON - timedelta(hours=1), False),
        (CronTicks("59 11 * * *"), NOON - timedelta(seconds=30), False),  # it was done
    ],
)
def test_work_is_overdue_when_its_tick_should_have_come(
    schedule: timedelta | CronTicks, last: datetime, overdue: bool
) -> None:
    assert is_overdue(schedule, last, NOON) is overdue


@pytest.mark.parametrize(("queue", "tasks"), [("sync", [SYNC, PRUNE]), ("deliver", [DELIVER])])
def test_a_worker_does_the_overdue_work_of_its_queue_and_of_no_other(
    queue: str, tasks: list[str], app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, done = Event(), []

    def work(name: str) -> Any:
        def run(*_: Any) -> None:
            done.append(name)
            if len(done) == len(tasks):
                stop.set()

        return run

    shell(monkeypatch, "worker.due", sync_due=work(SYNC))
    shell(monkeypatch, "worker.deliver", deliver_due=work(DELIVER))
    shell(monkeypatch, "worker.prune", prune_due=work(PRUNE))
    monkeypatch.setattr(fallback, "_POLL_S", 0.001)
    for name in (SYNC, DELIVER, PRUNE):
        app.tasks[name].ended_at -= timedelta(days=2)  # type: ignore[attr-defined]

    look_after(app, {queue}, stop).join(60)

    assert stop.is_set()
    assert done == tasks


def test_a_tick_may_be_late_once_but_who_has_begun_by_himself_keeps_the_time(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, moments = Event(), [NOON]

    class Time:
        @staticmethod
        def now() -> datetime:
            return moments[-1]

    def pass_by(_timeout: float) -> bool:
        moments.append(moments[-1] + A_SECOND)
        return len(done) >= 3

    done: list[int] = []
    shell(monkeypatch, "worker.deliver",
          deliver_due=lambda *_: done.append((moments[-1] - NOON).seconds))  # fmt: skip
    monkeypatch.setattr(fallback, "clock", Time)
    monkeypatch.setattr(stop, "wait", pass_by)
    app.tasks[DELIVER].ended_at = NOON  # type: ignore[attr-defined]

    look_after(app, {"deliver"}, stop).join(60)

    assert done == [20, 25, 30]  # every 5 s, after 15 s of patience


def test_a_wake_up_in_the_middle_of_a_round_does_nothing(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def work(*_: Any) -> None:
        done.append(1)
        app.tasks[SYNC].apply(throw=True)
        app.tasks[PRUNE].apply(throw=True)

    shell(monkeypatch, "worker.due", sync_due=work)
    shell(monkeypatch, "worker.prune", prune_due=work)

    app.tasks[SYNC].apply(throw=True)
    assert done == [1]
    assert isinstance(app.tasks[SYNC], Round)
    app.tasks[SYNC].apply(throw=True)  # the next one works again
    assert done == [1, 1]
