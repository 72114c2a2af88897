"""The promise, as a state machine: whatever happens, the mirror ends as its source, and its events
tell how it got there."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, get_args

import msgspec
import pytest
from examples import (
    MINUTE,
    NOON,
    Crash,
    Failing,
    Shown,
    aeontel_integration,
    aeontel_row,
    commit,
    connected,
    event_log,
    gestal_integration,
    gestal_row,
    harvest,
    new_store,
    policy,
    spool,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    rule,
    run_state_machine_as_test,
)
from outposts import Manner, Outpost

from worker.errors import StoreBusy
from worker.findings import Harvest, Plan
from worker.models import INSTALLS, INTEGRATIONS, Certificate, Event, Install, installs_of
from worker.warehouse import Store, rows

IDS = "abcdef"
STATES = {"created": "active", "restored": "active", "upgraded": "active", "updated": "active",
          "deleted": "deleted", "purged": "purged"}  # fmt: skip
STATE_STATEMENTS = 20  # the same, of the state store when deliveries are made
MOST_REFUSED = 3  # looks that it may take until a breaker is closed again
STATEMENTS = 60  # more than a commit has: a crash after the last one is none
SETTLED_AFTER = 4  # syncs of a source at rest: emptied, deleted, purged, and then nothing

Payload = dict[str, Any]
Edit = Callable[[], None]


@dataclass
class Listed:
    """Rows as a source has them, newest first, and those that may come back as they were."""

    rows: dict[str, Payload] = field(default_factory=dict)
    gone: dict[str, Payload] = field(default_factory=dict)
    changes: int = 0

    def put(self, id: str, payload: Payload) -> None:
        self.changes += 1
        self.rows = {id: payload} | {other: row for other, row in self.rows.items() if other != id}

    def touch(self, id: str, **fields: Any) -> None:
        self.put(id, {**self.rows[id], **fields})

    def remove(self, id: str) -> None:
        self.gone[id] = self.rows.pop(id)


@dataclass
class Gestal(Listed):
    """Two listings, one per integration; a deleted row is in none, and an integration takes its
    rows along."""

    dialect: ClassVar = "gestal"
    homes: dict[str, str] = field(default_factory=dict)
    integrations: tuple[str, ...] = ("int_a", "int_b")

    def edits(self, id: str) -> Sequence[Edit]:
        """What can happen to an install now."""
        if id not in self.rows:
            return (lambda: self.settle_in(id),)
        other = {"cloud_id": f"site_{self.changes}", "name": "Hof"}
        return (
            lambda: self.remove(id),
            lambda: self.touch(id, note=self.changes),
            lambda: self.touch(id, site=other),
            lambda: self.touch(id),
            lambda: self.settle_in(id),
        )

    def settle_in(self, id: str) -> None:
        """Comes, comes back, or moves to the other integration."""
        here = self.integrations.index(self.homes[id]) if id in self.rows else -1
        self.put(id, self.rows.get(id) or self.gone.get(id) or gestal_row(id))
        self.homes[id] = self.integrations[(here + 1) % len(self.integrations)]

    def turn_over(self) -> None:
        """One of the integrations goes with its installs, or comes back without them."""
        if self.integrations == ("int_a",):
            self.integrations = ("int_a", "int_b")
            return
        self.integrations = ("int_a",)
        for id in [id for id in self.rows if self.homes[id] == "int_b"]:
            self.remove(id)

    def live(self) -> dict[str, Payload]:
        """The rows that a mirror must have as active."""
        return self.rows

    def listed(self, scope: str) -> list[Payload]:
        return [row for id, row in self.rows.items() if installs_of(self.homes[id]) == scope]

    def look(
        self, store: Store, folder: Path, certificate: Certificate, hidden: set[str]
    ) -> list[Shown]:
        """What a walk sees that misses the `hidden` rows."""
        lost = set(store.brief("farm").integrations) - set(self.integrations)
        described = [gestal_integration(id) for id in self.integrations]
        shown = [Shown(INTEGRATIONS, described, missing=sorted(lost), certificate=certificate)]
        for scope in map(installs_of, self.integrations):
            seen = [row for row in self.listed(scope) if row["cloud_id"] not in hidden]
            shown.append(Shown(scope, seen, certificate=certificate))
        return shown


@dataclass
class Aeontel(Listed):
    """One listing, which hides deleted rows or shows them; any row can be asked for until it is
    purged."""

    dialect: ClassVar = "aeontel"
    shows_deleted: bool = True
    integrations: tuple[str, ...] = ("int_a",)

    def edits(self, id: str) -> Sequence[Edit]:
        """What can happen to an install now."""
        if id not in self.rows:
            # Each has a workspace of its own, or the loss of all of one would be held.
            new = aeontel_row(id, workspaceId=f"ws_{id}")
            return (lambda: self.put(id, self.gone.get(id) or new),)
        day = f"2026-02-{self.changes % 28 + 1:02}T00:00:00Z"
        touch: Sequence[Edit] = (
            lambda: self.touch(id, note=self.changes),
            lambda: self.touch(id, retentionTier=f"tier {self.changes}"),
        )
        if self.rows[id]["deletedAt"]:
            back: Edit = lambda: self.touch(id, deletedAt=None)  # noqa: E731
            return (back, lambda: self.remove(id), *touch)
        upgrade = {"integrationVersionId": f"v{self.changes}", "lastUpgradedAt": day}
        return (
            lambda: self.touch(id, deletedAt=day),
            lambda: self.touch(id, **upgrade),
            lambda: self.touch(id, **upgrade, note=self.changes),
            lambda: self.remove(id),
            *touch,
        )

    def turn_over(self) -> None:
        """Deleted rows are listed from now on, or no more."""
        self.shows_deleted = not self.shows_deleted

    def live(self) -> dict[str, Payload]:
        """The rows that a mirror must have as active."""
        return {id: row for id, row in self.rows.items() if not row["deletedAt"]}

    def look(
        self, store: Store, folder: Path, certificate: Certificate, hidden: set[str]
    ) -> list[Shown]:
        """What a walk sees that misses the `hidden` rows, and what it asks for because of that."""
        listed = self.rows if self.shows_deleted else self.live()
        seen = [row for id, row in listed.items() if id not in hidden]
        spooled = spool(folder, Shown(INSTALLS, seen), NOON)
        asked = [id for id, _ in store.absent("farm", {spooled.path: spooled.length}, ())]
        found = [self.rows[id] for id in asked if id in self.rows]
        if certificate != "none":
            certificate = "keyset"
        if any(not row["deletedAt"] for row in found):
            certificate = "none"
        missing = [id for id in asked if id not in self.rows]
        return [
            Shown(INTEGRATIONS, [aeontel_integration()], certificate="keyset"),
            Shown(INSTALLS, [*seen, *found], missing, certificate),
        ]


@dataclass(frozen=True)
class Walk:
    """What a walk brings home, and the rows that were alive while it looked."""

    brought: Harvest
    alive: frozenset[str]


class Mirroring(RuleBasedStateMachine):
    """A source that changes, syncs that overlap, see too little or crash, a clock that jumps; and
    deliveries, made and sent now or later by processes that die at it."""

    walks: Bundle[Walk] = Bundle("walks")

    @initialize(source=st.sampled_from([Gestal, Aeontel]))
    def begin(self, source: type[Gestal | Aeontel]) -> None:
        self.source = source()
        self.policy = policy(self.source.dialect)
        self.folder = TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))
        path = new_store(Path(self.folder.name) / "store.duckdb")
        self.handle = connected(path)
        self.store = Store(self.handle, path.parent)
        self.now, self.fence = NOON, 0
        self.outpost = Outpost(Path(self.folder.name))
        self.outpost.relay(self.store)

    @rule(id=st.sampled_from(IDS), choice=st.integers(0, 59))
    def an_install_changes(self, id: str, choice: int) -> None:
        edits = self.source.edits(id)
        edits[choice % len(edits)]()

    @rule()
    def an_integration_or_a_habit_changes(self) -> None:
        self.source.turn_over()

    @rule(minutes=st.integers(-90, 90))
    def the_clock_jumps(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule(crash_at=st.integers(0, STATE_STATEMENTS))
    def a_sync_sees_everything(self, crash_at: int) -> None:
        self.commit(self.look("pristine", set()))
        self.outpost.relay(self.store, crash_at)

    @rule(target=walks)
    def a_walk_sees_everything(self) -> Walk:
        return self.look("pristine", set())

    @rule(target=walks, hidden=st.sets(st.sampled_from(IDS)))
    def a_walk_without_a_certificate_sees_some(self, hidden: set[str]) -> Walk:
        return self.look("none", hidden)

    @rule(target=walks, id=st.sampled_from(IDS))
    def a_walk_is_fooled_once(self, id: str) -> Walk:
        """No walk of WALK.md was ever seen to be fooled twice in a row about the same row."""
        suspected = self.handle.execute(
            "select 1 from installs where install_id = $id and missing_since is not null",
            {"id": id},
        ).fetchone()
        return self.look("repaired", set() if suspected else {id})

    @rule(walk=consumes(walks), crash_at=st.integers(1, STATEMENTS))
    def a_walk_is_committed(self, walk: Walk, crash_at: int) -> None:
        if walk.brought.fence < self.store.fence("farm"):
            with pytest.raises(StoreBusy):
                self.commit(walk)
            return
        before = self.store.last_sequence, self.store.brief("farm").round
        failing = Store(Failing(self.handle, crash_at), Path(self.folder.name))  # type: ignore[arg-type]
        try:
            self.commit(walk, failing)
        except Crash as crash:
            if crash.args == ("commit",):
                self.handle.rollback()
            assert (self.store.last_sequence, self.store.brief("farm").round) == before
            self.commit(walk)

    @rule(manner=st.sampled_from(get_args(Manner)))
    def what_is_due_is_sent(self, manner: Manner) -> None:
        self.outpost.deliver(manner)

    def look(self, certificate: Certificate, hidden: set[str]) -> Walk:
        self.fence += 1
        self.now += MINUTE
        folder = Path(self.folder.name) / f"spool {self.fence}"
        began_at = max(self.now, self.store.brief("farm").committed_at + timedelta(microseconds=1))
        shown = self.source.look(self.store, folder, certificate, hidden)
        brought = harvest(self.store, folder, *shown, at=began_at, fence=self.fence)
        return Walk(brought, frozenset(self.source.live()))

    def commit(self, walk: Walk, store: Store | None = None) -> Plan:
        plan = commit(store or self.store, walk.brought, self.now, policy=self.policy)
        ended = {e.install_id for e in plan.events if e.type.endswith(("deleted", "purged"))}
        assert not ended & walk.alive, "a live install was reported as deleted"
        return plan

    def teardown(self) -> None:
        if not hasattr(self, "handle"):
            return
        with self.folder, self.handle:
            self.settle()
            self.check_snapshot()
            check_log(event_log(self.handle))
            check_history(self.history())
            check_fold(event_log(self.handle), self.snapshot(), self.history())
            self.check_delivered()

    def check_delivered(self) -> None:
        """Every event that is no baseline has arrived, each install's in their order."""
        self.outpost.relay(self.store)
        for _ in range(MOST_REFUSED):
            self.outpost.deliver()
        assert self.outpost.states() <= {"delivered"}
        self.outpost.engine.dispose()
        told = [event for event in event_log(self.handle) if not event.baseline]
        first = list(dict.fromkeys(id for id in self.outpost.arrived if id.startswith("evt_")))
        assert set(first) == {event.event_id for event in told}
        place = {id: number for number, id in enumerate(first)}
        for install in IDS:
            own = [place[event.event_id] for event in told if event.install_id == install]
            assert own == sorted(own)

    def settle(self) -> None:
        for _ in range(SETTLED_AFTER):
            plan = self.commit(self.look("pristine", set()))
        assert plan == Plan(), "a source at rest goes on changing"

    def snapshot(self) -> dict[str, Payload]:
        return {row["install_id"]: row for row in self.rows("from installs")}

    def history(self) -> list[Payload]:
        return self.rows("from install_history order by install_id, revision")

    def rows(self, query: str) -> list[Payload]:
        return rows.dicts(self.handle.execute(query))

    def check_snapshot(self) -> None:
        kept = self.snapshot()
        active = {id: row for id, row in kept.items() if row["state"] == "active"}
        assert {id: row["payload"] for id, row in active.items()} == self.source.live()
        assert not any(row["missing_since"] for row in kept.values())
        assert self.store.brief("farm").integrations == tuple(sorted(self.source.integrations))
        match self.source:
            case Gestal():
                homes = {id: self.source.homes[id] for id in active}
                assert {id: row["integration_id"] for id, row in active.items()} == homes
                for scope in map(installs_of, self.source.integrations):
                    order = [row["cloud_id"] for row in self.source.listed(scope)]
                    found = self.store.remembered("farm", scope, (), deleted=False)
                    assert list(found.order) == order
            case Aeontel():
                deleted = self.source.rows.keys() - self.source.live().keys()
                hidden = {id for id, row in kept.items() if row["state"] == "deleted"}
                assert hidden == deleted & kept.keys()


