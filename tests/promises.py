"""Histories of Stocktake beside a platform that moves, each sync judged by what was really so."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, get_args

import duckdb
import msgspec
from platforms import SELDOM, Stocktake, World, held_open, source_rows, stocktaking
from stages import Keyset, Listing, Numbered, Stage, any_stage

from worker.harvest import RECHECKED
from worker.models import Mode
from worker.sandbox.aeontel_world import TOKEN, AeontelWorld
from worker.sandbox.calls import Call
from worker.sandbox.faults import Damage, Distortion, Fault, Outage
from worker.sandbox.gestal_world import GestalWorld
from worker.state import sources

LISTINGS = 8  # of one account at Gestal: each is a history of its own
FAULTS = (*get_args(Outage), *get_args(Damage), *get_args(Distortion))


@dataclass
class Told:
    """What the event log has said so far of the installs of a source."""

    store: duckdb.DuckDBPyConnection
    source: str
    last: int  # sequence
    after: dict[str, dict[str, Any]] = field(default_factory=dict)
    times: Counter[tuple[str, str]] = field(default_factory=Counter)  # by type and install

    def listen(self) -> list[tuple[str, str]]:
        """Type and install of each new event."""
        query = """
            select sequence, type, install_id, after
            from events where sequence > $last order by sequence
        """
        new = self.store.execute(query, {"last": self.last}).fetchall()
        assert [each[0] for each in new] == list(range(self.last + 1, self.last + 1 + len(new)))
        self.last += len(new)
        told = [(type_, id, after) for _, type_, id, after in new if id]
        self.after.update((id, msgspec.json.decode(after)) for _, id, after in told)
        self.times.update((type_, id) for type_, id, _ in told)
        return [(type_, id) for type_, id, _ in told]

    def snapshot(self) -> dict[str, tuple[str, int, Any]]:
        """State, revision and payload of every install."""
        query = "select install_id, state, revision, payload from installs where source = $source"
        rows = self.store.execute(query, {"source": self.source}).fetchall()
        return {
            id: (state, revision, msgspec.json.decode(payload))
            for id, state, revision, payload in rows
        }


@dataclass
class History:
    """One source over several syncs, with what it tells and what it has been told."""

    random: Random
    taken: Stocktake
    stages: Sequence[Stage]
    told: Told
    counts: Counter[str] = field(default_factory=Counter)

    def sync(self, mode: Mode) -> None:
        """Syncs, and judges every deletion that is told."""
        shown_at = [dict(stage.shown_at) for stage in self.stages]
        synced = self.taken.sync(mode=mode)
        self.counts.update(f"{run.mode} {run.certificate} {run.outcome}" for run in synced.runs)
        told = self.told.listen()
        self.counts.update(type_ for type_, _ in told)
        deleted = [id for type_, id in told if type_ == "install.deleted"]
        for stage, shown in zip(self.stages, shown_at, strict=True):
            false = [id for id in deleted if stage.was_there_since(id, shown.get(id, -1))]
            assert not false, "a row that was live ever since it was last shown is told as deleted"
            self._check_counts(stage)

    def _check_counts(self, stage: Stage) -> None:
        happened = {
            "install.created": dict.fromkeys(stage.changed_at, 1),
            "install.deleted": stage.deletions,
            "install.purged": stage.deletions,
            "install.restored": stage.restores,
        }
        for (type_, id), times in self.told.times.items():
            if id in stage.changed_at and type_ in happened:
                assert times <= happened[type_].get(id, 0), f"{id} is {type_} more than happened"

    def pass_time(self) -> None:
        """What happens before the next sync, and whether more does while it is made."""
        for stage in self.stages:
            stage.quiet, stage.requests = False, 1
            if self.random.random() > 0.2:
                stage.churn(self.random.randint(1, 8))
                stage.stir()
            stage.quiet, stage.requests = self.random.random() < 0.2, 0

    def come_to_rest(self) -> None:
        """One quiet full sync, and one more after a walk that it goes on with: the pages read
        before the interruption are old. At Aeontel others ask for the rest of the deleted rows."""
        for stage in self.stages:
            stage.quiet = True
        spool = self.taken.settings.spool_dir / self.taken.source.name
        more = any(spool.glob("*.journal"))
        if isinstance(self.taken.world, AeontelWorld):
            more += sum(row["state"] != "active" for row in self.told.after.values()) // RECHECKED
        for _ in range(1 + more):
            self.sync("full")

    def check_exact(self) -> None:
        """The snapshot is the source, row by row, and the events make the snapshot."""
        kept = self.told.snapshot()
        alive = source_rows(self.taken.world)
        live = {id for id, row in alive.items() if not row.get("deletedAt")}
        assert {id for id, (state, _, _) in kept.items() if state == "active"} == live
        assert all(kept[id][2] == row for id, row in alive.items() if id in kept)
        assert all(kept[id][0] == after["state"] for id, after in self.told.after.items())
        assert live <= self.told.after.keys()
        assert all(
            kept[id] == (after["state"], after["revision"], after["payload"])
            for id, after in self.told.after.items()
            if id in live
        )

    def check_silent(self) -> None:
        """Where nothing happens nothing is told; but of an install that was never seen deleted, a
        first 404 says that it is, and a second that it is purged."""
        before = +self.counts
        self.sync("incremental")
        new = {name for name in self.counts - before if name.startswith("install.")}
        assert new <= {"install.purged"}, f"{new} are told although nothing happens"


@dataclass(frozen=True)
class Archive:
    """A data directory that many histories share, each with a source of its own."""

    folder: Path
    store: duckdb.DuckDBPyConnection

    def play(self, name: str, world: World, adversaries: Sequence[str]) -> Counter[str]:
        """Some syncs of a moving platform, then one at rest that leaves nothing to be desired.

        Returns what there was of events, certificates and outcomes.
        """
        random = Random(name)
        with self._begun(random, f"source_{name}", world, adversaries) as history:
            for _ in range(random.choice((1, 1, 2, 3))):
                history.pass_time()
                with _at_fault(random, history.taken):
                    history.sync(random.choice(("full", "incremental", "incremental")))
            history.come_to_rest()
            history.check_exact()
            if random.random() < 0.3:
                for stage in history.stages:
                    stage.stir()  # what was told as deleted comes back
                history.come_to_rest()
                history.check_exact()
            if random.random() < 0.2:
                history.check_silent()
            return history.counts

    @contextmanager
    def _begun(
        self, random: Random, name: str, world: World, adversaries: Sequence[str]
    ) -> Iterator[History]:
        size = random.randint(2, 20) if random.random() < 0.8 else random.randint(21, 100)
        stages = [any_stage(random, each, size, adversaries) for each in _listings(world)]
        at_once = random.choice((1, 1, 4))
        with stocktaking(
            self.folder, world, name=name, page_size=size, max_concurrency=at_once
        ) as taken:
            taken.settings = taken.settings.model_copy(update={"publish": SELDOM})
            for stage in stages:
                stage.quiet = random.random() < 0.7
            _direct(world, stages)
            history = History(random, taken, stages, Told(self.store, name, self._end()))
            history.sync("full")
            yield history

    def _end(self) -> int:
        (end,) = self.store.execute("select coalesce(max(sequence), 0) from events").fetchall()
        return int(end[0])


@contextmanager
def archive(folder: Path) -> Iterator[Archive]:
    """An archive in `folder`."""
    with held_open(folder) as store:
        yield Archive(folder, store)


def _listings(world: World) -> list[Listing]:
    if isinstance(world, GestalWorld):
        return [Numbered(world, world.create_integration()) for _ in range(LISTINGS)]
    return [Keyset(world, world.create_integration())]


def _direct(world: World, stages: Sequence[Stage]) -> None:
    """Lets every request for installs move the listing that it is for."""
    of_path: Mapping[str, Stage] = {
        stage.listing.integration_id: stage
        for stage in stages
        if isinstance(stage.listing, Numbered)
    }

    def before(world: World, call: Call) -> None:
        if "integration-installs" in call.segments:
            stages[0].before(call)
        elif call.segments[-1] == "installations":
            of_path[call.segments[1]].before(call)

    world.before_request = before


@contextmanager
def _at_fault(random: Random, taken: Stocktake) -> Iterator[None]:
    """Perhaps something goes wrong once, or for as long as the block lasts."""
    if random.random() < 0.3:
        fault = Fault(
            random.choice(FAULTS),
            times=random.choice((1, 1, 2, None)),
            match="install",
            after=random.randint(0, 8),
        )
        taken.world.faults.add(fault)
    yield
    taken.world.faults.clear()
    if isinstance(taken.world, AeontelWorld):
        taken.world.tokens.add(TOKEN)
    sources.resume(taken.engine, taken.source)
