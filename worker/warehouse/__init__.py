"""The DuckDB files. The only package that imports duckdb, and the only reader of sql/."""

from worker.warehouse.asking import Answer, ask, read
from worker.warehouse.connection import locked
from worker.warehouse.publishing import Publication, publication, publish
from worker.warehouse.store import Store, opened, rehearsed

__all__ = [
    "Answer",
    "Publication",
    "Store",
    "ask",
    "locked",
    "opened",
    "publication",
    "publish",
    "read",
    "rehearsed",
]
