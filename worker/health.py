"""How everything is: sources, holds, endpoints and deliveries, each ok, warning or critical."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import Engine

from worker import clock, warehouse
from worker.aftermath import FAILURES_TO_TELL
from worker.outbound import Health
from worker.schedule import next_after
from worker.settings import Settings, Source
from worker.state import deliveries, holds, runs, sources, transaction
from worker.state.tables import SourceState

Level = Literal["ok", "warning", "critical"]

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


def health(settings: Settings, engine: Engine, *, live: bool = False) -> list[Line]:
    """Everything a person on duty wants to know; `live`: only whether the stores open."""
    now = clock.now()
    lines = list(_stores(settings, now))
    if not live:
        lines += [_source(settings, engine, source, now) for source in settings.sources]
        lines += _holds(engine)
        lines += _endpoints(settings, engine)
    return lines


def worst(*levels: Level) -> Level:
    """The most serious of some levels."""
    return max(levels, key=_ORDER.index, default="ok")


def _stores(settings: Settings, now: datetime) -> Iterator[Line]:
    yield Line("state store", "ok", "opens")  # or there would be no engine to ask it with
    shown = warehouse.publication(settings.published_path)
    if shown is None:
        yield Line("published copy", "warning", "nothing is published yet; `stocktake sync` does")
        return
    patience = max(_MISSED * settings.publish.max_age, _LEAST_PATIENCE)
    level: Level = "warning" if now - shown.published_at > patience else "ok"
    yield Line("published copy", level, f"of {_time(shown.published_at)}")


def _source(settings: Settings, engine: Engine, source: Source, now: datetime) -> Line:
    state = sources.known(engine, source)
    told = list(_told(state, _suspects(engine, source), now))
    if state.paused or _is_limited(state, now):
        return Line(f"source {source.name}", "warning", ", ".join(told))
    level = worst(_failing(state), _overdue(settings, source, state, now))
    return Line(f"source {source.name}", level, ", ".join(told))


def _failing(state: SourceState) -> Level:
    if state.failures >= FAILURES_TO_TELL:
        return "critical"
    return "warning" if state.failures else "ok"


def _overdue(settings: Settings, source: Source, state: SourceState, now: datetime) -> Level:
    if state.last_synced_at is None:
        return "warning"
    full = settings.schedule_for(source).full
    patience = max(_MISSED * (next_after(full, now) - now), _LEAST_PATIENCE)
    return "critical" if now - state.last_synced_at > patience else "ok"


def _is_limited(state: SourceState, now: datetime) -> bool:
    return state.rate_limited_until is not None and state.rate_limited_until > now


def _told(state: SourceState, suspects: int, now: datetime) -> Iterator[str]:
    synced = state.last_synced_at
    yield f"last synced {_time(synced)}" if synced else "never synced"
    if state.failures:
        yield f"failures in a row: {state.failures}"
    if suspects:
        yield f"suspects: {suspects}"
    if state.retractions:
        yield f"inferred deletions taken back: {state.retractions}"
    if state.rate_limited_until and _is_limited(state, now):
        yield f"rate limited until {_time(state.rate_limited_until)}"
    if state.paused:
        yield "paused"


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
        yield _endpoint(name, healths.get(name, Health()), counts.get(name, {}))


def _endpoint(name: str, fares: Health, by_state: Mapping[str, int]) -> Line:
    level: Level = "warning" if fares.failing_since or by_state.get("dead") else "ok"
    told = [f"{count} {state}" for state, count in sorted(by_state.items())]
    if fares.failing_since:
        told.append(f"failing since {_time(fares.failing_since)}")
    if fares.paused:
        level = "warning"
        told.append("paused")
    if fares.disabled_reason:
        level = "critical"
        told.append(f"disabled ({fares.disabled_reason})")
    return Line(f"endpoint {name}", level, ", ".join(told) or "nothing sent yet")


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
