"""How everything is: workers, sources, holds, endpoints, each ok, warning or critical (DAEMON)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import Engine

from worker import clock, warehouse
from worker.outbound import Health
from worker.schedule import longest_gap
from worker.settings import Settings, Source
from worker.state import (
    deliveries,
    heartbeats,
    holds,
    requests,
    runs,
    sources,
    transaction,
    walks,
)
from worker.state.heartbeats import HeartbeatRow
from worker.state.tables import SourceState
from worker.state.walks import WalkRow

Level = Literal["ok", "warning", "critical"]

WORKERS: Final = ("sync", "deliver")
PATIENCE: Final = timedelta(seconds=60)  # without a sign of life: four heartbeats
_ORDER: Final[tuple[Level, ...]] = ("ok", "warning", "critical")
_LEAST_PATIENCE: Final = timedelta(minutes=15)
_MISSED: Final = 3  # so often in a row that it is no accident
_NEWEST: Final = 500  # runs: more than a source has listings


@dataclass(frozen=True, slots=True)
class Line:
    """One thing and how it is."""

    what: str
    level: Level
    detail: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a source. `first_at`: of its oldest run; `patience`: how long it may be
    without a success; `requests`: how many wait."""

    state: SourceState
    patience: timedelta
    first_at: datetime | None = None
    walk: WalkRow | None = None
    suspects: int = 0
    requests: int = 0


def health(settings: Settings, engine: Engine, *, live: bool = False) -> list[Line]:
    """Everything a person on duty wants to know; `live`: only the stores and the workers."""
    now, beats = clock.now(), heartbeats.every(engine)
    lines = [*_stores(settings, now), *worker_lines(beats, now, live=live)]
    if not live:
        walking, waiting = walks.every(engine), requests.waiting(engine)
        for source in settings.sources:
            asked = sum(each.source == source.name for each in waiting)
            facts = _facts(settings, engine, source, walking.get(source.name), asked, now)
            lines.append(source_line(facts, now))
        lines += _holds(engine)
        lines += _endpoints(settings, engine)
    return lines


def worst(*levels: Level) -> Level:
    """The most serious of some levels."""
    return max(levels, key=_ORDER.index, default="ok")


def is_live(seen_at: datetime, now: datetime) -> bool:
    """Whether somebody who gave a sign of life at `seen_at` counts as alive. One from the future
    was given before the clock was set back: another follows within seconds."""
    return abs(now - seen_at) < PATIENCE


def worker_lines(beats: Mapping[str, HeartbeatRow], now: datetime, *, live: bool) -> Iterator[Line]:
    """How the workers are; `live`: whoever asks so needs them, also if there never were any."""
    if not beats and not live:
        yield Line("workers", "warning", "no daemon has run here; `stocktake up` is one")
        return
    for worker in WORKERS:
        yield worker_line(worker, beats.get(worker), now)


def worker_line(worker: str, beat: HeartbeatRow | None, now: datetime) -> Line:
    """How a worker is by its newest sign of life."""
    what = f"{worker} worker"
    if beat is None:
        return Line(what, "critical", "has never been alive")
    if is_live(beat.beat_at, now):
        return Line(what, "ok", f"alive, {beat.owner}")
    return Line(what, "critical", f"not alive since {_time(beat.beat_at)}, {beat.owner}")


def source_line(facts: Facts, now: datetime) -> Line:
    """How a source is."""
    state, what = facts.state, f"source {facts.state.source}"
    told = ", ".join(_told(facts, now))
    since = state.last_synced_at or facts.first_at
    overdue = since is not None and now - since > facts.patience
    excused = state.paused or _is_limited(state, now) or _is_walking(facts.walk, now)
    if overdue and not excused:
        return Line(what, "critical", told)
    doubtful = state.paused or _is_limited(state, now) or state.failures or overdue
    level: Level = "warning" if doubtful or state.last_synced_at is None else "ok"
    return Line(what, level, told)


