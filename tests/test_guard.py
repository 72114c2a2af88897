"""Which absences look like an accident, and what a person's decision does to them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from examples import install, integration

from worker.findings import Limits
from worker.guard import Missing, Verdict, hold_all, judge, release

SCOPE = "installs"


def limits(**fields: Any) -> Limits:
    return replace(Limits(min_rows=10, max_share=0.1, max_count=1000), **fields)


def unseen(count: int, first: int = 0, account: str | None = None) -> list[Missing]:
    """Installs that two walks missed, each of another account unless one is given."""
    return [
        Missing(install(f"ins_{n:04}", account_id=account or f"ws_{n}"))
        for n in range(first, first + count)
    ]


def asked(count: int, account: str = "ws_lost", state: str = "active") -> list[Missing]:
    """Installs of one account that answered 404."""
    return [
        Missing(install(f"{account}_{state}_{n}", account_id=account, state=state), asked=True)
        for n in range(count)
    ]


def judged(
    missing: list[Missing],
    active: int = 1000,
    bounds: Limits | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Verdict:
    return judge(SCOPE, missing, active, bounds or limits(), sizes or {})


def ids(missing: list[Missing] | tuple[Missing, ...]) -> tuple[str, ...]:
    return tuple(each.id for each in missing)


@pytest.mark.parametrize(
    ("count", "active", "is_held"),
    [
        (10, 10, False),
        (11, 11, True),
        (11, 110, False),
        (11, 109, True),
        (1000, 20_000, False),
        (1001, 20_000, True),
        (11, 0, True),
        (10, 0, False),
    ],
    ids=[
        "min_rows may all go",
        "one more than min_rows that is all there was",
        "exactly max_share may go",
        "more than min_rows and more than max_share",
        "max_count may go",
        "more than max_count, however small its share",
        "purges where nothing is active are all there was",
        "few purges where nothing is active",
    ],
)
def test_absences_above_the_limits_are_held(count: int, active: int, is_held: bool) -> None:
    missing = unseen(count)
    verdict = judged(missing, active)
    assert ids(verdict.allowed) == (() if is_held else ids(missing))
    assert [hold.ids for hold in verdict.holds] == ([ids(missing)] if is_held else [])
    assert verdict.held == (count if is_held else 0)


def test_a_hold_says_its_numbers() -> None:
    (hold,) = judged(unseen(25), active=100).holds
    assert hold.scope == SCOPE
    assert hold.share == 0.25
    assert hold.reason == "25 of 100 rows absent at once (25%), more than max_share 10%"
    (hold,) = judged(unseen(3), bounds=limits(max_count=2)).holds
    assert hold.reason == "3 absences at once, more than max_count 2"


def test_a_share_is_never_more_than_all() -> None:
    (hold,) = judged(asked(30, state="deleted"), active=2).holds
    assert hold.share == 1.0


class TestAnAccountThatIsLostAsAWhole:
    """Aeontel: the token may have lost a workspace; each of its installs then answers 404."""

    def test_is_held_however_few_its_installs_are(self) -> None:
        verdict = judged(asked(3), sizes={"ws_lost": 3})
        assert [hold.ids for hold in verdict.holds] == [ids(asked(3))]
        assert "every install of 1 account answers 404" in verdict.holds[0].reason

    def test_is_no_accident_while_one_of_its_installs_is_left(self) -> None:
        assert judged(asked(3), sizes={"ws_lost": 4}).allowed == tuple(asked(3))

    def test_is_no_accident_when_it_had_less_than_three(self) -> None:
        assert judged(asked(2), sizes={"ws_lost": 2}).allowed == tuple(asked(2))

    def test_is_no_accident_when_it_was_not_asked_for(self) -> None:
        missing = unseen(3, account="ws_lost")
        assert judged(missing, sizes={"ws_lost": 3}).allowed == tuple(missing)

    def test_takes_along_the_purges_of_its_deleted_installs(self) -> None:
        missing = asked(3) + asked(2, state="deleted")
        verdict = judged(missing, sizes={"ws_lost": 3})
        assert verdict.allowed == ()
        assert verdict.held == 5

    def test_does_not_hold_the_others_and_does_not_count_against_their_limits(self) -> None:
        verdict = judged(asked(3) + unseen(10), active=10, sizes={"ws_lost": 3})
        assert verdict.allowed == tuple(unseen(10))
        assert verdict.held == 3

    def test_is_held_beside_the_rest_that_is_too_many(self) -> None:
        verdict = judged(asked(3) + unseen(11), active=20, sizes={"ws_lost": 3})
        assert [len(hold.ids) for hold in verdict.holds] == [3, 11]

    def test_is_recognised_though_some_of_its_installs_wait_already(self) -> None:
        waiting = frozenset(ids(asked(3)[:2]))
        verdict = judged(asked(3), bounds=limits(held=waiting), sizes={"ws_lost": 3})
        assert [hold.ids for hold in verdict.holds] == [ids(asked(3)[2:])]

    def test_is_counted_per_account(self) -> None:
        missing = asked(3, "ws_1") + asked(4, "ws_2") + asked(3, "ws_3")
        verdict = judged(missing, sizes={"ws_1": 3, "ws_2": 4, "ws_3": 9})
        assert ids(verdict.allowed) == ids(asked(3, "ws_3"))
        assert "every install of 2 accounts" in verdict.holds[0].reason

    def test_needs_a_name(self) -> None:
        nameless = [Missing(install(f"ins_{n}", account_id=None), asked=True) for n in range(3)]
        assert judged(nameless, sizes={}).allowed == tuple(nameless)


class TestWhatAPersonDecided:
    def test_approved_ids_pass_every_limit(self) -> None:
        missing = unseen(50)
        verdict = judged(missing, active=50, bounds=limits(approved=frozenset(ids(missing))))
        assert verdict == Verdict(tuple(missing), (), 0)

    def test_approved_goes_before_held_and_rejected(self) -> None:
        missing = asked(3)
        both = frozenset(ids(missing))
        bounds = limits(approved=both, held=both, rejected=both)
        assert judged(missing, bounds=bounds, sizes={"ws_lost": 3}).allowed == tuple(missing)

    def test_what_is_held_waits_on_and_is_not_held_twice(self) -> None:
        missing = unseen(50)
        verdict = judged(missing, active=50, bounds=limits(held=frozenset(ids(missing))))
        assert verdict == Verdict((), (), 50)

    def test_what_is_held_waits_on_even_when_little_else_is_absent(self) -> None:
        verdict = judged(unseen(2), bounds=limits(held=frozenset({"ins_0000"})))
        assert ids(verdict.allowed) == ("ins_0001",)
        assert verdict.held == 1

    def test_what_is_rejected_stays_active_without_a_hold(self) -> None:
        missing = unseen(50)
        verdict = judged(missing, active=50, bounds=limits(rejected=frozenset(ids(missing))))
        assert verdict == Verdict((), (), 0)

    def test_new_absences_are_judged_without_the_old_ones(self) -> None:
        old, new = unseen(50), unseen(10, first=50)
        verdict = judged(old + new, active=60, bounds=limits(held=frozenset(ids(old))))
        assert verdict == Verdict(tuple(new), (), 50)

    def test_approved_ids_do_not_count_against_the_limits_of_the_rest(self) -> None:
        old, new = unseen(50), unseen(10, first=50)
        verdict = judged(old + new, active=60, bounds=limits(approved=frozenset(ids(old))))
        assert verdict == Verdict(tuple(old + new), (), 0)


class TestAbsencesWithoutAnInnocentReading:
    gone = (Missing(integration("int_a"), asked=True), Missing(integration("int_b"), asked=True))

    def test_are_held_however_few(self) -> None:
        verdict = hold_all("integrations", "why", self.gone, 2, limits())
        assert verdict.allowed == ()
        assert [(hold.reason, hold.ids) for hold in verdict.holds] == [("why", ids(self.gone))]
        assert verdict.held == 2

    def test_are_not_held_twice(self) -> None:
        verdict = hold_all(
            "integrations", "why", self.gone, 2, limits(held=frozenset(ids(self.gone)))
        )
        assert verdict == Verdict((), (), 2)

    def test_stay_active_when_rejected_and_pass_when_approved(self) -> None:
        bounds = limits(rejected=frozenset({"int_a"}), approved=frozenset({"int_b"}))
        verdict = hold_all("integrations", "why", self.gone, 2, bounds)
        assert verdict == Verdict(self.gone[1:], (), 0)


class TestAbsencesWithOneKnownCause:
    def test_are_never_held_anew(self) -> None:
        missing = unseen(50)
        assert release(missing, limits()) == Verdict(tuple(missing), (), 0)

    def test_still_wait_for_the_person_that_was_asked(self) -> None:
        bounds = limits(held=frozenset({"ins_0000"}), rejected=frozenset({"ins_0001"}))
        verdict = release(unseen(3), bounds)
        assert (ids(verdict.allowed), verdict.held) == (("ins_0002",), 1)
