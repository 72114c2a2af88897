"""What both platforms have in common: a logical clock, who may see what, and random change."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Protocol

from worker.sandbox.calls import Call
from worker.sandbox.faults import Faults

Row = dict[str, Any]  # a JSON object as it is listed; replaced by a new one, never edited

START = datetime(2026, 1, 1, tzinfo=UTC)
HISTORY = timedelta(days=730)
TICK = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was done to a world, and the id it was done to."""

    kind: str
    id: str


@dataclass(slots=True)
class LogicalClock:
    """The time of a world: never behind the caller's, later with every change."""

    now: datetime
    changes: int = 0

    def advance(self, now: datetime) -> None:
        """Catch up with the caller."""
        self.now = max(self.now, now)

    def tick(self) -> datetime:
        """The moment of one more change, at least a millisecond after the last."""
        self.now += TICK
        self.changes += 1
        return self.now


@dataclass(slots=True)
class Access:
    """What the login of the integrator may see; everything else is as if it did not exist."""

    is_other_account: bool = False
    lost: set[str] = field(default_factory=set)

    def lose_workspace(self, account_id: str) -> None:
        """Hide the rows of one workspace (Aeontel) or tenant (Gestal)."""
        self.lost.add(account_id)

    def regain_workspace(self, account_id: str) -> None:
        """Show them again."""
        self.lost.discard(account_id)

    def other_account(self) -> None:
        """The same login now belongs to an account that owns nothing."""
        self.is_other_account = True

    def own_account(self) -> None:
        """Back to the account that owns everything."""
        self.is_other_account = False

    def shows(self, account_id: str) -> bool:
        """Whether rows of that workspace or tenant can be seen."""
        return not self.is_other_account and account_id not in self.lost


class World(Protocol):
    """What Gestal and Aeontel offer to those who change them without knowing which it is."""

    kinds: Sequence[str]
    rng: Random
    clock: LogicalClock
    faults: Faults
    access: Access

    def change(self, kind: str, rng: Random) -> Change | None:
        """Do `kind` to something drawn by `rng`; None if nothing can have that done to it."""

    def listed(self) -> dict[str, list[Row]]:
        """What every scope would list now, in listing order."""


def random_change(
    world: World, rng: Random | None = None, kinds: Sequence[str] = ()
) -> Change | None:
    """Do one of `kinds` (default: those of the world); None if none of them is possible."""
    rng = rng or world.rng
    for kind in rng.sample(kinds or world.kinds, k=len(kinds or world.kinds)):
        if (change := world.change(kind, rng)) is not None:
            return change
    return None


def mutate(world: World, n: int, kinds: Sequence[str] = ()) -> list[Change]:
    """Do `n` random changes and say what they were."""
    changes = (random_change(world, kinds=kinds) for _ in range(n))
    return [change for change in changes if change is not None]


def poisson(rng: Random, rate: float) -> int:
    """How many of the things that happen `rate` times on average happen this time."""
    limit, count, left = math.exp(-rate), 0, rng.random()
    while left > limit:
        count, left = count + 1, left * rng.random()
    return count


@dataclass(slots=True)
class Churn:
    """A `before_request` hook: the listing moves in the gap before each of its pages."""

    rng: Random
    rate: float
    kinds: Sequence[str] = ()
    done: list[Change] = field(default_factory=list)

    def __call__(self, world: World, call: Call) -> None:
        if not call.lists:
            return
        for _ in range(poisson(self.rng, self.rate)):
            if (change := random_change(world, self.rng, self.kinds)) is not None:
                self.done.append(change)


def stamp(moment: datetime) -> str:
    """A time as both platforms write it: UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def past(rng: Random, now: datetime) -> datetime:
    """A moment in the history that a world is seeded with."""
    return now - HISTORY * rng.random()
