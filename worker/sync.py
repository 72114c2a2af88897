"""One sync of one source: walk, diff, guard, commit, publish, relay. Start reading here."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, Final

from sqlalchemy import Engine

from worker import aftermath, clock, dialects, planning, publishing, warehouse
from worker.admission import check_allowed, client_of
from worker.changes import Reading
from worker.client import Client
from worker.findings import Brief, Harvest, Known, Limits, Pair, Plan, Progress, Run
from worker.harvest import Field, Reaped
from worker.knowledge import Knowledge
from worker.models import Mode, Outcome
from worker.outcomes import joined, run_of
from worker.planning import Policy
from worker.settings import Settings, Source
from worker.state import holds, leases, walks
from worker.walking import Guide, Observed, integration_of
from worker.warehouse import Store

log = logging.getLogger(__name__)

_NEVER_LATE: Final = 2**62  # a dry run takes no lease, and works on a copy of the store
_LEVELS: Final[Mapping[Outcome, int]] = {
    "ok": logging.INFO, "unchanged": logging.INFO, "failed": logging.ERROR,
    "held": logging.WARNING, "partial": logging.WARNING, "rate_limited": logging.WARNING,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a sync. Without `scopes`: every listing of the source."""

    mode: Mode = "full"
    scopes: tuple[str, ...] = ()
    dry_run: bool = False
    approved: frozenset[str] = frozenset()  # held ids that a person has released


