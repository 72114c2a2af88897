"""Leases: one worker at a time on one thing, with a number that tells old holders from new."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, select

from worker import clock
from worker.errors import StocktakeError, StoreBusy
from worker.state.database import insert_new, transaction
from worker.state.delivery_tables import table_of
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
        (name, _shown(owner))
        for name, owner, expires_at in session.exec(query)
        if owner and expires_at and _is_held(owner, expires_at, now)
    ]


def fences(session: Session) -> dict[str, int]:
    """How often each thing was leased."""
    return {row.name: row.fence for row in session.exec(select(LeaseRow))}


def _is_held(owner: str, expires_at: datetime, now: datetime) -> bool:
    return expires_at > now and not is_dead(owner)


def _take(engine: Engine, name: str, floor: int, now: datetime) -> int:
    with transaction(engine) as session:
        insert_new(session, _NAME, [{"name": name, "fence": 0}])
        row = session.get_one(LeaseRow, name, with_for_update=True)
        if row.owner and row.expires_at and _is_held(row.owner, row.expires_at, now):
            raise StoreBusy(
                f"{name} is under way in {_shown(row.owner)}; try again later",
                (row.expires_at - now).total_seconds(),
            )
        row.owner, row.expires_at = owner(), now + LIFE
        row.fence = max(row.fence, floor) + 1
        return row.fence


def _renew(engine: Engine, name: str, fence: int, done: threading.Event) -> None:
    while not done.wait(_RENEW_S):
        try:
            with transaction(engine) as session:
                if row := _held(session, name, fence):
                    row.expires_at = clock.now() + LIFE
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


def owner() -> str:
    """This process, told apart from every other one of every host."""
    return _process(os.getpid())


@cache
def _process(pid: int) -> str:
    return f"{socket.gethostname()}/process {pid}/{_started(pid)}"


def _shown(owner: str) -> str:
    host, process, _started = owner.split("/")
    return f"{process} on {host}"


def is_dead(owner: str) -> bool:
    """Whether `owner` was a process of this host that has ended (a reused pid started later)."""
    host, _, rest = owner.partition("/")
    process, _, started = rest.partition("/")
    if host != socket.gethostname():
        return False
    return _started(int(process.removeprefix("process "))) != started


def _started(pid: int) -> str:
    """When a process of this host started, in ticks since boot; empty when there is none."""
    try:
        # Fields 3 and 22 of proc(5) stat; the command name before them may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _alive_without_proc(pid)
    return "" if fields[0] == "Z" else fields[19]  # a zombie has ended; nobody has noticed yet


def _alive_without_proc(pid: int) -> str:
    if Path("/proc").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
