"""What walks, plans and errors amount to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from examples import MINUTE, NOON, gathered, pair, policy, walk
from examples import aeontel_row as row

from worker import outcomes, planning
from worker.errors import (
    NotListed,
    RateLimited,
    SourceDown,
    SourceRefused,
    StocktakeError,
    Stopped,
    UnusableBody,
)
from worker.findings import Plan, Run, ScopeWalk
from worker.models import INSTALLS, Outcome

CREATED = planning.plan(gathered(pair(row())), [walk()], policy())


def run(
    over: ScopeWalk | None = None,
    error: StocktakeError | None = None,
    plan: Plan | None = None,
    **fields: Any,
) -> Run:
    made = outcomes.run_of(
        "farm",
        over or walk(),
        error,
        plan or Plan(),
        {INSTALLS: frozenset({"a", "b"})},
        NOON,
        NOON + MINUTE,
    )
    return replace(made, **fields)


@pytest.mark.parametrize(
    ("over", "error", "plan", "outcome"),
    [
        (walk(), None, Plan(), "unchanged"),
        (walk(), None, CREATED, "ok"),
        (walk(), None, replace(CREATED, held={INSTALLS: 3}), "held"),
        (walk(), None, replace(CREATED, held={"installs/other": 3}), "ok"),
        (walk(certificate="none"), None, CREATED, "partial"),
        (walk(certificate="none", mode="incremental", complete=True), None, Plan(), "unchanged"),
        (walk(certificate="none", mode="incremental"), None, CREATED, "partial"),
        (walk(certificate="none"), SourceDown("no answer"), Plan(), "partial"),
        (walk(certificate="none"), UnusableBody("HTML"), Plan(), "partial"),
        (walk(certificate="none"), Stopped("stopped"), CREATED, "partial"),
        (walk(certificate="none"), RateLimited("429", NOON), CREATED, "rate_limited"),
        (walk(certificate="none"), SourceRefused("403"), Plan(), "failed"),
        (walk(certificate="none"), NotListed("404"), Plan(), "failed"),
    ],
    ids=[
        "a certified walk without events leaves all unchanged",
        "events make it ok",
        "held rows count more than events",
        "rows held in another listing do not count",
        "a full walk without a certificate is partial",
        "a complete incremental walk needs no certificate",
        "an incomplete incremental walk is partial",
        "a source that is down leaves the walk partial",
        "an unusable body leaves the walk partial",
        "a stopped walk is partial",
        "a rate limit has its own name",
        "a refused login has failed",
        "an unknown listing has failed",
    ],
)
def test_the_outcome_of_a_walk(
    over: ScopeWalk, error: StocktakeError | None, plan: Plan, outcome: Outcome
) -> None:
    assert run(over, error, plan).outcome == outcome


def test_a_run_tells_what_its_walk_and_the_commit_found() -> None:
    over = walk(requests=4, pages=3, seen=250, total=251, reason="it moved")
    told = run(over, SourceDown("farm: no answer"), replace(CREATED, held={INSTALLS: 3}))
    assert (told.run_id, told.scope, told.mode) == (over.run_id, INSTALLS, "full")
    assert (told.requests, told.pages, told.seen, told.total) == (4, 3, 250, 251)
    assert (told.held, told.suspects, told.events) == (3, 2, {"install.created": 1})
    assert (told.reason, told.error) == ("it moved", "farm: no answer")
    assert (told.started_at, told.finished_at) == (NOON, NOON + MINUTE)


def test_events_of_other_runs_are_not_counted() -> None:
    assert run(walk("installs/other"), plan=CREATED).events == {}


def test_events_are_counted_by_verb_over_both_kinds() -> None:
    counted = run(events={"install.created": 2, "integration.created": 1, "install.purged": 1})
    assert counted.counts == {
        "created": 3, "upgraded": 0, "updated": 0, "deleted": 0, "restored": 0, "purged": 1,
    }  # fmt: skip


def test_a_second_walk_adds_to_the_first() -> None:
    first = run(outcome="ok", requests=3, pages=3, events={"install.created": 2})
    second = run(outcome="ok", requests=2, pages=2, events={"install.deleted": 1}, suspects=0)
    second = replace(second, started_at=NOON + MINUTE, finished_at=NOON + 2 * MINUTE)
    both = outcomes.joined(first, second)
    assert both.events == {"install.created": 2, "install.deleted": 1}
    assert (both.requests, both.pages, both.suspects) == (5, 2, 0)
    assert (both.started_at, both.finished_at) == (NOON, NOON + 2 * MINUTE)


def test_a_second_walk_that_finds_nothing_takes_no_event_back() -> None:
    first = run(outcome="ok", events={"install.created": 2})
    assert outcomes.joined(first, run(outcome="unchanged")).outcome == "ok"


def test_what_the_second_walk_could_not_settle_is_the_outcome() -> None:
    first = run(outcome="ok", events={"install.created": 2})
    assert outcomes.joined(first, run(outcome="partial")).outcome == "partial"
    assert (
        outcomes.joined(run(outcome="unchanged"), run(outcome="unchanged")).outcome == "unchanged"
    )


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ((), 0),
        (("ok", "unchanged"), 0),
        (("ok", "partial"), 75),
        (("rate_limited", "ok"), 75),
        (("partial", "held"), 3),
        (("held", "rate_limited", "failed", "ok"), 1),
    ],
)
def test_the_most_serious_outcome_is_the_exit_code(ended: Sequence[Outcome], code: int) -> None:
    assert outcomes.exit_code(ended) == code


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [("failed", True), ("partial", True), ("rate_limited", False), ("held", False), ("ok", False)],
)
def test_what_counts_as_a_failure_in_a_row(outcome: Outcome, counts: bool) -> None:
    assert outcomes.failed([run(outcome="ok"), run(outcome=outcome)]) is counts
