"""Reading a moving listing from page 1 until nothing that moved can be hidden further down."""

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from worker.walk.listing import Answer, Listing
from worker.walk.steps import Chain

# Rows that must stand exactly where they were known: fewer are chance on small pages (WALK.md).
EVIDENCE = 10


@dataclass(slots=True)
class Reader:
    """Reads on from page 1, and goes back by as many rows as the total shrank (WALK.md: forward).

    Going back by whole pages instead leaves a hole where rows were inserted meanwhile.
    """

    listing: Listing
    known: set[str] = field(default_factory=set)  # may be shared by the readers of one walk
    cursor: int = 0  # all rows before it have been read
    rows: list[tuple[str, str]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    totals: list[int] = field(default_factory=list)
    tops: dict[int, Answer] = field(default_factory=dict)  # the pages of the first EVIDENCE rows
    ended: bool = False

    def step(self) -> Chain[bool]:
        """Read one page; whether it joins what was read before: if not, the next step goes back."""
        number = self.cursor // self.listing.size + 1
        answer = yield from self.listing.get(number)
        start = (number - 1) * self.listing.size
        self._take(answer)
        if start < EVIDENCE:
            self.tops.setdefault(number, answer)
        if start > self.cursor:
            return False
        self.cursor = start + self.listing.size
        self.ended = self.cursor >= answer.total
        return True

    def _take(self, answer: Answer) -> None:
        if self.totals:
            self.cursor -= min(self.cursor, max(0, self.totals[-1] - answer.total))
        self.totals.append(answer.total)
        self.rows.extend(row for row in answer.rows if row[0] not in self.ids)
        self.ids.update(id for id, _ in answer.rows)
        self.known.update(id for id, _ in answer.rows)

    def is_still(self, before: "Reader | None") -> bool:
        """Whether this was one answer, hence one moment, or reads exactly like the scan before."""
        if len(self.totals) == 1:
            return True
        return (
            before is not None
            and len(set(self.totals)) == 1
            and (self.rows, self.totals) == (before.rows, before.totals)
        )

    def ahead_of(self, order: Sequence[str]) -> list[str]:
        """The rows read, then the rest of `order`."""
        return [id for id, _ in self.rows] + [id for id in order if id not in self.ids]


def anyhow(id: str, digest: str) -> bool:
    """Content does not count: a walk without a base looks at places only."""
    return True


class Evidence:
    """Whether the rows read last stand exactly where they are known to stand."""

    def __init__(self, order: Sequence[str], same: Callable[[str, str], bool] = anyhow) -> None:
        self._rank = {id: place for place, id in enumerate(order)}
        self._same = same
        self._needed = max(1, min(EVIDENCE, len(order)))
        self._read: list[int] = []  # the ranks read, ascending
        self._counted = 0

    def missing(self, rows: Sequence[tuple[str, str]]) -> int | None:
        """How many known rows above the last one of `rows` are not in it; None: no evidence.

        `rows` only grows from call to call.
        """
        self._count(rows[self._counted :])
        tail = rows[-self._needed :]
        places = [self._rank.get(id, -1) for id, _ in tail]
        ascending = all(a < b for a, b in pairwise(places))
        if len(tail) < self._needed or places[0] < 0 or not ascending:
            return None
        if not all(self._same(id, digest) for id, digest in tail):
            return None
        return places[-1] + 1 - bisect_right(self._read, places[-1])

    def _count(self, rows: Sequence[tuple[str, str]]) -> None:
        self._counted += len(rows)
        for id, _ in rows:
            if (place := self._rank.get(id)) is not None:
                insort(self._read, place)


def go_on(reader: Reader) -> str | None:
    """Never a reason to give up a scan."""
    return None


def scan(
    reader: Reader,
    evidence: Evidence,
    ghosts: Callable[[int], int],
    give_up: Callable[[Reader], str | None] = go_on,
) -> Chain[str | None]:
    """Read until the end, or until the known order stands again; the reason where it gave up.

    `ghosts(total)` is how many known rows may be missing, because they are gone.
    """
    while True:
        joins = yield from reader.step()
        if reason := give_up(reader):
            return reason
        if not joins:
            continue
        missing = evidence.missing(reader.rows)
        if reader.ended or (missing is not None and missing <= ghosts(reader.totals[-1])):
            return None
