"""Removes what [retention] gives up. Events, history and holds are kept for ever."""

from dataclasses import dataclass

from sqlalchemy import Engine

from worker import clock, spool
from worker.settings import Settings
from worker.state import deliveries, requests, runs, transaction
from worker.upkeep import brought_up


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much was removed."""

    runs: int
    deliveries: int
    attempts: int
    spools: int
    requests: int


def prune(settings: Settings, engine: Engine) -> Pruned:
    """Removes old runs and requests, deliveries that have ended, their attempts, and left-over
    spools."""
    now, kept = clock.now(), settings.retention
    with transaction(engine) as session:
        old_runs = runs.prune(session, now - kept.runs)
        asked = requests.prune(session, now - kept.runs)
        attempts, sent = deliveries.prune(session, now - kept.attempts, now - kept.deliveries)
    folders = settings.spool_dir.glob("*")
    spools = sum(spool.clear(folder, now - kept.spool) for folder in folders)
    return Pruned(old_runs, sent, attempts, spools, asked)


def prune_due(settings: Settings) -> None:
    """What the sync worker does once a day."""
    with brought_up(settings) as engine:
        prune(settings, engine)
