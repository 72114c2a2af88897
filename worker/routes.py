"""Chooses how a listing is walked: by its paging, what is known of it, what it accepts. Pure."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from worker.dialects import Paging
from worker.findings import Accepted
from worker.walk import (
    LONG,
    OUTSIDE,
    SHORT,
    Known,
    Steps,
    keyset_full,
    keyset_incremental,
    numbered_full,
    numbered_incremental,
)

# Why an incremental walk along cursors is not complete.
UNSURE: Final = "the full walk before it has missed rows"
HEADS: Final = ("installedAt", "lastUpgradedAt", "deletedAt")  # what moves an install (seed 002)
_WORTH_RANGES: Final = 10  # pages; a shorter keyset listing is walked in one chain


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a listing. `unsure`: a full walk without a certificate brought some of
    its rows and missed others. `doubtful` suspects wait for a second walk; `decided` ones for a
    person, or a person has kept them."""

    based: bool
    unsure: bool
    active: int
    doubtful: int
    decided: int
    order: Sequence[str]
    digests: Mapping[str, str]


def full(
    paging: Paging,
    size: int,
    parallel: int,
    bounds: Sequence[str],
    *,
    resumed: bool,
    expected: Set[str] = frozenset(),
) -> Steps:
    """Every row of the listing, with a certificate; `expected` are the rows it is known to have."""
    if paging == "keyset":
        return keyset_full(size, tuple(bounds), parallel)
    return numbered_full(size, parallel, resumed, expected)


def incremental(paging: Paging, size: int, memory: Memory, accepted: Accepted) -> Steps | None:
    """Only what moved; None where only a full walk will do."""
    if not memory.based or memory.doubtful:
        return None
    if paging == "keyset":
        if accepted.newest_first is None:
            return None
        heads = tuple(f"{name} {accepted.newest_first}" for name in HEADS)
        return keyset_incremental(heads, size, memory.digests)
    # A row that a person keeps, or has yet to judge, is one we count and the source does not.
    known = Known(memory.order, memory.digests, memory.active, offset=-memory.decided)
    return numbered_incremental(size, known)


def escalates(reason: str | None) -> bool:
    """Whether what an incremental walk met calls for a full walk."""
    return reason in (SHORT, LONG)


def ignores_filter(reason: str | None) -> bool:
    """Whether a walk of ranges met rows of other ranges."""
    return reason is not None and reason.endswith(OUTSIDE)


def worth_ranges(active: int, size: int) -> bool:
    """Whether a keyset listing is long enough to be walked in several ranges at once."""
    return active > _WORTH_RANGES * size


def worth_parallel(certificate: str | None, rate: float, latency_s: float | None) -> bool:
    """Whether pages should be fetched side by side: the last walk found the listing at rest, and
    answers take longer than the pace of requests (`rate` per second, 0: no limit)."""
    return certificate == "pristine" and (not rate or rate * (latency_s or 0.0) > 1)


def pause_after(escalations: int, interval: timedelta, longest: timedelta) -> timedelta:
    """How long a listing that keeps calling for full walks is read incrementally only."""
    return min(interval * (1 << min(escalations, 16)), longest)


@dataclass(frozen=True, slots=True)
class Escalation:
    """How often in a row a listing called for a full walk, and since when."""

    count: int = 0
    at: datetime | None = None

    def allowed(self, now: datetime, interval: timedelta, longest: timedelta) -> bool:
        """Whether the next one may be made now; the first one in a row always may."""
        if not self.count or self.at is None or self.at > now:
            return True
        return now - self.at >= pause_after(self.count, interval, longest)
