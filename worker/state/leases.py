"""Leases: one worker at a time on one thing, with a number that tells old holders from new."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, select

from worker import clock
from worker.errors import StocktakeError, StoreBusy
from worker.state.database import insert_new, transaction
from worker.state.delivery_tables import table_of
from worker.state.processes import holding, is_dead, left, shown
from worker.state.tables import LeaseRow

log = logging.getLogger(__name__)

LIFE: Final = timedelta(seconds=90)
_RENEW_S: Final = 20.0
_NAME: Final = table_of(LeaseRow).c.name


@contextmanager
def lease(engine: Engine, name: str, floor: int = 0) -> Iterator[int]:
    """Holds the lease `name`, renewed while the block runs; yields its fence number, above `floor`
    (a state store that was lost counts from there again).

    StoreBusy when somebody else holds it. The lease of a process of this host that is dead is free.
    """
    fence = _take(engine, name, floor, clock.now())
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(engine, name, fence, done), daemon=True)
    renewing.start()
    try:
        yield fence
    finally:
        done.set()
        renewing.join()
        _release(engine, name, fence)


def holders(session: Session, now: datetime) -> list[tuple[str, str]]:
    """The leases that are held, each with who holds it."""
    # These columns alone: an older store may lack others.
    query = select(LeaseRow.name, LeaseRow.owner, LeaseRow.expires_at).order_by(LeaseRow.name)
    return [
        (name, shown(owner))
        for name, owner, expires_at in session.exec(query)
        if owner and _remains(owner, expires_at, now)
    ]


def fences(session: Session) -> dict[str, int]:
    """How often each thing was leased."""
    return {row.name: row.fence for row in session.exec(select(LeaseRow))}


def _remains(owner: str | None, expires_at: datetime | None, now: datetime) -> timedelta:
    """How long somebody holds a lease still; nothing if it is free."""
    if owner is None or expires_at is None:
        return timedelta()
    # Somebody may have set the clock meanwhile; of processes of this host there is a better one.
    return timedelta() if is_dead(owner) else max(timedelta(), expires_at - now, left(owner))


def _take(engine: Engine, name: str, floor: int, now: datetime) -> int:
    with transaction(engine) as session:
        insert_new(session, _NAME, [{"name": name, "fence": 0}])
        row = session.get_one(LeaseRow, name, with_for_update=True)
        if row.owner and (remains := _remains(row.owner, row.expires_at, now)):
            raise StoreBusy(
                f"{name} is under way in {shown(row.owner)}; try again later",
                remains.total_seconds(),
            )
        row.owner, row.expires_at = holding(LIFE), now + LIFE
        row.fence = max(row.fence, floor) + 1
        return row.fence


def _renew(engine: Engine, name: str, fence: int, done: threading.Event) -> None:
    while not done.wait(_RENEW_S):
        try:
            with transaction(engine) as session:
                if row := _held(session, name, fence):
                    row.owner, row.expires_at = holding(LIFE), clock.now() + LIFE
        except (StocktakeError, SQLAlchemyError) as error:
            # Time enough for the next try; and the fence guards a lease that was lost meanwhile.
            log.warning("lease name=%r error=%r", name, str(error))


def _release(engine: Engine, name: str, fence: int) -> None:
    with transaction(engine) as session:
        if row := _held(session, name, fence):
            row.owner = row.expires_at = None


def _held(session: Session, name: str, fence: int) -> LeaseRow | None:
    row = session.get(LeaseRow, name, with_for_update=True)
    return row if row and row.fence == fence else None
