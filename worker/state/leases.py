"""Leases: one worker at a time on one thing, with a number that tells old holders from new."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Engine
from sqlmodel import Session

from worker import clock
from worker.errors import StoreBusy
from worker.state.database import transaction
from worker.state.tables import LeaseRow

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
                f"{name} is under way in {row.owner.partition('/')[2]}; try again later",
                (row.expires_at - now).total_seconds(),
            )
        row.owner, row.expires_at = _owner(), now + LIFE
        row.fence = max(row.fence, floor) + 1
        session.add(row)
        return row.fence


def _renew(engine: Engine, name: str, fence: int, done: threading.Event) -> None:
    while not done.wait(_RENEW_S):
        with transaction(engine) as session:
            if row := _held(session, name, fence):
                row.expires_at = clock.now() + LIFE


def _release(engine: Engine, name: str, fence: int) -> None:
    with transaction(engine) as session:
        if row := _held(session, name, fence):
            row.owner = row.expires_at = None


def _held(session: Session, name: str, fence: int) -> LeaseRow | None:
    row = session.get(LeaseRow, name, with_for_update=True)
    return row if row and row.fence == fence else None


def _owner() -> str:
    return f"{socket.gethostname()}/process {os.getpid()}/{_started(os.getpid())}"


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
        # Field 22 of proc(5) stat; the command name before it may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return _alive_without_proc(pid)


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
