"""What a tick of the sync worker does: every source that is due or asked for, whatever becomes of
the others, and each request once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from examples import NOON
from outposts import LOGIN
from pydantic import SecretStr
from sqlalchemy import Engine

from worker import clock, due, warehouse
from worker.errors import RateLimited, SourceDown, SourceRefused, StocktakeError, StoreBusy
from worker.findings import Plan, Run
from worker.models import INTEGRATIONS, Mode, Outcome
from worker.schedule import tick as tick_of
from worker.settings import Cron, Every, Settings, Source
from worker.settings.values import Schedule
from worker.state import connect_state, heartbeats, requests, sources
from worker.state.requests import Asked, Ended, RequestRow
from worker.state.tables import SourceState
from worker.sync import Synced, Wish

NAMES = ("farm", "barn", "mill")
HANG_S = 60.0
A, B = "installs/a", "installs/b"
FARM = Asked("farm", "full")


@pytest.fixture
def settings(tmp_path: Path, state_url: str) -> Settings:
    values = ({"name": name, "dialect": "gestal", **LOGIN} for name in NAMES)
    return Settings(
        data_dir=tmp_path,
        state_url=SecretStr(state_url),
        sources=tuple(map(Source.model_validate, values)),
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    opened = connect_state(settings)
    yield opened
    opened.dispose()


def run(scope: str, outcome: Outcome = "ok", mode: Mode = "full") -> Run:
    return Run(f"run_{scope[-1]}", "farm", scope, mode, outcome, "none", NOON, NOON)


@dataclass
class Syncs:
    """In the place of `sync`: keeps what was wanted of each source, in order; `then` holds what
    happens in the middle of the next syncs of a source, or the error that each of them raises."""

    done: list[tuple[str, Wish]] = field(default_factory=list)
    then: dict[str, Any] = field(default_factory=dict)
    runs: tuple[Run, ...] = (run(INTEGRATIONS),)
    plan: Plan = field(default_factory=Plan)

    def __call__(
        self,
        _settings: Settings,
        engine: Engine,
        source: Source,
        wish: Wish,
        _stop: Event,
        *,
        revise: Callable[[Wish], Wish],
        on_request: Callable[[], None],
    ) -> Synced:
        wish = revise(wish)
        self.done.append((source.name, wish))
        on_request()
        then = self.then.get(source.name)
        if isinstance(then, BaseException):
            raise then
        if then:
            del self.then[source.name]
            then()
        if not wish.scopes:
            tried(engine, source, timedelta(), timedelta())
        return Synced(self.runs, (self.plan,))

    @property
    def modes(self) -> dict[str, Mode]:
        """How each source was synced last."""
        return {name: wish.mode for name, wish in self.done}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    syncs = Syncs()
    monkeypatch.setattr(due, "sync", syncs)
    return syncs


def tick(settings: Settings, stop: Event | None = None) -> int:
    """How often the deliverer was woken."""
    woken: list[int] = []
    due.sync_due(settings, stop or Event(), lambda: woken.append(1))
    return len(woken)


def tried(engine: Engine, source: Source, ago: timedelta, full: timedelta) -> None:
    def edit(row: SourceState) -> None:
        row.last_tried_at, row.last_full_at = clock.now() - ago, clock.now() - full

    sources.change(engine, source, edit)


def quiet(engine: Engine, settings: Settings) -> None:
    """Nothing is due by its schedule."""
    for source in settings.sources:
        tried(engine, source, timedelta(), timedelta())


def outcome(engine: Engine, request_id: str) -> tuple[str | None, int | None, list[str]]:
    (row,) = requests.named(engine, [request_id])
    return row.outcome, row.exit_code, row.run_ids


# --- by the schedule ------------------------------------------------------------------------------


def test_what_was_never_synced_is_walked_in_full(settings: Settings, synced: Syncs) -> None:
    assert tick(settings) == 0  # nothing to deliver
    assert synced.modes == dict.fromkeys(NAMES, "full")
    assert len(synced.done) == 3


def test_each_source_gets_what_it_is_due(settings: Settings, engine: Engine, synced: Syncs) -> None:
    minutes = [timedelta(minutes=count) for count in (2, 30, 90)]
    tried(engine, settings.source("farm"), minutes[0], full=minutes[1])
    tried(engine, settings.source("barn"), minutes[0], full=minutes[2])
    tried(engine, settings.source("mill"), timedelta(seconds=2), full=minutes[2])
    tick(settings)
    assert synced.modes == {"farm": "incremental", "barn": "full"}


def test_a_source_that_is_paused_or_limited_is_left_alone(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    sources.pause(engine, settings.source("farm"))
    sources.limit(engine, settings.source("barn"), clock.now() + timedelta(hours=1))
    ids = requests.add(engine, [FARM, Asked("barn", "full")], NOON)
    tick(settings)
    assert synced.modes == {"mill": "full"}
    assert [row.request_id for row in requests.waiting(engine)] == sorted(ids)
    sources.resume(engine, settings.source("farm"))
    tick(settings)
    assert [row.source for row in requests.waiting(engine)] == ["barn"]


@pytest.mark.parametrize("error", [SourceDown("farm: no answer"), OverflowError("a defect")])
def test_a_source_that_fails_keeps_no_other_from_its_tick(
    error: Exception, settings: Settings, synced: Syncs, caplog: pytest.LogCaptureFixture
) -> None:
    synced.then["farm"] = error
    tick(settings)
    assert sorted(name for name, _ in synced.done) == sorted(NAMES)  # and it is tried once
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "sync source=farm" in caplog.text


def test_the_deliverer_is_woken_as_soon_as_a_source_has_something(
    settings: Settings, synced: Syncs, engine: Engine
) -> None:
    quiet(engine, settings)
    requests.add(engine, [FARM, Asked("barn", "full")], NOON)
    synced.plan = Plan(events=("an event",))  # type: ignore[arg-type]
    woken = Event()
    synced.then["barn"] = lambda: woken.wait(HANG_S)  # a slow one
    due.sync_due(settings, Event(), woken.set)
    assert woken.is_set()


def test_a_slow_source_keeps_no_other_that_becomes_due_meanwhile(
    settings: Settings, engine: Engine, synced: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "_LOOK_S", 0.01)
    quiet(engine, settings)
    requests.add(engine, [FARM], NOON)
    arrived = Event()

    def walk_for_long() -> None:
        requests.add(engine, [Asked("barn", "incremental")], NOON)
        assert arrived.wait(HANG_S)

    synced.then = {"farm": walk_for_long, "barn": arrived.set}
    tick(settings)
    assert [name for name, _ in synced.done] == ["farm", "barn"]


def test_a_source_that_is_always_due_leaves_a_turn_to_the_other_tasks(
    settings: Settings, engine: Engine, synced: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = count(step=60)
    monkeypatch.setattr(due, "time", SimpleNamespace(monotonic=lambda: next(minutes)))
    monkeypatch.setattr(due, "wanted", lambda *_: Wish("incremental"))
    tick(settings)
    assert 0 < len(synced.done) <= 6 * len(NAMES)


def test_a_walk_gives_signs_of_life(
    settings: Settings, engine: Engine, synced: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(settings)
    assert heartbeats.every(engine) == {}  # a short one leaves that to the task for it
    monkeypatch.setattr(heartbeats, "_RENEWED_S", 0.0)
    requests.add(engine, [FARM], NOON)
    tick(settings)
    assert heartbeats.every(engine).keys() == {"sync"}


SCHEDULE = Schedule(incremental="1m", full="1h")  # type: ignore[arg-type]
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.mark.parametrize(
    ("state", "wish"),
    [
        pytest.param({}, Wish("full"), id="never tried"),
        pytest.param({"last_tried_at": NOON - MINUTE / 2, "last_full_at": NOON}, None, id="fresh"),
        pytest.param(
            {"last_tried_at": NOON - MINUTE, "last_full_at": NOON - HOUR / 2},
            Wish("incremental"),
            id="a minute ago",
        ),
        pytest.param(
            {"last_tried_at": NOON - MINUTE, "last_full_at": NOON - HOUR}, Wish(), id="an hour ago"
        ),
        # The clock: set back by an hour all of this lies in the future, set forward long ago.
        pytest.param(
            {"last_tried_at": NOON + HOUR, "last_full_at": NOON + HOUR}, Wish(), id="set back"
        ),
        pytest.param(
            {"last_tried_at": NOON - HOUR, "last_full_at": NOON - HOUR}, Wish(), id="set forward"
        ),
        pytest.param({"paused": True}, None, id="paused"),
        pytest.param({"rate_limited_until": NOON + MINUTE}, None, id="limited"),
        pytest.param({"rate_limited_until": NOON}, Wish("full"), id="no longer limited"),
    ],
)
def test_what_a_source_is_wanted_for(state: dict[str, Any], wish: Wish | None) -> None:
    known = SourceState(source="farm", dialect="gestal", **state)
    assert due.wanted(SCHEDULE, known, [], NOON) == wish


def test_a_full_sync_that_is_due_does_not_wait_for_an_incremental_one() -> None:
    often = Schedule(incremental=Cron("0 0 1 1 *"), full=Every(timedelta(seconds=20)))
    ago = NOON - timedelta(seconds=20)
    known = SourceState(source="farm", dialect="gestal", last_tried_at=ago, last_full_at=ago)
    assert due.wanted(often, known, [], NOON) == Wish("full")
    assert due.wanted(often, known, [], NOON - timedelta(seconds=1)) is None


@pytest.mark.parametrize("interval_s", [1, 10, 60, 300])
def test_a_change_is_found_within_the_interval_and_five_seconds(interval_s: int) -> None:
    interval = timedelta(seconds=interval_s)
    schedule = Schedule(incremental=Every(interval))
    # It comes just after a sync has passed by, which ends half a second later.
    ended = NOON + timedelta(seconds=0.5)
    known = SourceState(source="farm", dialect="gestal", last_tried_at=ended, last_full_at=ended)
    pace, now = tick_of([schedule.incremental, schedule.full]), NOON
    while due.wanted(schedule, known, [], now) is None:
        now += pace
    assert now - NOON <= interval + timedelta(seconds=4)  # and one to walk and deliver


# --- on request -----------------------------------------------------------------------------------


def asked(mode: Mode, scope: str | None = None) -> RequestRow:
    return RequestRow(request_id="req_1", source="farm", mode=mode, scope=scope, asked_at=NOON)


@pytest.mark.parametrize(
    ("several", "one"),
    [
        ([asked("incremental")], Wish("incremental")),
        ([asked("incremental"), asked("full")], Wish("full")),
        ([asked("full", A)], Wish("full", (A,))),
        ([asked("full", A), asked("incremental", B), asked("full", A)], Wish("full", (A, B))),
        ([asked("incremental", A), asked("incremental")], Wish("incremental")),
        ([asked("full", A), asked("incremental")], Wish("full")),
    ],
)
def test_requests_are_merged_into_what_satisfies_each(several: list[RequestRow], one: Wish) -> None:
    assert due.merged(several) == one


def test_what_is_asked_for_comes_before_what_is_due() -> None:
    known = SourceState(source="farm", dialect="gestal")
    assert due.wanted(SCHEDULE, known, [asked("full", A)], NOON) == Wish("full", (A,))
    for clocks in (NOON - HOUR, NOON + HOUR):  # whatever the clock says
        fresh = SourceState(
            source="farm", dialect="gestal", last_tried_at=clocks, last_full_at=clocks
        )
        assert due.wanted(SCHEDULE, fresh, [asked("incremental")], clocks) == Wish("incremental")


@pytest.mark.parametrize(
    ("scope", "runs", "ended"),
    [
        (None, [run(A), run(B, "unchanged")], Ended("ok", 0, ("run_a", "run_b"))),
        (None, [run(A, "unchanged"), run(B, "held")], Ended("held", 3, ("run_a", "run_b"))),
        (None, [run(A, "held"), run(B, "failed")], Ended("failed", 1, ("run_a", "run_b"))),
        (A, [run(A, "unchanged"), run(B, "held")], Ended("unchanged", 0, ("run_a",))),
        # The listing of all was refused, so its own never had a turn.
        (A, [run(INTEGRATIONS, "failed")], Ended("failed", 1, ("run_s",))),
        (None, [run(A, "rate_limited")], Ended("rate_limited", 75, ("run_a",))),
        (None, [], Ended("unchanged", 0)),
    ],
)
def test_a_request_ends_with_the_runs_of_what_it_asked_for(
    scope: str | None, runs: list[Run], ended: Ended
) -> None:
    assert due.ended_with(asked("full", scope), runs) == ended


def test_open_requests_of_a_source_become_one_sync(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    of_farm = Asked("farm", "incremental", B), Asked("farm", "full", A)
    ids = requests.add(engine, [of_farm[0], Asked("barn", "incremental"), of_farm[1]], NOON)
    synced.runs = (run(A), run(B, "held"))
    tick(settings)
    assert len(synced.done) == 2
    wishes = dict(synced.done)
    assert wishes["barn"] == Wish("incremental")
    assert (wishes["farm"].mode, sorted(wishes["farm"].scopes)) == ("full", [A, B])
    assert [outcome(engine, id) for id in ids] == [
        ("held", 3, ["run_b"]),
        ("held", 3, ["run_a", "run_b"]),
        ("ok", 0, ["run_a"]),
    ]
    tick(settings)
    assert len(synced.done) == 2  # and nothing is done twice


def test_who_asks_while_a_source_is_synced_is_served_by_the_next_sync_which_follows_at_once(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    (first,) = requests.add(engine, [FARM], NOON)
    second: list[str] = []

    def ask_again() -> None:
        second.extend(requests.add(engine, [Asked("farm", "incremental", A)], NOON))
        synced.then["farm"] = see

    def see() -> None:
        assert outcome(engine, first)[0] == "ok"
        assert outcome(engine, second[0])[0] is None

    synced.then["farm"] = ask_again
    tick(settings)
    assert synced.done == [("farm", Wish("full")), ("farm", Wish("incremental", (A,)))]
    assert outcome(engine, second[0])[0] == "ok"


def test_who_asks_just_before_a_scheduled_sync_begins_is_served_by_it(
    settings: Settings, engine: Engine, synced: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide, late = due.wanted, iter([[Asked("farm", "incremental", A)]])

    def ask_late(*given: Any) -> Wish | None:
        wish = decide(*given)
        for each in late:
            requests.add(engine, each, NOON)
        return wish

    monkeypatch.setattr(due, "wanted", ask_late)
    tick(settings)
    wishes = [wish for name, wish in synced.done if name == "farm"]
    assert wishes == [Wish("incremental", (A,)), Wish("full")]  # and then comes what was due
    assert not requests.waiting(engine)


class Death(BaseException):
    """Of the process."""


def test_a_request_ends_once(settings: Settings, engine: Engine) -> None:
    (id,) = requests.add(engine, [FARM], NOON)
    requests.end(engine, id, Ended("ok", 0, ("run_1",)), NOON)
    requests.end(engine, id, Ended("failed", 1, error="too late"), NOON + timedelta(hours=1))
    (kept,) = requests.named(engine, [id])
    assert (kept.outcome, kept.ended_at, kept.error) == ("ok", NOON, None)


def test_a_process_that_dies_leaves_a_request_to_the_next(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    (id,) = requests.add(engine, [FARM], NOON)
    synced.then["farm"] = Death()
    with pytest.raises(Death):
        tick(settings)
    assert outcome(engine, id)[0] is None
    synced.then.clear()
    tick(settings)
    assert outcome(engine, id) == ("ok", 0, ["run_s"])


def test_a_process_that_is_told_to_stop_leaves_the_rest_of_a_walk_to_the_next(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    whole, part = requests.add(engine, [Asked("farm", "full", A), Asked("farm", "full", B)], NOON)
    synced.runs, stop = (run(A), run(B, "partial")), Event()
    synced.then["farm"] = stop.set
    tick(settings, stop)
    assert outcome(engine, whole) == ("ok", 0, ["run_a"])
    assert outcome(engine, part)[0] is None


def test_a_walk_that_was_cut_is_left_to_the_next_although_something_else_was_held(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    (whole,) = requests.add(engine, [FARM], NOON)
    synced.runs, stop = (run(A, "held"), run(B, "partial")), Event()
    synced.then["farm"] = stop.set
    tick(settings, stop)
    assert outcome(engine, whole)[0] is None


def test_a_whole_sync_does_not_end_a_request_for_what_it_did_not_meet(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    whole, unknown = requests.add(engine, [FARM, Asked("farm", "full", B)], NOON)

    def refuse_from_now_on() -> None:
        synced.then["farm"] = lambda: setattr(synced, "runs", (run(B, "failed"),))

    synced.runs = (run(INTEGRATIONS), run(A, "held"))
    synced.then["farm"] = refuse_from_now_on
    tick(settings)
    assert synced.done == [("farm", Wish("full")), ("farm", Wish("full", (B,)))]
    assert outcome(engine, whole) == ("held", 3, ["run_s", "run_a"])
    assert outcome(engine, unknown) == ("failed", 1, ["run_b"])


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (StoreBusy("farm is synced in process 7"), "INFO"),
        (RateLimited("farm: 429", NOON), "ERROR"),
        (SourceDown("farm: no answer"), "ERROR"),
    ],
)
def test_what_time_heals_leaves_a_request_open(
    error: StocktakeError,
    level: str,
    settings: Settings,
    engine: Engine,
    synced: Syncs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "worker.due")
    quiet(engine, settings)
    (id,) = requests.add(engine, [FARM], NOON)
    synced.then["farm"] = error
    tick(settings)
    assert outcome(engine, id)[0] is None
    assert len(synced.done) == 1  # not again and again: at the next tick
    assert [record.levelname for record in caplog.records] == [level]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SourceRefused("farm: 403"), "farm: 403"),
        (OverflowError("a defect"), "farm: a defect; the log of the sync worker has it"),
    ],
)
def test_what_a_person_must_look_at_ends_a_request(
    error: Exception, said: str, settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    (id,) = requests.add(engine, [FARM], NOON)
    synced.then["farm"] = error
    tick(settings)
    assert outcome(engine, id) == ("failed", 1, [])
    assert requests.named(engine, [id])[0].error == said


def test_a_store_that_is_unusable_before_anything_is_taken_on_ends_a_request_as_well(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    settings.store_path.write_bytes(b"no database")
    (id,) = requests.add(engine, [FARM], NOON)
    tick(settings)
    assert synced.done == []
    assert outcome(engine, id) == ("failed", 1, [])
    assert str(settings.store_path) in str(requests.named(engine, [id])[0].error)


def test_a_defect_before_anything_is_taken_on_ends_a_request_as_well(
    settings: Settings, engine: Engine, synced: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(engine, settings)

    def fail(*_: object) -> None:
        raise OverflowError

    monkeypatch.setattr(due, "_migrate_once", fail)
    (id,) = requests.add(engine, [FARM], NOON)
    tick(settings)
    assert synced.done == []
    assert outcome(engine, id) == ("failed", 1, [])


def test_who_asks_for_a_source_that_the_daemon_does_not_know_is_told_so(
    settings: Settings, engine: Engine, synced: Syncs
) -> None:
    quiet(engine, settings)
    (id,) = requests.add(engine, [Asked("shed", "full")], NOON)
    tick(settings)
    assert outcome(engine, id) == ("failed", 1, [])
    said = "shed: the daemon has no such source; it reads the configuration when it starts"
    assert requests.named(engine, [id])[0].error == said


# --- the safety net -------------------------------------------------------------------------------


def test_the_store_is_opened_only_when_there_is_something_to_do(
    settings: Settings, engine: Engine, synced: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warehouse.opened(settings.store_path, clock.now()):
        pass
    tick(settings)  # everything is synced
    opened: list[Path] = []
    open_store = warehouse.opened

    def count(path: Path, *given: Any) -> Any:
        opened.append(path)
        return open_store(path, *given)

    monkeypatch.setattr(warehouse, "opened", count)
    tick(settings)
    assert len(opened) == 1  # a crash before this process may have left something
    tick(settings)
    tick(settings)
    assert len(opened) == 1
    with open_store(settings.store_path, clock.now()) as store:
        store.take("farm", 7)  # another process was at work
    tick(settings)
    tick(settings)
    assert len(opened) == 2


@pytest.mark.parametrize(("made", "woken"), [(False, 0), (True, 1)])
def test_what_a_crash_left_is_relayed_although_every_source_is_paused(
    made: bool, woken: int, settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in settings.sources:
        sources.pause(engine, source)
    monkeypatch.setattr(due, "make_left", lambda *given: made)
    monkeypatch.setattr(due, "_files", lambda path: (1, 2, 3))
    assert tick(settings) == woken
