"""After a commit: runs, holds and notices into the state store, events into deliveries."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Engine
from sqlmodel import Session

from worker import clock, outcomes
from worker.findings import Brief, Plan, Run
from worker.relay import Log, announce, announce_in, cursor, register, unannounced
from worker.relay import relay as relay_events
from worker.settings import Settings, Source
from worker.state import holds, replays, runs, sources, tallies, transaction
from worker.state.tables import SourceState
from worker.warehouse import Store
from worker.webhooks import notice_id

FAILURES_TO_TELL: Final = 3
_BATCH: Final = 5000  # events read from the store at a time


def relay(settings: Settings, engine: Engine, store: Store) -> int:
    """Makes the deliveries that are not made yet; returns how many, a notice counted once. Any
    crash is caught up here: cursors and deliveries are one transaction of the state store, events
    stay in the log."""
    now, head = clock.now(), store.last_sequence
    register(engine, settings.endpoints, store.id, head, now)
    with transaction(engine) as session:
        later = {replay.endpoint for replay in replays.unfinished(session)}
    # To the others what is new goes after what is sent again, which is older.
    endpoints = [endpoint for endpoint in settings.endpoints if endpoint.name not in later]
    made = 0
    while (after := cursor(engine, endpoints)) is not None:
        events = store.events(after, _BATCH)
        made += relay_events(engine, endpoints, Log(store.id, head, events), now)
        if not events:
            break
    return made + _tell_baselines(settings, engine, store, now)


def _tell_baselines(settings: Settings, engine: Engine, store: Store, now: datetime) -> int:
    ended = {
        notice_id(store.id, "sync.baseline", source, str(ended_at)): (source, ended_at)
        for source, ended_at in store.baselines()
    }
    told = unannounced(engine, ended)
    for id in told:
        source, ended_at = ended[id]
        data = store.baseline(source, ended_at)
        announce(engine, settings.endpoints, id, "sync.baseline", source, data, now)
    return len(told)


def record(
    settings: Settings,
    engine: Engine,
    source: Source,
    done: Sequence[Run],
    plan: Plan,
    commit_at: datetime,
) -> None:
    """Keeps the runs of one commit, and opens the holds that its plan proposes."""
    runs.record(engine, done)
    if taken_back := sum(change.retraction for change in plan.changes):

        def count(row: SourceState) -> None:
            row.retractions += taken_back

        sources.change(engine, source, count)
    with transaction(engine) as session:
        for hold in holds.open_in(session, source.name, plan.holds, commit_at):
            data = hold.model_dump(mode="json", exclude={"ids", "decided_at"})
            id = notice_id(hold.hold_id, "sync.held")
            announce_in(session, settings.endpoints, id, "sync.held", source.name, data, commit_at)


def conclude(
    settings: Settings,
    engine: Engine,
    source: Source,
    done: Sequence[Run],
    *,
    whole: bool,
    stopped: bool = False,
    brief: Brief,
    requests: int,
) -> None:
    """Keeps how the sync ended (`whole`: of all listings), and tells when a source keeps failing
    or has recovered. `brief` is what the store knows after it."""
    now, before = clock.now(), sources.known(engine, source).failures
    # All of it or nothing: a notice goes with the count that calls for it.
    with transaction(engine) as session:
        runs.record_in(session, done)
        tallies.count_sync(session, source.name, done, brief, requests, now)
        # Cut short by us, the source has not failed, and the next sync goes on at once.
        if not (stopped and outcomes.failed(done)):
            after = _count_failures(session, source, done, now, whole=whole)
            _tell_failures(session, settings, source, done, before, after, now)


def _count_failures(
    session: Session, source: Source, done: Sequence[Run], now: datetime, *, whole: bool
) -> int:
    """How many syncs of the source have failed in a row; kept with when it was last tried."""
    limited = any(run.outcome == "rate_limited" for run in done)

    def edit(row: SourceState) -> None:
        if whole:
            # What was asked of one listing must not put off the next look at all of them.
            row.last_tried_at = now
        if outcomes.failed(done):
            row.failures += 1
        elif not limited:
            row.failures, row.strikes, row.last_synced_at = 0, 0, now
            if whole and all(run.mode == "full" for run in done):
                row.last_full_at = now

    return sources.change_in(session, source, edit).failures


def _tell_failures(
    session: Session,
    settings: Settings,
    source: Source,
    done: Sequence[Run],
    before: int,
    after: int,
    now: datetime,
) -> None:
    # A sync that was rate limited leaves the count as it was: that is no news.
    fails = after > before and after == FAILURES_TO_TELL
    if not fails and (before < FAILURES_TO_TELL or after):
        return
    type_ = "sync.failed" if fails else "sync.recovered"
    bad = (run for run in done if outcomes.failed([run]))
    errors = sorted({run.error or run.reason or run.outcome for run in bad})
    data = {"source": source.name, "failures": after or before, "errors": errors}
    id = notice_id(done[0].run_id, type_)
    announce_in(session, settings.endpoints, id, type_, source.name, data, now)
