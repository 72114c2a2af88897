"""What was recorded is sent again: to whom, what, in which order, and once for each time."""

import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from examples import MINUTE, NOON, gestal_row
from receivers import endpoint
from scenes import LOG, Scene, ids, made_scene, told
from sqlalchemy import text

from worker import clock, replay
from worker.backlog import deliver_now
from worker.due import sync_due
from worker.errors import ConfigInvalid, Stopped
from worker.models import installs_of
from worker.outbound import Health
from worker.replay import Replayed
from worker.settings import Endpoint
from worker.state import deliveries, replays, sources, transaction
from worker.warehouse import Store

pytestmark = pytest.mark.slow  # each has a store and deliveries of its own


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a baseline of two installs, of which one changed, one went, and one came."""
    scene = made_scene(tmp_path_factory.mktemp("kept"))
    return scene.folder


@pytest.fixture
def scene(kept: Path, tmp_path: Path) -> Iterator[Scene]:
    """A log of three events that were delivered."""
    scene = Scene(Path(shutil.copytree(kept, tmp_path / "copy")), syncs=5)
    with scene.at_hand():
        yield scene


# Events


def test_events_are_sent_again_in_order_with_their_ids_and_say_that_they_are(scene: Scene) -> None:
    before = scene.rows("event_id", "body", where="type like 'install.%'")
    done = scene.replay(since=NOON)
    assert (done.deliveries, done.types) == (
        3,
        {"install.created": 1, "install.deleted": 1, "install.updated": 1},
    )
    assert told(scene.deliver()) == LOG
    assert ids(scene.taken) == [event_id for event_id, _ in before]
    assert {headers.get("stocktake-replay") for headers, _ in scene.taken} == {"1"}
    assert scene.rows("event_id", "body", where="is_replay") == before


def test_a_baseline_is_never_sent_again_event_by_event(scene: Scene) -> None:
    scene.sync(gestal_row("ins_9"), scope=installs_of("int_b"))
    scene.sync(gestal_row("ins_3", note=2), gestal_row("ins_1", note=1))
    scene.deliver()
    scene.replay(types=("install.created", "install.updated"))
    again = [LOG[0], LOG[1], ("install.updated", "ins_3")]  # around the baseline of ins_9
    assert told(scene.deliver()) == again


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ({"since": NOON + 3 * MINUTE}, LOG[1:]),
        ({"since": NOON + 3 * MINUTE + timedelta(microseconds=1)}, LOG[2:]),
        ({"until": NOON + 3 * MINUTE}, LOG[:1]),
        ({"since": NOON + 3 * MINUTE, "until": NOON + 4 * MINUTE}, LOG[1:2]),
        ({"types": ("install.deleted", "install.updated")}, [LOG[0], LOG[2]]),
        ({"since": NOON + 60 * MINUTE}, []),
    ],
)
def test_what_is_sent_again_is_narrowed_by_time_and_type(
    scene: Scene, wish: dict[str, Any], found: list[tuple[str, str]]
) -> None:
    rehearsed = scene.replay(dry_run=True, **wish)
    assert scene.replay(**wish).deliveries == rehearsed.deliveries == len(found)
    assert told(scene.deliver()) == found


def test_one_event_is_sent_again_by_its_id(scene: Scene) -> None:
    ((event_id,),) = scene.rows("event_id", where="type = 'install.created'")
    assert scene.replay(event_id=event_id).deliveries == 1
    assert ids(scene.deliver()) == [event_id]


def test_an_event_that_nobody_knows_is_told(scene: Scene) -> None:
    with pytest.raises(ConfigInvalid, match="no event 'evt_no'"):
        scene.replay(event_id="evt_no")


def test_only_what_the_endpoint_wants_is_sent_again(scene: Scene) -> None:
    scene.configure(endpoint(events=("install.deleted",)))
    assert scene.replay(since=NOON).types == {"install.deleted": 1}
    scene.configure(endpoint(events=("install.*",), sources=("voice",)))
    assert scene.replay(since=NOON).deliveries == 0
    assert told(scene.deliver()) == LOG[2:]


def test_other_endpoints_get_nothing(scene: Scene) -> None:
    scene.configure(scene.crm, endpoint("erp"))
    scene.replay(since=NOON)
    assert {name for (name,) in scene.rows("endpoint", where="is_replay")} == {"crm"}


def test_a_new_endpoint_can_have_what_was_before_its_time(scene: Scene) -> None:
    erp = endpoint("erp")
    scene.configure(scene.crm, erp)
    scene.replay(endpoint=erp, since=NOON)
    assert told(scene.deliver()) == LOG


def test_asking_twice_sends_twice(scene: Scene) -> None:
    first, second = scene.replay(since=NOON), scene.replay(since=NOON)
    assert first.replay_id != second.replay_id
    assert len(scene.deliver()) == 6
    assert len(scene.rows("distinct delivery_id", where="is_replay")) == 6


def test_fresh_ids_are_new_each_time_and_say_where_they_are_from(scene: Scene) -> None:
    known = set(ids(scene.deliver()))
    first, second = (
        scene.replay(since=NOON, fresh_ids=True),
        scene.replay(since=NOON, fresh_ids=True),
    )
    sent = scene.deliver()
    assert len(set(ids(sent)) - known) == 6
    for headers, body in sent:
        event_id, _, replay_id = headers["webhook-id"].partition("_rpl_")
        assert "." not in headers["webhook-id"]
        assert event_id == body["data"]["event_id"]
        assert f"rpl_{replay_id}" in (first.replay_id, second.replay_id)


def test_a_dry_run_counts_and_changes_nothing(scene: Scene) -> None:
    before = scene.rows("*")
    done = scene.replay(since=NOON, dry_run=True)
    assert (done.deliveries, done.replay_id) == (3, None)
    assert (done.oldest, done.newest) == (NOON + 2 * MINUTE, NOON + 5 * MINUTE)
    assert (scene.rows("*"), scene.unfinished()) == (before, 0)


def test_a_dry_run_before_the_first_sync_makes_no_store(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.outpost.settings.store_path.unlink()
    assert scene.replay(since=NOON, dry_run=True).deliveries == 0
    assert not scene.outpost.settings.store_path.exists()
    scene.outpost.engine.dispose()


@pytest.mark.parametrize("health", [Health(paused=True), Health(disabled_reason="gone")])
def test_what_is_made_for_a_halted_endpoint_waits_and_that_is_said(
    scene: Scene, health: Health
) -> None:
    scene.save_health(health)
    assert scene.replay(since=NOON).waits == health.halted
    assert set(scene.rows("state", "reason", where="is_replay")) == {("paused", health.halted)}
    assert scene.deliver() == []


# In order


def in_batches(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(replay, "_BATCH", size)


def test_a_long_replay_is_made_whole_batch_by_batch(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1, 2, 3):
        in_batches(monkeypatch, size)
        scene.replay(since=NOON)
        assert told(scene.deliver()) == LOG
    assert scene.unfinished() == 0


class StopAfter(threading.Event):
    """A stop that comes after so many looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


