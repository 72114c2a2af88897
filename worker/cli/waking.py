"""Wakes the daemon's deliverer for what a command has left it to do."""

from contextlib import closing, suppress
from threading import Event

from worker.settings import Settings


def wake_deliverer(loaded: Settings) -> None:
    """Sends a wake-up, if there is a broker; without one the next tick, or `deliver`, does it."""
    if loaded.broker_url is None and not loaded.broker_socket.exists():
        return
    # Here, because Celery takes longer to load than a command takes.
    from worker.queues import application
    from worker.tasks import DELIVER, wake

    # Whatever is wrong with the broker: what was asked for is done, and `check` says the rest.
    with suppress(Exception), closing(application(loaded, Event())) as app:
        # It would try again for six seconds, with somebody waiting at the terminal.
        app.conf.broker_transport_options |= {"max_retries": 0, "interval_start": 0}
        wake(app, DELIVER)
