"""What is still to be made of the event log: deliveries that a crash left out, and replays."""

import logging
from threading import Event

from sqlalchemy import Engine

from worker import aftermath, clock, replay, warehouse
from worker.deliver import Delivered, deliver
from worker.errors import StoreBusy, StoreUnusable
from worker.settings import Settings
from worker.warehouse.connection import PATIENCE_S

log = logging.getLogger(__name__)


def deliver_now(
    settings: Settings, engine: Engine, stop: Event, wait_s: float | None = None
) -> Delivered:
    """Makes what is left to be made, then sends what is due.

    A store that is busy or unusable keeps no delivery that is made already from being sent.
    """
    relay_left(settings, engine, stop)
    return deliver(engine, settings.endpoints, stop=stop, wait_s=wait_s)


def relay_left(
    settings: Settings, engine: Engine, stop: Event, patience_s: float = PATIENCE_S
) -> int:
    """Makes the deliveries that are not made yet; returns how many it found at once."""
    try:
        return make_left(settings, engine, stop, patience_s)
    except StoreBusy as error:
        log.info("relay error=%r", str(error))
    except StoreUnusable as error:
        log.warning("relay error=%r", str(error))
    return 0


def make_left(
    settings: Settings, engine: Engine, stop: Event, patience_s: float = PATIENCE_S
) -> int:
    """Like `relay_left`, but StoreBusy or StoreUnusable where the store does not open."""
    if not settings.store_path.exists():
        return 0
    with warehouse.opened(settings.store_path, clock.now(), patience_s) as store:
        made = aftermath.relay(settings, engine, store)
    replay.go_on(settings, engine, stop)
    return made
