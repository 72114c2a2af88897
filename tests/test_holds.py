"""Absences that look like an accident wait for a person, and what becomes of the decision."""

from collections.abc import Callable

import pytest
from platforms import Stocktake, Unhurried, counts, exit_code

from worker.client import ATTEMPTS
from worker.errors import ConfigInvalid, RateLimited, RetryLater
from worker.findings import Run
from worker.holding import approve, reject
from worker.models import INSTALLS, INTEGRATIONS
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.faults import Fault
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.settings.values import Guard
from worker.state import holds
from worker.state.tables import HoldRow

Take = Callable[..., Stocktake]

pytestmark = pytest.mark.slow
STRICT = Guard(min_rows=2, max_share=0.1, max_count=1000)


def held(taken: Stocktake) -> list[HoldRow]:
    """Open holds, newest first."""
    return [hold for hold in holds.every(taken.engine, taken.source.name) if hold.status == "open"]


def the_hold(taken: Stocktake) -> HoldRow:
    (hold,) = held(taken)
    return hold


def approved(taken: Stocktake) -> tuple[Run, ...]:
    hold_id = the_hold(taken).hold_id
    return approve(taken.settings, taken.engine, hold_id, Unhurried(), lambda *_: None)


def uninstalled(world: GestalWorld, count: int) -> list[str]:
    """Removes `count` installs from one integration."""
    gone = list(world.installs[next(iter(world.integrations))])[:count]
    for id in gone:
        world.uninstall(id)
    return gone


def full_workspace(world: AeontelWorld, count: int = 3) -> tuple[str, list[str]]:
    """A workspace with exactly `count` installs, all of them active."""
    keys = list(world.installs)[:count]
    workspace = "0" * 8
    for id in keys:
        world.update(id, workspaceId=workspace, deletedAt=None)
    return workspace, keys


@pytest.fixture
def farm(take: Take) -> Stocktake:
    """Gestal with one integration of 20 installs, five of which have vanished and are held."""
    world = gestal_world(integrations=1, installs=20)
    taken = take(world, guard=STRICT)
    taken.sync()
    uninstalled(world, 5)
    assert exit_code(taken.sync()) == 3
    return taken


def removed(taken: Stocktake) -> set[str]:
    assert isinstance(taken.world, GestalWorld)
    return set(taken.world.removed)


def test_many_absences_are_held_and_the_rest_of_the_run_is_recorded(take: Take) -> None:
    world = gestal_world(integrations=1, installs=20)
    taken = take(world, guard=STRICT)
    taken.sync()
    gone = uninstalled(world, 5)
    new = world.install(next(iter(world.integrations)))
    synced = taken.sync()
    assert [(run.outcome, run.held) for run in synced.runs] == [("unchanged", 0), ("held", 5)]
    assert counts(synced) == {"install.created": 1}
    assert set(gone) | {new} <= taken.active()
    hold = the_hold(taken)
    assert (set(hold.ids), hold.installs) == (set(gone), 5)
    assert hold.share == pytest.approx(5 / 21)
    assert "5 of 21" in hold.reason
    (published,) = taken.rows("from holds")
    assert (published["hold_id"], published["status"]) == (hold.hold_id, "open")


def test_few_absences_are_not_held(take: Take) -> None:
    world = gestal_world(integrations=1, installs=20)
    taken = take(world, guard=STRICT)
    taken.sync()
    uninstalled(world, 2)
    assert counts(taken.sync()) == {"install.deleted": 2}


def test_the_walks_of_one_sync_are_counted_together(take: Take) -> None:
    world = gestal_world(integrations=1, installs=20)
    taken = take(world, guard=STRICT)
    taken.sync()
    uninstalled(world, 2)
    world.faults.add(Fault("server_error", times=ATTEMPTS, match="installations", after=1))
    assert counts(taken.sync()) == {}  # the second walk, which would have confirmed it, broke off
    uninstalled(world, 2)
    synced = taken.sync()
    assert counts(synced) == {"install.deleted": 2}
    assert the_hold(taken).installs == 2


