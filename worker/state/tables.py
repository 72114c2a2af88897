"""The tables of syncs: runs, leases, what is known of a source, holds."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from worker.state.database import UtcTime


class RunRow(SQLModel, table=True):
    """One walk of one scope with what came of it: a row of `sync_runs`."""

    __tablename__ = "runs"

    run_id: str = Field(primary_key=True)
    source: str = Field(index=True)
    scope: str
    mode: str
    outcome: str
    certificate: str = "none"
    evidence: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON))
    started_at: datetime = Field(sa_type=UtcTime, index=True)
    finished_at: datetime | None = Field(default=None, sa_type=UtcTime)
    requests: int = 0
    pages: int = 0
    seen: int = 0
    total: int | None = None
    created: int = 0
    upgraded: int = 0
    updated: int = 0
    deleted: int = 0
    restored: int = 0
    purged: int = 0
    held: int = 0
    suspects: int = 0
    error: str | None = None


class LeaseRow(SQLModel, table=True):
    """Who works on something, until when. `fence` grows with every new holder."""

    __tablename__ = "leases"

    name: str = Field(primary_key=True)
    owner: str | None = None
    fence: int = 0
    expires_at: datetime | None = Field(default=None, sa_type=UtcTime)


class SourceState(SQLModel, table=True):
    """What is known of a source between its syncs."""

    __tablename__ = "sources"

    source: str = Field(primary_key=True)
    dialect: str
    paused: bool = False
    rate_limited_until: datetime | None = Field(default=None, sa_type=UtcTime)
    strikes: int = 0  # rate limits in a row
    failures: int = 0  # failed syncs in a row
    last_tried_at: datetime | None = Field(default=None, sa_type=UtcTime)
    last_synced_at: datetime | None = Field(default=None, sa_type=UtcTime)
    last_full_at: datetime | None = Field(default=None, sa_type=UtcTime)
    retractions: int = 0  # inferred deletions that were taken back: the target is zero
    # What a probe found it to accept (routes.Accepted); None: not probed yet.
    accepted: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    # Per listing: how often in a row it called for a full walk, and when last.
    escalations: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON))


class HoldRow(SQLModel, table=True):
    """A frozen set of absences that waits for a person: a row of `holds`, with its ids."""

    __tablename__ = "holds"

    hold_id: str = Field(primary_key=True)
    source: str = Field(index=True)
    scope: str
    opened_at: datetime = Field(sa_type=UtcTime)
    installs: int
    share: float
    status: str = "open"  # open, approved, rejected
    decided_at: datetime | None = Field(default=None, sa_type=UtcTime)
    reason: str = ""
    ids: list[str] = Field(default_factory=list, sa_column=Column(JSON))


def document(row: SQLModel) -> dict[str, Any]:
    """The columns of a row in the order of its table."""
    return {name: getattr(row, name) for name in type(row).model_fields}
