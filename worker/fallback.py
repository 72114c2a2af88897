"""Work goes on without the broker: a worker that no wake-up reaches looks for work by itself."""

import threading
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from threading import Event, Lock, Thread
from typing import Any, ClassVar, Final

from celery import Celery, Task  # noqa: TID251 - an entry module

from worker import clock
from worker.schedule import next_after
from worker.settings import Cron, Every
from worker.ticks import CronTicks

PATIENCE: Final = timedelta(seconds=15)  # a tick that is later than this will not come
_POLL_S: Final = 1.0


class Round(Task):  # type: ignore[type-arg]  # it takes none when it runs
    """A task that looks for work. One of them runs at a time in a process."""

    abstract = True
    _under_way: ClassVar[Lock] = Lock()

    def __init__(self) -> None:
        self.ended_at = clock.now()  # it counts from the start of this process

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Does the work; nothing while any round is under way: a later one finds what this would
        have found."""
        if not self._under_way.acquire(blocking=False):
            return None
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.ended_at = clock.now()
            self._under_way.release()


def look_after(app: Celery, queues: Collection[str], stop: Event) -> Thread:
    """Has a thread do the rounds of `queues` that are overdue, until `stop` is set.

    While the link to the broker is down the main thread of a solo worker does nothing but try to
    connect, for up to 30 s after the broker is back.
    """
    thread = Thread(target=_look_after, args=(app, queues, stop), name="fallback")
    thread.start()
    return thread


def _look_after(app: Celery, queues: Collection[str], stop: Event) -> None:
    rounds = list(_rounds(app, queues))
    # A worker that fails instead of stopping must not be kept alive by this thread.
    while not stop.wait(_POLL_S) and threading.main_thread().is_alive():
        for round_, schedule in rounds:
            if is_overdue(schedule, round_.ended_at, clock.now()):
                round_()


def _rounds(app: Celery, queues: Collection[str]) -> Iterator[tuple[Round, timedelta | CronTicks]]:
    """What beat would wake on `queues`, with its schedule."""
    for entry in app.conf.beat_schedule.values():
        task = app.tasks[entry["task"]]
        if entry["options"]["queue"] in queues and isinstance(task, Round):
            yield task, entry["schedule"]


def is_overdue(schedule: timedelta | CronTicks, last: datetime, now: datetime) -> bool:
    """Whether the tick that should have followed `last` did not come, and will not."""
    when: Every | Cron = Every(schedule) if isinstance(schedule, timedelta) else schedule.cron
    # A `last` in the future comes from a clock that was set back.
    return last > now or next_after(when, last) + PATIENCE <= now
