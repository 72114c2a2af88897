"""How a walk asks: chains of single asks, run side by side in batches a shell may fetch at once."""

import math
from collections.abc import Callable, Container, Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from worker.models import Ask, Page, Walked

T = TypeVar("T")

# A chain asks for one page at a time; None for a page means that the source said 404.
Chain = Generator[Ask, Page | None, T]
# Batches of asks; the pages come back in the order of the asks, whatever order they were served in.
Batches = Generator[tuple[Ask, ...], tuple[Page | None, ...], T]
Steps = Batches[Walked]


class Uncertified(Exception):
    """The walk cannot prove what it set out to prove; the message says why, without row content."""


class Capped(Uncertified):
    """The walk has used up the requests it may make."""


def page_count(rows: int, size: int) -> int:
    """How many pages of `size` hold `rows` rows; an empty listing has one page."""
    return max(1, math.ceil(rows / size))


def request_cap(rows: int, size: int) -> int:
    """How many requests a walk over `rows` rows may make (WALK.md: cap)."""
    return 4 * page_count(rows, size) + 20


@dataclass(slots=True)
class Tally:
    """What a walk has cost and met so far, broken answers included, and what it may cost."""

    known: Container[str] = frozenset()
    limit: int | None = None
    requests: int = 0
    seen: set[str] = field(default_factory=set)
    new: int = 0  # of those seen, the ones not in `known`

    def fetch(self, asks: tuple[Ask, ...]) -> Batches[tuple[Page | None, ...]]:
        """Ask for a batch, or raise Capped where it would exceed the limit."""
        if self.limit is not None and self.requests + len(asks) > self.limit:
            raise Capped(
                f"stopped after {self.requests} requests:"
                " the listing moved faster than it could be read"
            )
        self.requests += len(asks)
        pages = yield asks
        for page in pages:
            if page is not None:
                self._meet(page)
        return pages

    def _meet(self, page: Page) -> None:
        fresh = {row.id for row in page.rows} - self.seen
        self.seen |= fresh
        self.new += sum(id not in self.known for id in fresh)


def twice(ask: Ask, flaw: Callable[[Page], str | None], where: str) -> Chain[Page]:
    """The answer to `ask`; one with a flaw is asked for once more before the walk gives up."""
    problem: str | None = None
    for _ in range(2):
        page = yield ask
        problem = "not found (404)" if page is None else flaw(page)
        if page is not None and problem is None:
            return page
    raise Uncertified(f"{where}: {problem}")


def side_by_side(tally: Tally, chains: Iterable[Chain[T]], width: int = 1) -> Batches[list[T]]:
    """Run up to `width` chains at once, one ask of each in every batch; their results, in order."""
    results: dict[int, T] = {}
    asking: dict[int, tuple[Chain[T], Ask]] = {}

    def advance(index: int, chain: Chain[T], page: Page | None = None) -> None:
        try:
            asking[index] = (chain, chain.send(page))
        except StopIteration as end:
            asking.pop(index, None)
            results[index] = end.value

    waiting = enumerate(chains)
    while True:
        while len(asking) < max(1, width) and (upcoming := next(waiting, None)):
            advance(*upcoming)
        if not asking:
            return [results[index] for index in sorted(results)]
        pages = yield from tally.fetch(tuple(ask for _, ask in asking.values()))
        for (index, (chain, _)), page in zip(tuple(asking.items()), pages, strict=True):
            advance(index, chain, page)


def one_at_a_time(tally: Tally, chain: Chain[T]) -> Batches[T]:
    """Run one chain in batches of one."""
    (result,) = yield from side_by_side(tally, (chain,))
    return result
