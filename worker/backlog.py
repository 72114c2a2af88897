"""What is still to be made of the event log: deliveries that a crash left out, and replays."""

import logging
from threading import Event

from sqlalchemy import Engine

from worker import aftermath, clock, replay, warehouse
from worker.deliver import Delivered, deliver
from worker.errors import StoreBusy, StoreUnusable
from worker.settings import Settings

log = logging.getLogger(__name__)


def deliver_now(
    settings: Settings, engine: Engine, stop: Event, wait_s: float | None = None
) -> Delivered:
    """Makes what is left to be made, then sends what is due.

    A store that is busy or unusable keeps no delivery that is made already from being sent.
    """
    try:
        make_left(settings, engine, stop)
    except StoreBusy as error:
        log.info("relay error=%r", str(error))
    except StoreUnusable as error:
        log.warning("relay error=%r", str(error))
    return deliver(engine, settings.endpoints, stop=stop, wait_s=wait_s)


def make_left(settings: Settings, engine: Engine, stop: Event) -> bool:
    """Makes the deliveries that are not made yet; says whether there were any. StoreBusy or
    StoreUnusable where the store does not open."""
    if not settings.store_path.exists():
        return False
    with warehouse.opened(settings.store_path, clock.now()) as store:
        made = aftermath.relay(settings, engine, store)
    return replay.go_on(settings, engine, stop) or made > 0
