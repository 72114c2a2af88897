"""`sync --enqueue`: asks the daemon for syncs, and follows what becomes of them."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from threading import Event
from typing import Final

from sqlalchemy import Engine

from worker import clock, outcomes
from worker.admission import obstacle
from worker.cli import output
from worker.cli.waking import wake_syncs
from worker.errors import Refused, Stopped
from worker.findings import Progress, Run
from worker.health import duration, is_live
from worker.models import Mode
from worker.settings import Settings
from worker.state import heartbeats, requests, runs, sources, walks
from worker.state.requests import Asked, RequestRow

_POLL_S: Final = 0.5


def ask(
    settings: Settings,
    engine: Engine,
    asked: Sequence[Asked],
    stop: Event,
    *,
    wait: bool,
    json: bool,
) -> int:
    """Keeps the requests, wakes the daemon, and shows what comes of it; returns the exit code."""
    ids = requests.add(engine, asked, clock.now())
    if asked and not wake_syncs(settings):
        output.note("the broker does not answer: the daemon finds the requests at its next look")
    if not wait:
        _show_requests(requests.named(engine, ids), json=json)
        return 0
    with output.progress(shown=not json) as report:
        ended = _follow(engine, ids, stop, report)
    done = _runs(engine, ended)
    if json:
        output.emit({"runs": [output.run_document(run) for run in done]})
    else:
        output.runs(done)
    return outcomes.exit_code(run.outcome for run in done)


def _show_requests(asked: Sequence[RequestRow], *, json: bool) -> None:
    if json:
        names = ("request_id", "source", "mode", "scope", "asked_at")
        shown = [{name: getattr(each, name) for name in names} for each in asked]
        output.emit({"requests": shown})
    else:
        rows = [(each.request_id, each.source, each.scope, each.mode) for each in asked]
        output.table(("request", "source", "listing", "mode"), rows, "nothing was asked for")


def _follow(engine: Engine, ids: Sequence[str], stop: Event, report: Progress) -> list[RequestRow]:
    """Until all requests have ended; meanwhile tells how far they are, and what they wait for."""
    told: set[str] = set()
    while True:
        asked = requests.named(engine, ids)
        if len(asked) < len(ids):
            raise Refused("some of the requests are gone: the state store was restored")
        waiting = [each for each in asked if each.ended_at is None]
        if not waiting:
            return list(asked)
        for cause, why in _obstacles(engine, waiting, clock.now()):
            if cause not in told:
                output.note(why)
                told.add(cause)
        _report(engine, waiting, report)
        if stop.wait(_POLL_S):
            left = ", ".join(each.request_id for each in waiting)
            raise Stopped(f"no longer waited for, but still asked of the daemon: {left}")


def _obstacles(
    engine: Engine, waiting: Sequence[RequestRow], now: datetime
) -> Iterator[tuple[str, str]]:
    """What keeps requests from being served: what it is, and a sentence about it."""
    states = {each.source: each for each in sources.every(engine)}
    for name in dict.fromkeys(each.source for each in waiting):
        if (state := states.get(name)) and (why := obstacle(state, now)):
            yield str(why), f"the request waits: {why}"
    beat = heartbeats.every(engine).get("sync")
    if beat is None:
        yield "no worker", "no sync worker has been alive yet: `stocktake up` starts one"
    elif not is_live(beat.beat_at, now):
        yield "no worker", f"no sync worker has been alive for {duration(now - beat.beat_at)}"


def _report(engine: Engine, waiting: Sequence[RequestRow], report: Progress) -> None:
    begun = {each.source: each.begun_at for each in waiting if each.begun_at}
    for source, walk in walks.every(engine).items():
        if source in begun and walk.progress_at >= begun[source]:
            for scope, (seen, total) in walk.listings.items():
                report(scope, seen, total)


def _runs(engine: Engine, ended: Sequence[RequestRow]) -> list[Run]:
    """What a sync in this process would have come to."""
    done: dict[str, Run] = {}
    for each in ended:
        for run in runs.kept(engine, each.run_ids):
            done[run.run_id] = run
        if each.error:
            # Without a run it stands for itself.
            error = Refused(each.error)
            mode: Mode = "full" if each.mode == "full" else "incremental"
            now = each.ended_at or each.asked_at
            done[each.request_id] = outcomes.never_begun(each.source, mode, error, now)
    return list(done.values())
