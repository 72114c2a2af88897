"""What must agree between the tables of a configuration."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from worker.settings.problems import Key, Problem


def contradictions(tables: Mapping[str, Any]) -> Iterator[Problem]:
    """Names used twice, and endpoints that want sources which are not there. Reads the tables as
    they are, valid or not, so that this is reported along with all else."""
    for table in ("sources", "endpoints"):
        yield from _repeated(_names(tables, table))
    yield from _unmatched(tables, {name: None for _, name in _names(tables, "sources")})


def _repeated(names: list[tuple[Key, str]]) -> Iterator[Problem]:
    seen = set()
    for key, name in names:
        if name in seen:
            yield Problem(key, "expected a name that no other has", name)
        seen.add(name)


def _unmatched(tables: Mapping[str, Any], names: Iterable[str]) -> Iterator[Problem]:
    for index, endpoint in _rows(tables, "endpoints"):
        globs = endpoint.get("sources")
        for position, glob in enumerate(globs if isinstance(globs, list) else ()):
            if isinstance(glob, str) and not any(fnmatchcase(name, glob) for name in names):
                key = ("endpoints", index, "sources", position)
                yield Problem(key, f"matches none of the sources: {', '.join(names)}", glob)


def _names(tables: Mapping[str, Any], table: str) -> list[tuple[Key, str]]:
    named = [(index, row.get("name")) for index, row in _rows(tables, table)]
    return [((table, index, "name"), name) for index, name in named if isinstance(name, str)]


def _rows(tables: Mapping[str, Any], table: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = tables.get(table)
    for index, row in enumerate(rows if isinstance(rows, list) else ()):
        if isinstance(row, dict):
            yield index, row
