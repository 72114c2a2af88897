"""Looks for secrets in all that Stocktake leaves behind: files, databases, logs, answers."""

import base64
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb

DATABASES = {".db": "sqlite", ".duckdb": "duckdb"}


@dataclass
class Leaks:
    """Secrets by what they are, and where each was found."""

    secrets: Mapping[str, str]
    found: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._needles = {
            needle: name for name, secret in self.secrets.items() for needle in _written(secret)
        }

    def look(self, where: str, text: str | bytes) -> None:
        """Looks through one text, or the bytes of one file."""
        data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        for needle, name in self._needles.items():
            if needle in data:
                self.found.add((where, name))

    def look_through(self, folder: Path, *but: str) -> list[str]:
        """Looks through every file in a folder, but those of these names; returns the others."""
        looked = []
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.name in but:
                continue
            where = str(path.relative_to(folder))
            looked.append(where)
            self.look(where, path.read_bytes())
            for text in values(path):
                self.look(f"{where} (values)", text)
        return looked


def _written(secret: str) -> Iterator[bytes]:
    """How a secret may be written down."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    yield repr(secret)[1:-1].encode()
    for shift in range(3):
        # Whatever stands before it: the part of the base64 that is its own.
        encoded = base64.b64encode(b"\0" * shift + secret.encode()).decode().rstrip("=")
        yield encoded[4 if shift else 0 : -2].encode()


def values(path: Path) -> Iterator[str]:
    """Every value of a database as text: in the file itself they may be compressed."""
    match DATABASES.get(path.suffix):
        case "sqlite":
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as state:
                for (table,) in state.execute("select name from sqlite_master where type='table'"):
                    yield from _texts(state.execute(f'select * from "{table}"'))  # noqa: S608
        case "duckdb":
            with duckdb.connect(str(path), read_only=True) as store:
                tables = store.execute(
                    "select schema_name, table_name from duckdb_tables() where not internal"
                ).fetchall()
                for schema, table in tables:
                    query = f'select * from "{schema}"."{table}"'  # noqa: S608
                    yield from _texts(store.execute(query).fetchall())


def _texts(rows: Any) -> Iterator[str]:
    for row in rows:
        for value in row:
            if isinstance(value, bytes):
                yield value.decode(errors="surrogateescape")
            elif value is not None:
                yield str(value)


def compact(text: str) -> str:
    """A text of terminal width without its line breaks, where a long value may be cut in two."""
    return re.sub(r"\s*\n\s*", "", text)
