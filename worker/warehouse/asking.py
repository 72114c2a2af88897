"""Asks the published copy: opened read-only for one question, and closed again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from worker.errors import ConfigInvalid, StoreUnusable
from worker.warehouse import rows, sql


@dataclass(frozen=True, slots=True)
class Answer:
    """Column names and rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def ask(path: Path, query: str) -> Answer:
    """The answer to an analyst's `query`; ConfigInvalid (exit 2) when DuckDB refuses it."""
    with _opened(path) as copy:
        try:
            copy.execute("set enable_external_access = false")  # it reads the copy, no other file
            result = copy.execute(query) if query.strip() else None
            if result is None or result.description is None:
                raise ConfigInvalid("the query failed", ["it asks for nothing"])
            names = tuple(column[0] for column in result.description)
            return Answer(names, tuple(result.fetchall()))
        except duckdb.Error as error:
            raise ConfigInvalid("the query failed", str(error).splitlines()[:6]) from None


def read(path: Path, name: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the named query of sql/queries."""
    with _opened(path) as copy:
        return rows.dicts(copy.execute(sql.statement(name), dict(values)))


def _opened(path: Path) -> duckdb.DuckDBPyConnection:
    if not path.exists():
        raise StoreUnusable(f"{path}: nothing is published yet; run `stocktake sync` first")
    try:
        copy = duckdb.connect(str(path), read_only=True)
        copy.execute("set TimeZone = 'UTC'")
    except duckdb.Error as error:
        raise StoreUnusable(f"cannot open {path}: {str(error).splitlines()[0]}") from None
    return copy
