"""When scheduled work is due: pure arithmetic on intervals and cron expressions."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import assert_never

from cronsim import CronSim

from worker.settings import Cron, Every

_GAPS = 7  # of a cron expression: a weekend is among them
_SHORTEST_TICK, _LONGEST_TICK = timedelta(seconds=1), timedelta(seconds=3)


def next_after(when: Every | Cron, last: datetime) -> datetime:
    """The first time after `last` at which the work is due."""
    match when:
        case Every(interval):
            return last + interval
        case Cron(expression):
            return next(CronSim(expression, last.astimezone(UTC)))
        case _:
            assert_never(when)


def is_due(when: Every | Cron, last: datetime | None, now: datetime) -> bool:
    """Whether work that was last begun at `last` (None: never) should begin at `now`."""
    if last is None:
        return True
    # A `last` in the future comes from a clock that was set back; waiting for it could take long.
    return last > now or next_after(when, last) <= now


def longest_gap(when: Every | Cron, now: datetime) -> timedelta:
    """How long the work may rest after it was due, as far as one looks ahead."""
    times = [next_after(when, now)]
    for _ in range(_GAPS):
        times.append(next_after(when, times[-1]))
    return max(later - earlier for earlier, later in pairwise(times))


def tick(timings: Iterable[Every | Cron]) -> timedelta:
    """How often to look whether any of `timings` is due.

    Four times an interval: a look at exactly the interval comes a moment early half of the time,
    and the work would wait for the next one. And every few seconds: for so long at most a change
    waits on top of the interval."""
    quarters = (when.interval / 4 for when in timings if isinstance(when, Every))
    return max(_SHORTEST_TICK, min([_LONGEST_TICK, *quarters]))