def test_a_hold_is_opened_once_and_waits(farm: Stocktake) -> None:
    hold = the_hold(farm)
    last = farm.last_sequence()
    for _ in range(2):
        farm.restart()
        synced = farm.sync()
        assert exit_code(synced) == 3
        assert counts(synced) == {}
    assert the_hold(farm).hold_id == hold.hold_id
    assert farm.events(last) == []


def test_new_absences_beside_a_hold_are_judged_anew(farm: Stocktake) -> None:
    assert isinstance(farm.world, GestalWorld)
    more = uninstalled(farm.world, 1)
    synced = farm.sync()
    assert counts(synced) == {"install.deleted": 1}
    assert exit_code(synced) == 3
    assert farm.states()[more[0]] == "deleted"


def test_an_approved_hold_is_recorded_at_once(farm: Stocktake) -> None:
    last = farm.last_sequence()
    (run,) = approved(farm)
    assert (run.outcome, run.events) == ("ok", {"install.deleted": 5})
    assert {event["install_id"] for event in farm.events(last)} == removed(farm)
    assert all(event["deletion_inferred"] for event in farm.events(last))
    assert held(farm) == []
    assert exit_code(farm.sync()) == 0


def test_approval_deletes_exactly_those_of_the_hold_that_are_still_missing(
    farm: Stocktake,
) -> None:
    assert isinstance(farm.world, GestalWorld)
    back = next(iter(removed(farm)))
    farm.world.restore(back)
    others = uninstalled(farm.world, 4)  # as many as would be held on their own
    gone = removed(farm) - set(others)
    approved(farm)
    states = farm.states()
    assert {id for id, state in states.items() if state == "deleted"} == gone
    assert states[back] == "active"
    assert set(the_hold(farm).ids) == set(others)


def test_an_approval_without_a_certificate_changes_nothing(farm: Stocktake) -> None:
    farm.world.faults.add(Fault("server_error", times=None, match="installations"))
    with pytest.raises(RetryLater, match="stays open, nothing was deleted"):
        approved(farm)
    assert removed(farm) <= farm.active()
    farm.world.faults.clear()
    approved(farm)
    assert farm.active().isdisjoint(removed(farm))


def test_an_approval_while_the_source_wants_quiet_waits(farm: Stocktake) -> None:
    farm.world.faults.add(Fault("rate_limited"))
    assert exit_code(farm.sync()) == 75
    with pytest.raises(RateLimited):
        approved(farm)
    assert len(held(farm)) == 1


def test_a_hold_is_decided_once(farm: Stocktake) -> None:
    hold_id = the_hold(farm).hold_id
    reject(farm.engine, hold_id)
    with pytest.raises(ConfigInvalid, match=f"hold {hold_id} is rejected already"):
        reject(farm.engine, hold_id)
    with pytest.raises(ConfigInvalid, match=f"hold {hold_id} is rejected already"):
        approve(farm.settings, farm.engine, hold_id, Unhurried(), lambda *_: None)
    with pytest.raises(ConfigInvalid, match="no hold 'none'"):
        reject(farm.engine, "none")


def test_rejected_absences_stay_active_until_they_were_seen_again(farm: Stocktake) -> None:
    assert isinstance(farm.world, GestalWorld)
    gone = removed(farm)
    reject(farm.engine, the_hold(farm).hold_id)
    for _ in range(3):
        synced = farm.sync()
        assert exit_code(synced) == 0
        assert counts(synced) == {}
    assert gone <= farm.active()

    for id in gone:
        farm.world.restore(id)
    assert exit_code(farm.sync()) == 0
    for id in gone:
        farm.world.uninstall(id)
    assert exit_code(farm.sync()) == 3
    assert set(the_hold(farm).ids) == gone


