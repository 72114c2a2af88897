"""The walks over a keyset listing, and asking for what it does not show."""

from collections.abc import Callable, Iterable
from random import Random

import pytest
from worlds import World, drive, row, scripted

from worker.models import After, Among, Ask, One, Page
from worker.walk import Steps, ask_absent, ask_each, keyset_full, keyset_incremental

HEADS = ("installed_at", "upgraded_at", "deleted_at")


def a_world(rows: int, size: int, *, shows_deleted: bool = False) -> World:
    return World(Random(1), size, shows_deleted=shows_deleted).with_rows(rows)


# The full walk.


@pytest.mark.parametrize(("rows", "requests"), [(0, 1), (1, 1), (10, 1), (11, 2), (95, 10)])
def test_the_chain_is_followed_to_its_end(rows: int, requests: int) -> None:
    world = a_world(rows, size=10)
    result = drive(keyset_full(10), world.answers)
    assert (result.certificate, result.reason) == ("keyset", None)
    assert (result.requests, result.pages, result.seen) == (requests, requests, rows)
    assert result.total == rows


def test_ranges_are_walked_side_by_side_up_to_the_limit() -> None:
    world = a_world(rows=90, size=10)
    ids = sorted(world.live)
    batches, answer = scripted(world, {})
    result = drive(keyset_full(10, (ids[30], ids[60], ids[75]), parallel=2), answer)
    assert (result.certificate, result.seen) == ("keyset", 90)
    ranges = [[ids.index(ask.lower) if ask.lower else 0 for ask in asks] for asks in batches]
    # Where a range ends, the next one takes its place.
    assert ranges == [[0, 30], [0, 30], [0, 30], [60, 75], [60, 75]]


def test_ranges_without_rows_are_no_fault() -> None:
    world = a_world(rows=5, size=10)
    result = drive(keyset_full(10, ("0", "z"), parallel=3), world.answers)
    assert (result.certificate, result.seen, result.requests) == ("keyset", 5, 3)


def test_pages_that_were_never_full_may_be_short() -> None:
    pages = iter([page(["a", "b"], "b"), page(["c"], "c"), page(["d", "e"])])
    result = drive(keyset_full(10), lambda asks: [next(pages)])
    assert (result.certificate, result.seen) == ("keyset", 5)


def test_a_listing_that_grows_faster_than_it_is_read_ends_at_the_cap() -> None:
    def endless(asks: tuple[Ask, ...]) -> list[Page]:
        (ask,) = asks
        assert isinstance(ask, After)
        after = int(ask.cursor or 0)
        return [page([str(after + 1), str(after + 2)], str(after + 2), total=4)]

    result = drive(keyset_full(2), endless)
    assert (result.certificate, result.requests) == ("none", 4 * 2 + 20)


def page(ids: Iterable[str], cursor: str | None = None, total: int | None = None) -> Page:
    return Page(tuple(map(row, ids)), total, next_cursor=cursor)


FIRST = page(["a", "b"], "b")
LAST = page(["e"])
BROKEN = {
    "cursor again": (page(["c", "d"], "b"), "circle"),
    "no rows, but more": (page([], "d"), "no rows came, and more"),
    "short, but more": (page(["c"], "c"), "2 rows expected, 1 came"),
    "an id twice": (page(["c", "c"], "c"), "twice"),
    "same rows again": (page(["a", "b"], "x"), "ignore the cursor"),
    "not found": (None, "not found"),
}
each_fault = pytest.mark.parametrize(("broken", "reason"), BROKEN.values(), ids=BROKEN)


@each_fault
def test_a_broken_page_is_asked_for_once_more(broken: Page | None, reason: str) -> None:
    pages = iter([FIRST, broken, page(["c", "d"], "d"), LAST])
    result = drive(keyset_full(2), lambda asks: [next(pages)])
    assert (result.certificate, result.requests, result.pages) == ("keyset", 4, 3)


@each_fault
def test_a_page_broken_twice_ends_the_walk(broken: Page | None, reason: str) -> None:
    pages = iter([FIRST, broken, broken])
    result = drive(keyset_full(2), lambda asks: [next(pages)])
    assert (result.certificate, result.requests) == ("none", 3)
    assert result.reason is not None
    assert result.reason.startswith("page 2: ")
    assert reason in result.reason


def test_an_empty_first_page_of_a_total_is_broken() -> None:
    result = drive(keyset_full(2), lambda asks: [page([], total=7)])
    assert result.reason == "page 1: no rows came of a total of 7"


def test_an_empty_range_or_head_of_a_total_is_not() -> None:
    empty = page([], total=7)
    assert drive(keyset_full(2, ("b",)), lambda asks: [empty]).certificate == "keyset"
    assert drive(keyset_incremental(HEADS, 2, {}), lambda asks: [empty] * 3).complete


