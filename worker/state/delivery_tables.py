"""The tables of webhook delivery: endpoints, notices, deliveries, their attempts, replays."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, Table, text
from sqlmodel import Field, SQLModel

from worker.state.database import UtcTime


def _partial_index(name: str, *columns: str, where: str) -> Index:
    """An index of few rows of a table that keeps months of finished ones."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class EndpointRow(SQLModel, table=True):
    """How far the event log was relayed to an endpoint, and how the endpoint fares."""

    __tablename__ = "endpoints"

    name: str = Field(primary_key=True)
    store_id: str
    sequence: int
    registered_at: datetime = Field(sa_type=UtcTime)
    overloads: int = 0
    breaker_until: datetime | None = Field(default=None, sa_type=UtcTime)
    failures: int = 0
    failing_since: datetime | None = Field(default=None, sa_type=UtcTime)
    last_success_at: datetime | None = Field(default=None, sa_type=UtcTime)
    flag: str | None = None
    disabled_reason: str | None = None
    paused: bool = False


class Notice(SQLModel, table=True):
    """An operational message, said once."""

    __tablename__ = "notices"

    notice_id: str = Field(primary_key=True)
    type: str
    source: str | None = None
    created_at: datetime = Field(sa_type=UtcTime)
    data: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class Delivery(SQLModel, table=True):
    """One event or notice for one endpoint.

    `next_at` is set exactly while the delivery is open: when it is to be tried, and while it is
    in flight, when its lease ends. So `next_at <= now` finds what is due, lapsed leases included.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        _partial_index(
            "ix_deliveries_due", "endpoint", "next_at", "position", where="next_at is not null"
        ),
        _partial_index(
            "ix_deliveries_lane", "endpoint", "lane", "position", where="next_at is not null"
        ),
        _partial_index("ix_deliveries_leased", "endpoint", where="lease_token is not null"),
        # To count them without reading their bodies: meanwhile SQLite lets nobody write.
        Index("ix_deliveries_state", "endpoint", "state"),
    )

    position: int | None = Field(default=None, primary_key=True)
    delivery_id: str = Field(unique=True)
    event_id: str = Field(index=True)
    endpoint: str
    type: str
    source: str | None = None
    install_id: str | None = None
    state: str
    reason: str | None = None
    attempts: int = 0
    next_at: datetime | None = Field(default=None, sa_type=UtcTime)
    created_at: datetime = Field(sa_type=UtcTime)
    delivered_at: datetime | None = Field(default=None, sa_type=UtcTime)
    last_status: int | None = None
    last_error: str | None = None
    sequence: int | None = None
    lane: str | None = None
    lease_token: str | None = None
    first_attempt_at: datetime | None = Field(default=None, sa_type=UtcTime)
    is_replay: bool = False
    body: bytes


class AttemptRow(SQLModel, table=True):
    """One HTTP try, as it ended."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_endpoint", "endpoint", "started_at"),)

    attempt_id: int | None = Field(default=None, primary_key=True)
    delivery_id: str = Field(index=True)
    endpoint: str
    started_at: datetime = Field(sa_type=UtcTime)
    seconds: float
    status: int | None = None
    fault: str | None = None
    error: str | None = None
    answer: bytes
    phases: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON))


class Replay(SQLModel, table=True):
    """Events that a person wants to be sent again, and how far that is; gone when all is made.

    `after` and `upto` are sequences of the log of one store; a `snapshot` is of what is installed.
    """

    __tablename__ = "replays"

    replay_id: str = Field(primary_key=True)
    endpoint: str
    store_id: str
    asked_at: datetime = Field(sa_type=UtcTime)
    snapshot: bool
    fresh_ids: bool
    types: list[str] = Field(sa_column=Column(JSON, nullable=False))
    sources: list[str] = Field(sa_column=Column(JSON, nullable=False))
    after: int
    upto: int


def table_of(row: type[SQLModel]) -> Table:
    """The table itself, for statements over many rows."""
    return SQLModel.metadata.tables[str(row.__tablename__)]
