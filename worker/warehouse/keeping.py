"""Whole copies of the store: taken, described, made a store of their own, put in its place."""

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from worker.errors import StoreUnusable
from worker.warehouse import connection, rows, sql


@dataclass(frozen=True, slots=True)
class Described:
    """Which store a copy is of, and how much it holds."""

    store_id: str
    schema: int
    last_sequence: int
    installs: int
    active_installs: int
    integrations: int
    sources: int

    @property
    def counts(self) -> dict[str, int]:
        """How much it holds."""
        return {name: n for name, n in asdict(self).items() if name not in ("store_id", "schema")}


def take(store: Path, target: Path) -> None:
    """Copies the store, as it was last committed, into one file; call it under the lock."""
    connection.settle(store)
    copied(store, target)


def copied(store: Path, target: Path) -> None:
    """Copies the store as its files are, even if DuckDB could not open them; under the lock."""
    connection.copy(store, target)
    for each in (target, connection.wal_of(target)):
        if each.exists():
            each.chmod(0o600)
            connection.to_disk(each)


def described(copy: Path) -> Described:
    """What a copy is of; StoreUnusable if it is none."""
    try:
        with duckdb.connect(str(copy), read_only=True) as opened:
            (schema,) = rows.first(opened.execute(sql.statement("select_schema")))
            store_id = rows.first(opened.execute(sql.statement("select_store")))[0]
            counts = rows.dicts(opened.execute(sql.statement("count_store")))[0]
    except duckdb.Error as error:
        raise StoreUnusable(f"cannot read {copy}: {str(error).splitlines()[0]}") from None
    return Described(store_id, schema, **counts)


def fences(store: Path) -> dict[str, int]:
    """The newest lease of each source; call it under the lock."""
    connection.settle(store)
    with duckdb.connect(str(store), read_only=True) as opened:
        return dict(opened.execute(sql.statement("select_fences")).fetchall())


def renew(
    copy: Path, store_id: str, leases: Mapping[str, int], now: datetime
) -> list[tuple[str, datetime]]:
    """Makes of a copy the store `store_id`, in which no lease before `leases` commits; returns
    source and time of each commit that ended a baseline.

    What was absent when the copy was taken is proof of nothing now: two new walks decide.
    """
    try:
        with closing(connection.connect(copy, now)) as opened:
            opened.execute("begin")
            opened.execute(sql.statement("rename_store"), {"store_id": store_id})
            for source, fence in leases.items():
                opened.execute(sql.statement("take_fence"), {"source": source, "fence": fence})
            opened.execute(sql.statement("forget_suspects"))
            opened.execute(sql.statement("forget_suspected_rounds"))
            opened.execute("commit")
            return opened.execute(sql.statement("select_baselines")).fetchall()
    except duckdb.Error as error:
        raise StoreUnusable(f"cannot write {copy}: {str(error).splitlines()[0]}") from error


def put(fresh: Path, store: Path) -> None:
    """Puts a copy in the place of the store, in one step; call it under the lock."""
    connection.to_disk(fresh)
    # What an old process left there would be replayed onto the new file.
    connection.wal_of(store).unlink(missing_ok=True)
    os.replace(fresh, store)
    connection.to_disk(store.parent)
