"""What a person changes about deliveries: the dead reopened, the paused released, one taken."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import uuid4

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlmodel import Session

from worker.outbound import Claim, Tally
from worker.state.deliveries import LEASE
from worker.state.delivery_tables import Delivery, table_of
from worker.state.processes import holding

_DELIVERIES = table_of(Delivery)


@dataclass(frozen=True, slots=True)
class Graves:
    """Which dead deliveries are meant: of one endpoint and some types, made since and until."""

    endpoint: str
    types: Sequence[str]
    since: datetime | None = None
    until: datetime | None = None
    event_id: str | None = None


def count_dead(session: Session, graves: Graves) -> list[Tally]:
    """How many they are, by type."""
    made = _DELIVERIES.c.created_at
    query = (
        select(_DELIVERIES.c.type, func.count(), func.min(made), func.max(made))
        .where(_lie_in(graves))
        .group_by(_DELIVERIES.c.type)
        .order_by(_DELIVERIES.c.type)
    )
    found = session.connection().execute(query)
    return [Tally(type, None, count, oldest, newest) for type, count, oldest, newest in found]


def reopen(session: Session, graves: Graves, halted: str | None, now: datetime) -> None:
    """Let them begin anew, each in its old place; they wait if the endpoint is `halted`."""
    anew = {"attempts": 0, "first_attempt_at": None, "is_replay": True}
    session.connection().execute(
        update(_DELIVERIES)
        .where(_lie_in(graves))
        .values(
            **anew,
            state="paused" if halted else "pending",
            reason=halted,
            next_at=None if halted else now,
        )
    )


def _lie_in(graves: Graves) -> ColumnElement[bool]:
    columns = _DELIVERIES.c
    wanted = [columns.endpoint == graves.endpoint, columns.state == "dead"]
    wanted.append(columns.type.in_(graves.types))
    if graves.since is not None:
        wanted.append(columns.created_at >= graves.since)
    if graves.until is not None:
        wanted.append(columns.created_at < graves.until)
    if graves.event_id is not None:
        wanted.append(columns.event_id == graves.event_id)
    return and_(*wanted)


def release(session: Session, endpoint: str, now: datetime) -> int:
    """Let what is paused be due now, in its order; returns how many."""
    # The time in which nothing was sent is none of the days for which a 429 is borne with.
    query = (
        update(_DELIVERIES)
        .where(_DELIVERIES.c.endpoint == endpoint, _DELIVERIES.c.state == "paused")
        .values(state="pending", reason=None, next_at=now, first_attempt_at=None)
    )
    return session.connection().execute(query).rowcount


def take(session: Session, endpoint: str, event_id: str, now: datetime) -> Claim:
    """Claim one delivery that was just made, out of its turn."""
    claimed = session.connection().execute(
        update(_DELIVERIES)
        .where(_DELIVERIES.c.endpoint == endpoint, _DELIVERIES.c.event_id == event_id)
        .values(
            state="in_flight",
            next_at=now + LEASE,
            lease_token=f"{holding(LEASE)}/{uuid4().hex}",
            first_attempt_at=now,
        )
        .returning(*(_DELIVERIES.c[field.name] for field in fields(Claim)))
    )
    return Claim(*claimed.one())
