"""The incremental walk over a numbered listing: from page 1 until the remembered order stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.models import Walked
from worker.walk.listing import Listing
from worker.walk.scan import Evidence, Reader, scan
from worker.walk.steps import Capped, Chain, Steps, Tally, Uncertified, one_at_a_time

# Why an incremental walk does not account for the whole listing. SHORT and LONG call for a full
# walk; MOVED claims nothing and waits for the next tick.
SHORT = "fewer rows are listed than are known: somebody is gone"
LONG = "more rows are listed than the rows that moved account for"
MOVED = "the listing did not stand still"

SCANS = 6


@dataclass(frozen=True, slots=True)
class Known:
    """What the snapshot knows of a scope before an incremental walk."""

    order: Sequence[str]  # ids by rank, newest first; perhaps only the first few thousand
    digests: Mapping[str, str]  # of every active row, also where `order` is truncated
    live: int  # active rows, suspects and held ones included
    offset: int = 0  # total - live that counts as fitting: minus the held rows, as a rule
    truncated: bool = False  # whether `order` is only a prefix


def numbered_incremental(size: int, known: Known) -> Steps:
    """Read what moved since `known`; `complete` if that accounts for the total.

    `order` is then the new order; otherwise it is empty, the old one stays, and `reason` is SHORT,
    LONG, MOVED, or the guard that an answer broke. It never proves an absence.
    """
    tally = Tally(known=known.digests)
    listing = Listing(tally, size)
    order: tuple[str, ...] = ()
    try:
        order, reason = yield from one_at_a_time(tally, _heads(listing, known))
    except Capped:
        reason = MOVED
    except Uncertified as stop:
        reason = str(stop)
    return Walked(
        certificate="none",
        order=order,
        complete=reason is None,
        pages=listing.pages,
        requests=tally.requests,
        seen=len(tally.seen),
        total=listing.total,
        reason=reason,
    )


def _heads(listing: Listing, known: Known) -> Chain[tuple[tuple[str, ...], str | None]]:
    read: dict[str, str] = {}  # by the scans before
    order = known.order

    def same(id: str, digest: str) -> bool:
        return read.get(id, known.digests.get(id)) == digest

    def give_up(reader: Reader) -> str | None:
        if reader.totals[-1] < _fitting(listing, known):
            return SHORT
        past_the_prefix = known.truncated and len(reader.rows) > len(known.order)
        return LONG if past_the_prefix and not reader.ended else None

    before = None
    for _ in range(SCANS):
        now = Reader(listing)
        reason = yield from scan(now, Evidence(order, same), lambda total: 0, give_up)
        if reason is not None:
            return (), reason
        order = now.ahead_of(order)
        if now.is_still(before):
            fits = now.totals[-1] == _fitting(listing, known)
            return (tuple(order), None) if fits else ((), LONG)
        read.update(now.rows)
        before = now
    return (), MOVED


def _fitting(listing: Listing, known: Known) -> int:
    """The total that the snapshot accounts for by now: every row it did not know makes one more."""
    return known.live + listing.tally.new + known.offset
