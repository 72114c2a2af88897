"""Incremental syncs through the whole product: what they cost, when they call for a full walk."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from platforms import Stocktake, exit_code, source_rows

from worker import routes
from worker.client import ATTEMPTS
from worker.findings import Accepted
from worker.models import INSTALLS, INTEGRATIONS, installs_of
from worker.routes import Escalation, Memory
from worker.sandbox import aeontel
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.calls import Answer, Call
from worker.sandbox.faults import Fault
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.world import Churn
from worker.settings.values import Guard
from worker.state import holds, sources

Take = Callable[..., Stocktake]
NOW = datetime(2026, 1, 31, tzinfo=UTC)
UNPURGED = ("install", "upgrade", "update", "uninstall", "restore")  # such changes keep every row

pytestmark = pytest.mark.slow


def listings(taken: Stocktake) -> list[str]:
    """What the platform was asked of installs, since the last look."""
    asked = [path for _, path in taken.requests if "install" in path]
    taken.requests.clear()
    return asked


def based(take: Take, world: object, **fields: object) -> Stocktake:
    """After a first full sync, and one that found out what the source accepts."""
    taken = take(world, **fields)
    taken.sync()
    taken.sync(mode="incremental")
    taken.requests.clear()
    return taken


def remembered(taken: Stocktake) -> dict[str, object]:
    """What the source was found to accept."""
    accepted = sources.known(taken.engine, taken.source).accepted
    assert accepted is not None
    return accepted


def rows_of(taken: Stocktake) -> dict[str, object]:
    """The row of every install that is not purged."""
    return {id: row["payload"] for id, row in taken.installs().items() if row["state"] != "purged"}


def deaf(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Aeontel takes no notice of these parameters from now on."""
    truth = aeontel.handle

    def handle(world: AeontelWorld, call: Call, now: datetime) -> Answer:
        heard = tuple(pair for pair in call.params if pair[0] not in names)
        return truth(world, replace(call, params=heard), now)

    monkeypatch.setattr(aeontel, "handle", handle)


@pytest.mark.parametrize("rows", [100, 100_000])
def test_an_unchanged_listing_of_aeontel_costs_three_requests(rows: int, take: Take) -> None:
    taken = based(take, aeontel_world(integrations=1, installs=rows))
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome, len(listings(taken))) == ("incremental", "unchanged", 3)


@pytest.mark.parametrize("rows", [800, 100_000])
def test_a_listing_of_gestal_costs_its_changed_pages_and_two_or_one_request_unchanged(
    rows: int, take: Take
) -> None:
    world = gestal_world(integrations=1, installs=rows)
    taken = based(take, world, page_size=100)
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome, len(listings(taken))) == ("incremental", "unchanged", 1)
    taken.requests.clear()
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
    taken = based(take, aeontel_world(integrations=1, installs=60))
    for kind in ("install", "upgrade", "uninstall"):
        taken.change(2, kind)
    (run,) = taken.sync(mode="incremental").runs
    assert run.mode == "incremental"
    told = {"install.created": 2, "install.deleted": 2, "install.upgraded": 2}
    assert run.events == told
    assert len(listings(taken)) == 3


def test_heads_that_broke_off_hide_nothing_from_the_next_ones(take: Take) -> None:
    world = aeontel_world(integrations=1, installs=30)
    taken = based(take, world, page_size=10)
    taken.change(25, "install")
    world.faults.add(Fault("server_error", times=ATTEMPTS, match="after="))
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome) == ("incremental", "partial")
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.events) == ("incremental", {"install.created": 25})


def test_a_full_walk_that_broke_off_hides_nothing_from_the_heads(take: Take) -> None:
    world = aeontel_world(integrations=1, installs=60, lists_deleted=False)
    taken = based(take, world, page_size=20)
    world.publish(next(iter(world.integrations)))
    for id in sorted(world.live(), reverse=True):
        world.upgrade(id)  # so that what stands first in the listing stands first at the head, too
    world.faults.add(Fault("server_error", times=None, match="integration-installs", after=1))
    (_, run) = taken.sync().runs
    assert (run.outcome, run.events) == ("partial", {"install.upgraded": 20})
    for mode in ("full", "incremental"):  # a full one in its place, but not each time
        (run,) = taken.sync(mode="incremental").runs
        assert (run.mode, run.outcome) == (mode, "partial")
    world.faults.clear()
    taken.sync()
    told = [event["install_id"] for event in taken.events() if event["type"] == "install.upgraded"]
    assert sorted(told) == sorted(world.live())
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome) == ("incremental", "unchanged")


def test_integrations_that_are_all_gone_are_looked_for_once_and_held(take: Take) -> None:
    world = gestal_world(integrations=3, installs=5)
    taken = based(take, world)
    active = taken.active()
    for id in list(world.integrations):
        world.delete_integration(id)
    synced = taken.sync(mode="incremental")
    assert [(run.scope, run.outcome) for run in synced.runs] == [(INTEGRATIONS, "held")]
    assert len([path for _, path in taken.requests if path.startswith("/integrations?")]) == 1
    assert taken.active() == active


