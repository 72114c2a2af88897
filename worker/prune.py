"""Removes what [retention] gives up. Events, history and holds are kept for ever."""

from worker import clock, spool
from worker.settings import Settings
from worker.state import connect_state, deliveries, runs, transaction


def prune(settings: Settings) -> None:
    """Removes old runs, deliveries that have ended, their attempts, and left-over spools."""
    engine, now, kept = connect_state(settings), clock.now(), settings.retention
    with transaction(engine) as session:
        runs.prune(session, now - kept.runs)
        deliveries.prune(session, now - kept.attempts, now - kept.deliveries)
    for folder in settings.spool_dir.glob("*"):
        spool.clear(folder, now - kept.spool)
