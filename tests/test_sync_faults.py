"""Whatever goes wrong on the way: nothing alive is deleted, the run says so, a quiet sync heals."""

from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest
from platforms import Stocktake, World, exit_code, mount_of, source_rows

from worker.sandbox.aeontel_world import TOKEN, AeontelWorld
from worker.sandbox.faults import DISTORTIONS, Damage, Distortion, Fault, Outage
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.state import sources

Take = Callable[..., Stocktake]
KINDS = [*get_args(Outage), *get_args(Damage), *get_args(Distortion)]
PLACES = (0, 1, 2, 3, 5)  # every request of a walk over three pages, and one of the second walk
LISTED: Mapping[str, str] = {"gestal": "installations", "aeontel": "integration-installs"}
SEEDED: Mapping[str, Callable[..., World]] = {"gestal": gestal_world, "aeontel": aeontel_world}

# What a sync may end with when a fault strikes once, and when it strikes until it is cleared.
REFUSED = ({1}, {1})
LATER = ({75}, {75})
RETRIED = ({0}, {75})
# Of cursors no page has a number, and rows at the end of the listing are missed by nobody but
# those who know them: they are asked for by their ids, and then the walk is not sure.
MISSED = ({0, 75}, {0, 75})
HARMLESS = ({0}, {0})
OUTCOMES: Mapping[tuple[str, str], tuple[set[int], set[int]]] = {
    **{(dialect, kind): RETRIED for dialect in SEEDED for kind in KINDS},
    **{(dialect, "forbidden"): REFUSED for dialect in SEEDED},
    **{(dialect, "rate_limited"): LATER for dialect in SEEDED},
    ("gestal", "unauthorized"): ({0}, {1}),  # it logs in once more
    ("gestal", "expire_token"): ({0}, {1}),
    ("aeontel", "unauthorized"): REFUSED,
    ("aeontel", "expire_token"): REFUSED,
    ("aeontel", "empty_page"): MISSED,
    ("aeontel", "short_page"): MISSED,
    ("aeontel", "duplicated_page"): MISSED,
    ("aeontel", "page_ignored"): MISSED,
    ("aeontel", "wrong_total"): HARMLESS,  # nothing about the total is documented
    ("aeontel", "no_total"): HARMLESS,
}

pytestmark = pytest.mark.slow


def strike(taken: Stocktake, fault: Fault) -> tuple[int, bool]:
    """Syncs under `fault`: the exit code, and whether the fault struck."""
    taken.world.faults.add(fault)
    began = len(taken.requests)
    code = exit_code(taken.sync())
    asked = [target for _, target in taken.requests[began:]]
    met = sum(str(fault.match) in target for target in asked)
    recover(taken)
    return code, met > fault.after


def recover(taken: Stocktake) -> None:
    """Takes back what a fault leaves behind: its plan, a dead token, a rate limit."""
    taken.world.faults.clear()
    if isinstance(taken.world, AeontelWorld):
        taken.world.tokens.add(TOKEN)
    sources.resume(taken.engine, taken.source)


def change(taken: Stocktake) -> None:
    """Moves the world, with a deletion in it."""
    taken.change(4)
    taken.change(1, "uninstall")


def check_nobody_alive_was_deleted(taken: Stocktake, before: set[str]) -> None:
    living = {id for id, row in source_rows(taken.world).items() if row.get("deletedAt") is None}
    assert before & living <= taken.active()


def check_repaired(taken: Stocktake) -> None:
    assert exit_code(taken.sync()) == 0
    rows = {id: row["payload"] for id, row in taken.installs().items() if row["state"] == "active"}
    alive = source_rows(taken.world).items()
    assert rows == {id: row for id, row in alive if row.get("deletedAt") is None}


def suffer(taken: Stocktake, places: tuple[int, ...], kind: Any, **fields: Any) -> None:
    codes = OUTCOMES[mount_of(taken.world), kind]
    # Only a listing has a page to distort; everything else may hit a single object too.
    match = LISTED[mount_of(taken.world)] + ("?" if kind in DISTORTIONS else "")
    for times, expected in zip((1, None), codes, strict=True):
        for after in places if times else places[::2]:
            change(taken)
            before = taken.active()
            code, struck = strike(taken, Fault(kind, times, match, after, **fields))
            check_nobody_alive_was_deleted(taken, before)
            assert code in (expected if struck else {0}), (times, after)
    check_repaired(taken)


@pytest.mark.parametrize(("dialect", "kind"), sorted(OUTCOMES))
def test_no_fault_at_any_place_deletes_what_is_alive(dialect: str, kind: str, take: Take) -> None:
    taken = take(SEEDED[dialect](integrations=1, installs=50), page_size=20, hold_open=True)
    taken.sync()
    taken.sync()  # finds out what the source accepts: not to be mistaken for a page of the walk
    suffer(taken, PLACES, kind)


@pytest.mark.parametrize("dialect", SEEDED)
def test_an_id_that_is_a_number_is_no_page(dialect: str, take: Take) -> None:
    taken = take(SEEDED[dialect](integrations=1, installs=50), page_size=20, hold_open=True)
    taken.sync()
    suffer(taken, (0, 1), "wrong_types", where="id")


@pytest.mark.parametrize("amount", [-1, 1, 50, -50])
def test_a_wrong_total_of_gestal_is_believed_by_nobody(amount: int, take: Take) -> None:
    taken = take(gestal_world(integrations=1, installs=50), page_size=20, hold_open=True)
    taken.sync()
    suffer(taken, (0, 2), "wrong_total", amount=amount)


@pytest.mark.parametrize("kind", ["server_error", "reset", "html", "forbidden", "empty_page"])
def test_no_fault_of_the_integrations_deletes_what_is_alive(kind: Any, take: Take) -> None:
    world = gestal_world(integrations=3, installs=5)
    taken = take(world, hold_open=True)
    taken.sync()
    for match in ("integrations?", "/integrations/"):
        change(taken)
        before = taken.active()
        world.faults.add(Fault(kind, None, match))
        code = exit_code(taken.sync())
        assert code in ({0, 1} if kind == "forbidden" else {75})
        check_nobody_alive_was_deleted(taken, before)
        integrations = {row["state"] for row in taken.rows("from integrations")}
        assert integrations == {"active"}
        recover(taken)
    check_repaired(taken)


@pytest.mark.parametrize("dialect", SEEDED)
def test_a_listing_that_moves_under_the_walk_deletes_nothing_alive(
    dialect: str, take: Take
) -> None:
    world = SEEDED[dialect](integrations=1, installs=60)
    taken = take(world, page_size=10, hold_open=True)
    taken.sync()

    def move(world: World, call: Any) -> None:
        if call.lists:
            for kind in ("install", "uninstall", "update"):
                world.change(kind, world.rng)

    for _ in range(6):
        before = taken.active()
        world.before_request = move
        assert exit_code(taken.sync()) in (0, 75)
        world.before_request = None
        # What it deleted while it was walked is another matter: it was alive when this began.
        check_nobody_alive_was_deleted(taken, before)
    check_repaired(taken)
    assert isinstance(world, GestalWorld | AeontelWorld)
