"""How deliveries are claimed, and how claims are given back: by who stops, and for who died."""

from collections.abc import Collection
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, exists, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import Session

from worker.outbound import Claim
from worker.state.database import UtcTime
from worker.state.delivery_tables import Delivery, table_of
from worker.state.processes import is_dead, left

_DELIVERIES = table_of(Delivery)


def _claiming() -> ReturningUpdate[Any]:
    columns, earlier = _DELIVERIES.c, _DELIVERIES.alias("earlier")
    now = bindparam("now", type_=UtcTime())
    is_first_in_lane = ~exists().where(
        earlier.c.endpoint == columns.endpoint,
        earlier.c.lane == columns.lane,
        earlier.c.position < columns.position,
        earlier.c.next_at.is_not(None),
    )
    due = (
        select(columns.position)
        .where(
            columns.endpoint == bindparam("of_endpoint"), columns.next_at <= now, is_first_in_lane
        )
        .order_by(columns.next_at, columns.position)
        .limit(bindparam("at_most"))
        # What another claimer takes at this moment is not waited for. It stays first in its lane.
        .with_for_update(skip_locked=True)
        # Evaluated once, as a plain subquery need not be: never are more rows locked than taken.
        .cte("due")
    )
    return (
        update(_DELIVERIES)
        .where(columns.position.in_(select(due.c.position)))
        .values(
            state="in_flight",
            next_at=bindparam("lease_ends"),
            lease_token=bindparam("token"),
            first_attempt_at=func.coalesce(columns.first_attempt_at, now),
        )
        .returning(*(columns[field.name] for field in fields(Claim)))
    )


# Takes `of_endpoint`, `at_most`, `now`, `lease_ends` and `token`. Made once: making it takes
# SQLAlchemy as long as running it takes the database.
CLAIM = _claiming()


def give_back(session: Session, tokens: Collection[str], now: datetime) -> None:
    """Make due again what is in flight under these leases."""
    session.connection().execute(
        update(_DELIVERIES)
        .where(_DELIVERIES.c.lease_token.in_(tokens))
        .values(state="pending", next_at=now, lease_token=None)
    )


def take_over(session: Session, now: datetime) -> None:
    """Make due again what dead processes of this host had in flight, though their leases run."""
    dead = [token for token in _leased(session) if is_dead(token)]
    if dead:
        give_back(session, dead, now)


def keep_running(session: Session, now: datetime) -> None:
    """Let the leases of this host's processes that still run lapse no sooner because somebody set
    the clock: a delivery in flight is not claimed again."""
    for token in _leased(session, _DELIVERIES.c.next_at <= now):
        if remains := left(token):
            session.connection().execute(
                update(_DELIVERIES)
                .where(_DELIVERIES.c.lease_token == token)
                .values(next_at=now + remains)
            )


def _leased(session: Session, *which: ColumnElement[bool]) -> list[str]:
    leased = _DELIVERIES.c.lease_token
    found = session.connection().execute(
        select(leased).where(leased.is_not(None), *which).distinct()
    )
    return list(found.scalars())
