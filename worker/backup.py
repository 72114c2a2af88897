"""Backups: both stores as of one moment in a directory, with a manifest that says what they are."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Engine

from worker import __version__, clock, warehouse
from worker.errors import ConfigInvalid, StoreNewer, StoreUnusable
from worker.settings import Settings
from worker.state import copying, schema
from worker.state.database import snapshot

STORE, STATE, MANIFEST = "store.duckdb", "state.db", "manifest.json"
FORMAT: Final = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of. Its file is written last: without it, a directory is no backup."""

    format: int = FORMAT
    made_at: datetime
    stocktake: str
    store_id: str
    schemas: dict[str, int]
    warehouse: dict[str, int]  # what there is of each
    state: dict[str, int]  # rows of each table
    bytes: dict[str, int]  # of each file


def backup(settings: Settings, engine: Engine, target: Path) -> Manifest:
    """Copies both stores into `target`, which is new or empty, while others work with them.

    After an error there is no such directory.
    """
    with warehouse.opened(settings.store_path, clock.now()):
        pass  # it is made where it is missing; and one of another schema is refused
    with _made(target) as folder, ExitStack() as stack:
        with warehouse.locked(settings.private_dir):
            # Both of one moment: nobody commits to the one without the lock, and what the other
            # holds is read as of now, however long that takes.
            state = stack.enter_context(snapshot(engine))
            version = schema.version_of(state)
            warehouse.take(settings.store_path, folder / STORE)
        rows = copying.save(state, folder / STATE)
        return _describe(folder, version, rows)


def keep(settings: Settings, engine: Engine, name: str) -> Path:
    """Copies both stores as they are, of whatever schema, before something replaces or changes
    them; call it under the warehouse lock. A store that cannot be read is copied as a file."""
    target = settings.private_dir / "backups" / f"{clock.now():%Y%m%dT%H%M%S.%f}Z-{name}"
    with _made(target) as folder:
        readable = settings.store_path.exists()
        try:
            if readable:
                warehouse.take(settings.store_path, folder / STORE)
        except StoreUnusable:
            readable = False
            warehouse.copied(settings.store_path, folder / STORE)
        with snapshot(engine) as state:
            version = schema.version_of(state)
            rows = copying.save(state, folder / STATE)
        if readable:
            _describe(folder, version, rows)
    return target


def read(folder: Path) -> Manifest:
    """The manifest of a backup. ConfigInvalid if it is none or not whole, StoreNewer if a newer
    stocktake made it."""
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        sizes = {name: (folder / name).stat().st_size for name in (STORE, STATE)}
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigInvalid(str(folder), [f"is no backup: {_why(error)}"]) from None
    known = {"state": schema.VERSION, "warehouse": warehouse.SCHEMA_VERSION}
    for name, version in {**manifest.schemas, "format": manifest.format}.items():
        if version > (knows := known.get(name, FORMAT)):
            raise StoreNewer(str(folder), manifest.stocktake, version, knows)
    if broken := [name for name, size in sizes.items() if manifest.bytes.get(name) != size]:
        raise ConfigInvalid(str(folder), [f"is not whole: {name} is cut off" for name in broken])
    return manifest


def _describe(folder: Path, version: int, rows: dict[str, int]) -> Manifest:
    store = warehouse.described(folder / STORE)
    manifest = Manifest(
        made_at=clock.now(),
        stocktake=__version__,
        store_id=store.store_id,
        schemas={"state": version, "warehouse": store.schema},
        warehouse=store.counts,
        state=rows,
        bytes={name: (folder / name).stat().st_size for name in (STORE, STATE)},
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(text + b"\n")
    return manifest


@contextmanager
def _made(target: Path) -> Iterator[Path]:
    """A directory to fill, which is `target` once all of it is on the disk."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigInvalid(str(target), ["exists and is not empty; nothing was written"])
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        beside.mkdir(mode=0o700, parents=True)
        yield beside
        for each in beside.iterdir():
            each.chmod(0o600)
            warehouse.to_disk(each)
        warehouse.to_disk(beside)
        os.rename(beside, target)
        warehouse.to_disk(target.parent)
    except OSError as error:
        raise StoreUnusable(f"cannot write {target}: {error.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return f"{MANIFEST} is not one of stocktake"
