"""A whole sync against a platform over HTTP: what the snapshot and the event log then say."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from platforms import (
    OPEN,
    Stocktake,
    Unhurried,
    World,
    counts,
    exit_code,
    source_rows,
    summary,
)
from receivers import SECRET, endpoint
from sqlalchemy import Engine
from standardwebhooks import Webhook
from truth import Truth, columns, integration_of, moment, told_by

from worker import aftermath, clock
from worker.client import ATTEMPTS
from worker.deliver import deliver
from worker.errors import RateLimited, Refused, StoreBusy
from worker.models import INSTALLS, INTEGRATIONS
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.calls import Call
from worker.sandbox.faults import Fault
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.receiver import Receiver
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.world import START
from worker.state import leases, runs, sources
from worker.state.tables import SourceState
from worker.sync import Wish, sync

Take = Callable[..., Stocktake]
SEEDED: Mapping[str, Callable[..., World]] = {"gestal": gestal_world, "aeontel": aeontel_world}


def check_snapshot(taken: Stocktake, truth: Truth) -> None:
    """The snapshot has every install ever seen as the platform has, or last had, it."""
    installs = taken.installs()
    assert {id: row["state"] for id, row in installs.items()} == truth.states
    alive = source_rows(taken.world)
    for id, row in truth.rows.items():
        kept = installs[id]
        assert kept["payload"] == row
        expected = columns(taken.world, row)
        assert {name: kept[name] for name in expected} == expected
        assert (kept["deleted_at"] is None) == (kept["state"] == "active")
        assert kept["missing_since"] is None
        if id in alive:
            assert kept["integration_id"] == integration_of(taken.world, id)
            assert kept["deleted_at"] == moment(row.get("deletedAt"))


def folded(snapshot: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    """A snapshot after events: of each install what its newest one says."""
    after = {event["install_id"]: event["after"] for event in events if event["install_id"]}
    return snapshot | {id: as_row(document) for id, document in after.items()}


def as_row(document: Mapping[str, Any]) -> dict[str, Any]:
    """An event's `after` with its times as times."""
    is_time = {name for name in document if name.endswith("_at") or name == "missing_since"}
    return {name: moment(v) if name in is_time else v for name, v in document.items()}


def check_fold(before: dict[str, Any], events: list[dict[str, Any]], now: dict[str, Any]) -> None:
    """Folding events over a snapshot gives the state of all announced and the active rows."""
    after = folded(before, events)
    announced = before.keys() | after.keys()
    assert {id: after[id]["state"] for id in announced} == {
        id: now[id]["state"] for id in announced
    }
    active = {id for id, row in now.items() if row["state"] == "active"}
    assert {id: after[id] for id in active} == {id: now[id] for id in active}


def check_events(events: list[dict[str, Any]], after: int) -> None:
    """Events are numbered without a gap, their ids never repeat, pairs are shared."""
    assert [event["sequence"] for event in events] == list(
        range(after + 1, after + 1 + len(events))
    )
    pairs: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for event in events:
        if event["install_id"]:
            pairs[event["install_id"], event["revision"]].append((event["before"], event["after"]))
    for (_, revision), shared in pairs.items():
        assert all(pair == shared[0] for pair in shared)
        assert shared[0][1]["revision"] == revision


def follow(taken: Stocktake, *changes: int) -> None:
    """A baseline, and then rounds of so many random changes, each followed by a sync."""
    truth = Truth(taken.world)
    truth.look()
    assert exit_code(taken.sync()) == 0
    check_snapshot(taken, truth)
    assert {event["baseline"] for event in taken.events()} == {True}
    for count in changes:
        before, last = taken.installs(), taken.last_sequence()
        assert len(taken.change(count)) == count
        expected = truth.look()
        synced = taken.sync()
        assert exit_code(synced) == 0
        check_snapshot(taken, truth)
        events = taken.events(after=last)
        assert told_by(events) == expected
        assert not any(event["baseline"] for event in events)
        assert {event["detected_at"] > clock.now() for event in events} <= {False}
        check_events(events, last)
        check_fold(before, events, taken.installs())
        told = sum(len(each) for each in expected.values())
        assert sum(n for type_, n in counts(synced).items() if type_ < "integration") == told


