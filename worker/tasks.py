"""The Celery tasks: wake-ups that call the shell, which finds in the stores what there is to do."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import Any

from celery import Celery  # noqa: TID251 - an entry module
from kombu.exceptions import OperationalError

from worker.errors import StocktakeError
from worker.fallback import Round
from worker.settings import Settings

SYNC, DELIVER, PRUNE = "stocktake.sync", "stocktake.deliver", "stocktake.prune"
HEARTBEAT = "stocktake.heartbeat"

_log = logging.getLogger(__name__)


def register(app: Celery, settings: Settings, stop: Event) -> None:
    """Give `app` the tasks, bound to `settings`; they end early, between two steps, once `stop`
    is set."""

    # Each task imports its shell itself: beat and the command line send wake-ups without loading
    # DuckDB and the HTTP clients, and nothing of them is open in a process that forks.
    # `shared` would give these tasks, with these settings, to every other application as well.

    @app.task(name=SYNC, shared=False, base=Round)
    def sync() -> None:
        from worker.due import sync_due

        with _refusal_logged(SYNC):
            sync_due(settings, stop, partial(wake, app, DELIVER))

    @app.task(name=DELIVER, shared=False, base=Round)
    def deliver() -> None:
        from worker.deliver import deliver_due

        with _refusal_logged(DELIVER):
            deliver_due(settings, stop)

    @app.task(name=PRUNE, shared=False, base=Round)
    def prune_old() -> None:
        from worker.prune import prune_due

        with _refusal_logged(PRUNE):
            prune_due(settings)

    @app.task(name=HEARTBEAT, shared=False, bind=True)
    def heartbeat(self: Any) -> None:
        live(settings, [self.request.delivery_info["routing_key"]])


def live(settings: Settings, queues: Collection[str]) -> None:
    """Keep that this process works on `queues`."""
    from worker import clock
    from worker.state import heartbeats, opened

    with _refusal_logged(HEARTBEAT), opened(settings) as engine:
        for queue in queues:
            heartbeats.beat(engine, queue, clock.now())


def wake(app: Celery, task: str) -> bool:
    """Send a wake-up; says whether the broker took it. One that it does not take is lost without
    harm: a tick follows."""
    # The connections of the application would try for six seconds.
    with app.connection_for_write(transport_options={"max_retries": 0}) as connection:
        try:
            app.send_task(task, connection=connection, retry=False)
        except OperationalError:
            return False
    return True


@contextmanager
def _refusal_logged(task: str) -> Iterator[None]:
    # An error raised on purpose is a line for a person; anything else keeps its traceback.
    try:
        yield
    except StocktakeError as error:
        _log.error("task=%s error=%s", task, str(error).replace("\n", " "))
