"""Opens the store under the warehouse lock, and brings its schema up to date."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb

from worker import __version__
from worker.errors import StoreBusy, StoreNewer, StoreOlder, StoreUnusable
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
    """A connection to the store at `path`, made if missing; call it under the lock.

    StoreOlder or StoreNewer, and nothing changed, where it has another schema.
    """
    connection = _patiently(path, patience_s)
    try:
        connection.execute("set TimeZone = 'UTC'")  # needs icu, which is loaded with the first use
        with faults_of(f"cannot write {path}"):
            _check(connection, path, now)
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
    wal = wal_of(path)
    if wal.exists():  # a process died before its checkpoint: its last commits are in there
        shutil.copyfile(wal, wal_of(target))


def to_disk(path: Path) -> None:
    """Waits until a file, or the names in a directory, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


@contextmanager
def faults_of(what: str, after: str = "") -> Iterator[None]:
    """Tells faults of disk and memory as StoreUnusable: `what`, the reason, and what comes of it
    `after` them. A disk that fills up while a commit is written makes a TransactionException."""
    try:
        yield
    except (
        *(duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException),
        *(duckdb.FatalException, OSError),
    ) as error:
        raise StoreUnusable(f"{what}: {_first_line(error)}{after}") from error


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


def settle(path: Path, patience_s: float = PATIENCE_S) -> None:
    """Moves what a process that died left in the log of the store into the file itself; call it
    under the lock. Its schema does not matter."""
    _patiently(path, patience_s).close()


def migrate(path: Path, now: datetime, patience_s: float = PATIENCE_S) -> int:
    """Brings the store at `path` to this schema, in one transaction, and returns which one it had;
    call it under the lock."""
    with closing(_patiently(path, patience_s)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        version = _version(connection)
        _refuse_newer(connection, path, version)
        if version < SCHEMA_VERSION:
            with faults_of(f"cannot migrate {path}"):
                _bring_up(connection, version, now)
        return version


def schema_of(path: Path, patience_s: float = PATIENCE_S) -> int:
    """The schema of the store at `path`, which is there; 0 if nothing is in it. StoreNewer where it
    is too new. Call it under the lock."""
    with closing(_patiently(path, patience_s)) as connection:
        version = _version(connection)
        _refuse_newer(connection, path, version)
        return version


def _check(connection: duckdb.DuckDBPyConnection, path: Path, now: datetime) -> None:
    version = _version(connection)
    _refuse_newer(connection, path, version)
    if version == 0:
        _bring_up(connection, version, now)
    elif version < SCHEMA_VERSION:
        raise StoreOlder(str(path), version, SCHEMA_VERSION)


def _refuse_newer(connection: duckdb.DuckDBPyConnection, path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        writer = connection.execute(sql.statement("select_writer")).fetchone()
        raise StoreNewer(str(path), writer[0] if writer else None, version, SCHEMA_VERSION)


def _bring_up(connection: duckdb.DuckDBPyConnection, version: int, now: datetime) -> None:
    connection.execute("begin")
    for number, text in sql.migrations():
        if number > version:
            connection.execute(text)
    for text in sql.views():
        connection.execute(text)
    if version == 0:
        values = {"store_id": new_id(), "now": now, "version": SCHEMA_VERSION}
        connection.execute(sql.statement("insert_store"), values)
    written = {"version": SCHEMA_VERSION, "written_by": __version__}
    connection.execute(sql.statement("set_schema_version"), written)
    connection.execute("commit")


def new_id() -> str:
    """A random name for a store."""
    return f"st_{secrets.token_hex(12)}"


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    try:
        row = connection.execute(sql.statement("select_schema")).fetchone()
    except duckdb.CatalogException:
        return 0  # a new file
    return int(row[0]) if row else 0


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