@pytest.mark.parametrize(
    ("ids", "at"), [(["a", "b"], "page 1 of range 1"), (["a"], "page 1 of range 2")]
)
def test_rows_outside_of_the_range_are_found_out(ids: list[str], at: str) -> None:
    result = drive(keyset_full(10, ("b",)), lambda asks: [page(ids)])
    assert result.certificate == "none"
    assert result.reason is not None
    assert result.reason.startswith(f"{at}: rows outside of the range")


# The heads.


def known_of(world: World) -> dict[str, str]:
    return {id: world.digest(id) for id in world.changed_at}


def test_unchanged_heads_are_one_batch() -> None:
    world = a_world(rows=50, size=10, shows_deleted=True)
    batches, answer = scripted(world, {})
    result = drive(keyset_incremental(HEADS, 10, known_of(world)), answer)
    assert result.complete
    assert result.certificate == "none"  # it proves no absence
    assert batches == [tuple(After(None, 10, newest=head) for head in HEADS)]


@pytest.mark.parametrize(
    "change",
    [
        World.create,
        lambda world: world.update(world.live[23]),
        lambda world: world.delete(world.live[23]),
    ],
    ids=["installed", "upgraded", "deleted"],
)
def test_a_change_is_found_one_page_after_the_unchanged_heads(
    change: Callable[[World], object],
) -> None:
    world = a_world(rows=50, size=10, shows_deleted=True)
    for id in tuple(world.live[:20]):
        world.update(id)
        world.delete(id)
    known = known_of(world)
    change(world)
    read: dict[str, str] = {}

    def answer(asks: tuple[Ask, ...]) -> list[Page | None]:
        pages = world.answers(asks)
        read.update((row.id, row.digest) for page in pages if page for row in page.rows)
        return pages

    result = drive(keyset_incremental(HEADS, 10, known), answer)
    assert (result.complete, result.requests) == (True, len(HEADS) + 1)
    assert known | read == known_of(world) != known


def test_a_head_is_followed_until_a_whole_page_is_known() -> None:
    world = a_world(rows=50, size=10)
    known = known_of(world)
    for _ in range(25):
        world.create()
    batches, answer = scripted(world, {})
    assert drive(keyset_incremental(HEADS[:1], 10, known), answer).seen == 40
    assert len(batches) == 4  # two pages of new rows, a mixed one, and one that is known


def test_a_head_that_breaks_off_is_not_complete() -> None:
    result = drive(keyset_incremental(HEADS, 2, {}), lambda asks: [page([], "x")] * len(asks))
    assert not result.complete
    assert result.reason is not None
    assert result.reason.startswith("page 1 of the head by installed_at: ")


# What the listing did not show.


def test_absent_ids_are_asked_for_in_batches_and_then_one_by_one() -> None:
    world = a_world(rows=5, size=10)
    shown, hidden = world.live[:3], world.live[3:]
    for id in hidden:
        world.delete(id)
    world.purged.add(hidden[1])
    batches, answer = scripted(world, {})
    result = drive(ask_absent([*shown, *hidden], batch=2, parallel=2), answer)
    assert batches == [
        (Among(tuple(shown[:2])), Among((shown[2], hidden[0]))),
        (Among((hidden[1],)),),
        (One(hidden[0]), One(hidden[1])),
    ]
    assert (result.certificate, result.seen, result.requests) == ("keyset", 4, 5)


def test_absent_ids_are_not_proven_gone_by_a_listing_alone() -> None:
    world = a_world(rows=2, size=10)
    gone = world.live[0]
    world.delete(gone)
    result = drive(ask_absent([gone], one_by_one=False), world.answers)
    assert (result.certificate, result.requests) == ("none", 1)
    assert drive(ask_absent(world.live, one_by_one=False), world.answers).certificate == "keyset"


def test_a_source_that_ignores_ids_shows_nobody_else() -> None:
    def ignores_ids(asks: tuple[Ask, ...]) -> list[Page | None]:
        return [page(["x", "y"]) if isinstance(ask, Among) else None for ask in asks]

    result = drive(ask_absent(["a"]), ignores_ids)
    assert (result.certificate, result.seen, result.requests) == ("keyset", 0, 2)


def test_another_object_than_the_one_asked_for_is_no_answer() -> None:
    result = drive(ask_absent(["a"]), lambda asks: [page(["b"])])
    assert (result.certificate, result.requests) == ("none", 3)
    assert result.reason == "one object was asked for by its id, and something else came"


def test_asking_for_each_needs_no_listing() -> None:
    world = a_world(rows=3, size=10)
    batches, answer = scripted(world, {})
    result = drive(ask_each([*world.live, "gone"], parallel=3), answer)
    assert batches == [tuple(map(One, world.live)), (One("gone"),)]
    assert (result.certificate, result.seen) == ("keyset", 3)


@pytest.mark.parametrize("ask", [ask_absent, ask_each])
def test_nothing_absent_asks_nothing(ask: Callable[[list[str]], Steps]) -> None:
    result = drive(ask([]), lambda asks: pytest.fail("nothing was to be asked"))
    assert (result.certificate, result.requests) == ("keyset", 0)
