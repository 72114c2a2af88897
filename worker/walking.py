"""Drives a walk over one scope: fetches the pages it asks for, and spools what they bring."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from worker.client import Call, Client
from worker.dialects import Dialect
from worker.dialects.rows import digest
from worker.findings import Progress
from worker.models import INTEGRATIONS, Ask, Kind, One, Page, Row, Walked
from worker.payloads import decoded, encoded, redacted
from worker.settings import Source
from worker.spool import Spool
from worker.walk import Steps


class Observed:
    """The time of observations: no earlier than the newest commit, and untouched by clock jumps."""

    def __init__(self, now: datetime, newest_commit: datetime) -> None:
        self.began_at = max(now, newest_commit + timedelta(microseconds=1))
        self._began = time.monotonic()

    def __call__(self) -> datetime:
        return self.began_at + timedelta(seconds=time.monotonic() - self._began)


@dataclass(frozen=True, slots=True)
class Guide:
    """How a walk reaches its source and what it keeps of the answers."""

    source: Source
    dialect: Dialect
    client: Client
    observed: Observed
    progress: Progress

    @property
    def page_size(self) -> int:
        """How many rows are asked for at once."""
        return self.source.page_size or self.dialect.MAX_PAGE_SIZE

    def walk(
        self,
        scope: str,
        steps: Steps,
        spool: Spool,
        met: Callable[[Row], None] = lambda row: None,
    ) -> Walked:
        """Runs `steps` to the end. Rows are in `spool` even when an error ends the walk; `met` is
        called with each row that the source sent."""
        seen: set[str] = set()
        try:
            asks = next(steps)
            while True:
                pages = spool.replayed(asks) or self._fetch(scope, asks, spool)
                for row in (row for page in pages if page for row in page.rows):
                    seen.add(row.id)
                    met(row)
                self.progress(scope, len(seen), next((p.total for p in pages if p), None))
                asks = steps.send(pages)
        except StopIteration as end:
            walked: Walked = end.value
            return walked

    def _fetch(self, scope: str, asks: Sequence[Ask], spool: Spool) -> tuple[Page | None, ...]:
        observed_at = self.observed()
        pages = self.client.send_all([self._call(scope, ask) for ask in asks])
        kept = [self._ours(scope, page.rows) if page else () for page in pages]
        spool.record(asks, pages, kept, observed_at)
        return tuple(pages)

    def _call(self, scope: str, ask: Ask) -> Call[Page | None]:
        request = self.dialect.request(scope, ask)
        read = partial(self._read, scope, ask)
        return Call(request, read, missing=(lambda: None) if isinstance(ask, One) else None)

    def _read(self, scope: str, ask: Ask, body: bytes) -> Page:
        page = self.dialect.read(scope, ask, body)
        if not self.source.redact:
            return page
        # Before anything is stored: the walk, the spool and the store only see what is left.
        return replace(page, rows=tuple(self._redacted(row) for row in page.rows))

    def _redacted(self, row: Row) -> Row:
        raw = encoded(redacted(decoded(row.raw), self.source.redact))
        return Row(row.id, digest(raw), raw)

    def _ours(self, scope: str, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows that are to be mirrored: all, or those of the configured integrations."""
        listed = self.source.integrations
        if not listed:
            return rows
        if scope == INTEGRATIONS:
            return [row for row in rows if row.id in listed]
        return [row for row in rows if self._integration(scope, row) in listed]

    def _integration(self, scope: str, row: Row) -> str | None:
        return self.dialect.install(decoded(row.raw), integration_of(scope)).integration_id


def integration_of(scope: str) -> str | None:
    """The integration that a scope names: the one of `installs/<integration_id>`."""
    return scope.partition("/")[2] or None


def kind_of(scope: str) -> Kind:
    """What a scope lists."""
    return "integration" if scope == INTEGRATIONS else "install"
