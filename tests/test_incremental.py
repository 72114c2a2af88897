"""Incremental syncs through the whole product: what they cost, when they call for a full walk."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from platforms import Stocktake, source_rows

from worker import routes
from worker.findings import Accepted
from worker.models import INSTALLS, installs_of
from worker.routes import Escalation, Memory
from worker.sandbox.faults import Fault
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.world import Churn
from worker.settings.values import Guard
from worker.state import holds, sources

Take = Callable[..., Stocktake]
NOW = datetime(2026, 1, 31, tzinfo=UTC)


def listings(taken: Stocktake) -> list[str]:
    """What the platform was asked of installs, since the last look."""
    asked = [path for _, path in taken.requests if "install" in path]
    taken.requests.clear()
    return asked


def based(take: Take, world: object, **fields: object) -> Stocktake:
    """After a first full sync."""
    taken = take(world, **fields)
    taken.sync()
    taken.requests.clear()
    return taken


@pytest.mark.parametrize("rows", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_an_unchanged_listing_of_gestal_costs_one_request(rows: int, take: Take) -> None:
    taken = based(take, gestal_world(integrations=1, installs=rows))
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome, len(listings(taken))) == ("incremental", "unchanged", 1)


@pytest.mark.parametrize("rows", [500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_an_unchanged_listing_of_aeontel_costs_three_requests(rows: int, take: Take) -> None:
    taken = based(take, aeontel_world(integrations=1, installs=rows))
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome, len(listings(taken))) == ("incremental", "unchanged", 3)


@pytest.mark.parametrize("rows", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_one_percent_changed_costs_the_changed_pages_and_two(rows: int, take: Take) -> None:
    world = gestal_world(integrations=1, installs=rows)
    taken = based(take, world, page_size=100)
    changes = taken.change(rows // 100, "update")
    pages = -(-len({change.id for change in changes}) // 100)
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome) == ("incremental", "ok")
    assert len(listings(taken)) <= pages + 2
    assert {id: row["payload"] for id, row in taken.installs().items()} == source_rows(world)


def test_a_deletion_costs_one_request_and_two_full_walks(take: Take) -> None:
    taken = based(take, gestal_world(integrations=1, installs=250), page_size=100)
    (gone,) = taken.change(1, "uninstall")
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.events) == ("full", {"install.deleted": 1})
    assert len(listings(taken)) <= 1 + 2 * (3 + 1)
    assert taken.states()[gone.id] == "deleted"


def test_few_changes_of_aeontel_are_found_at_the_heads(take: Take) -> None:
    taken = based(take, aeontel_world(integrations=1, installs=500))
    for kind in ("install", "upgrade", "uninstall"):
        taken.change(2, kind)
    (run,) = taken.sync(mode="incremental").runs
    assert run.mode == "incremental"
    told = {"install.created": 2, "install.deleted": 2, "install.upgraded": 2}
    assert run.events == told
    # Of each head a page that brings something is followed by one that brings nothing; an upgraded
    # row may stand on the second page of those by time of installation.
    assert len(listings(taken)) <= 3 * 3


def test_a_source_that_refuses_to_sort_walks_fully_and_says_so_once(
    take: Take, caplog: pytest.LogCaptureFixture
) -> None:
    world = aeontel_world(installs=5, accepts_order_by=False, accepts_filter=False)
    with caplog.at_level(logging.WARNING):
        taken = based(take, world)
        runs = [run for _ in range(3) for run in taken.sync(mode="incremental").runs]
    assert {(run.scope, run.mode, run.outcome) for run in runs} == {(INSTALLS, "full", "unchanged")}
    assert len([r for r in caplog.records if "refuses orderBy" in r.getMessage()]) == 1
    assert sources.known(taken.engine, taken.source).accepted == {
        "newest_first": None, "filters": False,
    }  # fmt: skip


def test_a_source_that_begins_to_refuse_is_walked_fully_at_once(take: Take) -> None:
    world = aeontel_world(installs=5)
    taken = based(take, world)
    world.accepts_order_by = False
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome) == ("full", "unchanged")


def test_a_long_listing_of_aeontel_is_walked_in_ranges_of_ids(take: Take) -> None:
    world = aeontel_world(integrations=1, installs=120)
    taken = based(take, world, page_size=10, max_concurrency=3)
    taken.change(10)
    runs = taken.sync().runs
    assert any("filter=" in path for path in listings(taken))
    assert {run.certificate for run in runs} == {"keyset"}
    live = {id for id, row in source_rows(world).items() if not row["deletedAt"]}
    assert taken.active() == live


def test_suspects_force_a_full_walk_but_not_those_that_a_person_has_or_will_judge(
    take: Take,
) -> None:
    strict = Guard(min_rows=1, max_share=0.0)
    world = gestal_world(integrations=1, installs=30)
    taken = based(take, world, guard=strict)
    taken.change(5, "uninstall")
    (_, run) = taken.sync().runs
    assert (run.outcome, run.held) == ("held", 5)
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome) == ("incremental", "unchanged")
    (hold,) = holds.every(taken.engine)
    holds.decide(taken.engine, hold.hold_id, "rejected", datetime.now(UTC))
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome) == ("incremental", "unchanged")


def test_a_deletion_that_was_inferred_and_taken_back_is_counted(take: Take) -> None:
    world = gestal_world(integrations=1, installs=30)
    taken = based(take, world)
    (gone,) = taken.change(1, "uninstall")
    taken.sync()
    world.restore(gone.id)
    taken.sync()
    (event,) = [each for each in taken.events() if each["type"] == "install.restored"]
    assert event["deletion_inferred"]
    assert sources.known(taken.engine, taken.source).retractions == 1


def test_a_listing_that_moves_in_every_look_claims_nothing(take: Take) -> None:
    world = gestal_world(integrations=1, installs=40)
    taken = based(take, world, page_size=5)
    world.before_request = Churn(Random(1), 8.0, ("update", "install"))
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome) == ("incremental", "partial")
    world.before_request = None
    taken.sync()
    assert {id: row["payload"] for id, row in taken.installs().items()} == source_rows(world)


def test_a_total_that_stays_wrong_does_not_cost_a_full_walk_each_time(take: Take) -> None:
    world = gestal_world(integrations=1, installs=30)
    taken = based(take, world)
    world.faults.add(Fault("wrong_total", times=None, match="installations", amount=-1))
    modes = [taken.sync(mode="incremental").runs[0].mode for _ in range(3)]
    assert modes.count("full") <= 1


def test_escalations_in_a_row_wait_longer_and_longer() -> None:
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    assert Escalation().allowed(NOW, minute, hour)
    for count, wait in ((1, 2 * minute), (3, 8 * minute), (10, hour), (99, hour)):
        kept = Escalation(count, NOW)
        assert not kept.allowed(NOW + wait - timedelta(seconds=1), minute, hour)
        assert kept.allowed(NOW + wait, minute, hour)
    assert Escalation(5, NOW).allowed(NOW - hour, minute, hour), "the clock was set back"


def test_without_a_base_or_with_doubts_only_a_full_walk_will_do() -> None:
    sure = Memory(based=True, active=0, doubtful=0, decided=0, order=(), digests={})
    unsure = [
        Memory(based=False, active=0, doubtful=0, decided=0, order=(), digests={}),
        Memory(based=True, active=1, doubtful=1, decided=0, order=(), digests={}),
    ]
    sorts = Accepted(newest_first="desc_nulls_last")
    for paging in ("numbered", "keyset"):
        assert routes.incremental(paging, 10, sure, sorts) is not None
        assert all(routes.incremental(paging, 10, each, sorts) is None for each in unsure)
    assert routes.incremental("keyset", 10, sure, Accepted()) is None


def test_pages_are_fetched_side_by_side_where_that_is_faster() -> None:
    assert routes.worth_parallel("pristine", 0, 0.001)
    assert routes.worth_parallel("pristine", 20.0, 0.2)
    assert not routes.worth_parallel("pristine", 5.0, 0.1)
    assert not routes.worth_parallel("repaired", 0, 1.0)


@pytest.mark.slow
def test_a_repaired_walk_costs_at_most_two_and_a_half_times_the_pages(take: Take) -> None:
    world = gestal_world(integrations=1, installs=2_000)
    taken = based(take, world, page_size=100)
    (integration,) = world.shown_integrations()
    costs = []
    for seed in range(20):
        world.before_request = Churn(Random(seed), 0.5, ("update", "install", "touch"))
        runs = taken.sync(scopes=(installs_of(integration["cloud_id"]),)).runs
        costs += [run.requests / run.pages for run in runs if run.certificate == "repaired"]
    assert len(costs) >= 15
    assert sum(costs) / len(costs) <= 2.5
