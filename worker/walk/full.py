"""The full walk over a numbered listing: everything read once, then caught up with what moved."""

from collections.abc import Set

from worker.models import Certificate, Walked
from worker.walk.listing import Listing
from worker.walk.scan import EVIDENCE, Evidence, Reader, scan
from worker.walk.steps import (
    Batches,
    Chain,
    Steps,
    Tally,
    Uncertified,
    one_at_a_time,
    page_count,
    side_by_side,
)

Certified = tuple[Certificate, tuple[str, ...]]


def numbered_full(
    size: int,
    parallel: int = 1,
    resumed: bool = False,
    expected: Set[str] = frozenset(),
) -> Steps:
    """Walk a listing in pages of `size`; `parallel` > 1 first tries that many pages at once.

    A walk that was `resumed` is fed the answers it already had, and is never pristine. Without a
    certificate `order` is empty: the old order stays. One walk proves no deletion: two do. Of the
    `expected` rows those it does not meet in a listing that moves are looked for once more.
    """
    listing = Listing(Tally(), size)
    certificate: Certificate
    reason = None
    try:
        certificate, order = yield from _certified(listing, parallel)
        if certificate == "repaired" and expected - listing.tally.seen:
            # A deletion that a creation hides can pull a row past the reader. Listings that rebuild
            # their order over such a change had two walks in a row miss one live row.
            _, order = yield from one_at_a_time(listing.tally, _caught_up(listing))
    except Uncertified as stop:
        certificate, order, reason = "none", (), str(stop)
    return Walked(
        certificate="repaired" if resumed and certificate == "pristine" else certificate,
        order=order,
        pages=listing.pages,
        requests=listing.tally.requests,
        seen=len(listing.tally.seen),
        total=listing.total,
        reason=reason,
    )


def _certified(listing: Listing, parallel: int) -> Batches[Certified]:
    if parallel > 1:
        order = yield from _abreast(listing, parallel)
        if order is not None:
            return "pristine", order
    return (yield from one_at_a_time(listing.tally, _caught_up(listing)))


def _abreast(listing: Listing, parallel: int) -> Batches[tuple[str, ...] | None]:
    """The order, if all pages read side by side show one unmoved listing; None if in doubt."""
    tally = listing.tally
    first = yield from one_at_a_time(tally, listing.get(1))
    answers, pages = [first], page_count(first.total, listing.size)
    for start in range(2, pages + 1, parallel):
        numbers = range(start, min(start + parallel, pages + 1))
        answers += yield from side_by_side(tally, map(listing.get, numbers), parallel)
        if any(answer.total != first.total for answer in answers[start - 1 :]):
            return None  # it cannot become pristine any more: stop paying
    order = tuple(dict.fromkeys(id for answer in answers for id, _ in answer.rows))
    if len(order) != first.total:
        return None
    if pages == 1:
        return order  # one answer is one moment
    # Whatever moved stands in front now: look there again, after every other answer.
    for number, before in enumerate(answers[: page_count(EVIDENCE, listing.size)], start=1):
        if (yield from one_at_a_time(tally, listing.get(number))) != before:
            return None
    return order


def _caught_up(listing: Listing) -> Chain[Certified]:
    """Read forward to the end, then scan from page 1 until the listing stands still."""
    known: set[str] = set()
    forward = Reader(listing, known)
    while not forward.ended:
        yield from forward.step()
    order = [id for id, _ in forward.rows]
    unmoved = set(forward.totals) == {len(known)}
    if unmoved and len(forward.totals) == 1:
        return "pristine", tuple(order)  # one answer is one moment

    first = before = None
    while True:
        now = Reader(listing, known)
        # Below zero while rows are listed that nobody has read: then only the end will do.
        yield from scan(now, Evidence(order), lambda total: len(known) - total)
        order = now.ahead_of(order)
        first = first or now
        if now.is_still(before):
            break
        before = now

    if unmoved and first.tops == forward.tops:
        return "pristine", tuple(order)
    if len(known) < now.totals[-1]:
        raise Uncertified(f"{now.totals[-1]} rows are listed, {len(known)} were found")
    return "repaired", tuple(order)