@pytest.mark.parametrize("dialect", ["gestal", pytest.param("aeontel", marks=pytest.mark.slow)])
def test_the_snapshot_is_the_source_and_the_events_are_what_happened(
    dialect: str, take: Take
) -> None:
    follow(take(SEEDED[dialect](installs=40), page_size=30), 200)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dialect", SEEDED)
def test_every_event_that_is_no_baseline_is_delivered_signed_and_in_order(
    dialect: str, seed: int, take: Take
) -> None:
    receiver = Receiver(SECRET)
    taken = take(
        SEEDED[dialect](installs=500, seed=seed),
        receiver=receiver,
        endpoints=lambda sandbox: (
            endpoint(url=sandbox.at("hooks"), events=("install.*", "integration.*")),
        ),
    )
    follow(taken, 200, 200, 0)  # what was deleted inferred may be purged at the last look
    done = deliver(taken.engine, taken.settings.endpoints, stop=threading.Event(), wait_s=60)
    announced = {event["event_id"]: event for event in taken.events() if not event["baseline"]}
    assert (done.delivered, done.pending) == (len(announced), 0)
    arrived: dict[str, list[int]] = defaultdict(list)
    for request in receiver.received:
        body = Webhook(SECRET).verify(request.body, dict(request.headers))
        event = announced.pop(request.headers["webhook-id"])
        assert body["type"] == event["type"]
        assert body["data"]["sequence"] == event["sequence"]
        arrived[event["install_id"] or event["integration_id"]].append(event["sequence"])
    assert announced == {}
    assert all(sequences == sorted(sequences) for sequences in arrived.values())


# Baselines


