"""The DuckDB files. The only package that imports duckdb, and the only reader of sql/."""

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
    "described",
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
    "take",
    "to_disk",
]
