"""The life of an endpoint: how it fares, paused, resumed, tested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from sqlalchemy import Engine
from sqlmodel import Session

from worker import clock, relay, webhooks
from worker.deliver import send_alone
from worker.outbound import Health
from worker.settings import Endpoint, Settings
from worker.state import by_hand, deliveries, transaction

State = Literal["ok", "failing", "breaker", "paused", "disabled"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How an endpoint fares, how far the event log is relayed to it, deliveries by their state."""

    endpoint: Endpoint
    health: Health
    cursor: int | None  # None: no command has opened the store since it was configured
    counts: Mapping[str, int]

    def state(self, now: datetime) -> State:
        """In one word."""
        if self.health.disabled_reason:
            return "disabled"
        if self.health.paused:
            return "paused"
        if self.health.breaker_until and now < self.health.breaker_until:
            return "breaker"
        return "failing" if self.health.failing_since else "ok"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a test; without seconds none was sent."""

    taken: bool
    status: int | None = None
    seconds: float | None = None
    error: str | None = None


def standings(engine: Engine, endpoints: Sequence[Endpoint]) -> list[Standing]:
    """How endpoints fare, in their order."""
    names = [endpoint.name for endpoint in endpoints]
    with transaction(engine) as session:
        healths = deliveries.healths(session, names)
        cursors = deliveries.cursors(session, names)
        counts = deliveries.counts(session, names)
    return [
        Standing(
            endpoint,
            healths.get(endpoint.name, Health()),
            cursors[endpoint.name].sequence if endpoint.name in cursors else None,
            counts.get(endpoint.name, {}),
        )
        for endpoint in endpoints
    ]


def pause(settings: Settings, engine: Engine, endpoint: Endpoint) -> None:
    """Nothing more is sent to an endpoint; what waits for it is paused."""
    relay.introduce(settings, engine)
    with transaction(engine) as session:
        health = replace(_health(session, endpoint), paused=True)
        deliveries.save_health(session, endpoint.name, health)
        deliveries.pause_pending(session, endpoint.name, health.halted or "paused")


def resume(settings: Settings, engine: Engine, endpoint: Endpoint) -> int:
    """An endpoint starts anew, paused or disabled; what waited for it is due now: returns how many
    deliveries."""
    relay.introduce(settings, engine)
    with transaction(engine) as session:
        anew = Health(last_success_at=_health(session, endpoint).last_success_at)
        deliveries.save_health(session, endpoint.name, anew)
        return by_hand.release(session, endpoint.name, clock.now())


def test(engine: Engine, endpoints: Sequence[Endpoint], endpoint: Endpoint) -> Trial:
    """Sends webhook.test to one of the endpoints at once, and nothing else; one that is not taken
    is tried again like any delivery."""
    now = clock.now()
    with transaction(engine) as session:
        if halted := _health(session, endpoint).halted:
            return Trial(taken=False, error=_halted(endpoint, halted))
        id = webhooks.notice_id(webhooks.TEST, endpoint.name, now.isoformat())
        relay.announce_in(session, [endpoint], id, webhooks.TEST, None, {}, now)
        claim = by_hand.take(session, endpoint.name, id, now)
    attempt = send_alone(engine, endpoints, claim)
    answer, taken = attempt.answer, webhooks.outcome(attempt.answer).kind == "delivered"
    return Trial(taken, answer.status, round(attempt.seconds, 3), answer.error)


def _halted(endpoint: Endpoint, why: str) -> str:
    way_on = f"`stocktake endpoints resume {endpoint.name}` goes on"
    return f"{endpoint.origin} is sent nothing ({why}); {way_on}"


def _health(session: Session, endpoint: Endpoint) -> Health:
    return deliveries.healths(session, [endpoint.name])[endpoint.name]