@pytest.mark.slow
def test_an_integration_that_appears_later_is_announced_with_its_installs(take: Take) -> None:
    world = gestal_world(integrations=1, installs=5)
    taken = take(world)
    taken.sync()
    new = world.create_integration("Later")
    world.install(new)
    last = taken.last_sequence()
    taken.sync()
    assert [(event["type"], event["baseline"]) for event in taken.events(last)] == [
        ("integration.created", False),
        ("install.created", False),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", SEEDED)
def test_an_integration_that_is_configured_later_has_a_baseline(dialect: str, take: Take) -> None:
    world = SEEDED[dialect](installs=6)
    first, second = world.integrations
    taken = take(world, integrations=(first,))
    taken.sync()
    last = taken.last_sequence()
    taken.configure(integrations=(first, second))
    taken.sync()
    events = taken.events(last)
    assert {event["integration_id"] for event in events} == {second}
    assert all(event["baseline"] for event in events)
    world.install(first)
    world.install(second)
    last = taken.last_sequence()
    taken.sync()
    assert [event["baseline"] for event in taken.events(last)] == [False, False]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", SEEDED)
def test_an_integration_that_is_configured_no_more_is_frozen(dialect: str, take: Take) -> None:
    world = SEEDED[dialect](installs=6)
    first, second = world.integrations
    taken = take(world)
    taken.sync()
    before, last = taken.installs(), taken.last_sequence()
    taken.configure(integrations=(first,))
    taken.change(30)
    world.delete_integration(second)
    taken.sync()
    assert {event["integration_id"] for event in taken.events(last)} == {first}
    frozen = {id: row for id, row in before.items() if row["integration_id"] == second}
    assert frozen.items() <= taken.installs().items()


@pytest.mark.slow
def test_the_baseline_of_a_walk_that_stayed_partial_goes_on(take: Take) -> None:
    world = gestal_world(integrations=1, installs=20)
    taken = take(world, page_size=5)
    world.faults.add(Fault("empty_page", times=2, match="page=3"))
    assert exit_code(taken.sync()) == 75
    assert 0 < len(taken.active()) < 20
    assert exit_code(taken.sync()) == 0
    assert taken.active() == world.live()
    assert all(event["baseline"] for event in taken.events())
    world.install(next(iter(world.integrations)))
    taken.sync()
    assert [event["baseline"] for event in taken.events()].count(False) == 1


# Absences


@pytest.mark.slow
def test_one_sync_walks_a_gestal_listing_twice_before_it_deletes(take: Take) -> None:
    world = gestal_world(installs=20)
    taken = take(world)
    taken.sync()
    quiet, scope = world.integrations
    gone = next(iter(world.installs[scope]))
    world.uninstall(gone)
    began = len(taken.requests)
    synced = taken.sync()
    walked = [target.partition("?")[0] for _, target in taken.requests[began:]]
    assert walked.count(f"/integrations/{scope}/installations") == 2
    assert walked.count(f"/integrations/{quiet}/installations") == 1
    assert counts(synced) == {"install.deleted": 1}
    event = taken.events()[-1]
    assert (event["install_id"], event["deletion_inferred"]) == (gone, True)
    runs_of_scope = [run for run in synced.runs if run.scope == f"installs/{scope}"]
    assert [(run.outcome, run.requests, run.suspects) for run in runs_of_scope] == [("ok", 2, 0)]
    recorded = runs.named(taken.engine, runs_of_scope[0].run_id)
    assert (recorded.outcome, recorded.deleted, recorded.requests) == ("ok", 1, 2)


@pytest.mark.slow
def test_an_install_that_comes_back_between_the_walks_was_never_gone(take: Take) -> None:
    world = gestal_world(integrations=1, installs=20)
    taken = take(world)
    taken.sync()
    (scope,) = world.integrations
    gone = next(iter(world.installs[scope]))
    world.uninstall(gone)
    listings = 0

    def come_back(world: GestalWorld, call: Call) -> None:
        nonlocal listings
        listings += call.path.endswith("installations")
        if listings == 2 and gone in world.removed:
            world.restore(gone)

    world.before_request = come_back
    assert counts(taken.sync()) == {}
    assert taken.installs()[gone]["missing_since"] is None
    assert taken.active() == world.live()


@pytest.mark.slow
def test_a_suspect_whose_second_walk_fails_stays_active_until_the_next_sync(take: Take) -> None:
    world = gestal_world(integrations=1, installs=20)
    taken = take(world)
    taken.sync()
    gone = next(iter(world.live()))
    world.uninstall(gone)
    world.faults.add(Fault("server_error", times=ATTEMPTS, match="installations", after=1))
    synced = taken.sync()
    assert exit_code(synced) == 75
    assert [run.suspects for run in synced.runs] == [0, 1]
    assert taken.installs()[gone]["missing_since"] is not None
    assert gone in taken.active()
    began = len(taken.requests)
    assert counts(taken.sync()) == {"install.deleted": 1}
    # One more walk is all it takes: this suspect has been missed before.
    assert sum("installations" in target for _, target in taken.requests[began:]) == 1


@pytest.mark.slow
def test_an_integration_that_was_deleted_takes_its_installs_along(take: Take) -> None:
    world = gestal_world(installs=40)
    taken = take(world, guard=OPEN.model_copy(update={"min_rows": 0, "max_count": 0}))
    taken.sync()
    kept, lost = world.integrations
    ids = set(world.installs[lost])
    world.delete_integration(lost)
    synced = taken.sync()
    assert exit_code(synced) == 0
    assert counts(synced) == {"install.deleted": 40, "integration.deleted": 1}
    assert taken.active() == set(world.installs[kept])
    deleted = taken.events()[-41:]
    assert deleted[0]["type"] == "integration.deleted"
    assert {event["install_id"] for event in deleted[1:]} == ids


@pytest.mark.slow
def test_an_integration_of_aeontel_that_was_deleted_leaves_its_installs(take: Take) -> None:
    world = aeontel_world(installs=10)
    taken = take(world)
    taken.sync()
    active = taken.active()
    world.delete_integration(next(iter(world.integrations)))
    assert counts(taken.sync()) == {"integration.deleted": 1}
    assert taken.events()[-1]["deletion_inferred"] is False
    assert taken.active() == active


@pytest.mark.slow
def test_hidden_soft_deletions_make_the_same_events_as_listed_ones(
    take: Take, tmp_path: Path
) -> None:
    def story(lists_deleted: bool) -> list[tuple[Any, ...]]:
        world = aeontel_world(installs=30, seed=3, lists_deleted=True)
        taken = take(world, data_dir=tmp_path / str(lists_deleted), now=lambda: START)
        taken.sync()  # while soft-deleted ones are listed, so that both know the same
        world.lists_deleted = lists_deleted
        told = []
        for _ in range(2):
            last = taken.last_sequence()
            taken.change(60)
            assert exit_code(taken.sync()) == 0
            told.append(told_by(taken.events(last)))
        return [
            (round_, id, type_, fields, inferred)
            for round_, each in enumerate(told)
            for id, events in sorted(each.items())
            for type_, fields, inferred, _ in events
        ]

    assert story(lists_deleted=False) == story(lists_deleted=True)


@pytest.mark.slow
def test_a_purge_is_told_once(take: Take) -> None:
    world = aeontel_world(installs=10)
    taken = take(world)
    taken.sync()
    gone = next(iter(world.live()))
    world.uninstall(gone)
    assert counts(taken.sync()) == {"install.deleted": 1}
    world.purge(gone)
    assert counts(taken.sync()) == {"install.purged": 1}
    kept = taken.installs()[gone]
    assert (kept["state"], kept["purged_at"] is None) == ("purged", False)
    assert counts(taken.sync()) == {}


# Rate limits, pauses, other syncs


@pytest.mark.slow
def test_a_rate_limit_stops_the_source_for_every_process_until_it_is_lifted(take: Take) -> None:
    world = gestal_world(integrations=1, installs=20)
    taken = take(world, page_size=5)
    world.faults.add(Fault("rate_limited", match="page=3"))
    synced = taken.sync()
    assert [run.outcome for run in synced.runs] == ["ok", "rate_limited"]
    assert exit_code(synced) == 75
    assert taken.active() <= world.live()
    began = len(taken.requests)
    taken.restart()
    with pytest.raises(RateLimited, match="stocktake resume farm") as caught:
        taken.sync()
    assert caught.value.wait_s == pytest.approx(7200, abs=60)
    assert len(taken.requests) == began
    state = sources.known(taken.engine, taken.source)
    assert (state.failures, state.strikes) == (0, 1)

    sources.resume(taken.engine, taken.source)
    assert exit_code(taken.sync()) == 0
    walked = [target for _, target in taken.requests[began:] if "installations" in target]
    assert "page=3&" in walked[0]  # it went on where it was
    assert taken.active() == world.live()


@pytest.mark.slow
def test_limits_in_a_row_last_longer_where_nobody_says_how_long(take: Take) -> None:
    world = aeontel_world(integrations=1, installs=5)
    taken = take(world)
    waits = []
    for _ in range(3):
        world.faults.add(Fault("rate_limited"))
        began = clock.now()
        taken.sync()
        until = sources.known(taken.engine, taken.source).rate_limited_until
        assert until is not None
        waits.append((until - began).total_seconds())
        sources.change(taken.engine, taken.source, expired)
    assert waits == pytest.approx([60, 120, 240], abs=30)
    assert exit_code(taken.sync()) == 0
    assert sources.known(taken.engine, taken.source).strikes == 0


def expired(state: SourceState) -> None:
    state.rate_limited_until = datetime.fromisoformat("2026-01-01T00:00:00Z")


def test_a_paused_source_is_not_asked(take: Take) -> None:
    taken = take(gestal_world(installs=2))
    sources.pause(taken.engine, taken.source)
    with pytest.raises(Refused, match="farm is paused; `stocktake resume farm`"):
        taken.sync()
    assert taken.requests == []
    sources.resume(taken.engine, taken.source)
    assert exit_code(taken.sync()) == 0


@pytest.mark.slow
def test_of_two_syncs_of_one_source_one_is_busy(take: Take) -> None:
    world = gestal_world(integrations=1, installs=5)
    taken = take(world)
    inside, free = threading.Event(), threading.Event()

    def hold(world: GestalWorld, call: Call) -> None:
        inside.set()
        assert free.wait(timeout=30)

    world.before_request = hold
    first = threading.Thread(target=taken.sync)
    first.start()
    assert inside.wait(timeout=30)
    try:
        with pytest.raises(StoreBusy, match="sync farm is under way in process"):
            taken.sync()
    finally:
        free.set()
        first.join()
    world.before_request = None
    assert taken.active() == world.live()
    assert exit_code(taken.sync()) == 0


def test_what_is_wanted_is_decided_when_nobody_else_can_begin(take: Take) -> None:
    taken = take(gestal_world(integrations=2, installs=3))
    scope, asked = "installs/" + next(iter(taken.world.integrations)), []  # type: ignore[union-attr]

    def revise(wish: Wish) -> Wish:
        assert wish == Wish("incremental")
        assert not taken.requests
        with pytest.raises(StoreBusy), leases.lease(taken.engine, "sync farm"):
            pass
        return Wish("full", (scope,))

    synced = sync(
        taken.settings,
        taken.engine,
        taken.source,
        Wish("incremental"),
        Unhurried(),
        revise=revise,
        on_request=lambda: asked.append(1),
    )
    assert summary(synced.runs) == [(scope, "ok", "pristine")]
    assert len(asked) == len(taken.requests)


@pytest.mark.slow
def test_a_lost_state_store_costs_no_history(take: Take) -> None:
    taken = take(gestal_world(integrations=1, installs=5))
    taken.sync()
    taken.sync()
    taken.change(10)
    taken.engine.dispose()
    for path in taken.settings.private_dir.glob("state.db*"):
        path.unlink()
    taken.restart()
    assert exit_code(taken.sync()) == 0
    assert taken.active() == taken.world.live()
    taken.change(10)
    assert exit_code(taken.sync()) == 0


# What a sync leaves on disk


def files(folder: Path) -> dict[str, str]:
    """Every file with the hash of its bytes, but those that only say who is at work."""
    ours = ("budgets", "warehouse.lock", "state.db-shm")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in ours for part in path.relative_to(folder).parts)
    }


