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
    own: dict[str, datetime] = {}  # when the last round of each kind ended that was begun here
    # A worker that fails instead of stopping must not be kept alive by this thread.
    while not stop.wait(_POLL_S) and threading.main_thread().is_alive():
        for round_, schedule in rounds:
            # Who had to begin by himself goes on in time until somebody wakes him again.
            is_alone = own.get(round_.name) == round_.ended_at
            patience = timedelta() if is_alone else PATIENCE
            if is_overdue(schedule, round_.ended_at, clock.now() - patience):
                round_()
                own[round_.name] = round_.ended_at


def _rounds(app: Celery, queues: Collection[str]) -> Iterator[tuple[Round, timedelta | CronTicks]]:
    """What beat would wake on `queues`, with its schedule."""
    for entry in app.conf.beat_schedule.values():
        task = app.tasks[entry["task"]]
        if entry["options"]["queue"] in queues and isinstance(task, Round):
            yield task, entry["schedule"]


def is_overdue(schedule: timedelta | CronTicks, last: datetime, now: datetime) -> bool:
    """Whether the tick that follows the round that ended at `last` should have come by `now`."""
    when: Every | Cron = Every(schedule) if isinstance(schedule, timedelta) else schedule.cron
    # A `last` that far in the future comes from a clock that was set back.
    return last > now + 2 * PATIENCE or next_after(when, last) <= now
