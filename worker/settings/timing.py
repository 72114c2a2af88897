"""Durations ("30s", "5m", "1h", "30d") and when something runs: at an interval or by cron."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from cronsim import CronSim, CronSimError
from pydantic import BeforeValidator

from worker.errors import ConfigInvalid

_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=36_500)  # so that no date it is added to overflows
_EXPECTED = 'expected a duration such as "30s", "5m", "1h" or "30d"'


@dataclass(frozen=True, slots=True)
class Every:
    """At an interval."""

    interval: timedelta


@dataclass(frozen=True, slots=True)
class Cron:
    """At the times of a cron expression of five fields, read in UTC."""

    expression: str


def parse_duration(value: Any) -> timedelta:
    """A duration from its text."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_EXPECTED)
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if duration > _LONGEST:
        raise ValueError(f'expected at most "{_LONGEST.days}d"')
    return duration


def parse_timing(value: Any) -> Every | Cron:
    """An interval or a cron expression from its text."""
    if isinstance(value, Every | Cron):
        return value
    if isinstance(value, str) and len(value.split()) == 5:
        return _cron(value)
    try:
        interval = parse_duration(value)
    except ValueError:
        raise ValueError(f"{_EXPECTED}, or a cron expression of five fields") from None
    if not interval:
        raise ValueError("expected an interval longer than nothing")
    return Every(interval)


def _cron(expression: str) -> Cron:
    try:
        next(CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"expected a cron expression of five fields: {error}") from None
    except StopIteration:
        raise ValueError("expected a cron expression of a date that exists") from None
    return Cron(" ".join(expression.split()))


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Timing = Annotated[Every | Cron, BeforeValidator(parse_timing)]


def parse_moment(option: str, text: str, now: datetime) -> datetime:
    """The moment an option names: an ISO time (in UTC, without a zone), or how long ago ("2h")."""
    if _DURATION.fullmatch(text):
        return now - parse_duration(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        problem = f'expected a time such as 2026-01-31T12:00:00Z, or "2h", "3d"; it is {text!r}'
        raise ConfigInvalid(option, [problem]) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
