"""The DuckDB files. The only package that imports duckdb, and the only reader of sql/."""

from worker.warehouse.again import count_events, count_snapshot, events_again, snapshot
from worker.warehouse.asking import Answer, ask, read
from worker.warehouse.connection import SCHEMA_VERSION, locked, migrate, new_id, schema_of, to_disk
from worker.warehouse.keeping import Described, copied, described, fences, put, renew, take
from worker.warehouse.publishing import Publication, publication, publish
from worker.warehouse.store import Store, opened, rehearsed

__all__ = [
    "SCHEMA_VERSION",
    "Answer",
    "Described",
    "Publication",
    "Store",
    "ask",
    "copied",
    "count_events",
    "count_snapshot",
    "described",
    "events_again",
    "fences",
    "locked",
    "migrate",
    "new_id",
    "opened",
    "publication",
    "publish",
    "put",
    "read",
    "rehearsed",
    "renew",
    "schema_of",
    "snapshot",
    "take",
    "to_disk",
]
