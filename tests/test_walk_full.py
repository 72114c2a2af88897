"""The full walk over a numbered listing, rule by rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType

import pytest
from worlds import FAULTS, World, drive, row, scripted

from worker.models import Ask, Page, PageNumber, Walked
from worker.walk import numbered_full


def a_world(rows: int, size: int, *, says_pages: bool = True) -> World:
    return World(Random(1), size, says_pages=says_pages).with_rows(rows)


def walked(
    world: World,
    *,
    parallel: int = 1,
    resumed: bool = False,
    before: Mapping[int, Callable[[], object]] = MappingProxyType({}),
) -> Walked:
    """A full walk of `world`; `before` its n-th request something happens."""
    return drive(numbered_full(world.size, parallel, resumed), scripted(world, before)[1])


def numbers(batches: Sequence[tuple[Ask, ...]]) -> list[list[int]]:
    return [[ask.number for ask in asks if isinstance(ask, PageNumber)] for asks in batches]


@pytest.mark.parametrize("rows", [0, 1, 9, 10])
@pytest.mark.parametrize("parallel", [1, 4])
def test_a_listing_of_one_page_is_pristine_after_one_request(rows: int, parallel: int) -> None:
    world = a_world(rows, size=10)
    assert walked(world, parallel=parallel) == Walked(
        "pristine", tuple(world.live), pages=1, requests=1, seen=rows, total=rows
    )


@pytest.mark.parametrize("rows", [41, 50])
def test_a_quiet_listing_costs_its_pages_and_a_look_back(rows: int) -> None:
    world = a_world(rows, size=10)
    assert walked(world) == Walked(
        "pristine", tuple(world.live), pages=5, requests=6, seen=rows, total=rows
    )


def test_small_pages_are_looked_at_again_until_ten_rows_stand() -> None:
    world = a_world(rows=20, size=4)
    batches, answer = scripted(world, {})
    assert drive(numbered_full(4), answer).certificate == "pristine"
    # One scan of three pages is not one moment: it counts because the next reads the same.
    assert numbers(batches) == [[1], [2], [3], [4], [5], [1], [2], [3], [1], [2], [3]]


def test_pages_side_by_side_come_in_batches_and_page_1_again_after_them() -> None:
    world = a_world(rows=50, size=10)
    batches, answer = scripted(world, {})
    assert drive(numbered_full(10, parallel=3), answer).certificate == "pristine"
    assert numbers(batches) == [[1], [2, 3, 4], [5], [1]]


def test_pages_side_by_side_stop_at_the_first_other_total() -> None:
    world = a_world(rows=90, size=10)
    batches, answer = scripted(world, {3: lambda: world.delete(world.live[0])})
    result = drive(numbered_full(10, parallel=2), answer)
    assert result.certificate == "pristine"  # of the reading forward that followed, at rest
    assert numbers(batches)[:3] == [[1], [2, 3], [1]]
    assert result.order == tuple(world.live)


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_row_that_jumps_ahead_of_the_reader_is_caught_up_with(parallel: int) -> None:
    world = a_world(rows=50, size=10)
    result = walked(world, parallel=parallel, before={3: lambda: world.touch(world.live[35])})
    assert result.certificate == ("repaired" if parallel == 1 else "pristine")
    assert result.order == tuple(world.live)


def test_rows_pulled_across_a_page_boundary_are_gone_back_for() -> None:
    world = a_world(rows=50, size=10)

    def delete_two_already_read() -> None:
        world.delete(world.live[0])
        world.delete(world.live[0])

    batches, answer = scripted(world, {4: delete_two_already_read})
    result = drive(numbered_full(10), answer)
    assert numbers(batches)[:5] == [[1], [2], [3], [4], [3]]
    assert result.certificate == "repaired"
    assert set(world.live) <= set(result.order)


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_creation_behind_a_deletion_is_found_though_the_total_stays(parallel: int) -> None:
    world = a_world(rows=50, size=10)

    def swap() -> None:
        world.delete(world.live[0])
        world.create()

    result = walked(world, parallel=parallel, before={3: swap})
    assert set(world.live) <= set(result.order)
    assert result.certificate == ("repaired" if parallel == 1 else "pristine")


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_row_that_slips_to_a_page_already_read_is_found_behind_an_unmoved_front(
    parallel: int,
) -> None:
    world = a_world(rows=50, size=10)
    slipping = world.live[20]  # first of page 3, pulled to page 2 after page 2 was read
    result = walked(
        world, parallel=parallel, before={3: lambda: world.live.append(world.live.pop(12))}
    )
    assert slipping in result.order
    assert result.certificate == ("repaired" if parallel == 1 else "pristine")


def test_an_empty_page_beyond_a_smaller_total_is_drift() -> None:
    world = a_world(rows=25, size=10)

    def delete_most() -> None:
        for id in world.live[5:]:
            world.delete(id)

    result = walked(world, before={3: delete_most})
    assert result.certificate == "repaired"
    assert result.seen == 20
    assert result.total == 5


def test_an_empty_listing_may_call_its_page_as_it_likes() -> None:
    result = drive(numbered_full(10), lambda asks: [Page((), total=0, number=0)])
    assert (result.certificate, result.requests) == ("pristine", 1)


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("rows", [5, 50])
def test_a_resumed_walk_is_never_pristine(rows: int, parallel: int) -> None:
    world = a_world(rows, size=10)
    result = walked(world, parallel=parallel, resumed=True)
    assert result.certificate == "repaired"
    assert result.order == tuple(world.live)


def test_a_resumed_walk_asks_the_same_as_long_as_the_answers_are_the_same() -> None:
    world = a_world(rows=50, size=10)
    batches, answer = scripted(world, {})
    drive(numbered_full(10), answer)
    again, answer = scripted(world, {})
    drive(numbered_full(10, resumed=True), answer)
    assert again == batches


def test_a_listing_that_never_rests_ends_at_the_cap_without_a_certificate() -> None:
    world = a_world(rows=50, size=10)

    def shuffle() -> None:
        Random(world.requests).shuffle(world.live)

    result = walked(world, before=dict.fromkeys(range(1, 100), shuffle))
    assert (result.certificate, result.order, result.requests) == ("none", (), 4 * 5 + 20)
    assert result.reason is not None
    assert "40 requests" in result.reason


def test_fewer_rows_than_listed_give_no_certificate() -> None:
    page = Page(tuple(row(f"r{n}") for n in range(10)), total=20)
    result = drive(numbered_full(10), lambda asks: [replace(page, number=asks[0].number, size=10)])
    assert result.certificate == "none"
    assert result.reason == "20 rows are listed, 10 were found"


# What the source grants.


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("asked", [3, 100])
def test_the_walk_goes_on_with_the_size_that_page_1_grants(asked: int, says: bool) -> None:
    world = a_world(rows=35, size=10, says_pages=says)
    batches: list[PageNumber] = []

    def grants_ten(asks: tuple[Ask, ...]) -> list[Page | None]:
        batches.extend(asks)
        return [world.answer(replace(ask, size=10)) for ask in asks]

    result = drive(numbered_full(asked), grants_ten)
    assert (result.certificate, result.pages, result.seen) == ("pristine", 4, 35)
    assert {ask.size for ask in batches[1:]} == {10}


def test_a_source_that_names_no_pages_and_ignores_the_number_is_found_out() -> None:
    world = a_world(rows=30, size=10, says_pages=False)
    result = drive(numbered_full(10), lambda asks: [world.answer(PageNumber(1, 10))])
    assert result.certificate == "none"
    assert result.requests == 3
    assert result.reason is not None
    assert result.reason.startswith("page 2: the rows of page 1 came again")


# Answers that break a guard.


def faulty(
    world: World, fault: Callable[[Page], Page | None], number: int, times: int
) -> Callable[[tuple[Ask, ...]], list[Page | None]]:
    """The first `times` answers for page `number` are broken."""
    left = times

    def answer(asks: tuple[Ask, ...]) -> list[Page | None]:
        nonlocal left
        pages = world.answers(asks)
        for place, (ask, page) in enumerate(zip(asks, pages, strict=True)):
            if isinstance(ask, PageNumber) and ask.number == number and page and left:
                left -= 1
                pages[place] = fault(page)
        return pages

    return answer


every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
every_page = pytest.mark.parametrize("number", [1, 2, 3, 4])
serial_or_parallel = pytest.mark.parametrize("parallel", [1, 3])


@every_fault
@every_page
@serial_or_parallel
def test_a_broken_answer_is_asked_for_once_more(
    fault: Callable[[Page], Page | None], number: int, parallel: int
) -> None:
    world = a_world(rows=37, size=10)
    result = drive(numbered_full(10, parallel), faulty(world, fault, number, times=1))
    assert result.certificate == "pristine"
    assert result.requests == 4 + 1 + 1
    assert result.order == tuple(world.live)


@every_fault
@every_page
@serial_or_parallel
def test_an_answer_broken_twice_ends_the_walk_with_a_reason_that_quotes_no_row(
    fault: Callable[[Page], Page | None], number: int, parallel: int
) -> None:
    world = a_world(rows=37, size=10)
    result = drive(numbered_full(10, parallel), faulty(world, fault, number, times=2))
    assert (result.certificate, result.order) == ("none", ())
    assert result.reason is not None
    assert result.reason.startswith(f"page {number}: ")
    assert not any(id in result.reason for id in world.live)


def test_the_reason_names_what_was_expected_and_what_came() -> None:
    world = a_world(rows=37, size=10)
    result = drive(numbered_full(10), faulty(world, FAULTS["truncated"], 2, times=2))
    assert result.reason == "page 2: 10 rows expected of a total of 37, 9 came"


@pytest.mark.parametrize(
    "page",
    [
        Page((), total=-1),
        Page((), total=3),
        Page((row("a"), row("b")), total=1),
        Page((row("a"),), total=1, size=0),
    ],
    ids=["a total below zero", "rows missing", "rows too many", "no rows a page"],
)
def test_a_first_page_that_contradicts_itself_certifies_nothing(page: Page) -> None:
    result = drive(numbered_full(10), lambda asks: [page])
    assert (result.certificate, result.requests) == ("none", 2)