@pytest.mark.slow
@pytest.mark.parametrize("dialect", SEEDED)
def test_a_dry_run_tells_what_would_be_recorded_and_writes_nothing(
    dialect: str, take: Take
) -> None:
    taken = take(SEEDED[dialect](installs=20))
    taken.sync()
    taken.change(60)
    before, last = files(taken.settings.data_dir), taken.last_sequence()
    dry = taken.sync(dry_run=True)
    assert files(taken.settings.data_dir) == before
    wet = taken.sync()
    assert (summary(dry.runs), counts(dry)) == (summary(wet.runs), counts(wet))
    would = [(e.sequence, e.type, e.install_id) for plan in dry.plans for e in plan.events]
    did = [(e["sequence"], e["type"], e["install_id"]) for e in taken.events(last)]
    assert would == did
    assert "install.deleted" in counts(dry)


def test_a_dry_run_before_the_first_sync_leaves_no_store(take: Take) -> None:
    taken = take(gestal_world(integrations=1, installs=3))
    dry = taken.sync(dry_run=True)
    assert counts(dry) == {"integration.created": 1, "install.created": 3}
    assert not taken.settings.store_path.exists()
    assert not taken.settings.published_path.exists()
    assert not taken.settings.spool_dir.exists()


@pytest.mark.slow
def test_a_redacted_value_is_nowhere_on_disk(take: Take) -> None:
    world = aeontel_world(integrations=1, installs=20)
    taken = take(world, redact=("variables.api_key",), page_size=7)
    taken.sync()
    for id in list(world.live())[:3]:
        world.update(id)
    taken.sync()
    world.faults.add(Fault("server_error", times=None, match="after="))
    taken.sync()  # one that leaves a spool to go on with
    secrets = [row["variables"]["api_key"].encode() for row in world.installs.values()]
    kept = [path.read_bytes() for path in taken.settings.data_dir.rglob("*") if path.is_file()]
    assert len(kept) > 4
    assert not [secret for secret in secrets if any(secret in each for each in kept)]
    assert {e["changed_fields"][0] for e in taken.events() if e["changed_fields"]} == {"variables"}


