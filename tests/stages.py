"""Listings of the sandbox that the adversaries of WALK.md move, and what was really so of them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from worlds import ADVERSARIES, World

from worker.sandbox import aeontel_listing
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.calls import Call
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.names import OWNERS, made_name
from worker.sandbox.query import QueryInvalid


class Listing(Protocol):
    """A listing of a sandbox world: what can be done to its rows, and what an answer shows."""

    def create(self) -> str: ...
    def touch(self, id: str) -> None: ...
    def update(self, id: str) -> None: ...
    def alter(self, id: str) -> None: ...  # change it where it stands
    def delete(self, id: str) -> None: ...
    def restore(self, id: str) -> None: ...
    def purge(self, id: str) -> None: ...
    def shown(self, call: Call) -> Sequence[str]: ...  # the live rows in the answer to `call`
    def page(self, call: Call) -> int | None: ...  # its number, if pages have one


@dataclass(frozen=True)
class Numbered:
    """The installations of one integration of Gestal."""

    world: GestalWorld
    integration_id: str

    def create(self) -> str:
        return self.world.install(self.integration_id)

    def touch(self, id: str) -> None:
        self.world.touch(id)

    def update(self, id: str) -> None:
        self.world.update(id)

    def alter(self, id: str) -> None:
        tenant = self.world.installs[self.integration_id][id]["tenant"]["cloud_id"]
        self.world.rename_account(tenant, made_name(self.world.rng, OWNERS))

    def delete(self, id: str) -> None:
        self.world.uninstall(id)

    def restore(self, id: str) -> None:
        self.world.restore(id)

    def purge(self, id: str) -> None:
        """Gestal lists nothing that is deleted, so nobody could tell."""

    def shown(self, call: Call) -> Sequence[str]:
        rows = self.world.shown_installs(self.integration_id)
        size = min(int(call.param("per_page") or 100), self.world.max_per_page)
        start = (int(call.param("page") or 1) - 1) * size
        return [row["cloud_id"] for row in rows[start : start + size]]

    def page(self, call: Call) -> int | None:
        return int(call.param("page") or 1)


@dataclass(frozen=True)
class Keyset:
    """The installs of Aeontel. Each is of a workspace of its own: one that loses all its installs
    at once would be held."""

    world: AeontelWorld
    integration_id: str

    def create(self) -> str:
        return self.world.install(self.integration_id)

    def touch(self, id: str) -> None:
        self.world.upgrade(id)

    def update(self, id: str) -> None:
        self.world.update(id)

    def alter(self, id: str) -> None:
        self.world.update(id)

    def delete(self, id: str) -> None:
        self.world.uninstall(id)

    def restore(self, id: str) -> None:
        self.world.restore(id)

    def purge(self, id: str) -> None:
        self.world.purge(id)

    def shown(self, call: Call) -> Sequence[str]:
        live = self.world.live()
        if not call.lists:
            return [id for id in call.segments[-1:] if id in live]
        try:
            rows = aeontel_listing.page(self.world, call)["data"]
        except QueryInvalid:
            return ()
        return [row["id"] for row in rows if row["id"] in live]

    def page(self, call: Call) -> int | None:
        return None


@dataclass
class Stage(World):
    """The oracle's listing, and one of a sandbox that goes through the same."""

    listing: Listing = field(kw_only=True)
    shown_at: dict[str, int] = field(default_factory=dict)  # when an answer last had the live row
    restores: Counter[str] = field(default_factory=Counter)

    def before(self, call: Call) -> None:
        """What happens before the answer to `call`, and what that answer then shows."""
        if not self.quiet:
            anywhere = self.random.randint(1, 1 + len(self.live) // self.size)
            ADVERSARIES[self.adversary](self, self.listing.page(call) or anywhere)
        self.requests += 1
        self.clock += 1
        self.shown_at.update(dict.fromkeys(self.listing.shown(call), self.clock))

    def create(self) -> None:
        id = self.listing.create()
        self._to_front(id)
        self.absent_at[id] = self.clock

    def change(self) -> None:
        if self.live and self.random.random() < 0.05:
            self.listing.alter(self.any())
        else:
            super().change()

    def touch(self, id: str) -> None:
        super().touch(id)
        self.listing.touch(id)

    def update(self, id: str) -> None:
        super().update(id)
        self.listing.update(id)

    def delete(self, id: str) -> None:
        super().delete(id)
        self.listing.delete(id)

    def restore(self) -> None:
        super().restore()
        id = self.live[0]
        self.restores[id] += 1
        self.listing.restore(id)
        if self.random.random() < 0.3:
            self.listing.update(id)

    def purge(self) -> None:
        id = self.dead.pop(self.random.randrange(len(self.dead)))
        self.purged.add(id)
        self.listing.purge(id)

    def stir(self) -> None:
        """What no adversary does often: what is gone for long comes back, or is gone for good."""
        for _ in range(self.random.randint(0, 6)):
            self.change()
        for act in (self.restore, self.purge, self.restore):
            if self.dead and self.random.random() < 0.5:
                act()

    def was_there_since(self, id: str, moment: int) -> bool:
        """Whether a row is live, and was so at every time since `moment`."""
        return id in self.live and self.absent_at[id] < moment


def any_stage(random: Random, listing: Listing, size: int, adversaries: Sequence[str]) -> Stage:
    """A listing of 0 to 2,000 rows, mostly few, at a rate of 0.05 to 10 changes a request."""
    # Along cursors a listing that grows faster than it is read has no end.
    most = size / 2 if isinstance(listing, Keyset) else math.inf
    rate = random.choice([rate for rate in (0.05, 0.2, 0.5, 1, 2, 5, 10) if rate <= most])
    stage = Stage(
        random,
        size=size,
        adversary=random.choice(adversaries),
        rate=rate,
        weights=tuple(random.choice((0.01, 0.2, 1, 1, 3)) for _ in range(5)),
        listing=listing,
    )
    stage.with_rows(_how_many(random, size, most=2000 if rate <= 1 else 400))
    return stage


def _how_many(random: Random, size: int, most: int) -> int:
    # Fifty pages are as good as a thousand, and each of them is a real request.
    largest = min(most, 50 * size)
    return random.randint(0, largest if random.random() < 0.1 else min(60, largest))
