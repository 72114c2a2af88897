"""The incremental walk over a numbered listing, rule by rule."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from worlds import World, drive, scripted

from worker.models import Page, Walked
from worker.walk import LONG, MOVED, SHORT, Known, numbered_incremental


def a_world(rows: int, size: int) -> World:
    return World(Random(1), size).with_rows(rows)


def known_of(world: World) -> Known:
    """A snapshot of the listing as it stands."""
    digests = {id: world.digest(id) for id in world.live}
    return Known(tuple(world.live), digests, len(world.live))


def walked(world: World, known: Known) -> Walked:
    return drive(numbered_incremental(world.size, known), world.answers)


@pytest.mark.parametrize("rows", [0, 1, 5, 10, 11, 1000])
def test_an_unchanged_listing_costs_one_request(rows: int) -> None:
    world = a_world(rows, size=10)
    result = walked(world, known_of(world))
    assert result.complete
    assert result.certificate == "none"  # it proves no absence
    assert result.requests == 1
    assert result.order == tuple(world.live)


def test_ninety_changes_in_pages_of_a_hundred_cost_one_request() -> None:
    world = a_world(rows=1000, size=100)
    known = known_of(world)
    for id in world.live[200:290]:
        world.update(id)
    result = walked(world, known)
    assert (result.complete, result.requests) == (True, 1)
    assert result.order == tuple(world.live)


@pytest.mark.parametrize("changed_pages", [1, 3])
def test_n_changed_pages_cost_at_most_n_and_two(changed_pages: int) -> None:
    world = a_world(rows=100, size=10)
    known = known_of(world)
    for id in world.live[50 : 50 + 10 * changed_pages]:
        world.update(id)
    # Several pages are not one moment: a second scan, now knowing them, is.
    result = walked(world, known)
    assert result.complete
    assert result.requests <= changed_pages + 2
    assert result.order == tuple(world.live)


@pytest.mark.parametrize("change", [World.create, lambda world: world.touch(world.live[70])])
def test_a_row_that_is_new_or_moved_is_accounted_for(change: Callable[[World], object]) -> None:
    world = a_world(rows=100, size=20)
    known = known_of(world)
    change(world)
    result = walked(world, known)
    assert (result.complete, result.reason) == (True, None)
    assert result.order == tuple(world.live)


def test_a_restored_row_counts_as_one_more() -> None:
    world = a_world(rows=100, size=20)
    world.delete(world.live[3])
    known = known_of(world)
    world.restore()
    assert walked(world, known).complete


def test_a_deletion_is_noticed_at_once_and_proves_nothing() -> None:
    world = a_world(rows=100, size=20)
    known = known_of(world)
    world.delete(world.live[70])
    result = walked(world, known)
    assert (result.complete, result.reason, result.order) == (False, SHORT, ())
    assert result.requests == 1


def test_a_deletion_behind_a_creation_is_noticed() -> None:
    world = a_world(rows=100, size=20)
    known = known_of(world)
    world.delete(world.live[70])
    world.create()
    assert walked(world, known).reason == SHORT


def test_a_row_that_is_listed_but_unknown_further_down_calls_for_a_full_walk() -> None:
    world = a_world(rows=100, size=20)
    whole = known_of(world)
    known = replace(whole, order=whole.order[:70] + whole.order[71:], live=99)
    assert walked(world, known).reason == LONG


@pytest.mark.parametrize("offset", [-2, 3])
def test_a_known_difference_of_the_total_fits(offset: int) -> None:
    world = a_world(rows=100, size=20)
    known = replace(known_of(world), live=100 - offset, offset=offset)
    assert walked(world, known).complete
    assert walked(world, replace(known, offset=0)).reason in (SHORT, LONG)


def test_content_that_changed_in_place_is_no_evidence() -> None:
    world = a_world(rows=100, size=20)
    known = known_of(world)
    world.version[world.live[19]] += 1  # moved and put back, by luck
    result = walked(world, known)
    assert result.complete
    assert result.requests > 1


def test_a_hole_in_the_known_order_is_read_on_until_it_is_filled() -> None:
    world = a_world(rows=100, size=20)
    known = known_of(world)
    world.live.append(world.live.pop(5))  # above the rows that stand, yet not where it was
    result = walked(world, known)
    assert result.seen == 100


def test_a_listing_that_moves_in_every_scan_claims_nothing() -> None:
    world = a_world(rows=100, size=10)
    known = known_of(world)

    def update_twenty() -> None:
        for id in world.live[-20:]:
            world.update(id)

    _, answer = scripted(world, dict.fromkeys(range(1, 100), update_twenty))
    result = drive(numbered_incremental(10, known), answer)
    assert (result.complete, result.order, result.reason) == (False, (), MOVED)


def test_the_cap_ends_a_walk_that_claims_nothing() -> None:
    world = a_world(rows=200, size=10)
    known = known_of(world)

    def update_all() -> None:
        for id in tuple(world.live):
            world.update(id)

    _, answer = scripted(world, dict.fromkeys(range(1, 200), update_all))
    result = drive(numbered_incremental(10, known), answer)
    assert (result.reason, result.requests) == (MOVED, 4 * 20 + 20)


def test_a_broken_answer_gives_a_reason_that_quotes_no_row() -> None:
    world = a_world(rows=30, size=10)

    def truncated(page: Page | None) -> Page:
        assert page is not None
        return replace(page, rows=page.rows[1:])

    result = drive(
        numbered_incremental(10, known_of(world)),
        lambda asks: [truncated(page) for page in world.answers(asks)],
    )
    assert (result.complete, result.order) == (False, ())
    assert result.reason == "page 1: 10 rows expected of a total of 30, 9 came"


# An order of which only the first ranks are known.


def test_a_prefix_is_enough_for_what_moved_into_it() -> None:
    world = a_world(rows=200, size=20)
    known = replace(known_of(world), order=tuple(world.live[:50]), truncated=True)
    old = world.live[150]
    world.update(old)
    result = walked(world, known)
    assert (result.complete, result.requests) == (True, 1)
    assert result.order == (old, *known.order)


def test_reading_past_the_prefix_calls_for_a_full_walk_before_the_end() -> None:
    world = a_world(rows=200, size=10)
    known = replace(known_of(world), order=tuple(world.live[:30]), truncated=True)
    for id in world.live[100:140]:
        world.update(id)
    result = walked(world, known)
    assert (result.complete, result.reason) == (False, LONG)
    assert result.requests == 4


def test_a_prefix_does_not_matter_where_the_end_was_read() -> None:
    world = a_world(rows=20, size=20)
    known = replace(known_of(world), order=tuple(world.live[:5]), truncated=True)
    assert walked(world, known).complete