# How a sync is remembered


@pytest.mark.slow
def test_runs_are_kept_and_published(take: Take) -> None:
    taken = take(aeontel_world(integrations=1, installs=5))
    synced = taken.sync()
    (stored,) = [run for run in runs.recent(taken.engine) if run.scope == INSTALLS]
    (ran,) = [run for run in synced.runs if run.scope == INSTALLS]
    assert (stored.run_id, stored.seen, stored.outcome) == (ran.run_id, 5, "ok")
    published = taken.rows("select run_id, scope, outcome from sync_runs order by scope desc")
    assert [row["scope"] for row in published] == [INTEGRATIONS, INSTALLS]
    (source,) = taken.rows("from sources")
    assert source["active_installs"] == len(taken.active())


@pytest.mark.slow
def test_a_sync_of_one_scope_does_not_count_as_one_of_the_source(take: Take) -> None:
    world = gestal_world(installs=3)
    taken = take(world)
    scope = f"installs/{next(iter(world.integrations))}"
    taken.sync(scopes=(scope,))
    part = sources.known(taken.engine, taken.source)
    assert (part.last_full_at, part.last_tried_at) == (None, None)
    taken.sync()
    whole = sources.known(taken.engine, taken.source)
    assert None not in (whole.last_full_at, whole.last_tried_at)


