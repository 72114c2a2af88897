"""Heartbeats: when each worker of the daemon was last known to work."""

import time
from contextlib import suppress
from datetime import datetime
from threading import Lock
from typing import Final

from sqlalchemy import Engine
from sqlmodel import Field, SQLModel, select

from worker import clock
from worker.errors import StocktakeError
from worker.state.database import transaction, upsert
from worker.state.delivery_tables import table_of
from worker.state.processes import owner, shown
from worker.state.types import UtcTime

_RENEWED_S: Final = 5.0


class HeartbeatRow(SQLModel, table=True):
    """The newest sign of life of the workers of one queue, and who gave it."""

    __tablename__ = "heartbeats"

    worker: str = Field(primary_key=True)  # its queue
    owner: str
    beat_at: datetime = Field(sa_type=UtcTime)


_WORKER: Final = table_of(HeartbeatRow).c.worker


def beat(engine: Engine, worker: str, now: datetime) -> None:
    """Keeps that this process works for the queue `worker`."""
    row = {"worker": worker, "owner": shown(owner()), "beat_at": now}
    with transaction(engine) as session:
        upsert(session, _WORKER, [row])


def every(engine: Engine) -> dict[str, HeartbeatRow]:
    """The newest sign of life by worker."""
    with transaction(engine) as session:
        return {row.worker: row for row in session.exec(select(HeartbeatRow))}


class Pulse:
    """Renews the heartbeat of a worker while a long task makes progress: call it at each step.

    Threads share it. It writes once in a few seconds, so a short task writes nothing.
    """

    def __init__(self, engine: Engine, worker: str) -> None:
        self._engine, self._worker = engine, worker
        self._lock, self._due_s = Lock(), time.monotonic() + _RENEWED_S

    def __call__(self) -> None:
        with self._lock:
            if time.monotonic() < self._due_s:
                return
            self._due_s = time.monotonic() + _RENEWED_S
        # A store that does not answer is met, and told, by the task itself.
        with suppress(StocktakeError):
            beat(self._engine, self._worker, clock.now())