def test_an_integration_that_is_deleted_is_no_failure(take: Take) -> None:
    world = gestal_world(integrations=2, installs=5)
    taken = based(take, world)
    gone = next(iter(world.integrations))
    installs = set(world.installs[gone])
    world.delete_integration(gone)
    synced = taken.sync(mode="incremental")
    assert [(run.mode, run.outcome) for run in synced.runs] == [
        ("full", "ok"), ("incremental", "unchanged"),
    ]  # fmt: skip
    assert {id for id, state in taken.states().items() if state == "deleted"} == installs
    assert [run.outcome for run in taken.sync(mode="incremental").runs] == ["unchanged"]


def test_a_source_that_refuses_to_sort_walks_fully_and_says_so_once(
    take: Take, caplog: pytest.LogCaptureFixture
) -> None:
    world = aeontel_world(installs=5, accepts_order_by=False, accepts_filter=False)
    with caplog.at_level(logging.WARNING):
        taken = based(take, world)
        runs = [run for _ in range(3) for run in taken.sync(mode="incremental").runs]
    assert {(run.scope, run.mode, run.outcome) for run in runs} == {(INSTALLS, "full", "unchanged")}
    assert len([r for r in caplog.records if "refuses orderBy" in r.getMessage()]) == 1
    assert remembered(taken) == {"newest_first": None, "filters": False}


def test_a_source_that_begins_to_refuse_is_walked_fully_at_once(take: Take) -> None:
    world = aeontel_world(installs=5)
    taken = based(take, world)
    world.accepts_order_by = False
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.outcome) == ("full", "unchanged")


def test_a_source_that_takes_no_notice_of_order_by_is_walked_fully(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf(monkeypatch, "orderBy")
    world = aeontel_world(integrations=1, installs=30)
    taken = based(take, world, page_size=10)
    taken.change(3, "upgrade")
    (run,) = taken.sync(mode="incremental").runs
    assert (run.mode, run.certificate) == ("full", "keyset")
    assert rows_of(taken) == source_rows(world)
    assert remembered(taken)["newest_first"] is None


def test_what_a_source_accepts_is_not_found_out_while_it_is_empty(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf(monkeypatch, "orderBy")
    taken = based(take, aeontel_world(integrations=1, installs=0), page_size=10)
    assert sources.known(taken.engine, taken.source).accepted is None
    for _ in range(3):
        taken.change(15, "install")
        taken.sync(mode="incremental")
        assert taken.active() == taken.world.live()
    assert remembered(taken)["newest_first"] is None


def test_a_long_listing_of_aeontel_is_walked_in_ranges_of_ids_and_gives_the_same(
    take: Take, tmp_path: Path
) -> None:
    world = aeontel_world(integrations=1, installs=120)
    serial = based(take, world, data_dir=tmp_path / "1", page_size=10, max_concurrency=1)
    ranges = based(take, world, data_dir=tmp_path / "3", page_size=10, max_concurrency=3)
    ranges.change(40, *UNPURGED)
    runs = [run for taken in (serial, ranges) for run in taken.sync().runs]
    assert {run.certificate for run in runs} == {"keyset"}
    assert not any("filter=" in path for path in listings(serial))
    assert any("filter=" in path for path in listings(ranges))
    assert rows_of(ranges) == rows_of(serial) == source_rows(world)


def test_a_source_that_takes_no_notice_of_filter_is_walked_in_one_chain(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf(monkeypatch, "filter")
    taken = based(take, aeontel_world(integrations=1, installs=120), page_size=10)
    assert remembered(taken)["filters"] is False
    assert exit_code(taken.sync()) == 0
    assert not any("filter=" in path for path in listings(taken))


def test_a_source_that_takes_no_more_notice_of_filter_falls_back_at_once(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = aeontel_world(integrations=1, installs=120)
    based(take, world, data_dir=tmp_path / "1", page_size=10)
    deaf(monkeypatch, "filter")
    taken = take(world, data_dir=tmp_path / "1", page_size=10)
    taken.change(10, *UNPURGED)
    assert {run.certificate for run in taken.sync().runs} == {"keyset"}
    assert any("filter=" in path for path in listings(taken))
    assert rows_of(taken) == source_rows(world)
    assert remembered(taken)["filters"] is False
    taken.sync()
    assert not any("filter=" in path for path in listings(taken))


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
    sure = Memory(based=True, unsure=False, active=0, doubtful=0, decided=0, order=(), digests={})
    unsure = [
        Memory(based=False, unsure=False, active=0, doubtful=0, decided=0, order=(), digests={}),
        Memory(based=True, unsure=False, active=1, doubtful=1, decided=0, order=(), digests={}),
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


def test_a_repaired_walk_costs_at_most_two_and_a_half_times_the_pages(take: Take) -> None:
    world = gestal_world(integrations=1, installs=2_000)
    taken = based(take, world, page_size=100)
    (integration,) = world.integrations
    costs = []
    for seed in range(10):
        world.before_request = Churn(Random(seed), 0.5)
        synced = taken.sync(scopes=(installs_of(integration),))
        (run,) = synced.runs
        assert run.certificate == "repaired"
        walks = len(synced.plans)  # a second one where the first leaves suspects
        costs.append(run.requests / walks / run.pages)
    assert sum(costs) / len(costs) <= 2.5
