"""Wakes the daemon for what a command has left it to do."""

from contextlib import closing
from threading import Event

from worker.settings import Settings


def wake_deliverer(loaded: Settings) -> bool:
    """Sends a wake-up; without a broker the next tick, or `deliver`, does it."""
    from worker.tasks import DELIVER

    return _wake(loaded, DELIVER)


def wake_syncs(loaded: Settings) -> bool:
    """Sends a wake-up; without a broker the next tick does it. Says whether the broker took it."""
    from worker.tasks import SYNC

    return _wake(loaded, SYNC)


def _wake(loaded: Settings, task: str) -> bool:
    if loaded.broker_url is None and not loaded.broker_socket.exists():
        return False
    # Here, because Celery takes longer to load than a command takes.
    from worker.queues import application
    from worker.tasks import wake

    try:
        with closing(application(loaded, Event())) as app:
            return wake(app, task)
    except Exception:
        # Whatever is wrong with the broker: what was asked for is done, and `check` says the rest.
        return False
