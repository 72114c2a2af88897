"""Both stores as the first stocktake made them, with rows in them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    text,
)

from worker.resources import directory

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST = MetaData()


def _key(name: str) -> Column[str]:
    return Column(name, String, primary_key=True)


def _texts(*names: str, needed: bool = True) -> list[Column[str]]:
    return [Column(name, String, nullable=not needed) for name in names]


def _counts(*names: str, needed: bool = True) -> list[Column[int]]:
    return [Column(name, Integer, nullable=not needed) for name in names]


def _times(*names: str, needed: bool = False) -> list[Column[datetime]]:
    return [Column(name, DateTime(timezone=True), nullable=not needed) for name in names]


Table(
    "runs", FIRST, _key("run_id"), Column("source", String, nullable=False, index=True),
    *_texts("scope", "mode", "outcome", "certificate"), Column("evidence", JSON),
    Column("started_at", DateTime(timezone=True), nullable=False, index=True),
    *_times("finished_at"), *_counts("requests", "pages", "seen"), *_counts("total", needed=False),
    *_counts("created", "upgraded", "updated", "deleted", "restored", "purged", "held", "suspects"),
    *_texts("error", needed=False),
)  # fmt: skip
Table(
    "leases", FIRST, _key("name"), *_texts("owner", needed=False), *_counts("fence"),
    *_times("expires_at"),
)  # fmt: skip
Table(
    "sources", FIRST, _key("source"), *_texts("dialect"), Column("paused", Boolean, nullable=False),
    *_times("rate_limited_until"), *_counts("strikes", "failures"),
    *_times("last_tried_at", "last_synced_at", "last_full_at"), *_counts("retractions"),
    Column("accepted", JSON), Column("escalations", JSON),
)  # fmt: skip
Table(
    "holds", FIRST, _key("hold_id"), Column("source", String, nullable=False, index=True),
    *_texts("scope"), *_times("opened_at", needed=True), *_counts("installs"),
    Column("share", Float, nullable=False), *_texts("status"), *_times("decided_at"),
    *_texts("reason"), Column("ids", JSON),
)  # fmt: skip
Table(
    "endpoints", FIRST, _key("name"), *_texts("store_id"), *_counts("sequence"),
    *_times("registered_at", needed=True), *_counts("overloads"), *_times("breaker_until"),
    *_counts("failures"), *_times("failing_since", "last_success_at"),
    *_texts("flag", "disabled_reason", needed=False), Column("paused", Boolean, nullable=False),
)  # fmt: skip
Table(
    "notices", FIRST, _key("notice_id"), *_texts("type"), *_texts("source", needed=False),
    *_times("created_at", needed=True), Column("data", JSON, nullable=False),
)  # fmt: skip
DELIVERIES = Table(
    "deliveries", FIRST, Column("position", Integer, primary_key=True),
    Column("delivery_id", String, nullable=False, unique=True),
    Column("event_id", String, nullable=False, index=True), *_texts("endpoint", "type"),
    *_texts("source", "install_id", needed=False), *_texts("state"),
    *_texts("reason", needed=False), *_counts("attempts"), *_times("next_at"),
    *_times("created_at", needed=True), *_times("delivered_at"),
    *_counts("last_status", needed=False), *_texts("last_error", needed=False),
    *_counts("sequence", needed=False), *_texts("lane", "lease_token", needed=False),
    *_times("first_attempt_at"), Column("is_replay", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
)  # fmt: skip
Index(
    "ix_deliveries_due", *(DELIVERIES.c[name] for name in ("endpoint", "next_at", "position")),
    sqlite_where=text("next_at is not null"), postgresql_where=text("next_at is not null"),
)  # fmt: skip
Index(
    "ix_deliveries_lane", *(DELIVERIES.c[name] for name in ("endpoint", "lane", "position")),
    sqlite_where=text("next_at is not null"), postgresql_where=text("next_at is not null"),
)  # fmt: skip
ATTEMPTS = Table(
    "attempts", FIRST, Column("attempt_id", Integer, primary_key=True),
    Column("delivery_id", String, nullable=False, index=True), *_texts("endpoint"),
    *_times("started_at", needed=True), Column("seconds", Float, nullable=False),
    *_counts("status", needed=False), *_texts("fault", "error", needed=False),
    Column("answer", LargeBinary, nullable=False),
)  # fmt: skip


def state(url: str, store_id: str = "st_1", sequence: int = 0) -> None:
    """A state store of the first schema: one endpoint that was sent something, twice in vain."""
    engine = create_engine(url)
    sent = {
        "delivery_id": "dlv_1", "event_id": "evt_1", "endpoint": "crm", "type": "install.created",
        "state": "delivered", "attempts": 2, "created_at": NOON, "is_replay": False, "body": b"{}",
    }  # fmt: skip
    attempt = {
        "delivery_id": "dlv_1", "endpoint": "crm", "started_at": NOON, "seconds": 0.5,
        "status": 503, "answer": b"later",
    }  # fmt: skip
    crm = {
        "name": "crm", "store_id": store_id, "sequence": sequence, "registered_at": NOON,
        "overloads": 0, "failures": 0, "paused": False,
    }  # fmt: skip
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("pragma journal_mode = wal")
        FIRST.create_all(connection)
        connection.execute(FIRST.tables["endpoints"].insert(), crm)
        connection.execute(FIRST.tables["leases"].insert(), {"name": "sync farm", "fence": 7})
        connection.execute(DELIVERIES.insert(), sent)
        connection.execute(ATTEMPTS.insert(), [attempt, attempt])
    engine.dispose()


def store(path: Path, *installs: str) -> None:
    """A store of the first schema, in which Gestal's listing has been walked once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    first = directory("sql") / "schema" / "0001_tables.sql"
    with duckdb.connect(str(path)) as made:
        made.execute("set TimeZone = 'UTC'")
        made.execute(first.read_text("utf-8"))
        made.execute("insert into private.store values ('st_1', 1, 1, $now)", {"now": NOON})
        made.execute("insert into private.fences values ('farm', 7, 1)")
        for sequence, id in enumerate(installs, start=1):
            row = {"id": id, "now": NOON, "before": NOON - timedelta(days=1)}
            made.execute(_INSTALL, row)
            made.execute(_REVISION, row)
            made.execute(_EVENT, {"id": id, "now": NOON, "sequence": sequence})


_INSTALL = """
insert into installs by name
select
    'farm' as source, $id as install_id, 'int_a' as integration_id, 'active' as state,
    false as deletion_inferred, 2 as revision, $before::timestamptz as first_seen_at,
    $now::timestamptz as last_changed_at, 'hash' as row_hash, '{"cloud_id": 1}' as payload
"""
_REVISION = """
insert into install_revisions by name
select * replace (1 as revision, $before::timestamptz as last_changed_at),
    $now::timestamptz as valid_to
from installs where install_id = $id
"""
_EVENT = """
insert into events by name
select
    $sequence as sequence, 'evt_' || $sequence as event_id, 'install.updated' as type,
    'farm' as source, 'int_a' as integration_id, $id as install_id, 2 as revision,
    $now::timestamptz as detected_at, false as deletion_inferred, false as baseline,
    ['payload'] as changed_fields, 'run_1' as run_id
"""
