"""What the sync worker does at a tick: syncs the sources that are due, side by side."""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Final

from sqlalchemy import Engine

from worker import clock, replay
from worker.errors import StocktakeError
from worker.models import Mode
from worker.schedule import is_due
from worker.settings import Settings, Source
from worker.state import opened, sources
from worker.sync import Wish, sync
from worker.upkeep import migrate

log = logging.getLogger(__name__)

SOURCES_AT_ONCE: Final = 4  # a slow source does not hold up the others


def sync_due(settings: Settings, stop: Event) -> bool:
    """Syncs every source that is due, side by side; says whether there may be something to deliver.

    A rate limited or paused source is left alone, and one that another process syncs.
    """
    migrate(settings)
    with opened(settings) as engine:
        due = [(it, mode) for it in settings.sources if (mode := _due_mode(settings, engine, it))]
        with ThreadPoolExecutor(SOURCES_AT_ONCE, "sync") as pool:
            done = [pool.submit(_sync_logged, settings, engine, *job, stop) for job in due]
        replayed = _go_on_logged(settings, engine, stop)
        return any([each.result() for each in done]) or replayed


def _due_mode(settings: Settings, engine: Engine, source: Source) -> Mode | None:
    state, now = sources.known(engine, source), clock.now()
    schedule = settings.schedule_for(source)
    limited = state.rate_limited_until is not None and state.rate_limited_until > now
    if state.paused or limited or not is_due(schedule.incremental, state.last_tried_at, now):
        return None
    return "full" if is_due(schedule.full, state.last_full_at, now) else "incremental"


def _sync_logged(
    settings: Settings, engine: Engine, source: Source, mode: Mode, stop: Event
) -> bool:
    try:
        return any(plan.events for plan in sync(settings, engine, source, Wish(mode), stop).plans)
    except StocktakeError as error:
        log.error("sync source=%s error=%r", source.name, str(error))
    except Exception:  # a defect of ours; it must not keep the other sources from their tick
        log.exception("sync source=%s", source.name)
    return False


def _go_on_logged(settings: Settings, engine: Engine, stop: Event) -> bool:
    """Makes what a crash has left of a replay."""
    try:
        return replay.go_on(settings, engine, stop)
    except StocktakeError as error:
        log.error("replay error=%r", str(error))
    return False
