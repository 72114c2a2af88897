"""Opens the store under the warehouse lock, and brings its schema up to date."""

import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb

from worker.errors import StoreBusy, StoreNewer, StoreUnusable
from worker.locks import lock
from worker.warehouse import sql

SCHEMA_VERSION: Final = max(number for number, _ in sql.migrations())
PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.02


@contextmanager
def locked(private_dir: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Holds the warehouse lock: one opener of the store at a time, in all processes of this host.

    It is a file of its own, because DuckDB's lock on the store is a POSIX record lock, which this
    process would drop by closing any other descriptor of the store (DESIGN, section 11).
    """

    def busy(holder: str) -> StoreBusy:
        return StoreBusy(
            f"the store in {private_dir} is in use by process {holder}; try again later"
        )

    with lock(private_dir / "warehouse.lock", patience_s, busy):
        yield


def connect(path: Path, now: datetime, patience_s: float = PATIENCE_S) -> duckdb.DuckDBPyConnection:
    """A connection to the store at `path`, made if missing; call it under the lock."""
    connection = _patiently(path, patience_s)
    try:
        connection.execute("set TimeZone = 'UTC'")  # needs icu, which is loaded with the first use
        _migrate(connection, path, now)
    except BaseException:
        connection.close()
        raise
    return connection


def copy(path: Path, target: Path) -> None:
    """Copies the store at `path` as a file; call it under the lock.

    Under the lock nothing of this host has the store open: reading it as a file while this process
    had it open in DuckDB would drop DuckDB's own lock (DESIGN, section 11).
    """
    shutil.copyfile(path, target)
    wal = _wal_of(path)
    if wal.exists():  # a process died before its checkpoint: its last commits are in there
        shutil.copyfile(wal, _wal_of(target))


def _wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _patiently(path: Path, patience_s: float) -> duckdb.DuckDBPyConnection:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return duckdb.connect(str(path), config=_settings(path.parent))
        except duckdb.Error as error:
            holder = re.search(r"PID (\d+)", str(error))
            if holder is None:
                raise StoreUnusable(f"cannot open {path}: {_first_line(error)}") from None
            if time.monotonic() >= deadline:
                raise StoreBusy(
                    f"{path} is held open by process {holder[1]}; close it there, or wait "
                    "(analysts open the published copy instead)"
                ) from None
        time.sleep(_POLL_S)


def _settings(private_dir: Path) -> dict[str, str | bool | int | float | list[str]]:
    return {
        # The diff is narrow; at a million rows this costs a second and keeps the process small.
        "memory_limit": "512MB",
        "temp_directory": str(private_dir / "tmp"),
        "preserve_insertion_order": False,
    }


def _migrate(connection: duckdb.DuckDBPyConnection, path: Path, now: datetime) -> None:
    version = _version(connection)
    if version > SCHEMA_VERSION:
        raise StoreNewer(
            f"{path} was written by a newer stocktake (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade stocktake"
        )
    if version == SCHEMA_VERSION:
        return
    connection.execute("begin")
    for number, text in sql.migrations():
        if number > version:
            connection.execute(text)
    for text in sql.views():
        connection.execute(text)
    if version == 0:
        values = {"store_id": f"st_{secrets.token_hex(12)}", "now": now, "version": SCHEMA_VERSION}
        connection.execute(sql.statement("insert_store"), values)
    connection.execute(sql.statement("set_schema_version"), {"version": SCHEMA_VERSION})
    connection.execute("commit")


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    try:
        row = connection.execute(sql.statement("select_store")).fetchone()
    except duckdb.CatalogException:
        return 0  # a new file
    return int(row[1]) if row else 0


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
