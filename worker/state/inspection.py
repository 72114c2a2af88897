"""What there is to see of endpoints, deliveries and attempts; changes nothing."""

from typing import Any, Final, get_args

from sqlalchemy import exists, or_, select
from sqlmodel import Session

from worker.outbound import DeliveryState
from worker.state.delivery_tables import AttemptRow, Delivery, EndpointRow, table_of

# DESIGN, section 9: what `deliveries --json` gives.
COLUMNS: Final = (
    "delivery_id", "event_id", "endpoint", "type", "source", "install_id", "state", "reason",
    "attempts", "next_at", "created_at", "delivered_at", "last_status", "last_error",
)  # fmt: skip
STATES: Final[tuple[str, ...]] = get_args(DeliveryState)
_TRIED: Final = ("started_at", "seconds", "phases", "status", "fault", "error", "answer")

_DELIVERIES = table_of(Delivery)
_ATTEMPTS = table_of(AttemptRow)
_ENDPOINTS = table_of(EndpointRow)

Row = dict[str, Any]


def newest(
    session: Session, endpoint: str | None, state: str | None, limit: int | None
) -> list[Row]:
    """Deliveries, the newest first."""
    query = select(*(_DELIVERIES.c[name] for name in COLUMNS))
    if endpoint is not None:
        query = query.where(_DELIVERIES.c.endpoint == endpoint)
    if state is not None:
        query = query.where(_DELIVERIES.c.state == state)
    return _rows(session, query.order_by(_DELIVERIES.c.position.desc()).limit(limit))


def beginning(session: Session, id: str) -> list[Row]:
    """Deliveries whose id, or whose event's, is `id` or begins so."""
    query = select(*(_DELIVERIES.c[name] for name in COLUMNS)).order_by(_DELIVERIES.c.position)
    ids = (_DELIVERIES.c.delivery_id, _DELIVERIES.c.event_id)
    exactly = _rows(session, query.where(or_(*(column == id for column in ids))))
    begun = or_(*(column.startswith(id, autoescape=True) for column in ids))
    return exactly or _rows(session, query.where(begun))


def body(session: Session, delivery_id: str) -> bytes:
    """What a delivery says."""
    query = select(_DELIVERIES.c.body).where(_DELIVERIES.c.delivery_id == delivery_id)
    return bytes(session.connection().execute(query).scalar_one())


def attempts(session: Session, delivery_id: str) -> list[Row]:
    """The attempts of a delivery, in order."""
    query = select(*(_ATTEMPTS.c[name] for name in _TRIED))
    ordered = query.order_by(_ATTEMPTS.c.started_at, _ATTEMPTS.c.attempt_id)
    return _rows(session, ordered.where(_ATTEMPTS.c.delivery_id == delivery_id))


def newest_attempts(session: Session, endpoint: str, limit: int) -> list[Row]:
    """The last attempts at an endpoint, the newest first."""
    query = select(*(_ATTEMPTS.c[name] for name in ("delivery_id", *_TRIED)))
    ordered = query.order_by(_ATTEMPTS.c.started_at.desc(), _ATTEMPTS.c.attempt_id.desc())
    return _rows(session, ordered.where(_ATTEMPTS.c.endpoint == endpoint).limit(limit))


def has_deliveries(session: Session, endpoint: str) -> bool:
    """Whether there ever was something for an endpoint, be it configured or not."""
    query = select(exists().where(_DELIVERIES.c.endpoint == endpoint))
    return bool(session.connection().execute(query).scalar())


def registered(session: Session) -> set[str]:
    """The endpoints that a command has seen, and that were not taken out since."""
    return set(session.connection().execute(select(_ENDPOINTS.c.name)).scalars())


def _rows(session: Session, query: Any) -> list[Row]:
    return [dict(row) for row in session.connection().execute(query).mappings()]
