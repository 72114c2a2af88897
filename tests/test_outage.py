"""Receivers that are down for days, played through the real desk with a clock of its own."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from receivers import NOON, STORE, endpoint, event
from sqlalchemy import text

from worker import relay
from worker.deliver import deliver
from worker.outbound import Answer
from worker.relay import Log
from worker.settings import Endpoint
from worker.state import connect

pytestmark = pytest.mark.slow  # each plays days through

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
DELAYS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)  # DESIGN, section 9
UP, DOWN = Answer(204), Answer(503)

Answering = Callable[[str, datetime], Answer]


@dataclass
class World:
    """A state store, a clock that jumps to what is due next, and receivers that `answer`."""

    url: str
    endpoints: tuple[Endpoint, ...]
    answer: Answering
    jitter: float = 0.0
    now: datetime = NOON
    asked: list[tuple[str, str, datetime]] = field(default_factory=list)  # endpoint, id, when

    def __post_init__(self) -> None:
        self.engine = connect(self.url)

    def happen(self, *events: Any) -> None:
        """Events come about now."""
        relay.register(self.engine, self.endpoints, STORE, 0, self.now)
        relay.relay(self.engine, self.endpoints, Log(STORE, 9999, events), self.now)

    def pass_time(self, until: datetime) -> None:
        """Everything that is due until then is tried, each as soon as it may be."""
        while (due := self.next_due()) is not None and due <= until:
            self.now = max(self.now, due)
            asked = len(self.asked)
            deliver(
                self.engine,
                self.endpoints,
                stop=threading.Event(),
                now=lambda: self.now,
                jitter=lambda: self.jitter,
                make_sender=lambda each: Post(self, each.name),  # type: ignore[arg-type,return-value]
            )
            assert len(self.asked) > asked, "what was due was not tried"
        self.now = until

    def next_due(self) -> datetime | None:
        """When the next request may be made: a delivery is due, and no breaker is open."""
        dues = self.rows(
            "select min(max(d.next_at, coalesce(e.breaker_until, d.next_at)))"
            " from deliveries d join endpoints e on e.name = d.endpoint"
            " where d.next_at is not null and not exists (select * from deliveries earlier"
            " where earlier.next_at is not null and earlier.endpoint = d.endpoint"
            " and earlier.lane = d.lane and earlier.position < d.position)"
        )
        ((due,),) = dues
        return datetime.fromisoformat(due).replace(tzinfo=NOON.tzinfo) if due else None

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The answer of the state store."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def waits(self) -> list[timedelta]:
        """The time between requests."""
        times = [at for _, _, at in self.asked]
        return [then - first for first, then in pairwise(times)]


@dataclass
class Post:
    """Stands for the network and one receiver."""

    world: World
    name: str

    async def send(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Keeps what was asked, and when."""
        self.world.asked.append((self.name, headers["webhook-id"], self.world.now))
        return self.world.answer(self.name, self.world.now)

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.fixture
def world(tmp_path):
    """Makes a world; one endpoint `crm`, unless others are named."""
    made: list[World] = []

    def make(answer: Answering, *endpoints: Endpoint, **fields: Any) -> World:
        url = f"sqlite:///{tmp_path}/state.db"
        made.append(World(url, endpoints or (endpoint(),), answer, **fields))
        return made[-1]

    yield make
    for each in made:
        each.engine.dispose()


def down_until(end: datetime, down: Answer = DOWN) -> Answering:
    return lambda _name, now: down if now < end else UP


def always(answer: Answer) -> Answering:
    return lambda _name, _now: answer


def installs(count: int, first: int = 1) -> list[Any]:
    """One event of each of several installs."""
    return [event(number, f"ins_{number}") for number in range(first, first + count)]


# One delivery.


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_ten_attempts_are_made_over_three_days_and_then_no_more(world, jitter):
    one = world(always(Answer(500)), jitter=jitter)
    one.happen(event(1))
    one.pass_time(NOON + 1000 * HOUR)
    assert [wait / SECOND for wait in one.waits()] == [
        pytest.approx(delay * (1 + jitter / 5)) for delay in DELAYS
    ]
    if not jitter:
        assert one.asked[-1][2] - NOON == 75 * HOUR + 35 * MINUTE + 5 * SECOND
    assert one.rows("select state, reason, attempts from deliveries") == [("dead", "exhausted", 10)]


