"""The store: its transaction, and the questions that a walk asks it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from worker.errors import StoreBusy
from worker.findings import Absence, Brief, Gathered, Harvest, Pair, Plan, Remembered
from worker.models import Event, Install, Integration, Kind
from worker.warehouse import connection, rows, sql


class Store:
    """An open store. Hold it for a commit or a question, never across a network call."""

    def __init__(self, opened: duckdb.DuckDBPyConnection, scratch: Path) -> None:
        self._connection, self._scratch = opened, scratch

    @cached_property
    def id(self) -> str:
        """The random name of this store."""
        return str(self._first("select_store")[0])

    @property
    def last_sequence(self) -> int:
        """The end of the event log; 0 while it is empty."""
        return int(self._ledger("")["last_sequence"])

    def fence(self, source: str) -> int:
        """The newest lease of `source`."""
        return int(self._ledger(source)["fence"])

    def take(self, source: str, fence: int) -> None:
        """From now on no older lease of `source` commits, even if the state store is lost."""
        self._run("take_fence", source=source, fence=fence)

    def events(self, after: int, limit: int = 10_000) -> list[Event]:
        """Events with a sequence above `after`, in order."""
        return [rows.event(row) for row in self._rows("select_events", after=after, limit=limit)]

    def announced(self, source: str) -> dict[str, datetime]:
        """Scopes past their baseline, and since when."""
        return {row["scope"]: row["announced_from"] for row in
                self._rows("select_announced", source=source)}  # fmt: skip

    def baselines(self) -> list[tuple[str, datetime]]:
        """Source and time of each commit that ended a baseline."""
        return self._run("select_baselines").fetchall()

    def baseline(self, source: str, ended_at: datetime) -> dict[str, Any]:
        """Source, time, scopes and counts of a commit that ended a baseline."""
        (found,) = self._rows("select_baseline", source=source, announced_from=ended_at)
        return found

    def brief(self, source: str) -> Brief:
        """What is known of a source before it is walked."""
        ledger = self._ledger(source)
        integrations = self._run("select_active_integrations", source=source).fetchall()
        suspects = self._run("select_suspects", source=source).fetchall()
        return Brief(
            store_id=self.id,
            commit_number=ledger["commit_number"],
            committed_at=ledger["committed_at"],
            round=ledger["round"],
            integrations=tuple(id for (id,) in integrations),
            active=dict(self._run("count_active", source=source).fetchall()),
            suspects={scope: frozenset(ids) for scope, ids in suspects},
        )

    def unseen_since(self, source: str, ids: Sequence[str], decided_at: datetime) -> list[str]:
        """Those of `ids` that nobody saw after `decided_at`."""
        found = self._rows("select_unseen_since", source=source, ids=[*ids], decided_at=decided_at)
        return [row["id"] for row in found]

    def remembered(
        self, source: str, scope: str, decided: Sequence[str], *, deleted: bool
    ) -> Remembered:
        """The listing as last known, with `deleted` rows too where it may show them; `decided` are
        ids in holds of the source."""
        facts = self._rows("select_scope", source=source, scope=scope, decided=list(decided))[0]
        kept = self._run("select_order", source=source, scope=scope, deleted=deleted).fetchall()
        return Remembered(
            **facts,
            order=tuple(id for id, _, rank in kept if rank is not None),
            digests={id: digest for id, digest, _ in kept},
        )

    def bounds(self, source: str, ranges: int) -> list[str]:
        """Install ids that cut those we know into so many ranges of about the same length."""
        return [row["id"] for row in self._rows("select_bounds", source=source, ranges=ranges)]

    def absent(
        self, source: str, spools: Mapping[Path, int], listed: Sequence[str]
    ) -> list[tuple[str, str]]:
        """(id, state) of the installs we know that no spool brings, active ones first."""
        self._stage(source, spools)
        result = self._run("select_absent_ids", source=source, listed=list(listed))
        return [(str(id), str(state)) for id, state in result.fetchall()]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block, or after an error nothing."""
        self._connection.execute("begin")
        try:
            yield
        except BaseException:
            # After a fault of the disk there is nothing left that could be rolled back.
            with suppress(duckdb.Error):
                self._connection.execute("rollback")
            raise
        self._connection.execute("commit")

    def gather(self, harvest: Harvest, now: datetime) -> Gathered:
        """Stages what was spooled, and reads what the plan needs. Inside the transaction.

        StoreBusy if a newer lease has committed for this source: this sync is too late.
        """
        source = harvest.source
        ledger = self._ledger(source)
        fence = ledger["fence"]
        if fence > harvest.fence:
            raise StoreBusy(
                f"{source}: a newer sync (lease {fence}) has committed; "
                f"this one (lease {harvest.fence}) came too late and changed nothing"
            )
        self._stage(source, harvest.spools)
        staged = self._run("select_staged").fetchall()
        observed = [observed_at for _, observed_at, _ in staged] or [harvest.began_at]
        gone = {kind for kind, _, some_gone in staged if some_gone}
        kinds: tuple[Kind, ...] = ("integration", "install")
        return Gathered(
            store_id=self.id,
            # One commit has one time, later than every commit and every observation before it,
            # whatever the clock does.
            commit_at=max(now, ledger["committed_at"] + timedelta(microseconds=1), *observed),
            round=ledger["round"],
            last_sequence=ledger["last_sequence"],
            pairs=tuple(pair for kind in kinds for pair in self._pairs(kind, source)),
            absences=self._absences(harvest),
            active=dict(self._run("count_active", source=source).fetchall()),
            announced=frozenset(self.announced(source)),
            **(self._with_integrations_gone(source) if "integration" in gone else {}),
            **(self._with_installs_gone(source) if "install" in gone else {}),
        )

    def apply(self, harvest: Harvest, gathered: Gathered, plan: Plan) -> None:
        """Writes the plan: revisions, snapshot, events, sightings, order and fence."""
        source, commit_at = harvest.source, gathered.commit_at
        # Changes first: what is superseded goes into the history as it was, even a suspect.
        visible = self._write_changes(source, plan, commit_at) + self._clear_suspects(source)
        self._run("update_sightings", source=source)
        self._run("insert_sightings", source=source)
        if plan.suspects:
            ids = list(plan.suspects)
            self._run("mark_suspects", source=source, ids=ids, commit_at=commit_at)
            self._run("mark_suspected_round", source=source, ids=ids, round=gathered.round + 1)
        self._place(harvest)
        self._keep_scopes(harvest, plan, commit_at)
        self._run("raise_fence", source=source, fence=harvest.fence)
        changed = bool(visible or plan.suspects)
        self._run("raise_commit", commit_at=commit_at, visible=int(changed))

    def _stage(self, source: str, spools: Mapping[Path, int]) -> None:
        for path, length in spools.items():
            # What a walk has seen is absent if its file is not what it left: another sync, or
            # somebody who cleans up, was there meanwhile.
            if length and (not path.exists() or path.stat().st_size != length):
                raise StoreBusy(
                    f"{source}: the spooled pages in {path} are not as this sync left them, "
                    "so it changed nothing; try again"
                )
        paths = [str(path) for path, length in spools.items() if length]
        if paths:
            self._run("stage_spools", paths=paths)
        else:
            self._run("stage_nothing")
        self._run("stage_latest", source=source)

    def _with_integrations_gone(self, source: str) -> dict[str, Any]:
        return {
            "dependents": tuple(self._installs("select_dependents", source=source)),
            "integrations_seen": int(self._first("count_integrations_seen", source=source)[0]),
        }

    def _with_installs_gone(self, source: str) -> dict[str, Any]:
        return {"account_sizes": dict(self._run("select_account_sizes", source=source).fetchall())}

    def _pairs(self, kind: Kind, source: str) -> Iterator[Pair]:
        type_: type[Install] | type[Integration] = Install if kind == "install" else Integration
        for row in self._rows(f"select_changed_{kind}s", source=source):
            before = rows.known(type_, row) if row["source"] is not None else None
            payload = None if row["row"] is None else msgspec.json.decode(row["row"])
            yield Pair(kind, row["scope"], row["id"], payload, before)

    def _absences(self, harvest: Harvest) -> tuple[Absence, ...]:
        # A keyset walk asks for what it misses instead (Aeontel): absences are for numbered pages.
        scopes = [
            walk.scope for walk in harvest.walks
            if walk.proves_absence and walk.walked.certificate != "keyset"
        ]  # fmt: skip
        if not scopes:
            return ()
        result = self._rows("select_absences", source=harvest.source, scopes=scopes,
                            began_at=harvest.began_at)  # fmt: skip
        return tuple(
            Absence(row["scope"], rows.known(Install, row), row["suspected_round"])
            for row in result
        )

    def _installs(self, name: str, **values: Any) -> Iterator[Install]:
        return (rows.known(Install, row) for row in self._rows(name, **values))

    def _clear_suspects(self, source: str) -> int:
        return int(self._first("clear_suspects", source=source)[0])

    def _write_changes(self, source: str, plan: Plan, commit_at: datetime) -> int:
        for kind in ("install", "integration"):
            kept = [change.after for change in plan.changes if change.kind == kind]
            if kept:
                documents = ({"source": source, **msgspec.to_builtins(row)} for row in kept)
                self._load(f"load_changed_{kind}s", documents)
                if kind == "install":
                    self._run("insert_revisions", commit_at=commit_at)
                self._run(f"upsert_{kind}s")
        if plan.events:
            self._load("load_new_events", plan.events)
            self._run("insert_events")
        return len(plan.changes)

    def _place(self, harvest: Harvest) -> None:
        placed = [
            {"scope": scope, "id": id, "place": place, "length": len(order)}
            for scope, order in harvest.placed
            for place, id in enumerate(order)
        ]
        if placed:
            self._load("load_placed", placed)
            self._run("update_ranks", source=harvest.source)

    def _keep_scopes(self, harvest: Harvest, plan: Plan, commit_at: datetime) -> None:
        values = {"source": harvest.source, "commit_at": commit_at}
        if walked := [walk.scope for walk in harvest.walks if walk.proves_absence]:
            self._run("upsert_scopes", **values, scopes=walked)
        if doubted := [walk.scope for walk in harvest.walks if walk.is_partial]:
            self._run("doubt_scopes", source=harvest.source, scopes=doubted)
        for scopes, baseline in ((plan.baselined, True), (plan.appeared - plan.baselined, False)):
            if scopes:
                self._run("announce_scopes", **values, scopes=sorted(scopes), baseline=baseline)

    def _load(self, name: str, documents: Any) -> None:
        path = rows.write(self._scratch / f"{name}.ndjson", documents)
        try:
            self._run(name, paths=[str(path)])
        finally:
            path.unlink()

    def _ledger(self, source: str) -> dict[str, Any]:
        return self._rows("select_ledger", source=source)[0]

    def _run(self, name: str, **values: Any) -> duckdb.DuckDBPyConnection:
        return self._connection.execute(sql.statement(name), values or None)

    def _rows(self, name: str, **values: Any) -> list[dict[str, Any]]:
        return rows.dicts(self._run(name, **values))

    def _first(self, name: str, **values: Any) -> Sequence[Any]:
        return rows.first(self._run(name, **values))


@contextmanager
def opened(path: Path, now: datetime, patience_s: float = connection.PATIENCE_S) -> Iterator[Store]:
    """The store at `path`, held alone under the warehouse lock, made if missing."""
    with connection.locked(path.parent, patience_s):
        handle = connection.connect(path, now, patience_s)
        try:
            with connection.faults_of(str(path), "; nothing of this sync was kept"):
                yield Store(handle, path.parent)
        finally:
            handle.close()


@contextmanager
def rehearsed(path: Path, now: datetime, scratch: Path) -> Iterator[Store]:
    """For a dry run: a copy in `scratch` of the store at `path`, made when it is first opened, so
    that each step of the sync finds what the step before has written."""
    copy = scratch / "store" / path.name
    if path.exists() and not copy.exists():
        copy.parent.mkdir(parents=True)
        with connection.locked(path.parent):
            connection.copy(path, copy)
    with opened(copy, now) as store:
        yield store