@dataclass(frozen=True, slots=True)
class Synced:
    """What came of it: a run per scope, and what was (or, dry, would be) recorded."""

    runs: tuple[Run, ...]
    plans: tuple[Plan, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What one sync works with. `folder` is where its pages are spooled."""

    settings: Settings
    engine: Engine
    source: Source
    wish: Wish
    fence: int
    client: Client
    progress: Progress
    folder: Path
    stop: Event
    run_ids: dict[str, str] = field(default_factory=dict)

    @property
    def dialect(self) -> dialects.Dialect:
        """How the source talks."""
        return dialects.named(self.source.dialect)

    def run_id(self, scope: str) -> str:
        """The run of `scope` in this sync, however often it is walked."""
        return self.run_ids.setdefault(scope, f"run_{uuid.uuid4().hex[:12]}")

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The store, open for as short as possible: never across a network call."""
        path, now = self.settings.store_path, clock.now()
        if self.wish.dry_run:
            with warehouse.rehearsed(path, now, scratch=self.folder) as store:
                yield store
        else:
            with warehouse.opened(path, now) as store:
                yield store


def sync(
    settings: Settings,
    engine: Engine,
    source: Source,
    wish: Wish,
    stop: Event,
    progress: Progress = lambda scope, seen, total: None,
    *,
    revise: Callable[[Wish], Wish] = lambda wish: wish,
    on_request: Callable[[], None] = lambda: None,
) -> Synced:
    """Syncs `source` now, in this process. `revise` has the last word on what is wanted: it is
    asked when nobody else can begin a sync of the source any more. `on_request` is called with each
    request to the source.

    What goes wrong with a listing is told in its run. Raised is what keeps the sync from
    beginning or from being committed: RateLimited, Refused (paused), StoreBusy, StoreUnusable.
    """
    check_allowed(engine, source)
    with client_of(settings, engine, source, stop, on_request) as client:
        work = partial(Work, settings, engine, source, client=client, stop=stop)
        if wish.dry_run:
            with TemporaryDirectory(prefix="stocktake-") as folder:
                rehearsal = work(wish, _NEVER_LATE, progress=progress, folder=Path(folder))
                with rehearsal.store() as store:
                    brief = store.brief(source.name)
                return _sync(rehearsal, brief)[0]
        with ExitStack() as held:
            with warehouse.opened(settings.store_path, clock.now()) as store:
                aftermath.relay(settings, engine, store)
                lease = leases.lease(engine, f"sync {source.name}", store.fence(source.name))
                fence = held.enter_context(lease)
                store.take(source.name, fence)
                brief = store.brief(source.name)
            wish, spooled_in = revise(wish), settings.spool_dir / source.name
            told = held.enter_context(walks.shown(engine, source.name, progress))
            synced, newest = _sync(work(wish, fence, progress=told, folder=spooled_in), brief)
        publishing.publish_if_due(settings, engine, newest)
        return synced


def _sync(work: Work, brief: Brief) -> tuple[Synced, Brief]:
    """Walks and commits, a second time where that settles suspects; also what is known after it."""
    began = time.monotonic()
    plan, runs, brief = _pass(work, brief, Plan(), work.wish.mode, work.wish.scopes)
    plans = [plan]
    if doubtful := _scopes_to_confirm(work, plan, runs):
        # So that one sync settles everything on a quiet source, the second walk, which confirms
        # that a suspect is gone, is made at once (WALK.md, "absence").
        plan, again, brief = _pass(work, brief, plan, "full", doubtful)
        plans.append(plan)
        second = {run.scope: run for run in again}
        runs = [joined(run, second[run.scope]) if run.scope in second else run for run in runs]
    if not work.wish.dry_run:
        whole = not work.wish.scopes
        aftermath.conclude(
            work.settings,
            work.engine,
            work.source,
            runs,
            whole=whole,
            stopped=work.stop.is_set(),
            brief=brief,
            requests=work.client.requests,
        )
    _log(work, runs, time.monotonic() - began)
    return Synced(tuple(runs), tuple(plans)), brief


def _pass(
    work: Work, brief: Brief, before: Plan, mode: Mode, scopes: Sequence[str]
) -> tuple[Plan, list[Run], Brief]:
    """Walks once and commits: gather, decide, apply. `before` is what this sync committed first."""
    started_at = clock.now()
    ground = _field(work, brief)

    reaped = ground.reap(mode, scopes)

    with work.store() as store:
        with store.transaction():
            harvest = _harvest(work, ground, reaped)
            gathered = store.gather(harvest, clock.now())
            policy = _policy(work, store, before)

            plan = planning.plan(gathered, harvest.walks, policy)

            store.apply(harvest, gathered, plan)
        brief = store.brief(work.source.name)
        runs = _runs(work, reaped, plan, brief.suspects, started_at)
        if not work.wish.dry_run:
            aftermath.record(
                work.settings, work.engine, work.source, runs, plan, gathered.commit_at
            )
            aftermath.relay(work.settings, work.engine, store)
    for spool in ground.spools:
        spool.sweep()
    return plan, runs, brief


def _field(work: Work, brief: Brief) -> Field:
    source, observed = work.source, Observed(clock.now(), brief.committed_at)
    keeps = not work.wish.dry_run
    return Field(
        source=source,
        guide=Guide(source, work.dialect, work.client, observed, work.progress),
        knowledge=Knowledge(work.settings, work.engine, source, work.store, brief, keeps),
        folder=work.folder,
        run_id=work.run_id,
    )


def _harvest(work: Work, ground: Field, reaped: Sequence[Reaped]) -> Harvest:
    walks = tuple(each.walk for each in reaped)
    return Harvest(
        source=work.source.name,
        fence=work.fence,
        began_at=ground.began_at,
        walks=walks,
        spools=ground.files,
        placed=tuple(ground.placed),
    )


def _policy(work: Work, store: Store, before: Plan) -> Policy:
    dialect = work.dialect

    def columns(pair: Pair, payload: Any) -> Known:
        if pair.kind == "integration":
            return dialect.integration(payload)
        return dialect.install(payload, integration_of(pair.scope))

    # The id is what makes two rows the same install: it cannot be ignored.
    ignore = tuple(path for path in work.source.ignore if path != dialect.ID)
    return Policy(
        source=work.source.name,
        reading=Reading(columns, ignore),
        limits=_limits(work, store, before),
        cascades=dialect.PAGING == "numbered",
        listed=work.source.integrations,
    )


def _limits(work: Work, store: Store, before: Plan) -> Limits:
    guard = work.settings.guard_for(work.source)
    kept = holds.every(work.engine, work.source.name)
    return Limits(
        guard.min_rows,
        guard.max_share,
        guard.max_count,
        held=frozenset(id for hold in kept if hold.status == "open" for id in hold.ids),
        rejected=frozenset(
            id
            for hold in kept
            if hold.status == "rejected" and hold.decided_at
            for id in store.unseen_since(work.source.name, hold.ids, hold.decided_at)
        ),
        approved=work.wish.approved,
        recorded=before.absences(besides=work.wish.approved),
    )


def _runs(
    work: Work,
    reaped: Sequence[Reaped],
    plan: Plan,
    suspects: Mapping[str, frozenset[str]],
    started_at: datetime,
) -> list[Run]:
    return [
        run_of(work.source.name, each.walk, each.error, plan, suspects, started_at, clock.now())
        for each in reaped
    ]


def _scopes_to_confirm(work: Work, plan: Plan, runs: Sequence[Run]) -> list[str]:
    """The certified listings whose new suspects a second walk may confirm: those in numbered pages,
    and any that came back empty (of other absences a keyset source was asked already)."""
    if not plan.suspects:
        return []
    numbered = work.dialect.PAGING == "numbered"
    doubtful = (run for run in runs if run.suspects and run.certificate != "none")
    return [run.scope for run in doubtful if numbered or not run.seen]


def _log(work: Work, runs: Sequence[Run], seconds: float) -> None:
    for run in runs:
        facts = {
            "source": run.source, "scope": run.scope, "mode": run.mode, "outcome": run.outcome,
            "certificate": run.certificate, "requests": run.requests, "pages": run.pages,
            "seen": run.seen, "events": sum(run.counts.values()), "held": run.held,
            "suspects": run.suspects, "seconds": round(seconds, 3),
        }  # fmt: skip
        if work.wish.dry_run:
            facts["dry_run"] = True
        if why := run.error or run.reason:
            facts["error" if run.error else "reason"] = why
        log.log(_LEVELS[run.outcome], "sync", extra={"facts": facts})
