"""Requests: syncs that somebody asked the daemon for, and what became of them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import uuid4

from sqlalchemy import JSON, Column, Engine, Index, text, update
from sqlmodel import Field, Session, SQLModel, col, delete, select

from worker.models import Mode, Outcome
from worker.state.database import transaction
from worker.state.delivery_tables import table_of
from worker.state.types import UtcTime

_OPEN: Final = text("ended_at is null")


class RequestRow(SQLModel, table=True):
    """One request for a sync of one source: of one listing, or of all (`scope` is null).

    It is open until a sync that began after it has ended; a process that dies ends none.
    """

    __tablename__ = "requests"
    __table_args__ = (Index("requests_open", "source", sqlite_where=_OPEN, postgresql_where=_OPEN),)

    request_id: str = Field(primary_key=True)
    source: str
    mode: str
    scope: str | None = None
    asked_at: datetime = Field(sa_type=UtcTime)
    begun_at: datetime | None = Field(default=None, sa_type=UtcTime)  # the last try
    ended_at: datetime | None = Field(default=None, sa_type=UtcTime)
    outcome: str | None = None
    exit_code: int | None = None
    run_ids: list[str] = Field(default_factory=list, sa_column=Column(JSON))
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: a sync of a source, or of one listing of it."""

    source: str
    mode: Mode
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended: its runs, or the error that kept it from any."""

    outcome: Outcome
    exit_code: int
    run_ids: tuple[str, ...] = ()
    error: str | None = None


_REQUESTS: Final = table_of(RequestRow)


def add(engine: Engine, asked: Iterable[Asked], now: datetime) -> list[str]:
    """Keeps requests, all or none; returns their ids."""
    rows = [
        RequestRow(
            request_id=f"req_{uuid4().hex[:12]}",
            source=each.source,
            mode=each.mode,
            scope=each.scope,
            asked_at=now,
        )
        for each in asked
    ]
    with transaction(engine) as session:
        session.add_all(rows)
    return [row.request_id for row in rows]


def waiting(engine: Engine, source: str | None = None) -> Sequence[RequestRow]:
    """The open requests, oldest first."""
    with transaction(engine) as session:
        return _waiting(session, source)


def begin(engine: Engine, source: str, now: datetime) -> Sequence[RequestRow]:
    """The open requests of a source, which a sync that has its lease takes on."""
    with transaction(engine) as session:
        taken = _waiting(session, source)
        for row in taken:
            row.begun_at = now
        return taken


def end(engine: Engine, request_id: str, ended: Ended, now: datetime) -> None:
    """Keeps how a request ended; who comes second changes nothing."""
    query = update(_REQUESTS).where(
        _REQUESTS.c.request_id == request_id, _REQUESTS.c.ended_at.is_(None)
    )
    with transaction(engine) as session:
        session.connection().execute(
            query.values(
                ended_at=now,
                outcome=ended.outcome,
                exit_code=ended.exit_code,
                run_ids=list(ended.run_ids),
                error=ended.error,
            )
        )


def named(engine: Engine, request_ids: Collection[str]) -> Sequence[RequestRow]:
    """Requests by their ids, in the order in which they were made."""
    query = select(RequestRow).where(col(RequestRow.request_id).in_(request_ids))
    with transaction(engine) as session:
        found = {row.request_id: row for row in session.exec(query)}
    return [found[id] for id in request_ids if id in found]


def prune(session: Session, before: datetime) -> int:
    """Removes requests that ended before a moment; returns how many."""
    old = delete(RequestRow).where(col(RequestRow.ended_at) < before)
    return session.connection().execute(old).rowcount


def _waiting(session: Session, source: str | None) -> Sequence[RequestRow]:
    query = select(RequestRow).where(col(RequestRow.ended_at).is_(None))
    if source is not None:
        query = query.where(RequestRow.source == source)
    return session.exec(query.order_by(col(RequestRow.asked_at), RequestRow.request_id)).all()
