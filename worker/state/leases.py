"""Leases: one worker at a time on one thing, with a number that tells old holders from new."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from worker import clock
from worker.errors import StoreBusy
from worker.state.database import transaction
from worker.state.tables import LeaseRow

log = logging.getLogger(__name__)

LIFE: Final = timedelta(seconds=90)
_RENEW_S: Final = 20.0


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


def _take(engine: Engine, name: str, floor: int, now: datetime) -> int:
    with transaction(engine) as session:
        row = session.get(LeaseRow, name, with_for_update=True) or LeaseRow(name=name)
        if row.owner and row.expires_at and row.expires_at > now and not _dead(row.owner):
            raise StoreBusy(
                f"{name} is under way in {_shown(row.owner)}; try again later",
                (row.expires_at - now).total_seconds(),
            )
        row.owner, row.expires_at = _owner(), now + LIFE
        row.fence = max(row.fence, floor) + 1
        session.add(row)
        return row.fence


def _renew(engine: Engine, name: str, fence: int, done: threading.Event) -> None:
    while not done.wait(_RENEW_S):
        try:
            with transaction(engine) as session:
                if row := _held(session, name, fence):
                    row.expires_at = clock.now() + LIFE
        except SQLAlchemyError as error:
            # Time enough for the next try; and the fence guards a lease that was lost meanwhile.
            log.warning("lease name=%r error=%r", name, str(error))


def _release(engine: Engine, name: str, fence: int) -> None:
    with transaction(engine) as session:
        if row := _held(session, name, fence):
            row.owner = row.expires_at = None


def _held(session: Session, name: str, fence: int) -> LeaseRow | None:
    row = session.get(LeaseRow, name, with_for_update=True)
    return row if row and row.fence == fence else None


def _owner() -> str:
    return f"{socket.gethostname()}/process {os.getpid()}/{_started(os.getpid())}"


def _shown(owner: str) -> str:
    host, process, _started = owner.split("/")
    return f"{process} on {host}"


def _dead(owner: str) -> bool:
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