@pytest.mark.parametrize("answer", [Answer(502), Answer(504), Answer(fault="deadline")])
def test_a_gateway_or_a_deadline_is_given_a_minute(world, answer):
    one = world(always(answer))
    one.happen(event(1))
    one.pass_time(NOON + 1000 * HOUR)
    assert [wait / SECOND for wait in one.waits()] == [60, *DELAYS[1:]]


def test_a_certificate_that_does_not_verify_is_retried_and_flagged_at_once(world):
    one = world(down_until(NOON + HOUR, Answer(fault="tls", error="its certificate is not valid")))
    one.happen(event(1))
    one.pass_time(NOON)
    assert one.rows("select flag from endpoints") == [("tls",)]
    assert one.rows("select state, reason from deliveries") == [("pending", "tls")]
    one.pass_time(NOON + 24 * HOUR)
    assert one.rows("select state, attempts from deliveries") == [("delivered", 5)]
    assert one.rows("select flag from endpoints") == [(None,)]


def test_a_receiver_that_is_back_after_three_days_misses_nothing(world):
    one = world(down_until(NOON + 72 * HOUR))
    one.happen(event(1))
    one.pass_time(NOON + 1000 * HOUR)
    assert one.rows("select state, attempts from deliveries") == [("delivered", 10)]


# A rate limit.


def test_a_rate_limit_of_almost_a_week_uses_up_no_attempt(world):
    end = NOON + 167 * HOUR
    one = world(down_until(end, Answer(429)))
    one.happen(event(1))
    one.pass_time(NOON + 1000 * HOUR)
    assert one.rows("select state, attempts from deliveries") == [("delivered", 1)]
    assert one.rows("select disabled_reason, failures from endpoints") == [(None, 0)]
    assert one.asked[-1][2] - end <= 15 * MINUTE
    # A minute at first; after five of them the breaker, from a minute to a quarter of an hour.
    assert [wait / MINUTE for wait in one.waits()][:12] == [1, 1, 1, 1, 1, 2, 4, 8, 15, 15, 15, 15]


def test_a_rate_limit_of_more_than_a_week_ends_the_delivery(world):
    one = world(always(Answer(429)))
    one.happen(event(1))
    one.pass_time(NOON + 1000 * HOUR)
    assert one.rows("select state, reason, attempts from deliveries") == [
        ("dead", "rate_limited", 0)
    ]
    assert timedelta(days=7) <= one.asked[-1][2] - NOON <= timedelta(days=7, minutes=15)


@pytest.mark.parametrize(
    ("days", "state", "requests"), [(6, "delivered", 7), (7, "delivered", 8), (8, "dead", 8)]
)
def test_a_rate_limit_that_says_a_day_is_believed_for_a_week(world, days, state, requests):
    one = world(down_until(NOON + days * 24 * HOUR, Answer(429, retry_after="999999999")))
    one.happen(event(1))
    one.pass_time(NOON + 1000 * HOUR)
    assert one.rows("select state from deliveries") == [(state,)]
    assert len(one.asked) == requests


def test_a_rate_limit_is_asked_again_when_it_says(world):
    one = world(down_until(NOON + 5 * HOUR, Answer(429, retry_after="7200")))
    one.happen(event(1))
    one.pass_time(NOON + 1000 * HOUR)
    assert [wait / HOUR for wait in one.waits()] == [2, 2, 2]


# Many deliveries.


