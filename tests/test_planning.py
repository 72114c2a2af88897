"""What is made of what was gathered: changes, events, suspects, holds and the ends of baselines."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from examples import (
    MINUTE,
    NOON,
    OF_A,
    OPEN,
    absence,
    aeontel_integration,
    aeontel_row,
    gathered,
    gestal_integration,
    gestal_row,
    install,
    integration,
    pair,
    policy,
    walk,
)

from worker.findings import Gathered, Limits, Pair, Plan, ScopeWalk
from worker.models import INSTALLS, INTEGRATIONS, Install, installs_of
from worker.planning import event_id, plan

OF_B = installs_of("int_b")
TIGHT = Limits(min_rows=0, max_share=0.0, max_count=1000)


def of_gestal(found: Gathered, *walks: ScopeWalk, **fields: Any) -> Plan:
    return plan(found, walks or (walk(OF_A),), policy("gestal", **fields))


def of_aeontel(found: Gathered, *walks: ScopeWalk, **fields: Any) -> Plan:
    return plan(found, walks or (walk(certificate="keyset"),), policy("aeontel", **fields))


def types(made: Plan) -> list[str]:
    return [event.type for event in made.events]


def baselines(made: Plan) -> list[bool]:
    return [event.baseline for event in made.events]


def known(id: str = "ins_1", **fields: Any) -> Install:
    """An install of int_a as Gestal lists it."""
    return install(id, payload=gestal_row(id), **fields)


class TestTheBaselineOfAListing:
    new = pair(aeontel_row())

    def test_lasts_until_its_first_certified_walk_has_committed(self) -> None:
        made = of_aeontel(gathered(self.new, announced=frozenset()))
        assert baselines(made) == [True]
        assert made.baselined == {INSTALLS}

    def test_does_not_end_with_an_uncertified_walk(self) -> None:
        made = of_aeontel(gathered(self.new, announced=frozenset()), walk(certificate="none"))
        assert baselines(made) == [True]
        assert made.baselined == frozenset()

    def test_does_not_end_with_an_incremental_walk(self) -> None:
        found = gathered(self.new, announced=frozenset())
        made = of_aeontel(found, walk(mode="incremental", complete=True))
        assert made.baselined == frozenset()

    def test_ends_once(self) -> None:
        made = of_aeontel(gathered(self.new))
        assert baselines(made) == [False]
        assert made.baselined == frozenset()

    def test_ends_for_each_listing_by_itself(self) -> None:
        found = gathered(pair(gestal_row("a"), scope=OF_A), pair(gestal_row("b"), scope=OF_B))
        made = of_gestal(found, walk(OF_A), walk(OF_B))
        assert baselines(made) == [False, True]
        assert made.baselined == {OF_B}

    def test_is_about_what_is_created_only(self) -> None:
        found = gathered(pair(aeontel_row(), install(state="deleted")), announced=frozenset())
        made = of_aeontel(found)
        assert (types(made), baselines(made)) == (["install.restored"], [False])

    def test_is_not_needed_where_an_integration_appears(self) -> None:
        made = of_gestal(
            gathered(
                pair(gestal_integration("int_b"), scope=INTEGRATIONS),
                pair(gestal_row(), scope=OF_B),
                announced=frozenset({INTEGRATIONS}),
            ),
            walk(INTEGRATIONS),
            walk(OF_B, "none"),
        )
        assert baselines(made) == [False, False]
        assert (made.appeared, made.baselined) == (frozenset({OF_B}), frozenset())

    def test_is_needed_by_the_integrations_that_were_there_first(self) -> None:
        made = of_gestal(
            gathered(
                pair(gestal_integration(), scope=INTEGRATIONS),
                pair(gestal_row(), scope=OF_A),
                announced=frozenset(),
            ),
            walk(INTEGRATIONS),
            walk(OF_A),
        )
        assert baselines(made) == [True, True]
        assert (made.appeared, made.baselined) == (frozenset(), frozenset({INTEGRATIONS, OF_A}))

    def test_does_not_silence_an_integration_that_appears_meanwhile(self) -> None:
        made = of_aeontel(
            gathered(
                pair(aeontel_integration("int_b"), scope=INTEGRATIONS),
                pair(aeontel_row("old")),
                pair(aeontel_row("new", integrationId="int_b")),
                announced=frozenset({INTEGRATIONS}),
            ),
            walk(INTEGRATIONS, "keyset"),
            walk(certificate="none"),
        )
        assert {event.install_id: event.baseline for event in made.events} == {
            None: False, "old": True, "new": False,
        }  # fmt: skip


class TestWithConfiguredIntegrations:
    def test_one_that_is_added_has_a_baseline(self) -> None:
        made = of_gestal(
            gathered(
                pair(gestal_integration("int_b"), scope=INTEGRATIONS),
                pair(gestal_row(), scope=OF_B),
            ),
            walk(INTEGRATIONS),
            walk(OF_B),
            listed=("int_a", "int_b"),
        )
        assert baselines(made) == [True, True]
        assert (made.appeared, made.baselined) == (frozenset(), frozenset({OF_B}))

    def test_one_listing_of_all_installs_ends_only_their_baselines(self) -> None:
        found = gathered(pair(aeontel_row()), announced=frozenset())
        made = of_aeontel(found, listed=("int_a", "int_b"))
        assert made.baselined == {OF_A, OF_B}

    def test_the_next_install_of_them_is_announced(self) -> None:
        found = gathered(
            pair(aeontel_row()),
            pair(aeontel_row("ins_b", integrationId="int_b")),
            announced=frozenset({OF_A}),
        )
        assert baselines(of_aeontel(found, listed=("int_a", "int_b"))) == [False, True]

    def test_all_others_have_a_baseline_when_they_are_configured_no_more(self) -> None:
        listed = of_gestal(
            gathered(announced=frozenset()), walk(INTEGRATIONS), walk(OF_A), listed=("int_a",)
        )
        assert listed.baselined == {OF_A}
        found = gathered(
            pair(gestal_integration("int_b"), scope=INTEGRATIONS),
            pair(gestal_row(), scope=OF_B),
            announced=listed.baselined,
        )
        assert baselines(of_gestal(found, walk(INTEGRATIONS), walk(OF_B))) == [True, True]


class TestAnInstallThatAWalkMisses:
    def test_is_a_suspect_at_first(self) -> None:
        made = of_gestal(gathered(absences=(absence(known()),)))
        assert (made.suspects, made.changes) == (("ins_1",), ())

    def test_is_deleted_by_the_next_certified_walk(self) -> None:
        missed = absence(known(missing_since=NOON - MINUTE), suspected_round=5)
        made = of_gestal(gathered(absences=(missed,)), walk(OF_A, round=5))
        (event,) = made.events
        assert (event.type, event.deletion_inferred) == ("install.deleted", True)
        assert event.after is not None
        assert event.after["deleted_at"] == "2026-03-01T11:59:00Z"
        assert made.suspects == ()

    def test_is_not_deleted_by_a_walk_that_began_before_it_was_a_suspect(self) -> None:
        missed = absence(known(missing_since=NOON - MINUTE), suspected_round=6)
        made = of_gestal(gathered(absences=(missed,)), walk(OF_A, round=5))
        assert (made.suspects, made.changes, made.held) == ((), (), {})

    @pytest.mark.parametrize(
        "uncertain",
        [walk(OF_A, "none"), walk(OF_A, mode="incremental", complete=True), walk(OF_B)],
        ids=["an uncertified walk", "an incremental walk", "a walk of another listing"],
    )
    def test_is_proven_absent_by_certified_full_walks_only(self, uncertain: ScopeWalk) -> None:
        missed = absence(known(missing_since=NOON - MINUTE), suspected_round=1)
        assert of_gestal(gathered(absences=(missed,)), uncertain).changes == ()

    def test_stays_a_suspect_while_it_is_held(self) -> None:
        missed = absence(known(missing_since=NOON - MINUTE), suspected_round=5)
        made = of_gestal(gathered(absences=(missed,)), limits=TIGHT)
        assert (made.changes, made.held) == ((), {OF_A: 1})
        assert [hold.ids for hold in made.holds] == [("ins_1",)]

    def test_waits_on_without_a_second_hold(self) -> None:
        missed = absence(known(missing_since=NOON - MINUTE), suspected_round=5)
        limits = replace(TIGHT, held=frozenset({"ins_1"}))
        made = of_gestal(gathered(absences=(missed,)), limits=limits)
        assert (made.changes, made.holds, made.held) == ((), (), {OF_A: 1})

    def test_is_deleted_when_a_person_approves(self) -> None:
        missed = absence(known(missing_since=NOON - MINUTE), suspected_round=5)
        limits = replace(TIGHT, held=frozenset({"ins_1"}), approved=frozenset({"ins_1"}))
        made = of_gestal(gathered(absences=(missed,)), limits=limits)
        assert (types(made), made.held) == (["install.deleted"], {})


class TestA404:
    active = pair(None, install())

    def test_of_an_active_install_deletes_it(self) -> None:
        made = of_aeontel(gathered(self.active))
        assert (types(made), made.suspects) == (["install.deleted"], ())
        assert made.events[0].deletion_inferred

    def test_of_a_deleted_install_purges_it(self) -> None:
        made = of_aeontel(gathered(pair(None, install(state="deleted"))))
        assert types(made) == ["install.purged"]
        assert not made.events[0].deletion_inferred

    @pytest.mark.parametrize(
        "found",
        [pair(None), pair(None, install(state="purged")), pair(None, integration(state="deleted"))],
        ids=["something never seen", "a purged install", "a deleted integration"],
    )
    def test_of_what_has_ended_already_is_nothing(self, found: Pair) -> None:
        made = of_aeontel(gathered(found, integrations_seen=0), walk(), walk(INTEGRATIONS))
        assert (made.changes, made.suspects, made.holds) == ((), (), ())

    @pytest.mark.parametrize("answered", [active, pair(None, install(state="deleted"))])
    def test_counts_only_where_the_walk_has_a_certificate(self, answered: Pair) -> None:
        made = of_aeontel(gathered(answered), walk(certificate="none"))
        assert (made.changes, made.suspects, made.held) == ((), (), {})

    def test_of_an_integration_counts_only_where_its_listing_has_a_certificate(self) -> None:
        found = gathered(pair(None, integration(), INTEGRATIONS), dependents=(known(),))
        made = of_gestal(found, walk(INTEGRATIONS, "none"), walk(OF_A))
        assert (made.changes, made.holds) == ((), ())

    @pytest.mark.parametrize(
        "limits",
        [TIGHT, replace(TIGHT, held=frozenset({"ins_1"})),
         replace(OPEN, rejected=frozenset({"ins_1"}))],
        ids=["held", "held before", "rejected"],
    )  # fmt: skip
    def test_that_is_not_recorded_makes_a_suspect(self, limits: Limits) -> None:
        made = of_aeontel(gathered(self.active), limits=limits)
        assert (made.changes, made.suspects) == ((), ("ins_1",))

    def test_that_is_not_recorded_makes_a_suspect_once(self) -> None:
        found = gathered(pair(None, install(missing_since=NOON - MINUTE)))
        assert of_aeontel(found, limits=TIGHT).suspects == ()

    def test_of_a_deleted_install_never_makes_a_suspect(self) -> None:
        made = of_aeontel(gathered(pair(None, install(state="deleted"))), limits=TIGHT)
        assert (made.held, made.suspects) == ({INSTALLS: 1}, ())

    def test_of_a_whole_account_is_held(self) -> None:
        lost = [pair(None, install(f"ins_{n}")) for n in range(3)]
        made = of_aeontel(gathered(*lost, account_sizes={"ws_1": 3}))
        assert (made.changes, made.held) == ((), {INSTALLS: 3})
        assert made.suspects == ("ins_0", "ins_1", "ins_2")


class TestAListingThatIsSuddenlyEmpty:
    empty = walk(certificate="keyset", seen=0, total=0)

    def test_deletes_nothing_before_a_second_walk_has_confirmed_it(self) -> None:
        found = gathered(pair(None, install("a")), pair(None, install("b", state="deleted")))
        made = of_aeontel(found, self.empty)
        assert (made.changes, made.holds, made.suspects) == ((), (), ("a",))

    def test_is_judged_as_usual_when_a_second_walk_confirms_it(self) -> None:
        missing = pair(None, install("a", missing_since=NOON - MINUTE))
        found = gathered(missing, pair(None, install("b", state="deleted")), active={INSTALLS: 1})
        assert types(of_aeontel(found, self.empty)) == ["install.deleted", "install.purged"]
        assert of_aeontel(found, self.empty, limits=TIGHT).held == {INSTALLS: 2}

    def test_is_nothing_new_where_no_install_was_active(self) -> None:
        made = of_aeontel(gathered(pair(None, install("b", state="deleted"))), self.empty)
        assert types(made) == ["install.purged"]


class TestAnIntegrationThatIsGone:
    lost = pair(None, integration(), INTEGRATIONS)

    def test_takes_its_installs_along_without_a_hold(self) -> None:
        made = of_gestal(
            gathered(self.lost, dependents=(known("a"), known("b"))),
            walk(INTEGRATIONS),
            limits=TIGHT,
        )
        assert types(made) == ["integration.deleted", "install.deleted", "install.deleted"]
        assert all(event.deletion_inferred for event in made.events)
        assert made.holds == ()

    def test_leaves_the_installs_of_others_alone(self) -> None:
        other = known("b", integration_id="int_b")
        made = of_gestal(gathered(self.lost, dependents=(other,)), walk(INTEGRATIONS))
        assert types(made) == ["integration.deleted"]

    def test_takes_no_install_along_that_has_moved_away(self) -> None:
        moved = pair(gestal_row(), known(), OF_B)
        found = gathered(self.lost, moved, dependents=(known(),))
        made = of_gestal(found, walk(INTEGRATIONS), walk(OF_B))
        assert types(made) == ["integration.deleted", "install.updated"]

    def test_takes_along_what_a_walk_found_missing_before(self) -> None:
        found = gathered(self.lost, absences=(absence(known()),), dependents=(known(),))
        made = of_gestal(found, walk(INTEGRATIONS), walk(OF_A))
        assert types(made) == ["integration.deleted", "install.deleted"]
        assert made.suspects == ()

    def test_leaves_installs_to_their_own_rows_at_aeontel(self) -> None:
        found = gathered(self.lost, dependents=(install(),))
        assert types(of_aeontel(found, walk(INTEGRATIONS, "keyset"))) == ["integration.deleted"]

    def test_that_was_rejected_once_stays(self) -> None:
        limits = replace(OPEN, rejected=frozenset({"int_a"}))
        found = gathered(self.lost, dependents=(known(),))
        assert of_gestal(found, walk(INTEGRATIONS), limits=limits).changes == ()


class TestWhenEveryIntegrationIsGone:
    found = gathered(
        pair(None, integration("int_a"), INTEGRATIONS),
        pair(None, integration("int_b"), INTEGRATIONS),
        dependents=(known(),),
        integrations_seen=0,
    )

    def test_all_of_it_is_held_however_little_it_is(self) -> None:
        made = of_gestal(self.found, walk(INTEGRATIONS))
        assert (made.changes, made.held) == ((), {INTEGRATIONS: 2})
        assert [hold.ids for hold in made.holds] == [("int_a", "int_b")]
        assert "same account" in made.holds[0].reason

    def test_what_a_person_approves_is_deleted_with_its_installs(self) -> None:
        limits = replace(OPEN, approved=frozenset({"int_a", "int_b"}))
        made = of_gestal(self.found, walk(INTEGRATIONS), limits=limits)
        assert types(made) == ["integration.deleted", "integration.deleted", "install.deleted"]


class TestTheEventsOfACommit:
    def test_are_numbered_without_a_gap_after_the_last(self) -> None:
        found = gathered(*(pair(aeontel_row(f"ins_{n}")) for n in range(3)), last_sequence=40)
        assert [event.sequence for event in of_aeontel(found).events] == [41, 42, 43]

    def test_tell_integrations_first_and_keep_the_order_of_the_rest(self) -> None:
        found = gathered(
            pair(aeontel_row("b")),
            pair(None, install("a")),
            pair(aeontel_integration(), scope=INTEGRATIONS),
            pair(aeontel_row("c")),
        )
        made = of_aeontel(found, walk(), walk(INTEGRATIONS))
        told = [event.install_id for event in made.events]
        assert told == [None, "b", "c", "a"]

    def test_of_one_pair_share_its_revision_and_documents(self) -> None:
        before = install(state="deleted", revision=3)
        answer = aeontel_row(integrationVersionId="v2", installedBy="usr_2")
        made = of_aeontel(gathered(pair(answer, before)))
        assert types(made) == ["install.restored", "install.upgraded", "install.updated"]
        assert {event.revision for event in made.events} == {4}
        assert len({event.event_id for event in made.events}) == 3
        first = made.events[0]
        assert first.before is not None
        assert first.after is not None
        assert all((e.before, e.after) == (first.before, first.after) for e in made.events)
        assert (first.before["state"], first.after["state"]) == ("deleted", "active")
        assert first.after["version_id"] == "v2"
        assert first.after["source"] == "farm"
        assert first.after["payload"] == answer

    def test_carry_times_source_and_the_run_that_saw_them(self) -> None:
        found = gathered(
            pair(aeontel_row()), pair(aeontel_integration(), scope=INTEGRATIONS), commit_at=NOON
        )
        integration_event, install_event = of_aeontel(found, walk(INTEGRATIONS), walk()).events
        assert install_event.run_id == "run_of_installs"
        assert integration_event.run_id == "run_of_integrations"
        assert (install_event.integration_id, install_event.install_id) == ("int_a", "ins_1")
        assert (integration_event.integration_id, integration_event.install_id) == ("int_a", None)
        assert (install_event.source, install_event.detected_at) == ("farm", NOON)
        assert install_event.before is None

    def test_of_a_cascade_belong_to_the_run_of_the_integrations(self) -> None:
        found = gathered(TestAnIntegrationThatIsGone.lost, dependents=(known(),))
        made = of_gestal(found, walk(INTEGRATIONS), walk(OF_B))
        assert {event.run_id for event in made.events} == {"run_of_integrations"}

    def test_are_inferred_when_they_take_an_inferred_deletion_back(self) -> None:
        before = install(state="deleted", deletion_inferred=True, payload=aeontel_row())
        restored, *rest = of_aeontel(gathered(pair(aeontel_row(), before))).events
        assert (restored.type, restored.deletion_inferred, rest) == ("install.restored", True, [])
        answer = aeontel_row(retentionTier="long")
        restored, updated = of_aeontel(gathered(pair(answer, before))).events
        assert (restored.deletion_inferred, updated.deletion_inferred) == (False, False)

    def test_are_none_for_what_was_never_seen_active(self) -> None:
        made = of_aeontel(gathered(pair(aeontel_row(deletedAt="2026-02-01T00:00:00Z"))))
        assert (made.events, len(made.changes)) == ((), 1)


class TestAnEventId:
    def test_is_the_same_for_the_same_change(self) -> None:
        found = gathered(pair(aeontel_row()), pair(None, install("b")))
        later = replace(found, commit_at=NOON + MINUTE, last_sequence=99)
        ids = [event.event_id for event in of_aeontel(found).events]
        assert ids == [event.event_id for event in of_aeontel(later).events]

    def test_looks_as_documented(self) -> None:
        (event,) = of_aeontel(gathered(pair(aeontel_row()))).events
        assert event.event_id == "evt_" + event.event_id[4:].lower()
        assert len(event.event_id) == 30
        assert set(event.event_id[4:]) <= set("abcdefghijklmnopqrstuvwxyz234567")

    def test_differs_by_store_source_kind_id_revision_and_type(self) -> None:
        def change_of(found: Pair) -> Any:
            return of_aeontel(gathered(found), walk(), walk(INTEGRATIONS)).changes[0]

        one = change_of(pair(aeontel_row("x")))
        variants: Sequence[tuple[str, str, Any, str]] = [
            ("st_1", "farm", one, "install.created"),
            ("st_2", "farm", one, "install.created"),
            ("st_1", "voice", one, "install.created"),
            ("st_1", "farm", change_of(pair(aeontel_row("y"))), "install.created"),
            ("st_1", "farm", change_of(pair(aeontel_integration("x"), scope=INTEGRATIONS)),
             "install.created"),
            ("st_1", "farm", change_of(pair(None, install("x"))), "install.created"),
            ("st_1", "farm", one, "install.updated"),
        ]  # fmt: skip
        assert len({event_id(*each) for each in variants}) == len(variants)
