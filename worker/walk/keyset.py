"""The walks over a keyset listing: along unbroken chains of cursors, several at once if asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from worker.models import After, Page, Walked
from worker.walk.scan import EVIDENCE
from worker.walk.steps import (
    Capped,
    Chain,
    Steps,
    Tally,
    Uncertified,
    request_cap,
    side_by_side,
    twice,
)

# Why a walk of ranges has no certificate, where one chain of cursors may have one.
OUTSIDE = "rows outside of the range came: the source seems to ignore the filter"


def keyset_full(size: int, bounds: tuple[str, ...] = (), parallel: int = 1) -> Steps:
    """Follow the cursors to the end; certificate `keyset` if the chain is unbroken.

    `bounds`, sorted, cut the ids into ranges [None, b0), [b0, b1) … [bn, None), which are walked
    up to `parallel` at once. No rule trusts `total`, of which nothing is documented (SOURCES.md),
    but that a listing with rows does not begin with an empty page.
    """
    tally = Tally()
    trails = [
        Trail(tally, After(None, size, lower, upper), f" of range {place}" if bounds else "")
        for place, (lower, upper) in enumerate(pairwise((None, *bounds, None)), start=1)
    ]
    reason = None
    try:
        yield from side_by_side(tally, (trail.follow() for trail in trails), parallel)
    except Uncertified as stop:
        reason = str(stop)
    return Walked(
        certificate="keyset" if reason is None else "none",
        pages=sum(trail.pages for trail in trails),
        requests=tally.requests,
        seen=len(tally.seen),
        total=None if bounds else trails[0].total,
        reason=reason,
    )


def keyset_incremental(fields: tuple[str, ...], size: int, known: Mapping[str, str]) -> Steps:
    """Read the head by each of `fields` until the last rows of a page stand as in `known` digests.

    All heads advance together, so a scope of which little has changed costs one batch of
    `len(fields)` requests.
    """
    tally = Tally()
    trails = [
        Trail(tally, After(None, size, newest=name), f" of the head by {name}") for name in fields
    ]

    def ends_as_known(page: Page) -> bool:
        # What is sorted behind rows that did not move has not moved either.
        return all(known.get(row.id) == row.digest for row in page.rows[-EVIDENCE:])

    reason = None
    try:
        heads = (trail.follow(ends_as_known) for trail in trails)
        yield from side_by_side(tally, heads, len(trails))
    except Uncertified as stop:
        reason = str(stop)
    return Walked(
        certificate="none",
        complete=reason is None,
        pages=sum(trail.pages for trail in trails),
        requests=tally.requests,
        seen=len(tally.seen),
        reason=reason,
    )


def to_the_end(page: Page) -> bool:
    """Never enough before the last page."""
    return False


@dataclass(slots=True)
class Trail:
    """One chain of cursors and what it has shown so far."""

    tally: Tally
    ask: After
    name: str
    pages: int = 0
    total: int | None = None
    cursors: set[str] = field(default_factory=set)
    last: tuple[str, ...] = ()
    cap: int | None = None  # pages; none where the source says no total
    filled: bool = False  # whether the first page held as many rows as were asked for

    def follow(self, enough: Callable[[Page], bool] = to_the_end) -> Chain[None]:
        """Read until the listing says that nothing follows, or until a page is `enough`."""
        while True:
            where = f"page {self.pages + 1}{self.name}"
            page = yield from twice(self.ask, self._flaw, where)
            self._take(page)
            if page.next_cursor is None or enough(page):
                return
            if self.pages == self.cap:
                raise Capped(f"stopped after {where}: the listing grew faster than it was read")
            self.ask = replace(self.ask, cursor=page.next_cursor)

    def _take(self, page: Page) -> None:
        if self.pages == 0:
            self.filled = len(page.rows) >= self.ask.size
            self.cap = request_cap(page.total, max(1, len(page.rows))) if page.total else None
        self.pages += 1
        self.total = page.total
        self.last = tuple(row.id for row in page.rows)
        if page.next_cursor is not None:
            self.cursors.add(page.next_cursor)

    def _flaw(self, page: Page) -> str | None:
        ids = tuple(row.id for row in page.rows)
        if len(set(ids)) < len(ids):
            return "an id came twice in one answer"
        if not all(self._in_range(id) for id in ids):
            return OUTSIDE
        if page.next_cursor is None:
            return self._flaw_of_an_end(page)
        if page.next_cursor in self.cursors:
            return "its cursor was given before: the chain runs in a circle"
        if not ids:
            return "no rows came, and more are said to follow"
        if ids == self.last:
            return "the rows of the page before came again: the source seems to ignore the cursor"
        # A source may grant less than asked, or filter after counting: only one that filled its
        # first page is held to full pages.
        if self.filled and len(ids) < self.ask.size:
            return f"{self.ask.size} rows expected, {len(ids)} came, and more are said to follow"
        return None

    def _flaw_of_an_end(self, page: Page) -> str | None:
        whole = self.ask.lower is None and self.ask.upper is None and self.ask.newest is None
        if whole and self.pages == 0 and not page.rows and page.total:
            return f"no rows came of a total of {page.total}"
        return None

    def _in_range(self, id: str) -> bool:
        lower, upper = self.ask.lower, self.ask.upper
        return (lower is None or id >= lower) and (upper is None or id < upper)
