"""Celery's scheduler, which keeps its pace when the clock is set back and sleeps between ticks."""

from typing import Any

from celery.beat import PersistentScheduler  # noqa: TID251 - an entry module

from worker import clock


class Scheduler(PersistentScheduler):
    """What it sent last may seem to lie in the future then, in its file too, and it would wait for
    the clock to come to that time again."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Sends what is due; returns in how many seconds to look again."""
        now = clock.now()
        entries = self.schedule.values()
        ahead = [each for each in entries if each.last_run_at and each.last_run_at > now]
        for entry in ahead:
            entry.last_run_at = now
        if ahead:
            self._heap = None  # its times are of the old clock: it is made anew
        return float(super().tick(*args, **kwargs))

    def adjust(self, n: float, drift: float = 0.0) -> float:
        """Celery would wake 10 ms early and look 50 times whether it is time now, which is most of
        what beat costs."""
        return n + drift
