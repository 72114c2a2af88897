"""A known row that a walk does not meet while the listing moves is looked for once more."""

from random import Random

from worlds import World, drive, scripted

from worker.models import Walked
from worker.walk import numbered_full


def moved_behind_its_back(expecting: bool) -> tuple[str, Walked]:
    """A row that slips past the reader while the order above it is rebuilt, and the walk."""
    world = World(Random(0), size=10).with_rows(40)
    rows = tuple(world.live)

    def hide() -> None:
        """Delete a row that was read and create one at the end: all others stand in order."""
        world.delete(rows[15])
        others = tuple(world.live)
        world.create()
        for id in reversed(others):
            world.touch(id)

    # The first deletion is seen, by the total, and gone back for: request 6 is for page 4.
    _, answer = scripted(world, {2: lambda: world.delete(rows[39]), 6: hide})
    expected = frozenset(rows) if expecting else frozenset[str]()
    return rows[30], drive(numbered_full(10, expected=expected), answer)


def test_a_row_can_slip_past_a_walk_that_is_certified() -> None:
    slipped, walked = moved_behind_its_back(expecting=False)
    assert walked.certificate == "repaired"
    assert slipped not in walked.order


def test_a_row_that_is_expected_is_looked_for_once_more() -> None:
    slipped, walked = moved_behind_its_back(expecting=True)
    assert walked.certificate == "repaired"
    assert slipped in walked.order


def test_a_listing_at_rest_is_read_once_whatever_is_expected() -> None:
    world = World(Random(0), size=10).with_rows(40)
    batches, answer = scripted(world, {})
    gone = frozenset({"gone", *world.live})
    walked = drive(numbered_full(10, expected=gone), answer)
    assert walked.certificate == "pristine"
    assert len(batches) == 5
