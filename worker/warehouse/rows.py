"""Turns rows of DuckDB into values, and values into newline-delimited JSON that DuckDB loads."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import duckdb
import msgspec

from worker.models import Event

_JSON: Final = frozenset({"variables", "payload", "before", "after"})
_ENCODER: Final = msgspec.json.Encoder()
T = TypeVar("T", bound=msgspec.Struct)


def dicts(result: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The rows of a result by column name, JSON columns decoded."""
    names = [column[0] for column in result.description or ()]
    return [
        {name: _value(name, value) for name, value in zip(names, row, strict=True)}
        for row in result.fetchall()
    ]


def known(type_: type[T], row: Mapping[str, Any]) -> T:
    """An Install or Integration from a row that has its columns."""
    return type_(**{name: row[name] for name in type_.__struct_fields__})


def event(row: Mapping[str, Any]) -> Event:
    """An Event from a row of `events`."""
    return Event(**{**row, "changed_fields": tuple(row["changed_fields"])})


def write(path: Path, documents: Iterable[Mapping[str, Any] | msgspec.Struct | Event]) -> Path:
    """Writes one JSON document a line."""
    with path.open("wb") as file:
        for document in documents:
            file.write(_ENCODER.encode(document))
            file.write(b"\n")
    return path


def _value(name: str, value: Any) -> Any:
    return msgspec.json.decode(value) if name in _JSON and isinstance(value, str) else value


def first(result: duckdb.DuckDBPyConnection) -> Sequence[Any]:
    """The one row of a result that has one."""
    row = result.fetchone()
    if row is None:
        raise LookupError("the query returned no row")
    return row
