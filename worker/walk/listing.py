"""A numbered listing page by page, every answer checked against what the source said before."""

from dataclasses import dataclass
from functools import partial

from worker.models import Page, PageNumber
from worker.walk.steps import Chain, Tally, page_count, request_cap, twice


@dataclass(frozen=True, slots=True)
class Answer:
    """A checked answer: id and digest of its rows, and the total it came with."""

    rows: tuple[tuple[str, str], ...]
    total: int


@dataclass(slots=True)
class Listing:
    """One listing as one walk reads it; `size` is as asked until page 1 shows what is granted."""

    tally: Tally
    size: int
    total: int | None = None
    first: Page | None = None  # the latest answer for page 1

    @property
    def pages(self) -> int:
        """How many pages the latest total makes; 0 before the first good answer."""
        return 0 if self.total is None else page_count(self.total, self.size)

    def get(self, number: int) -> Chain[Answer]:
        """The answer for page `number`, or Uncertified after two that break a guard."""
        ask = PageNumber(number, self.size)
        page = yield from twice(ask, partial(self._flaw, number), f"page {number}")
        total = page.total or 0
        if self.total is None:
            self.size = granted_size(self.size, page)
            self.tally.limit = request_cap(total, self.size)
        if number == 1:
            self.first = page
        self.total = total
        return Answer(tuple((row.id, row.digest) for row in page.rows), total)

    def _flaw(self, number: int, page: Page) -> str | None:
        size = granted_size(self.size, page) if self.total is None else self.size
        return flaw(page, number, size) or repeats(page, number, self.first)


def granted_size(asked: int, page: Page) -> int:
    """The rows per page that page 1 shows to be granted, where the source does not say it."""
    if page.size is not None:
        return page.size
    came = len(page.rows)
    return came if came > asked or 0 < came < (page.total or 0) else asked


def flaw(page: Page, number: int, size: int) -> str | None:
    """What is wrong with an answer for page `number`; an empty one beyond the total is drift."""
    if page.total is None or page.total < 0:
        return "the source said no total"
    if size < 1 or page.size not in (None, size):
        return f"{size} rows a page were granted, the source says {page.size}"
    expected = min(size, max(0, page.total - (number - 1) * size))
    if len(page.rows) != expected:
        return f"{expected} rows expected of a total of {page.total}, {len(page.rows)} came"
    if expected and page.number not in (None, number):
        return f"the source says that it is page {page.number}"
    if len({row.id for row in page.rows}) < len(page.rows):
        return "an id came twice in one answer"
    return None


def repeats(page: Page, number: int, first: Page | None) -> str | None:
    """Whether a source that names no page numbers answered page 1 again."""
    if number == 1 or first is None or not page.rows or page.number is not None:
        return None
    ids, ids_of_first = ([row.id for row in each.rows] for each in (page, first))
    if (ids, page.total) != (ids_of_first, first.total):
        return None
    return "the rows of page 1 came again: the source seems to ignore the page number"