def check_log(log: Sequence[Event]) -> None:
    """Numbered without a gap, no id twice, one time per commit and times that only grow."""
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert len({event.event_id for event in log}) == len(log)
    times = [event.detected_at for event in log]
    assert times == sorted(times)


def check_history(history: Iterable[Payload]) -> None:
    """Of every install each revision once, each valid until the next, one of them current."""
    for _, group in groupby(history, key=lambda row: row["install_id"]):
        revisions = list(group)
        assert [row["revision"] for row in revisions] == list(range(1, len(revisions) + 1))
        assert [row["is_current"] for row in revisions] == [*[False] * (len(revisions) - 1), True]
        assert revisions[-1]["valid_to"] is None
        for one, next_one in pairwise(revisions):
            assert one["valid_from"] < one["valid_to"] == next_one["valid_from"]
        assert len({row["first_seen_at"] for row in revisions}) == 1


def check_fold(
    log: Iterable[Event], snapshot: Mapping[str, Payload], history: Iterable[Payload]
) -> None:
    """The events alone give the state of every announced install and the columns of every active
    one; and what they say of before and after is what the history says."""
    recorded = {(row["install_id"], row["revision"]): row for row in history}
    folded: dict[str, Event] = {}
    for event in log:
        if event.install_id is None or event.after is None:
            continue
        folded[event.install_id] = event
        assert _columns(event.after) == _columns(recorded[event.install_id, event.revision])
        if event.before is not None:
            superseded = msgspec.to_builtins(recorded[event.install_id, event.revision - 1])
            assert event.before == {name: superseded[name] for name in event.before}
    states = {id: STATES[event.type.partition(".")[2]] for id, event in folded.items()}
    assert {id: snapshot[id]["state"] for id in folded} == states
    for id, row in snapshot.items():
        if row["state"] == "active":
            after = folded[id].after
            assert after is not None
            assert _columns(after) == _columns(row)


def _columns(row: Mapping[str, Any]) -> Payload:
    # A suspicion comes and goes without a revision.
    names = {"source", *Install.__struct_fields__} - {"missing_since"}
    document: Payload = msgspec.to_builtins({name: row[name] for name in names})
    return document


@pytest.mark.slow
def test_the_mirror_ends_as_its_source_and_its_events_tell_how() -> None:
    run_state_machine_as_test(
        Mirroring,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, database=None, print_blob=True
        ),
    )
