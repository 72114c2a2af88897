"""Puts a backup in the place of both stores, and ties what it does not know to what it does."""

import logging
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from worker import backup, clock, publishing, relay, warehouse
from worker.errors import StoreBusy, StoreNewer, StoreUnusable
from worker.locks import lock
from worker.settings import Settings
from worker.state import deliveries, leases, restoring, schema, transaction
from worker.state.database import snapshot, unchecked, unfinished
from worker.state.engines import engine_at
from worker.state.restoring import REASON, Standing
from worker.webhooks import notice_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did: which store there is now, what it holds, which deliveries are dead."""

    store_id: str
    made_at: datetime  # the backup
    sequence: int
    active_installs: int
    sources: int
    dead: int
    copy: Path  # of the stores that were replaced


@dataclass(frozen=True, slots=True)
class _Staged:
    """A backup that was made ready beside the stores: of this schema, and a store of its own."""

    folder: Path
    store: warehouse.Described
    fences: Mapping[str, int]  # by lease
    baselines: list[tuple[str, datetime]]


def restore(settings: Settings, folder: Path) -> Restored:
    """Puts the backup in `folder` in the place of both stores, which are kept beside them.

    Every step can be done again: a restore that died is completed by another one, and until then
    nothing else opens the stores. StoreBusy while `up` runs or something is being synced.
    """
    manifest = backup.read(folder)
    with (
        _written(settings),
        _nobody_else(settings),
        unchecked(settings, finished=False) as engine,
    ):
        with warehouse.locked(settings.private_dir):
            _refuse_while_leased(engine)
            fences = _fences(settings.store_path)

            copy = backup.keep(settings, engine, "before-restore")
            _mark(settings, folder)
            schema.migrate(engine)
            with transaction(engine) as session:
                now_holds = restoring.standing(session)
            staged = _staged(settings, folder, now_holds, fences)
            dead = _fill(settings, engine, staged, now_holds)
            warehouse.put(staged.folder / backup.STORE, settings.store_path)
            _sweep(settings, staged.folder)
        publishing.publish(settings, engine)
        unfinished(settings).unlink()
    store = staged.store
    log.info("restore from=%s store=%s dead=%d copy=%s", folder, store.store_id, dead, copy)
    return Restored(
        store.store_id, manifest.made_at, store.last_sequence, store.active_installs,
        store.sources, dead, copy,
    )  # fmt: skip


@contextmanager
def _written(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreUnusable(f"cannot restore into {settings.data_dir}: {reason}") from error


@contextmanager
def _nobody_else(settings: Settings) -> Iterator[None]:
    """Keeps `up` from starting meanwhile."""

    def busy(holder: str) -> StoreBusy:
        return StoreBusy(
            f"process {holder} runs `stocktake up` for {settings.data_dir} (or restores into it); "
            "stop it first"
        )

    with lock(settings.private_dir / "up.lock", 0.0, busy):
        yield


def _refuse_while_leased(engine: Engine) -> None:
    # A sync takes its lease under the warehouse lock, which we hold: none can begin now.
    with snapshot(engine) as reading:
        there = schema.compatible(reading)
    if there:
        with transaction(engine) as session:
            held = leases.holders(session, clock.now())
        for name, holder in held:
            raise StoreBusy(f"{name} is under way in {holder}; stop it, or try again later")


def _fences(store: Path) -> dict[str, int]:
    """By source, as far as the store that is replaced can say: it may be what a disk has ruined."""
    try:
        return warehouse.fences(store) if store.exists() and warehouse.schema_of(store) else {}
    except StoreNewer:
        raise
    except StoreUnusable:
        return {}


def _mark(settings: Settings, folder: Path) -> None:
    marker = unfinished(settings)
    marker.write_text(shlex.quote(str(folder.absolute())), encoding="utf-8")
    warehouse.to_disk(marker)
    warehouse.to_disk(marker.parent)


def _staged(
    settings: Settings, folder: Path, now_holds: Standing, fences: Mapping[str, int]
) -> _Staged:
    """Copies the backup beside the stores, and makes of it what is to be put in their place."""
    beside = settings.private_dir / "restoring"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(mode=0o700)
    for name in (backup.STORE, backup.STATE):
        shutil.copyfile(folder / name, beside / name)
    store, state = beside / backup.STORE, engine_at(f"sqlite:///{beside / backup.STATE}")
    try:
        schema.migrate(state)
        with transaction(state) as session:
            saved = leases.fences(session)
    finally:
        state.dispose()
    warehouse.migrate(store, clock.now())
    above = _above(saved, now_holds.fences, _named(fences), _named(warehouse.fences(store)))
    taken = {name.removeprefix("sync "): fence for name, fence in above.items()}
    baselines = warehouse.renew(store, warehouse.new_id(), taken, clock.now())
    return _Staged(beside, warehouse.described(store), above, baselines)


def _named(fences: Mapping[str, int]) -> dict[str, int]:
    return {f"sync {source}": fence for source, fence in fences.items()}


def _above(*known: Mapping[str, int]) -> dict[str, int]:
    """A fence for every lease that no process of before the restore can have."""
    names = {name for fences in known for name in fences}
    return {name: max(fences.get(name, 0) for fences in known) + 1 for name in sorted(names)}


def _fill(settings: Settings, engine: Engine, staged: _Staged, now_holds: Standing) -> int:
    """The state store in one transaction, with the notice to those who listen."""
    now, store = clock.now(), staged.store
    names = [endpoint.name for endpoint in settings.endpoints]
    with transaction(engine) as session:
        dead = restoring.restore(
            session, staged.folder / backup.STATE, now_holds, staged.fences,
            store.store_id, store.last_sequence,
        )  # fmt: skip
        deliveries.register(session, names, store.store_id, store.last_sequence, now)
        # That these listings have a baseline was told when it was so.
        for source, ended_at in staged.baselines:
            id = notice_id(store.store_id, "sync.baseline", source, str(ended_at))
            deliveries.add_notice(session, id, "sync.baseline", source, {}, now)
        data = {
            "reason": REASON,
            "active_installs": store.active_installs,
            "sources": store.sources,
            "sequence": store.last_sequence,
        }
        id = notice_id(store.store_id, "sync.baseline", REASON)
        relay.announce_in(session, settings.endpoints, id, "sync.baseline", None, data, now)
    return dead


def _sweep(settings: Settings, staged: Path) -> None:
    """Walks of before would go on with pages of another history."""
    shutil.rmtree(settings.spool_dir, ignore_errors=True)
    shutil.rmtree(staged, ignore_errors=True)
