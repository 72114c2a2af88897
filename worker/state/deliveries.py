"""Webhook deliveries in the state store: made once, claimed by lease, finished by its token."""

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlmodel import Session

from worker.outbound import Attempt, Claim, Draft, Health, Settled
from worker.state.claims import CLAIM, keep_running
from worker.state.database import insert_new
from worker.state.delivery_tables import (
    AttemptRow,
    Delivery,
    EndpointRow,
    Notice,
    Replay,
    table_of,
)
from worker.state.processes import holding

LEASE = timedelta(seconds=45)  # longer than the sender's deadline

_ENDPOINTS = table_of(EndpointRow)
_NOTICES = table_of(Notice)
_DELIVERIES = table_of(Delivery)
_ATTEMPTS = table_of(AttemptRow)
_REPLAYS = table_of(Replay)
_DRAFTED = tuple(field.name for field in fields(Draft))
_HEALTH = tuple(_ENDPOINTS.c[field.name] for field in fields(Health))


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the log of one store was relayed to an endpoint."""

    store_id: str
    sequence: int


def register(
    session: Session, names: Collection[str], store_id: str, head: int, now: datetime
) -> None:
    """Let endpoints seen for the first time start at `head`; forget those that are not named."""
    start = {"store_id": store_id, "sequence": head, "registered_at": now, **asdict(Health())}
    insert_new(session, _ENDPOINTS.c.name, [{"name": name, **start} for name in names])
    removed = select(_ENDPOINTS.c.name).where(_ENDPOINTS.c.name.not_in(names))
    # The endpoint first, then its deliveries, as everybody else locks them.
    locked = removed.order_by(_ENDPOINTS.c.name).with_for_update()
    for name in session.connection().execute(locked).scalars().all():
        _forget(session, name)


def _forget(session: Session, name: str) -> None:
    connection = session.connection()
    connection.execute(
        update(_DELIVERIES)
        .where(
            _DELIVERIES.c.endpoint == name,
            _DELIVERIES.c.state.in_(("pending", "in_flight", "paused")),
        )
        .values(state="dead", reason="endpoint_removed", next_at=None, lease_token=None)
    )
    connection.execute(delete(_REPLAYS).where(_REPLAYS.c.endpoint == name))
    connection.execute(delete(_ENDPOINTS).where(_ENDPOINTS.c.name == name))


def cursors(session: Session, names: Collection[str]) -> dict[str, Cursor]:
    """The cursors of the named endpoints that are registered."""
    columns = _ENDPOINTS.c.name, _ENDPOINTS.c.store_id, _ENDPOINTS.c.sequence
    rows = session.connection().execute(select(*columns).where(_ENDPOINTS.c.name.in_(names)))
    return {row.name: Cursor(row.store_id, row.sequence) for row in rows}


def advance(session: Session, names: Collection[str], sequence: int) -> None:
    """Move cursors forward to `sequence`, never back."""
    session.connection().execute(
        update(_ENDPOINTS)
        .where(_ENDPOINTS.c.name.in_(names), _ENDPOINTS.c.sequence < sequence)
        .values(sequence=sequence)
    )


def healths(session: Session, names: Collection[str]) -> dict[str, Health]:
    """How the named endpoints fare; until the transaction ends nobody else changes it."""
    query = select(_ENDPOINTS.c.name, *_HEALTH).where(_ENDPOINTS.c.name.in_(names))
    rows = session.connection().execute(query.order_by(_ENDPOINTS.c.name).with_for_update())
    return {name: Health(*health) for name, *health in rows}


def save_health(session: Session, name: str, health: Health) -> None:
    """Keep how an endpoint fares."""
    query = update(_ENDPOINTS).where(_ENDPOINTS.c.name == name).values(**asdict(health))
    session.connection().execute(query)


def pause_pending(session: Session, endpoint: str, reason: str) -> None:
    """Halt what waits for an endpoint; what is in flight ends by itself."""
    session.connection().execute(
        update(_DELIVERIES)
        .where(_DELIVERIES.c.endpoint == endpoint, _DELIVERIES.c.state == "pending")
        .values(state="paused", reason=reason, next_at=None)
    )


def known_notices(session: Session, notice_ids: Collection[str]) -> set[str]:
    """Those of the notices that were recorded."""
    query = select(_NOTICES.c.notice_id).where(_NOTICES.c.notice_id.in_(notice_ids))
    return set(session.connection().execute(query).scalars())


def add_notice(
    session: Session,
    notice_id: str,
    type: str,
    source: str | None,
    data: Mapping[str, Any],
    now: datetime,
) -> bool:
    """Record a notice; False if it was there already."""
    notice = {"notice_id": notice_id, "type": type, "source": source, "created_at": now}
    return insert_new(session, _NOTICES.c.notice_id, [{**notice, "data": dict(data)}]) == 1


def add(
    session: Session,
    drafts: Iterable[Draft],
    healths: Mapping[str, Health],
    now: datetime,
    replay_id: str = "",
) -> int:
    """Make deliveries, each once per event, endpoint and replay; returns how many are new."""
    rows = [_row(draft, healths[draft.endpoint].halted, now, replay_id) for draft in drafts]
    return insert_new(session, _DELIVERIES.c.delivery_id, rows)


def _row(draft: Draft, halted: str | None, now: datetime, replay_id: str) -> dict[str, Any]:
    return {
        "delivery_id": _delivery_id(draft.endpoint, draft.event_id, replay_id),
        **{name: getattr(draft, name) for name in _DRAFTED},
        "state": "paused" if halted else "pending",
        "reason": halted,
        "attempts": 0,
        "next_at": None if halted else now,
        "created_at": now,
        "is_replay": bool(replay_id),
    }


def _delivery_id(endpoint: str, event_id: str, replay_id: str) -> str:
    # Derived from all three, so that its uniqueness is that of an event at an endpoint, and in a
    # replay, which sends the same again on purpose.
    facts = (endpoint, event_id, replay_id) if replay_id else (endpoint, event_id)
    digest = hashlib.sha256("\n".join(facts).encode()).digest()
    return "dlv_" + base64.b32encode(digest).decode().lower()[:26]


def in_flight(session: Session, now: datetime) -> dict[str, int]:
    """How many deliveries each endpoint has in flight, lapsed leases not counted; those that lapsed
    only because somebody set the clock go on."""
    leased, ends = _DELIVERIES.c.lease_token.is_not(None), _DELIVERIES.c.next_at
    query = select(_DELIVERIES.c.endpoint, func.count(), func.min(ends)).group_by(
        _DELIVERIES.c.endpoint
    )
    found = session.connection().execute(query.where(leased)).all()
    if any(first_end <= now for _, _, first_end in found):
        keep_running(session, now)
        found = session.connection().execute(query.where(leased, ends > now)).all()
    return {endpoint: count for endpoint, count, _ in found}


def attempts_since(session: Session, endpoint: str, since: datetime) -> int:
    """How many attempts at an endpoint began after `since` and have ended."""
    query = select(func.count()).where(
        _ATTEMPTS.c.endpoint == endpoint, _ATTEMPTS.c.started_at > since
    )
    return session.connection().execute(query).scalar_one()


def claim(session: Session, endpoint: str, limit: int, now: datetime) -> list[Claim]:
    """Take up to `limit` due deliveries of an endpoint for one lease, in the order of their time.

    Due is what is pending, or in flight under a lapsed lease, and first in its lane.
    """
    values = {
        "of_endpoint": endpoint,
        "at_most": limit,
        "now": now,
        "lease_ends": now + LEASE,
        "token": f"{holding(LEASE)}/{uuid4().hex}",
    }
    claimed = session.connection().execute(CLAIM, values)
    return sorted((Claim(*row) for row in claimed), key=lambda claim: claim.position)


def finish(session: Session, ended: Collection[tuple[Attempt, Settled]], now: datetime) -> None:
    """Record attempts and what became of their deliveries; who lost the lease changes nothing."""
    if not ended:
        return
    columns = _DELIVERIES.c
    query = (
        update(_DELIVERIES)
        .where(
            columns.position == bindparam("at_position"),
            columns.lease_token == bindparam("with_token"),
        )
        .values(lease_token=None)
    )
    connection = session.connection()
    connection.execute(query, [_finished(attempt, settled, now) for attempt, settled in ended])
    connection.execute(insert(_ATTEMPTS), [_attempted(attempt) for attempt, _ in ended])


def _finished(attempt: Attempt, settled: Settled, now: datetime) -> dict[str, Any]:
    return {
        "at_position": attempt.claim.position,
        "with_token": attempt.claim.lease_token,
        **asdict(settled),
        "delivered_at": now if settled.state == "delivered" else None,
        "last_status": attempt.answer.status,
        "last_error": attempt.answer.error,
    }


def _attempted(attempt: Attempt) -> dict[str, Any]:
    return {
        "delivery_id": attempt.claim.delivery_id,
        "endpoint": attempt.claim.endpoint,
        "started_at": attempt.started_at,
        "seconds": attempt.seconds,
        "status": attempt.answer.status,
        "fault": attempt.answer.fault,
        "error": attempt.answer.error,
        "answer": attempt.answer.body,
        "phases": dict(attempt.answer.phases),
    }


def open_deliveries(session: Session, names: Collection[str]) -> int:
    """How many deliveries to the named endpoints are pending or in flight."""
    query = select(func.count()).where(
        _DELIVERIES.c.endpoint.in_(names), _DELIVERIES.c.next_at.is_not(None)
    )
    return session.connection().execute(query).scalar_one()


def counts(session: Session, names: Collection[str]) -> dict[str, dict[str, int]]:
    """Deliveries of each named endpoint by state."""
    query = (
        select(_DELIVERIES.c.endpoint, _DELIVERIES.c.state, func.count())
        .where(_DELIVERIES.c.endpoint.in_(names))
        .group_by(_DELIVERIES.c.endpoint, _DELIVERIES.c.state)
    )
    counted: dict[str, dict[str, int]] = {}
    for endpoint, state, count in session.connection().execute(query):
        counted.setdefault(endpoint, {})[state] = count
    return counted


def prune(
    session: Session, attempts_before: datetime, deliveries_before: datetime
) -> tuple[int, int]:
    """Remove old attempts, and deliveries that ended and are old; open ones stay. Says how many."""
    connection = session.connection()
    attempts = delete(_ATTEMPTS).where(_ATTEMPTS.c.started_at < attempts_before)
    ended = _DELIVERIES.c.next_at.is_(None) & (_DELIVERIES.c.created_at < deliveries_before)
    old = delete(_DELIVERIES).where(ended & (_DELIVERIES.c.state != "paused"))
    return connection.execute(attempts).rowcount, connection.execute(old).rowcount
