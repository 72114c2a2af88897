"""When scheduled work is due."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from worker.schedule import is_due, longest_gap, next_after, tick
from worker.settings import Cron, Every

NOON = datetime(2024, 5, 15, 12, tzinfo=UTC)  # a Wednesday
MINUTE = timedelta(minutes=1)
NIGHTLY = Cron("15 4 * * *")


def at(day: int, hour: int, minute: int) -> datetime:
    return datetime(2024, 5, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize("when", [Every(MINUTE), NIGHTLY])
def test_what_never_ran_is_due(when: Every | Cron) -> None:
    assert is_due(when, None, NOON)


@pytest.mark.parametrize("when", [Every(MINUTE), NIGHTLY])
def test_what_ran_in_the_future_is_due_because_the_clock_was_set_back(when: Every | Cron) -> None:
    assert is_due(when, NOON + timedelta(seconds=1), NOON)


@pytest.mark.parametrize(
    ("age", "due"),
    [(0, False), (59.999, False), (60, True), (3600, True)],
)
def test_an_interval_is_due_from_its_length_on(age: float, due: bool) -> None:
    assert is_due(Every(MINUTE), NOON - timedelta(seconds=age), NOON) is due


@pytest.mark.parametrize(
    ("last", "now", "due"),
    [
        (at(15, 4, 15), at(15, 4, 15), False),
        (at(15, 4, 15), at(16, 4, 14), False),
        (at(15, 4, 15), at(16, 4, 15), True),
        (at(15, 4, 14), at(15, 4, 15), True),
        (at(12, 4, 15), at(15, 12, 0), True),
    ],
    ids=["just ran", "not yet", "on time", "a minute later", "missed for days"],
)
def test_a_cron_expression_is_due_once_its_next_time_has_come(
    last: datetime, now: datetime, due: bool
) -> None:
    assert is_due(NIGHTLY, last, now) is due


def test_cron_times_are_utc_whatever_the_zone_of_the_time_given() -> None:
    in_tokyo = NOON.astimezone(timezone(timedelta(hours=9)))

    assert next_after(NIGHTLY, in_tokyo) == at(16, 4, 15)


def test_a_day_of_month_or_a_day_of_week_suffices_as_in_cron() -> None:
    assert next_after(Cron("0 0 20 * FRI"), NOON) == at(17, 0, 0)
    assert next_after(Cron("0 0 20 * FRI"), at(17, 0, 0)) == at(20, 0, 0)


def test_the_tick_is_a_quarter_of_the_shortest_interval() -> None:
    timings = [Every(timedelta(seconds=8)), Every(timedelta(hours=1)), NIGHTLY]
    assert tick(timings) == timedelta(seconds=2)


def test_the_tick_is_never_shorter_than_a_second_nor_longer_than_three() -> None:
    assert tick([Every(timedelta(seconds=1))]) == timedelta(seconds=1)
    assert tick([Every(timedelta(days=1))]) == timedelta(seconds=3)
    assert tick([NIGHTLY]) == timedelta(seconds=3)


@pytest.mark.parametrize(
    ("when", "longest"),
    [
        (Every(timedelta(hours=1)), timedelta(hours=1)),
        (NIGHTLY, timedelta(days=1)),
        (Cron("0 3 * * 1-5"), timedelta(days=3)),  # over the weekend
    ],
)
def test_work_may_rest_for_its_longest_gap(when: Every | Cron, longest: timedelta) -> None:
    now = datetime(2024, 5, 15, 12, tzinfo=UTC)
    assert longest_gap(when, now) == longest