def endpoint_line(name: str, fares: Health, by_state: Mapping[str, int]) -> Line:
    """How an endpoint is."""
    told = [f"{count} {state}" for state, count in sorted(by_state.items())]
    if fares.failing_since:
        told.append(f"failing since {_time(fares.failing_since)}")
    if fares.paused:
        told.append("paused")
    if fares.disabled_reason:
        told.append(f"disabled ({fares.disabled_reason})")
    doubtful = fares.failing_since or fares.halted or by_state.get("dead")
    level: Level = "warning" if doubtful else "ok"
    return Line(f"endpoint {name}", level, ", ".join(told) or "nothing sent yet")


def duration(length: timedelta) -> str:
    """A length of time as a person says it: "75 s", "12 min", "30 h"."""
    seconds = int(length.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def _stores(settings: Settings, now: datetime) -> Iterator[Line]:
    yield Line("state store", "ok", "opens")  # or there would be no engine to ask it with
    shown = warehouse.publication(settings.published_path)
    if shown is None:
        yield Line("published copy", "warning", "nothing is published yet; `stocktake sync` does")
        return
    patience = max(_MISSED * settings.publish.max_age, _LEAST_PATIENCE)
    level: Level = "warning" if now - shown.published_at > patience else "ok"
    yield Line("published copy", level, f"of {_time(shown.published_at)}")


def _facts(
    settings: Settings,
    engine: Engine,
    source: Source,
    walk: WalkRow | None,
    asked: int,
    now: datetime,
) -> Facts:
    full = settings.schedule_for(source).full
    return Facts(
        state=sources.known(engine, source),
        patience=max(_MISSED * longest_gap(full, now), _LEAST_PATIENCE),
        first_at=runs.first(engine, source.name),
        walk=walk,
        suspects=_suspects(engine, source),
        requests=asked,
    )


def _is_limited(state: SourceState, now: datetime) -> bool:
    return state.rate_limited_until is not None and state.rate_limited_until > now


def _is_walking(walk: WalkRow | None, now: datetime) -> bool:
    """A walk that gets no further is none."""
    return walk is not None and is_live(walk.progress_at, now)


def _told(facts: Facts, now: datetime) -> Iterator[str]:
    state = facts.state
    yield f"last synced {_time(state.last_synced_at)}" if state.last_synced_at else "never synced"
    if facts.walk and _is_walking(facts.walk, now):
        yield _walking(facts.walk)
    if facts.requests:
        yield f"requests waiting: {facts.requests}"
    if state.failures:
        yield f"failures in a row: {state.failures}"
    if facts.suspects:
        yield f"suspects: {facts.suspects}"
    if state.retractions:
        yield f"inferred deletions taken back: {state.retractions}"
    if state.rate_limited_until and _is_limited(state, now):
        yield f"rate limited until {_time(state.rate_limited_until)}"
    if state.paused:
        yield "paused"


def _walking(walk: WalkRow) -> str:
    scope, (seen, total) = list(walk.listings.items())[-1]
    return f"walking {scope}, {seen:,}" + (f" of {total:,}" if total is not None else "")


def _suspects(engine: Engine, source: Source) -> int:
    """Installs that are absent but not proven gone, by the newest run of each listing."""
    newest = {run.scope: run for run in reversed(runs.recent(engine, source.name, _NEWEST))}
    return sum(run.suspects for run in newest.values())


def _holds(engine: Engine) -> Iterator[Line]:
    for hold in holds.every(engine):
        if hold.status == "open":
            yield Line(hold.hold_id, "warning", f"{hold.source} {hold.scope}: {hold.reason}")


def _endpoints(settings: Settings, engine: Engine) -> Iterator[Line]:
    names = [endpoint.name for endpoint in settings.endpoints]
    with transaction(engine) as session:
        healths = deliveries.healths(session, names)
        counts = deliveries.counts(session, names)
    for name in names:
        yield endpoint_line(name, healths.get(name, Health()), counts.get(name, {}))


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