class Killed(BaseException):
    """The process ends."""


def killed(scene: Scene, monkeypatch: pytest.MonkeyPatch, batches: int, **wish: Any) -> None:
    """A replay whose process dies after so many batches."""
    left = iter(range(batches))
    make_next = replay._make_next

    def dying(*arguments: Any) -> None:
        if next(left, None) is None:
            raise Killed
        make_next(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(replay, "_make_next", dying)
        with pytest.raises(Killed):
            scene.replay(**wish)


@pytest.mark.parametrize("what", ["events", "snapshot"])
def test_what_happens_during_a_replay_is_told_after_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The process dies in the middle, and the install that is not told of again yet changes."""
    in_batches(monkeypatch, 1)
    killed(scene, monkeypatch, 1, what=what, since=NOON)
    scene.sync(gestal_row("ins_3", note=2), gestal_row("ins_1", note=1))
    scene.go_on()
    scene.deliver()
    of_ins_3 = [body for _, body in scene.taken if body["data"]["install"]["install_id"] == "ins_3"]
    assert [body["type"] for body in of_ins_3] == ["install.created", "install.updated"]
    sequences = [body["data"]["sequence"] for body in of_ins_3]
    assert sequences == sorted(sequences)
    assert "stocktake-replay" not in scene.taken[-1][0]


def test_what_was_not_relayed_yet_is_told_before_it_is_told_again(scene: Scene) -> None:
    scene.sync(gestal_row("ins_3", note=2), gestal_row("ins_1", note=1), relayed=False)
    scene.replay(since=NOON + 3 * MINUTE)
    scene.deliver()
    assert [headers.get("stocktake-replay") for headers, _ in scene.taken] == [None, "1", "1", "1"]


def test_an_event_waits_for_those_of_its_install_that_are_sent_again(scene: Scene) -> None:
    scene.replay(types=("install.created",))
    scene.sync(gestal_row("ins_3", note=2), gestal_row("ins_1", note=1))
    assert told(scene.deliver(503)) == [("install.created", "ins_3")]
    assert scene.rows("state", where="install_id = 'ins_3'")[1:] == [("pending",), ("pending",)]


# Crashes and stops


@pytest.mark.parametrize("batches", [0, 2])
def test_after_a_crash_the_rest_is_made_by_the_next_delivery_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    in_batches(monkeypatch, 1)
    killed(scene, monkeypatch, batches, since=NOON)
    assert len(scene.rows("1", where="is_replay")) == batches
    scene.configure(unreachable())
    settings, stop = scene.outpost.settings, threading.Event()
    deliver_now(settings, scene.outpost.engine, stop)
    assert len(scene.rows("1", where="is_replay")) == 3
    assert scene.unfinished() == 0


def test_after_a_crash_the_daemon_goes_on_with_a_replay(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches(monkeypatch, 1)
    killed(scene, monkeypatch, 1, since=NOON)
    settings, engine = scene.outpost.settings, scene.outpost.engine
    sources.pause(engine, settings.sources[0])  # so that there is nothing else to do
    assert sync_due(settings, threading.Event())
    assert told(scene.deliver()) == LOG
    assert not sync_due(settings, threading.Event())


def unreachable() -> Endpoint:
    """The endpoint at an address where it may not be: nothing is looked up or connected to."""
    return endpoint(url="https://127.0.0.1/", events=("*",), allow_private_networks=False)


@pytest.mark.parametrize("what", ["events", "snapshot", "dead"])
def test_a_replay_that_dies_at_any_statement_is_made_whole_or_never_was(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    in_batches(monkeypatch, 1)
    whole = {"events": 3, "snapshot": 2, "dead": 2}[what]
    outcomes = []
    for statement in range(1, 200):
        if what == "dead":
            with scene.outpost.engine.begin() as state:
                state.execute(text("update deliveries set state = 'dead' where position in (2, 3)"))
        before = len(scene.rows("1", where="is_replay and state = 'pending'"))
        done: list[Replayed] = []
        with scene.outpost._dying(statement):
            done.append(scene.replay(what, since=None))
        scene.go_on()
        made = len(scene.rows("1", where="is_replay and state = 'pending'")) - before
        assert scene.unfinished() == 0
        outcomes.append(made)
        if what == "dead":
            with scene.outpost.engine.begin() as state:
                state.execute(text("update deliveries set is_replay = false"))
        if done:
            break
    assert set(outcomes) == {0, whole}
    assert outcomes == sorted(outcomes)
    assert outcomes[-1] == whole


def test_a_stop_ends_a_replay_for_good(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    in_batches(monkeypatch, 1)
    with pytest.raises(Stopped, match=r"rpl_\w+ was stopped"):
        scene.replay(since=NOON, stop=StopAfter(2))  # one look before there is something to do
    scene.go_on()
    assert told(scene.deliver()) == LOG[:1]


def test_a_replay_of_another_store_or_to_nobody_is_dropped(scene: Scene) -> None:
    for different in ({"store_id": "st_other"}, {"endpoint": "nobody"}):
        about = {
            "replay_id": "rpl_1", "endpoint": "crm", "store_id": store_id(scene), "asked_at": NOON,
            "snapshot": False, "fresh_ids": False, "types": ["install.created"],
            "sources": ["farm"], "after": 0, "upto": 99,
        }  # fmt: skip
        with transaction(scene.outpost.engine) as session:
            replays.ask(session, replay.Replay(**{**about, **different}))
        scene.go_on()
        assert (scene.unfinished(), scene.rows("1", where="is_replay")) == (0, [])


def test_the_rest_of_a_replay_ends_with_its_endpoint_though_that_is_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches(monkeypatch, 1)
    killed(scene, monkeypatch, 1, since=NOON)
    crm = scene.crm
    scene.configure()
    scene.relay()
    scene.configure(crm)
    scene.relay()
    scene.go_on()
    assert scene.unfinished() == 0
    assert scene.rows("state", "reason", where="is_replay") == [("dead", "endpoint_removed")]


def test_a_replay_to_an_endpoint_that_another_process_has_taken_out_is_dropped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken out between two batches, and this process still knows it."""
    in_batches(monkeypatch, 1)
    killed(scene, monkeypatch, 1, since=NOON)
    with scene.outpost.engine.begin() as state:
        state.execute(text("delete from endpoints"))
    scene.go_on()
    assert (scene.unfinished(), len(scene.rows("1", where="is_replay"))) == (0, 1)


def store_id(scene: Scene) -> str:
    store: Store
    with scene._store() as store:
        return store.id


# What is installed now


def test_a_snapshot_tells_every_active_install_as_it_is(scene: Scene) -> None:
    done = scene.replay("snapshot")
    assert done.types == {"install.created": 2}
    assert told(scene.deliver()) == [("install.created", "ins_1"), ("install.created", "ins_3")]
    changed, new = (body["data"] for _, body in scene.taken)
    assert (changed["baseline"], changed["revision"], changed["changed_fields"]) == (True, 2, [])
    assert changed["occurred_at"] == changed["install"]["installed_at"] == "2026-01-02T03:04:05Z"
    assert changed["previous_attributes"] == {}
    assert new["install"]["state"] == "active"
    # A receiver that keeps the last sequence takes it: it is that of the newest event.
    assert [changed["sequence"], new["sequence"]] == [3, 4]


def test_installs_of_the_baseline_are_in_a_snapshot(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with scene.at_hand():
        scene.sync(gestal_row("ins_1"), gestal_row("ins_2"))
        scene.replay("snapshot")
        assert {id for _, id in told(scene.deliver())} == {"ins_1", "ins_2"}


def test_the_same_revision_is_told_under_the_same_id_in_the_same_words(scene: Scene) -> None:
    scene.replay("snapshot")
    first = scene.deliver()
    scene.sync(gestal_row("ins_3"), gestal_row("ins_1", note=3))
    scene.deliver()
    scene.replay("snapshot")
    second = scene.deliver()
    by_id = {id: body for id, (_, body) in zip(ids(first), first, strict=True)}
    kept, new = sorted(ids(second), key=lambda id: id not in by_id)
    assert dict(zip(ids(second), [body for _, body in second], strict=True))[kept] == by_id[kept]
    assert new not in by_id
    assert not set(by_id) & {id for (id,) in scene.rows("event_id", where="not is_replay")}


def test_a_snapshot_shows_each_install_as_it_was_when_it_was_asked_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches(monkeypatch, 1)
    killed(scene, monkeypatch, 1, what="snapshot")
    scene.sync(gestal_row("ins_1", note=1))
    scene.sync(gestal_row("ins_1", note=1))
    scene.go_on()
    assert told(scene.deliver()) == [
        ("install.created", "ins_1"),
        ("install.created", "ins_3"),
        ("install.deleted", "ins_3"),
    ]


# What is dead


def dies(scene: Scene) -> None:
    """A delivery that was tried once dies with its endpoint, which is back then."""
    scene.sync(gestal_row("ins_4"), gestal_row("ins_3"), gestal_row("ins_1", note=1))
    scene.deliver(503)
    with transaction(scene.outpost.engine) as session:
        deliveries.register(session, [], "st_1", 0, clock.now())
    scene.relay()


def test_the_dead_begin_anew_in_their_place(scene: Scene) -> None:
    dies(scene)
    where = "state = 'dead'"
    before = scene.rows("delivery_id", "event_id", "position", where=where)
    assert scene.rows("reason", where=where) == [("endpoint_removed",)]
    assert scene.replay("dead").types == {"install.created": 1}
    assert scene.rows("delivery_id", "event_id", "position", where="state = 'pending'") == before
    again = scene.rows("attempts", "reason", "first_attempt_at", where="state = 'pending'")
    assert again == [(0, None, None)]
    ((headers, _),) = scene.deliver()
    assert (headers["webhook-id"], headers["stocktake-attempt"]) == (before[0][1], "1")
    assert scene.replay("dead").deliveries == 0


def test_the_dead_are_narrowed_like_events(scene: Scene) -> None:
    dies(scene)
    ((event_id, made),) = scene.rows("event_id", "created_at", where="state = 'dead'")
    for wish in (
        {"types": ("install.deleted",)},
        {"event_id": "evt_no"},
        {"since": clock.now()},
        {"until": clock.now() - timedelta(hours=1)},
    ):
        assert scene.replay("dead", **wish).deliveries == 0, wish
    rehearsed = scene.replay("dead", event_id=event_id, dry_run=True)
    assert rehearsed.deliveries == 1
    assert str(rehearsed.oldest).startswith(made)
    assert scene.rows("1", where="state = 'pending'") == []
    assert scene.replay("dead", event_id=event_id, until=clock.now()).deliveries == 1


def test_a_later_event_of_its_install_waits_for_what_begins_anew(scene: Scene) -> None:
    dies(scene)
    scene.sync(gestal_row("ins_4", note=5), gestal_row("ins_3"), gestal_row("ins_1", note=1))
    scene.replay("dead")
    assert told(scene.deliver()) == [("install.created", "ins_4"), ("install.updated", "ins_4")]


def test_the_dead_of_a_halted_endpoint_wait(scene: Scene) -> None:
    dies(scene)
    scene.save_health(Health(paused=True))
    assert scene.replay("dead").waits == "paused"
    assert scene.rows("state", "reason", where="is_replay") == [("paused", "paused")]
