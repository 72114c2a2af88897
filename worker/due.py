"""What the sync worker does at a tick: syncs what is due or asked for, sources side by side."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Final

from sqlalchemy import Engine

from worker import clock, outcomes, replay
from worker.admission import obstacle
from worker.backlog import make_left
from worker.errors import RetryLater, StocktakeError, StoreBusy, StoreUnusable
from worker.findings import Run
from worker.models import Mode
from worker.schedule import is_due
from worker.settings import Settings, Source
from worker.settings.values import Schedule
from worker.state import requests, sources
from worker.state.heartbeats import Pulse
from worker.state.requests import Ended, RequestRow
from worker.state.tables import SourceState
from worker.sync import Wish, sync
from worker.upkeep import brought_up, migrate

log = logging.getLogger(__name__)

SOURCES_AT_ONCE: Final = 4  # a slow source does not hold up the others
_LOOK_S: Final = 1.0  # how often, while some are synced, to look whether others are due
# Then the other tasks of the queue have their turn, even if some source is always due.
_LONGEST_S: Final = 300.0

_migrated: set[Path] = set()  # stores that this process has looked at
_relayed: dict[Path, tuple[int, ...]] = {}  # and how their files were when all was relayed


def sync_due(
    settings: Settings, stop: Event, wake_deliverer: Callable[[], object] = lambda: None
) -> bool:
    """Syncs every source that is due or asked for, until there is none; says whether there may be
    something to deliver, and calls `wake_deliverer` as soon as there is.

    A rate limited or paused source is left alone, and one that another process syncs.
    """
    with brought_up(settings) as engine, ThreadPoolExecutor(SOURCES_AT_ONCE, "sync") as pool:
        shift = _Shift(settings, engine, stop, pool)
        begun = shift.look()
        told = _make_left(settings, engine, stop, idle=not begun)
        if told:
            wake_deliverer()
        while shift.under_way:
            if shift.settle():
                wake_deliverer()
                told = True
            shift.look()
    return told


def wanted(
    schedule: Schedule, state: SourceState | None, asked: Sequence[RequestRow], now: datetime
) -> Wish | None:
    """What a source is to be synced for now, if for anything. What is asked for comes first."""
    if state and obstacle(state, now):
        return None
    if asked:
        return merged(asked)
    if state is None:
        return Wish("full")  # it was never seen
    timings = (schedule.incremental, schedule.full)
    if not any(is_due(timing, state.last_tried_at, now) for timing in timings):
        return None
    return Wish("full" if is_due(schedule.full, state.last_full_at, now) else "incremental")


def merged(asked: Sequence[RequestRow]) -> Wish:
    """One wish for several requests of one source: it satisfies each of them."""
    mode: Mode = "full" if any(each.mode == "full" for each in asked) else "incremental"
    scopes = dict.fromkeys(each.scope for each in asked)
    return Wish(mode, () if None in scopes else tuple(filter(None, scopes)))


def ended_with(request: RequestRow, runs: Sequence[Run]) -> Ended:
    """How a request ends that was served by a sync: with the runs of what it asked for, or with
    those that kept the sync from coming to that."""
    own = _own(request, runs) or runs
    outcome = outcomes.most_serious(run.outcome for run in own)
    ids = tuple(run.run_id for run in own if run.run_id)
    return Ended(outcome, outcomes.exit_code([outcome]), ids)


def is_left(request: RequestRow, wish: Wish, runs: Sequence[Run], *, stopped: bool) -> bool:
    """Whether a sync for `wish` leaves a request to the next one: it did not come to it."""
    own = _own(request, runs)
    if stopped and any(run.outcome == "partial" for run in own or runs):
        return True
    # Of an integration that a whole sync did not meet, only a sync of it alone says what is wrong.
    is_unmet = request.scope is not None and not own and not wish.scopes
    return is_unmet and not any(run.outcome == "failed" for run in runs)


def _own(request: RequestRow, runs: Sequence[Run]) -> Sequence[Run]:
    return [run for run in runs if request.scope in (None, run.scope)]


@dataclass(frozen=True, slots=True)
class _Done:
    """What came of one sync: whether it may have made deliveries, and whether it served all that
    it was begun for."""

    told: bool = False
    served: bool = False


class _Shift:
    """The syncs of one tick."""

    def __init__(
        self, settings: Settings, engine: Engine, stop: Event, pool: ThreadPoolExecutor
    ) -> None:
        self._settings, self._engine, self._stop, self._pool = settings, engine, stop, pool
        self._pulse = Pulse(engine, "sync")
        self._ends_s = time.monotonic() + _LONGEST_S
        self._left: set[str] = set()  # what another process syncs, or what failed: the next tick
        self.under_way: dict[Future[_Done], str] = {}

    def look(self) -> bool:
        """Begins what is due; says whether anything is."""
        if self._stop.is_set() or time.monotonic() > self._ends_s:
            return False
        jobs = list(self._jobs({*self._left, *self.under_way.values()}))
        for source, wish in jobs:
            self.under_way[self._pool.submit(self._sync, source, wish)] = source.name
        return bool(jobs)

    def settle(self) -> bool:
        """Waits a moment for syncs to end; says whether there may be something to deliver."""
        done, _ = wait(self.under_way, _LOOK_S, FIRST_COMPLETED)
        names = [self.under_way.pop(each) for each in done]
        results = [each.result() for each in done]
        self._left |= {name for name, it in zip(names, results, strict=True) if not it.served}
        return any(each.told for each in results)

    def _jobs(self, besides: Collection[str]) -> Iterator[tuple[Source, Wish]]:
        states = {each.source: each for each in sources.every(self._engine)}
        waiting, now = requests.waiting(self._engine), clock.now()
        self._refuse_unknown(waiting)
        for source in self._settings.sources:
            if source.name in besides:
                continue
            asked = [each for each in waiting if each.source == source.name]
            schedule = self._settings.schedule_for(source)
            if wish := wanted(schedule, states.get(source.name), asked, now):
                yield source, wish

    def _sync(self, source: Source, wish: Wish) -> _Done:
        taken: list[RequestRow] = []
        try:
            return self._served(source, wish, taken)
        except StoreBusy as error:
            log.info("sync source=%s later=%r", source.name, str(error))
        except RetryLater as error:
            log.error("sync source=%s error=%r", source.name, str(error))
        except StocktakeError as error:
            log.error("sync source=%s error=%r", source.name, str(error))
            unserved = self._unserved(source, taken) if isinstance(error, StoreUnusable) else taken
            self._refuse(unserved, str(error))
        except Exception:  # a defect of ours; it must not keep the other sources from their tick
            log.exception("sync source=%s", source.name)
            why = f"{source.name}: a defect; the log of the sync worker has it"
            self._refuse(self._unserved(source, taken), why)
        return _Done()

    def _served(self, source: Source, wish: Wish, taken: list[RequestRow]) -> _Done:
        def revise(wish: Wish) -> Wish:
            # Who asks from now on is served by the next sync: this one may have passed by already.
            taken.extend(requests.begin(self._engine, source.name, clock.now()))
            return merged(taken) if taken else wish

        _migrate_once(self._settings)
        synced = sync(
            self._settings,
            self._engine,
            source,
            wish,
            self._stop,
            revise=revise,
            on_request=self._pulse,
        )
        stopped = self._stop.is_set()
        for each in taken:
            if not is_left(each, merged(taken), synced.runs, stopped=stopped):
                ended = ended_with(each, synced.runs)
                requests.end(self._engine, each.request_id, ended, clock.now())
        return _Done(told=any(plan.events for plan in synced.plans), served=True)

    def _unserved(self, source: Source, taken: Sequence[RequestRow]) -> Sequence[RequestRow]:
        """Those of a sync that cannot go on, which may not have come to take them."""
        return taken or requests.waiting(self._engine, source.name)

    def _refuse_unknown(self, waiting: Sequence[RequestRow]) -> None:
        known = {source.name for source in self._settings.sources}
        for each in waiting:
            if each.source not in known:
                # Removed since it was asked for, or added since this process began.
                why = "the daemon has no such source; it reads the configuration when it starts"
                self._refuse([each], f"{each.source}: {why}")

    def _refuse(self, taken: Sequence[RequestRow], error: str) -> None:
        for each in taken:
            ended = Ended("failed", outcomes.exit_code(["failed"]), error=error)
            requests.end(self._engine, each.request_id, ended, clock.now())


def _migrate_once(settings: Settings) -> None:
    if settings.store_path not in _migrated:
        migrate(settings)
        _migrated.add(settings.store_path)


def _make_left(settings: Settings, engine: Engine, stop: Event, *, idle: bool) -> bool:
    """Makes what a crash has left of a replay, and (`idle`: no sync does it) the deliveries that it
    left between a commit and them; says whether there was any.

    A store whose files are as they were is not opened for that: who commits changes them.
    """
    try:
        path, files = settings.store_path, _files(settings.store_path)
        if not idle or _relayed.get(path) == files:
            return replay.go_on(settings, engine, stop)
        left = make_left(settings, engine, stop)
        _relayed[path] = files  # as before: what others did meanwhile is looked at next time
    except StoreBusy as error:
        log.info("relay error=%r", str(error))
    except StocktakeError as error:
        log.error("relay error=%r", str(error))
    else:
        return left
    return False


def _files(store: Path) -> tuple[int, ...]:
    facts: list[int] = []
    for path in (store, store.with_name(f"{store.name}.wal")):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        facts += (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return tuple(facts)
