"""The statements in sql/, by name."""

from collections.abc import Iterator
from functools import cache

from worker.resources import directory


@cache
def statement(name: str) -> str:
    """The text of sql/queries/<name>.sql."""
    return (directory("sql") / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def migrations() -> Iterator[tuple[int, str]]:
    """Number and text of every schema step, in order."""
    for path in sorted((directory("sql") / "schema").glob("*.sql")):
        yield int(path.name.partition("_")[0]), path.read_text(encoding="utf-8")


def views() -> Iterator[str]:
    """The texts that make the views and macros, each after those it reads."""
    first = ("install_history",)
    paths = sorted(
        (directory("sql") / "views").glob("*.sql"), key=lambda p: (p.stem not in first, p.stem)
    )
    for path in paths:
        yield path.read_text(encoding="utf-8")
