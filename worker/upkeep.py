"""Brings stores that an older stocktake wrote to the schemas of this one."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from worker import backup, clock, warehouse
from worker.errors import StoreOlder
from worker.settings import Settings
from worker.state import opened, schema
from worker.state.database import snapshot, unchecked

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """The schema that a store had, and the one it has."""

    found: int
    now: int

    @property
    def is_older(self) -> bool:
        """Whether there is, or was, something to do; what is not there yet is made as it should
        be."""
        return 0 < self.found < self.now


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done to both stores, and where the copy is of how they were before."""

    state: Step
    warehouse: Step
    copy: Path | None = None


def migrate(settings: Settings) -> Migrated:
    """Brings both stores up, after a copy of both. Whoever comes second finds nothing to do; what
    a crash leaves is completed by the next call. StoreNewer, and nothing changed, if one is newer.
    """
    with unchecked(settings) as engine, warehouse.locked(settings.private_dir):
        found = _found(settings, engine)
        older = [step.found for step in (found.state, found.warehouse) if step.is_older]
        if not older:
            return found
        copy = backup.keep(settings, engine, f"schema-{min(older)}")
        if found.warehouse.is_older:
            warehouse.migrate(settings.store_path, clock.now())
        schema.migrate(engine)
    log.info(
        "migrate state=%d->%d warehouse=%d->%d copy=%s",
        found.state.found, found.state.now, found.warehouse.found, found.warehouse.now, copy,
    )  # fmt: skip
    return Migrated(found.state, found.warehouse, copy)


@contextmanager
def brought_up(settings: Settings) -> Iterator[Engine]:
    """The state store, closed at the end; both stores are brought up first if it is an older one.
    The other store is not looked at for that: it may be busy, and who asks may not need it."""
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(opened(settings))
        except StoreOlder:
            migrate(settings)
            engine = stack.enter_context(opened(settings))
        yield engine


def _found(settings: Settings, engine: Engine) -> Migrated:
    with snapshot(engine) as reading:
        state = schema.compatible(reading)
    path = settings.store_path
    stored = warehouse.schema_of(path) if path.exists() else 0
    return Migrated(Step(state, schema.VERSION), Step(stored, warehouse.SCHEMA_VERSION))
