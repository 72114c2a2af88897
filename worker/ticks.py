"""Beat's view of a cron expression, so that it means the same as everywhere else in Stocktake."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.schedules import BaseSchedule, schedstate  # noqa: TID251 - an entry module

from worker.schedule import is_due, next_after
from worker.settings import Cron


class CronTicks(BaseSchedule):
    """Due at the times of a cron expression in UTC.

    Celery's own crontab wants both the day of month and the day of week to match, where cron
    wants either, and knows neither `L` nor `#`."""

    def __init__(self, expression: str, nowfun: Callable[[], datetime] | None = None) -> None:
        super().__init__(nowfun=nowfun)
        self.cron = Cron(expression)

    def is_due(self, last_run_at: datetime) -> schedstate:
        now = self.now().astimezone(UTC)
        due = is_due(self.cron, last_run_at, now)
        return schedstate(due, (next_after(self.cron, now) - now).total_seconds())

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        return next_after(self.cron, last_run_at) - self.now().astimezone(UTC)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CronTicks) and other.cron == self.cron

    def __hash__(self) -> int:
        return hash(self.cron)

    def __reduce__(self) -> tuple[Any, ...]:
        return CronTicks, (self.cron.expression,)