def test_behind_the_breaker_one_probe_at_a_time_finds_that_it_is_over(world):
    end = NOON + 72 * HOUR
    many = world(down_until(end), endpoint(max_in_flight=1))
    many.happen(*installs(100))
    many.pass_time(end - SECOND)
    waits = [wait / MINUTE for wait in many.waits()]
    assert waits[:10] == [0, 0, 0, 0, 1, 2, 4, 8, 15, 15]
    assert max(waits) == 15
    assert not many.rows("select * from deliveries where state <> 'pending'")
    # 288 probes for 100 deliveries: the time behind the breaker uses up no attempt.
    assert many.rows("select sum(attempts), max(attempts) from deliveries")[0] == (
        len(many.asked),
        3,
    )
    many.pass_time(end + 15 * MINUTE)
    assert many.rows("select state, count(*) from deliveries group by state") == [
        ("delivered", 100)
    ]


def test_events_of_one_install_wait_for_the_first_of_them_through_an_outage(world):
    one = world(down_until(NOON + 30 * HOUR), endpoint(max_in_flight=8))
    one.happen(*(event(number, f"ins_{number % 3}") for number in range(1, 31)))
    one.pass_time(NOON + 1000 * HOUR)
    delivered = [id for _, id, at in one.asked if at >= NOON + 30 * HOUR]
    for install in range(3):
        mine = [f"evt_{number}" for number in range(1, 31) if number % 3 == install]
        assert [id for id in delivered if id in mine] == mine


def test_an_outage_of_one_endpoint_is_none_of_another(world):
    def answer(name, now):
        return DOWN if name == "crm" and now < NOON + 2 * HOUR else UP

    two = world(answer, endpoint("crm", max_in_flight=1), endpoint("erp"))
    two.happen(*installs(20))
    two.pass_time(NOON)
    assert Counter(name for name, _, _ in two.asked) == {"crm": 5, "erp": 20}
    two.pass_time(NOON + 1000 * HOUR)
    assert two.rows("select distinct state from deliveries") == [("delivered",)]


# An endpoint that is given up.


def test_after_five_days_without_success_an_endpoint_is_disabled_and_the_others_are_told(world):
    def answer(name, _now):
        return Answer(404) if name == "crm" else UP

    two = world(answer, endpoint("crm", events=("*",)), endpoint("ops", events=("endpoint.*",)))
    for day in range(6):
        two.happen(*installs(2, first=1 + 2 * day))
        two.pass_time(NOON + day * 24 * HOUR + 23 * HOUR)
    ((disabled,),) = two.rows("select created_at from notices where type = 'endpoint.disabled'")
    at = datetime.fromisoformat(disabled).replace(tzinfo=NOON.tzinfo)
    assert 120 * HOUR <= at - NOON <= 144 * HOUR
    assert not [when for name, _, when in two.asked if name == "crm" and when > at]
    assert two.rows("select name, disabled_reason, flag from endpoints order by name") == [
        ("crm", "failing", "receiver_config"),
        ("ops", None, None),
    ]
    assert set(two.rows("select distinct state from deliveries where endpoint = 'crm'")) == {
        ("dead",),
        ("paused",),
    }
    told = two.rows("select endpoint, state, body from deliveries where type like 'endpoint.%'")
    assert [(name, state) for name, state, _ in told] == [("ops", "delivered")]
    facts = json.loads(told[0][2])["data"]
    assert facts["reason"] == "failing"
    assert facts["failing_since"] == "2026-03-01T12:00:00Z"


def test_several_endpoints_disabled_at_once_are_each_told_to_the_others_alone(world):
    def answer(name, _now):
        return UP if name == "ops" else Answer(410)

    names = ("one", "two", "three")
    four = world(answer, *(endpoint(name, events=("*",)) for name in (*names, "ops")))
    four.happen(event(1))
    four.pass_time(NOON + HOUR)
    disabled = four.rows("select name from endpoints where disabled_reason = 'gone'")
    assert {name for (name,) in disabled} == set(names)
    told = [
        (name, json.loads(body)["data"]["endpoint"], state)
        for name, body, state in four.rows(
            "select endpoint, body, state from deliveries where type = 'endpoint.disabled'"
        )
    ]
    assert {(name, about) for name, about, _ in told} == {
        (name, about) for name in (*names, "ops") for about in names if name != about
    }
    assert {(name == "ops", state) for name, _, state in told} == {
        (True, "delivered"),
        (False, "paused"),
    }
