"""A listing that changes before every request: the oracle behind the tests of the walk.

The adversaries are those behind WALK.md: the natural ones do what a busy source does, at rates far
above real life; the fooling ones touch rows until the old order stands again over a hidden change.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from worker.models import After, Among, Ask, One, Page, PageNumber, Row, Walked
from worker.walk import Steps

RATES = (0, 0.05, 0.2, 0.5, 1, 2, 5, 10)
NEVER = -1


def row(id: str, digest: str = "1") -> Row:
    return Row(id, digest, f'{{"id":"{id}"}}'.encode())


def drive(steps: Steps, answer: Callable[[tuple[Ask, ...]], Sequence[Page | None]]) -> Walked:
    """Run a walk against `answer`, which gets each batch."""
    try:
        asks = next(steps)
        while True:
            asks = steps.send(tuple(answer(asks)))
    except StopIteration as end:
        walked: Walked = end.value
        return walked


def scripted(
    world: "World", changes: Mapping[int, Callable[[], object]]
) -> tuple[list[tuple[Ask, ...]], Callable[[tuple[Ask, ...]], list[Page | None]]]:
    """The batches asked for so far, and answers before which the changes happen, by request."""
    batches: list[tuple[Ask, ...]] = []

    def answer(asks: tuple[Ask, ...]) -> list[Page | None]:
        batches.append(asks)
        pages = []
        for ask in asks:
            changes.get(world.requests + 1, lambda: None)()
            pages.append(world.answer(ask))
        return pages

    return batches, answer


@dataclass
class World:
    """The listing: newest change first by number, by id by cursor; every answer is one moment."""

    random: Random
    size: int
    adversary: str = "mix"
    rate: float = 0.5  # mutations before a request
    says_pages: bool = True  # whether answers name their page and size
    shows_deleted: bool = False  # whether the keyset listing shows deleted rows
    weights: tuple[float, ...] = (1, 1, 1, 1, 1)  # of create, update, touch, delete, restore
    fault_rate: float = 0  # of broken answers of the listing
    quiet: bool = True
    most: int = 100
    clock: int = 0
    requests: int = 0  # of this sync
    live: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    purged: set[str] = field(default_factory=set)
    version: Counter[str] = field(default_factory=Counter)
    absent_at: dict[str, int] = field(default_factory=dict)  # when it was last not listed
    changed_at: dict[str, int] = field(default_factory=dict)
    deletions: Counter[str] = field(default_factory=Counter)
    installed_at: dict[str, int] = field(default_factory=dict)
    upgraded_at: dict[str, int] = field(default_factory=dict)
    deleted_at: dict[str, int] = field(default_factory=dict)

    def with_rows(self, rows: int) -> "World":
        """This world with so many more rows, free to grow to somewhat more than double."""
        self.most = 2 * rows + 30
        for _ in range(rows):
            self.create()
        return self

    # What happens to rows.

    def create(self) -> None:
        id = f"{self.random.getrandbits(48):012x}"
        self._to_front(id)
        self.absent_at[id] = self.installed_at[id] = self.clock

    def touch(self, id: str) -> None:
        self.live.remove(id)
        self._to_front(id)

    def update(self, id: str) -> None:
        self.version[id] += 1
        self.touch(id)
        self.upgraded_at[id] = self.clock

    def delete(self, id: str) -> None:
        self.live.remove(id)
        self.dead.append(id)
        if len(self.dead) > self.most:
            self.purged.add(self.dead.pop(0))
        self.deletions[id] += 1
        self._tick(id)
        self.absent_at[id] = self.deleted_at[id] = self.clock

    def restore(self) -> None:
        id = self.dead.pop(self.random.randrange(len(self.dead)))
        self.purged.discard(id)
        self.version[id] += self.random.random() < 0.3
        self._to_front(id)
        self.absent_at[id] = self.clock
        self.deleted_at.pop(id, None)

    def purge(self) -> None:
        self.purged.add(self.random.choice(self.dead))

    def any(self) -> str:
        return self.random.choice(self.live)

    def add(self) -> None:
        if self.dead and self.random.random() < 0.5:
            self.restore()
        elif len(self.live) <= self.most:
            self.create()

    def change(self) -> None:
        """Anything at all, but the listing stays below `most` rows."""
        (kind,) = self.random.choices("cutdr", self.weights)
        if kind in "cr" and len(self.live) > self.most:
            kind = "d"
        if kind == "c" or not self.live:
            self.create()
        elif kind == "u":
            self.update(self.any())
        elif kind == "t":
            self.touch(self.any())
        elif kind == "d":
            self.delete(self.any())
        elif self.dead:
            self.restore()
        if self.dead and self.random.random() < 0.1:
            self.purge()

    def how_many(self, rate: float | None = None) -> range:
        """A Poisson number of times."""
        limit = math.exp(-(self.rate if rate is None else rate))
        times, product = 0, self.random.random()
        while product > limit:
            times, product = times + 1, product * self.random.random()
        return range(times)

    def churn(self, times: int) -> None:
        """What happens between two syncs."""
        for _ in range(times):
            ADVERSARIES[self.adversary](self, self.random.choice((1, 1, 1, 2, 3, 4)))

    def _to_front(self, id: str) -> None:
        self.live.insert(0, id)
        self._tick(id)

    def _tick(self, id: str) -> None:
        self.clock += 1
        self.changed_at[id] = self.clock

    # What it answers.

    def answer(self, ask: Ask) -> Page | None:
        if not self.quiet:
            anywhere = self.random.randint(1, 1 + len(self.live) // self.size)
            number = ask.number if isinstance(ask, PageNumber) else anywhere
            ADVERSARIES[self.adversary](self, number)
        self.requests += 1
        self.clock += 1
        match ask:
            case PageNumber(number, size):
                return self._broken(self._numbered(number, size))
            case After():
                return self._broken(self._after(ask))
            case Among(ids):
                return Page(tuple(self.row(id) for id in ids if id in self._listed()))
            case One(id):
                gone = id in self.purged or id not in self.changed_at
                return None if gone else Page((self.row(id),))

    def answers(self, asks: tuple[Ask, ...]) -> list[Page | None]:
        """The answers in the order of the asks, served in any order."""
        served: dict[int, Page | None] = {}
        for place in self.random.sample(range(len(asks)), len(asks)):
            served[place] = self.answer(asks[place])
        return [served[place] for place in range(len(asks))]

    def row(self, id: str) -> Row:
        return row(id, self.digest(id))

    def digest(self, id: str) -> str:
        return f"{self.version[id]}{' deleted' if id in self.deleted_at else ''}"

    def _broken(self, page: Page) -> Page | None:
        if self.random.random() >= self.fault_rate:
            return page
        return self.random.choice(tuple(FAULTS.values()))(page)

    def _numbered(self, number: int, size: int) -> Page:
        ids = self.live[(number - 1) * size : number * size]
        rows, total = tuple(map(self.row, ids)), len(self.live)
        return Page(rows, total, number, size) if self.says_pages else Page(rows, total)

    def _after(self, ask: After) -> Page:
        ids = sorted(id for id in self._listed() if in_range(id, ask))
        if ask.newest is not None:
            times: dict[str, int] = getattr(self, ask.newest)
            ids.sort(key=lambda id: -times.get(id, NEVER))
        start = 0
        if ask.cursor is not None and ask.newest is None:
            start = sum(id <= ask.cursor for id in ids)
        elif ask.cursor is not None:
            start = ids.index(ask.cursor) + 1 if ask.cursor in ids else len(ids)
        page = ids[start : start + ask.size]
        more = start + ask.size < len(ids)
        return Page(tuple(map(self.row, page)), len(ids), next_cursor=page[-1] if more else None)

    def _listed(self) -> set[str]:
        return {*self.live, *(set(self.dead) - self.purged if self.shows_deleted else ())}


# Answers that break: no total says so, the rest of the answer is as it should be.
FAULTS: dict[str, Callable[[Page], Page | None]] = {
    "empty": lambda page: replace(page, rows=()),
    "truncated": lambda page: replace(page, rows=page.rows[:-1]),
    "with a row twice": lambda page: replace(page, rows=page.rows[:1] + page.rows[:-1]),
    "without a total": lambda page: replace(page, total=None),
    "of another page": lambda page: replace(page, number=(page.number or 0) + 1),
    "in another size": lambda page: replace(page, size=len(page.rows) + 1),
    "not found": lambda page: None,
}


def in_range(id: str, ask: After) -> bool:
    return (ask.lower or "") <= id and (ask.upper is None or id < ask.upper)


# What happens before page `number` is served.


def mix(world: World, number: int) -> None:
    for _ in world.how_many():
        world.change()


def swap(world: World, number: int) -> None:
    """A deletion hides behind a creation: the total stays."""
    for _ in world.how_many():
        if world.live:
            world.delete(world.any())
            world.add()


def gap_last(world: World, number: int) -> None:
    """All changes just before page 1 is read again."""
    if number == 1 and world.requests:
        for _ in world.how_many(1 + world.rate):
            world.change()


def shift(world: World, number: int) -> None:
    """Deletions ahead of the reader pull unread rows to where it has been."""
    for _ in world.how_many():
        behind = world.live[: (number - 1) * world.size]
        if behind:
            world.delete(world.random.choice(behind))
        if world.random.random() < 0.5:
            world.add()


def burst(world: World, number: int) -> None:
    if world.random.random() < 0.1:
        for _ in world.how_many(10 * world.rate):
            world.change()


def rotate(world: World, number: int) -> None:
    """A bulk job goes over the rows, oldest change first."""
    for _ in world.how_many():
        if world.live:
            world.touch(world.live[-1])
    if world.random.random() < 0.2:
        world.change()


def dodge(world: World, number: int) -> None:
    """Rows jump to the front just before they would be read."""
    for _ in world.how_many():
        about_to_be_read = world.live[(number - 1) * world.size : number * world.size]
        if not about_to_be_read:
            continue
        act = world.random.choice((world.touch, world.touch, world.update))
        act(world.random.choice(about_to_be_read))
        if world.random.random() < 0.2:
            world.change()


def hide(world: World, change: Callable[[str], object]) -> None:
    """Change a row deep down, then touch those above until they stand as before."""
    if not world.live or world.random.random() > world.rate / (world.rate + 1):
        return
    sizes = (1, 2, world.size, world.size, world.size + 1, 2 * world.size, len(world.live))
    top = world.live[: world.random.choice(sizes)]
    change(world.random.choice(world.live[len(top) :] or world.live))
    for id in reversed(top):
        if id in world.live:
            world.touch(id)


def reorder(world: World, number: int) -> None:
    hide(world, world.random.choice((world.update, world.touch)))


def top_swap(world: World, number: int) -> None:
    def delete_and_add(id: str) -> None:
        world.delete(id)
        world.add()

    hide(world, delete_and_add)


NATURAL = {each.__name__: each for each in (mix, swap, gap_last, shift, burst, rotate, dodge)}
FOOLING = {each.__name__: each for each in (reorder, top_swap)}
ADVERSARIES = NATURAL | FOOLING


def any_world(random: Random, adversaries: Sequence[str]) -> World:
    """A world of up to 60 rows in pages of up to 20, at any rate, some with broken answers."""
    world = World(
        random,
        size=random.randint(1, 20),
        adversary=random.choice(adversaries),
        rate=random.choice(RATES),
        says_pages=random.random() < 0.7,
        shows_deleted=random.random() < 0.5,
        fault_rate=random.choice((0, 0, 0.02)),
        weights=tuple(random.choice((0.01, 0.2, 1, 1, 3)) for _ in range(5)),
    )
    return world.with_rows(random.randint(0, 60))
