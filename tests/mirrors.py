"""What a mirror makes of walks over a moving listing: the bookkeeping of WALK.md, as a model."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from worlds import World, any_world, drive

from worker.models import Ask, One, Page, PageNumber, Row, Walked
from worker.walk import (
    LONG,
    SHORT,
    Known,
    Steps,
    ask_absent,
    keyset_full,
    numbered_full,
    numbered_incremental,
)

Full = Callable[[int, int], Steps]


def single_pass(size: int, parallel: int = 1) -> Steps:
    """What other tools do: page after page to the last one, and what was not seen is gone."""
    number, total, order = 0, 1, dict[str, None]()
    while number * size < total:
        number += 1
        (page,) = yield (PageNumber(number, size),)
        if page is not None:
            order |= dict.fromkeys(row.id for row in page.rows)
            total = page.total or 0
    return Walked("pristine", tuple(order), pages=number, requests=number, seen=len(order))


@dataclass
class Kept:
    """One row as the mirror has it."""

    digest: str
    seen_at: int
    active: bool = True
    missing: bool = False


@dataclass
class Mirror:
    """The bookkeeping of WALK.md around walks: sightings, suspects, ranks; and what is wrong."""

    world: World
    parallel: int = 1
    full: Full = numbered_full
    certified_walks: int = 2  # that must miss a row before it is deleted
    rows: dict[str, Kept] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    based: bool = False
    sighted: set[str] = field(default_factory=set)  # by the walk under way
    recorded: Counter[str] = field(default_factory=Counter)  # deletions per row
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def active(self) -> dict[str, Kept]:
        return {id: kept for id, kept in self.rows.items() if kept.active}

    def suspects(self) -> bool:
        return any(kept.missing for kept in self.active.values())

    def is_exact(self) -> bool:
        truth = {id: self.world.digest(id) for id in self.world.live}
        return {id: kept.digest for id, kept in self.active.items()} == truth

    def fetch(self, asks: tuple[Ask, ...]) -> list[Page | None]:
        pages = self.world.answers(asks)
        for page in pages:
            for seen in page.rows if page else ():
                self._see(seen)
        return pages

    def _see(self, seen: Row) -> None:
        self.sighted.add(seen.id)
        active = not seen.digest.endswith("deleted")
        was_active = seen.id in self.rows and self.rows[seen.id].active
        self.rows[seen.id] = Kept(seen.digest, self.world.clock, active)
        if was_active and not active:
            self.recorded[seen.id] += 1

    def walk(self, steps: Steps) -> Walked:
        self.sighted = set()
        return drive(steps, self.fetch)

    def delete(self, id: str) -> None:
        kept = self.rows[id]
        kept.active = kept.missing = False
        self.recorded[id] += 1
        self.counts["deletions"] += 1
        since = self.world.absent_at[id]
        self.counts["false deletions"] += id in self.world.live and since < kept.seen_at

    def full_sync(self) -> Walked:
        """One full walk, and one more at once if it leaves suspects."""
        walked = self.full_walk()
        return self.full_walk() if walked.certificate != "none" and self.suspects() else walked

    def full_walk(self) -> Walked:
        start = self.world.clock
        walked = self.walk(self.full(self.world.size, self.parallel))
        self.counts["walks"] += 1
        self.counts[f"walks {walked.certificate}"] += 1
        self.counts[f"requests {walked.certificate}"] += walked.requests
        self.counts[f"pages {walked.certificate}"] += walked.pages
        if walked.certificate == "none":
            return walked
        self._judge(start)
        for id in self.active.keys() - self.sighted:
            if self.rows[id].missing or self.certified_walks == 1:
                self.delete(id)
            else:
                self.rows[id].missing = True
        listed = set(walked.order)
        self.order = walked.order + tuple(id for id in self.active if id not in listed)
        self.based = True
        return walked

    def _judge(self, start: int) -> None:
        """Count what a walk that claims to have read everything did not read."""
        world = self.world
        unread = {id for id in world.live if world.absent_at[id] < start} - self.sighted
        outdated = {
            id
            for id in world.live
            if id not in self.rows or self.rows[id].digest != world.digest(id)
        }
        self.counts["wrong certificates"] += bool(unread)
        self.counts["rows never read"] += len(unread)
        self.counts["outdated rows"] += len(outdated)
        self.counts["missed changes"] += sum(world.changed_at[id] < start for id in outdated)

    def incremental_sync(self) -> Walked:
        if not self.based or self.suspects():
            return self.full_sync()
        active = self.active
        digests = {id: kept.digest for id, kept in active.items()}
        known = Known(self.order, digests, len(active))
        start = self.world.clock + 1
        walked = self.walk(numbered_incremental(self.world.size, known))
        self.counts["incremental requests"] += walked.requests
        if walked.reason in (SHORT, LONG):
            self.counts["incremental escalated"] += 1
            return self.full_sync()
        self.counts["incremental complete" if walked.complete else "incremental moved"] += 1
        if walked.complete:
            self.order = walked.order
            self.counts["wrong claims"] += self._is_wrong_before(start)
        return walked

    def _is_wrong_before(self, start: int) -> bool:
        """Whether a row is wrong that has not changed since `start`."""
        world, active = self.world, self.active
        truth = {id: world.digest(id) for id in world.live}
        return any(
            truth.get(id) != (active[id].digest if id in active else None)
            for id, at in world.changed_at.items()
            if at <= start
        )

    def keyset_sync(self, bounds: tuple[str, ...] = ()) -> Walked:
        """A full keyset walk; whatever it did not show is asked for by id."""
        walked = self.walk(keyset_full(self.world.size, bounds, self.parallel))
        if walked.certificate == "keyset":
            absent = sorted(self.active.keys() - self.sighted)
            asked: list[tuple[Ask, Page | None]] = []

            def fetch(asks: tuple[Ask, ...]) -> list[Page | None]:
                pages = self.fetch(asks)
                asked.extend(zip(asks, pages, strict=True))
                return pages

            drive(ask_absent(absent, batch=7, parallel=self.parallel), fetch)
            for ask, page in asked:
                if isinstance(ask, One) and page is None:
                    self.delete(ask.id)
        return walked

    def over_recorded(self) -> dict[str, int]:
        """Rows with more deletions on record than happened."""
        return dict(self.recorded - self.world.deletions)


def syncs(world: World) -> Iterator[int]:
    """The syncs of one history, with changes between and during most of them."""
    random = world.random
    world.quiet = random.random() < 0.7
    for sync in range(random.randint(4, 7)):
        if sync:
            world.quiet = random.random() < 0.2
            if random.random() > 0.2:
                world.requests = 1
                world.churn(random.randint(1, 8))
        world.requests = 0
        yield sync
    world.quiet, world.fault_rate = True, 0


def numbered_history(
    random: Random, adversaries: Sequence[str], parallel: int = 1, full: Full = numbered_full
) -> Mirror:
    """Some syncs of a moving listing, then a full sync of it at rest."""
    mirror = Mirror(any_world(random, adversaries), parallel, full)
    for sync in syncs(mirror.world):
        if sync == 0 or random.random() < 0.35:
            random.choice((mirror.full_sync, mirror.full_walk))()
        else:
            mirror.incremental_sync()
    mirror.full_sync()
    return mirror


def keyset_history(random: Random, adversaries: Sequence[str], parallel: int = 1) -> Mirror:
    """The same over a keyset listing, in ranges where `parallel`."""
    mirror = Mirror(any_world(random, adversaries), parallel)

    def bounds() -> tuple[str, ...]:
        ids = sorted(mirror.rows)
        return tuple(sorted(random.sample(ids, min(parallel - 1, len(ids)))))

    for _ in syncs(mirror.world):
        mirror.keyset_sync(bounds())
    mirror.keyset_sync(bounds())
    return mirror
