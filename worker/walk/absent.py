"""Asking a source for rows that its listing did not show."""

from collections.abc import Sequence

from worker.models import Among, Certificate, One, Walked
from worker.walk.steps import Batches, Chain, Steps, Tally, Uncertified, side_by_side


def ask_absent(
    ids: Sequence[str], batch: int = 100, one_by_one: bool = True, parallel: int = 1
) -> Steps:
    """Ask a keyset source for `ids` in batches, then one by one for those that no batch showed.

    A row that comes is a sighting, a 404 for one id is an answer too: both are in the pages. `seen`
    counts the ids found. Without `one_by_one` what was not shown stays unproven: no certificate.
    Nothing is asked when `ids` is empty.
    """
    tally = Tally()
    groups = (tuple(ids[at : at + batch]) for at in range(0, len(ids), batch))
    shown = yield from side_by_side(tally, map(_shown, groups), parallel)
    found = {id for group in shown for id in group}
    hidden = [id for id in ids if id not in found]
    if one_by_one:
        return (yield from _asked(tally, hidden, len(found), parallel))
    reason = f"{len(hidden)} ids were not shown, and not asked for one by one" if hidden else None
    return _walked(tally, len(found), reason)


def ask_each(ids: Sequence[str], parallel: int = 1) -> Steps:
    """Ask for `ids` one by one, where the source has no listing by ids; else like `ask_absent`."""
    return (yield from _asked(Tally(), ids, 0, parallel))


def _asked(tally: Tally, ids: Sequence[str], found: int, parallel: int) -> Batches[Walked]:
    try:
        present = yield from side_by_side(tally, map(_present, ids), parallel)
    except Uncertified as stop:
        return _walked(tally, found, str(stop))
    return _walked(tally, found + sum(present), None)


def _walked(tally: Tally, found: int, reason: str | None) -> Walked:
    certificate: Certificate = "keyset" if reason is None else "none"
    return Walked(certificate, requests=tally.requests, seen=found, reason=reason)


def _shown(ids: tuple[str, ...]) -> Chain[set[str]]:
    """Those of `ids` that the listing shows; a source that ignores `ids` may show others too."""
    page = yield Among(ids)
    return set() if page is None else {row.id for row in page.rows}.intersection(ids)


def _present(id: str) -> Chain[bool]:
    """Whether the source has an object of that id; a 404 says no."""
    for _ in range(2):
        page = yield One(id)
        if page is None:
            return False
        if [row.id for row in page.rows] == [id]:
            return True
    raise Uncertified("one object was asked for by its id, and something else came")
