"""The published copy: made beside the target, checked, and put in its place in one step."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from worker.errors import StoreUnusable
from worker.warehouse import connection, rows, sql

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Publication:
    """Which commit of which store a published copy shows, and when it was made."""

    store_id: str
    commit_number: int
    published_at: datetime


def publication(target: Path) -> Publication | None:
    """What the copy at `target` shows; None when there is none that can be read."""
    if not target.exists():
        return None
    try:
        with duckdb.connect(str(target), read_only=True) as copy:
            return Publication(*rows.first(copy.execute(sql.statement("select_publication"))))
    except duckdb.Error:
        return None


def publish(
    store: Path,
    target: Path,
    now: datetime,
    tables: Mapping[str, Rows],
    patience_s: float = connection.PATIENCE_S,
) -> None:
    """Replaces the copy at `target` by the newest state of `store`, with the rows of `tables`
    (sync_runs, holds, sources) in it. A reader sees the old copy or the new one, whole.

    StoreUnusable when it cannot be written, StoreBusy while somebody has the store itself open; the
    old copy then stays.
    """
    with connection.locked(store.parent, patience_s):
        fresh = store.parent / "publishing.duckdb"
        _discard(fresh)
        try:
            # Nobody may have the file itself open while it is copied; it is made if it is missing.
            connection.connect(store, now, patience_s).close()
            connection.copy(store, fresh)
            _complete(fresh, now, tables)
            _replace(fresh, target)
        except (OSError, duckdb.Error) as error:
            raise StoreUnusable(f"cannot publish {target}: {str(error).splitlines()[0]}") from error
        finally:
            _discard(fresh)


def _complete(fresh: Path, now: datetime, tables: Mapping[str, Rows]) -> None:
    """Adds what the state store knows, and takes out what only the walk needs."""
    with duckdb.connect(str(fresh)) as copy:
        copy.execute("set TimeZone = 'UTC'")
        copy.execute("begin")
        for table, documents in tables.items():
            _load(copy, table, documents, fresh.with_name(f"publishing.{table}.ndjson"))
        copy.execute(sql.statement("insert_publication"), {"now": now})
        copy.execute(sql.statement("drop_private"))
        for text in sql.views():  # as this version has them: they are part of no schema step
            copy.execute(text)
        copy.execute("commit")


def _load(copy: duckdb.DuckDBPyConnection, table: str, documents: Rows, scratch: Path) -> None:
    if not documents:
        return
    try:
        rows.write(scratch, documents)
        copy.execute(sql.statement(f"publish_{table}"), {"paths": [str(scratch)]})
    finally:
        scratch.unlink(missing_ok=True)


def _replace(fresh: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh.chmod(0o444)
    connection.to_disk(fresh)
    # A reader that opened the old copy read-write and died leaves a .wal, which DuckDB would
    # replay onto the new file without a word.
    target.with_name(f"{target.name}.wal").unlink(missing_ok=True)
    os.replace(fresh, target)
    connection.to_disk(target.parent)


def _discard(fresh: Path) -> None:
    for leftover in (fresh, fresh.with_name(f"{fresh.name}.wal")):
        leftover.unlink(missing_ok=True)