def test_installs_that_come_back_leave_a_hold_that_deletes_nothing(farm: Stocktake) -> None:
    assert isinstance(farm.world, GestalWorld)
    for id in removed(farm):
        farm.world.restore(id)
    assert exit_code(farm.sync()) == 0
    approved(farm)
    assert farm.active() == farm.world.live()


# Lost access


def test_a_workspace_that_answers_404_at_once_is_held_however_small(take: Take) -> None:
    world = aeontel_world(installs=30)
    workspace, ids = full_workspace(world)
    taken = take(world)  # with limits that hold nothing
    taken.sync()
    world.access.lose_workspace(workspace)
    assert exit_code(taken.sync()) == 3
    assert set(the_hold(taken).ids) == set(ids)
    assert "lost access" in the_hold(taken).reason
    assert set(ids) <= taken.active()

    world.access.regain_workspace(workspace)
    assert exit_code(taken.sync()) == 0
    assert taken.active() == world.live()


def test_rejected_404s_stay_active_while_they_answer_404(take: Take) -> None:
    world = aeontel_world(installs=30)
    workspace, ids = full_workspace(world)
    taken = take(world)
    taken.sync()
    world.access.lose_workspace(workspace)
    taken.sync()
    reject(taken.engine, the_hold(taken).hold_id)
    for _ in range(3):
        assert exit_code(taken.sync()) == 0
        assert held(taken) == []
    assert set(ids) <= taken.active()


def test_an_approved_404_is_an_inferred_deletion(take: Take) -> None:
    world = aeontel_world(installs=30)
    workspace, ids = full_workspace(world)
    taken = take(world)
    taken.sync()
    world.access.lose_workspace(workspace)
    taken.sync()
    last = taken.last_sequence()
    assert [run.scope for run in approved(taken)] == [INSTALLS]
    assert {(e["install_id"], e["type"], e["deletion_inferred"]) for e in taken.events(last)} == {
        (id, "install.deleted", True) for id in ids
    }


def test_a_deletion_that_was_read_is_never_held(take: Take) -> None:
    world = aeontel_world(installs=20)
    taken = take(world, guard=Guard(min_rows=0, max_share=0, max_count=0))
    taken.sync()
    live = len(world.live())
    for id in list(world.live()):
        world.uninstall(id)
    synced = taken.sync()
    assert exit_code(synced) == 0
    assert counts(synced) == {"install.deleted": live}


@pytest.mark.parametrize("seeded", [gestal_world, aeontel_world])
def test_the_login_of_another_account_deletes_nothing(
    seeded: Callable[..., GestalWorld | AeontelWorld], take: Take
) -> None:
    world = seeded(installs=4)  # few enough for every limit of the guard
    taken = take(world, guard=Guard())
    taken.sync()
    before, last = taken.installs(), taken.last_sequence()
    world.access.other_account()
    for _ in range(3):
        assert exit_code(taken.sync()) == 3
    assert taken.events(last) == []
    assert {id: row["state"] for id, row in before.items()} == taken.states()
    assert INTEGRATIONS in {hold.scope for hold in held(taken)}

    world.access.own_account()
    assert exit_code(taken.sync()) == 0
    assert taken.active() == world.live()


def test_the_last_integration_can_be_given_up_by_approval(take: Take) -> None:
    world = gestal_world(integrations=1, installs=5)
    taken = take(world)
    taken.sync()
    world.delete_integration(next(iter(world.integrations)))
    assert exit_code(taken.sync()) == 3
    assert len(taken.active()) == 5
    (run,) = approved(taken)
    assert run.events == {"install.deleted": 5, "integration.deleted": 1}
    assert taken.active() == set()


def test_a_listing_that_is_suddenly_empty_is_held(take: Take) -> None:
    world = gestal_world(installs=20)
    taken = take(world, guard=Guard())
    taken.sync()
    uninstalled(world, 20)
    assert exit_code(taken.sync()) == 3
    assert the_hold(taken).installs == 20
    assert len(taken.active()) == 40