@pytest.mark.slow
def test_three_failures_in_a_row_are_told_and_so_is_the_recovery(take: Take) -> None:
    world = gestal_world(integrations=1, installs=3)
    taken = take(
        world,
        endpoints=lambda sandbox: (endpoint(events=("sync.failed", "sync.recovered")),),
    )
    world.faults.add(Fault("forbidden", times=None, match="integrations"))
    for _ in range(4):
        assert exit_code(taken.sync()) == 1
    world.faults.clear()
    taken.sync()
    taken.sync()
    assert notices(taken.engine) == ["sync.failed", "sync.recovered"]


@pytest.mark.slow
def test_a_notice_is_not_lost_with_the_process_that_should_have_told_it(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = gestal_world(integrations=1, installs=3)
    taken = take(world, endpoints=lambda sandbox: (endpoint(events=("sync.failed",)),))
    world.faults.add(Fault("forbidden", times=None, match="integrations"))
    for _ in range(2):
        taken.sync()
    with monkeypatch.context() as patched:
        patched.setattr(aftermath, "announce_in", dies)
        with pytest.raises(Killed):
            taken.sync()
    taken.sync()
    assert notices(taken.engine) == ["sync.failed"]


class Killed(BaseException):
    """The process is gone."""


def dies(*_: object) -> None:
    raise Killed


def notices(engine: Engine) -> list[str]:
    """The types of what there is to deliver, oldest first."""
    with engine.connect() as connection:
        result = connection.exec_driver_sql("select type from deliveries order by created_at")
        return [row[0] for row in result]


@pytest.mark.slow
def test_a_stop_ends_a_sync_between_two_pages(take: Take) -> None:
    world = gestal_world(integrations=1, installs=20)
    taken = take(world, page_size=5)
    stop = Unhurried()
    world.before_request = lambda world, call: stop.set() if "page=2" in call.target else None
    synced = taken.sync(stop=stop)
    assert [run.outcome for run in synced.runs] == ["ok", "partial"]
    assert len(taken.active()) == 10
    state = sources.known(taken.engine, taken.source)
    # It is no failure of the source, and what was cut short is due at once.
    assert (state.failures, state.last_tried_at) == (0, None)
    world.before_request = None
    assert [run.certificate for run in taken.sync().runs] == ["pristine", "repaired"]
    assert taken.active() == world.live()


@pytest.mark.slow
def test_what_analysts_have_is_what_the_store_has(take: Take) -> None:
    taken = take(aeontel_world(installs=5))
    taken.sync()
    assert isinstance(taken.world, AeontelWorld)
    assert taken.settings.published_path.stat().st_mode & 0o777 == 0o444
    assert taken.states().keys() == taken.world.installs.keys()
