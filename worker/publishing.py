"""When the published copy is made, and what the state store adds to it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from worker import clock, warehouse
from worker.findings import Brief
from worker.settings import Settings
from worker.settings.values import Publish
from worker.state import holds, runs, sources
from worker.state.tables import document
from worker.warehouse import Publication


def publish(settings: Settings, engine: Engine) -> None:
    """Replaces the published copy by the newest state of both stores."""
    now = clock.now()
    warehouse.publish(settings.store_path, settings.published_path, now, _tables(engine, now))


def publish_if_due(settings: Settings, engine: Engine, newest: Brief) -> bool:
    """Publishes when the copy is behind the `newest` commit, or too old to show freshness; says
    whether."""
    shown = warehouse.publication(settings.published_path)
    due = is_due(settings.publish, shown, newest, clock.now())
    if due:
        publish(settings, engine)
    return due


def is_due(schedule: Publish, shown: Publication | None, newest: Brief, now: datetime) -> bool:
    """Whether the copy `shown` (None: there is none) is to be replaced."""
    if shown is None or shown.store_id != newest.store_id:
        return True
    age = now - shown.published_at
    behind = shown.commit_number != newest.commit_number
    # A copy from the future was made before the clock was set back.
    return (
        age >= schedule.max_age
        or (behind and age >= schedule.min_interval)
        or shown.published_at > now
    )


def _tables(engine: Engine, now: datetime) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    return {
        "sync_runs": [document(run) for run in runs.recent(engine)],
        "holds": [hold.model_dump(exclude={"ids", "reason"}) for hold in holds.every(engine)],
        "sources": [
            {
                "source": each.source,
                "dialect": each.dialect,
                "last_synced_at": each.last_synced_at,
                "last_full_at": each.last_full_at,
                "published_at": now,
            }
            for each in sources.every(engine)
        ],
    }
