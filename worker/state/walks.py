"""Walks that are under way: how far each has come, for those who look on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final

from sqlalchemy import JSON, Column, Engine
from sqlmodel import Field, SQLModel, col, delete, select

from worker import clock
from worker.errors import StocktakeError
from worker.findings import Progress
from worker.state.database import transaction, upsert
from worker.state.delivery_tables import table_of
from worker.state.types import UtcTime

_EVERY_S: Final = 1.0
_KEPT: Final = 50  # listings: a source can have thousands


class WalkRow(SQLModel, table=True):
    """How far the sync of a source has come: rows seen and total of its newest listings."""

    __tablename__ = "walks"

    source: str = Field(primary_key=True)
    progress_at: datetime = Field(sa_type=UtcTime)
    listings: dict[str, tuple[int, int | None]] = Field(sa_column=Column(JSON, nullable=False))


_SOURCE: Final = table_of(WalkRow).c.source


def every(engine: Engine) -> dict[str, WalkRow]:
    """The walks that are under way, or were when their process died, by source."""
    with transaction(engine) as session:
        return {row.source: row for row in session.exec(select(WalkRow))}


@contextmanager
def shown(engine: Engine, source: str, also: Progress) -> Iterator[Progress]:
    """To be called at each step of the walks of a sync: keeps how far they are, and tells `also`.

    It writes once in a second, so a short sync writes nothing.
    """
    shown = _Shown(engine, source)

    def tell(scope: str, seen: int, total: int | None) -> None:
        also(scope, seen, total)
        shown.tell(scope, seen, total)

    try:
        yield tell
    finally:
        shown.forget()


class _Shown:
    def __init__(self, engine: Engine, source: str) -> None:
        self._engine, self._source = engine, source
        self._listings: dict[str, tuple[int, int | None]] = {}
        self._due_s, self._is_kept = time.monotonic() + _EVERY_S, False

    def tell(self, scope: str, seen: int, total: int | None) -> None:
        self._listings.pop(scope, None)  # the newest stands last
        self._listings[scope] = seen, total
        if len(self._listings) > _KEPT:
            del self._listings[next(iter(self._listings))]
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + _EVERY_S
            self._keep()

    def _keep(self) -> None:
        row = {
            "source": self._source,
            "progress_at": clock.now(),
            "listings": {scope: list(how_far) for scope, how_far in self._listings.items()},
        }
        with suppress(StocktakeError), transaction(self._engine) as session:
            upsert(session, _SOURCE, [row])
            self._is_kept = True

    def forget(self) -> None:
        if self._is_kept:
            with suppress(StocktakeError), transaction(self._engine) as session:
                mine = delete(WalkRow).where(col(WalkRow.source) == self._source)
                session.connection().execute(mine)
