"""Opens the state store and hands out sessions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from worker.errors import StoreUnusable
from worker.settings import Settings
from worker.state import engines, schema
from worker.state.engines import READS, engine_at
from worker.state.faults import told
from worker.state.types import UtcTime

__all__ = [
    "UtcTime",
    "connect",
    "connect_state",
    "insert_new",
    "opened",
    "snapshot",
    "transaction",
    "unchecked",
    "unfinished",
    "upsert",
]


def connect(url: str) -> Engine:
    """An engine on the state store, which is made where there is none; to be disposed of.

    StoreOlder or StoreNewer where it has another schema; StoreDown, StoreBusy or StoreUnusable
    where it does not open.
    """
    engine = engine_at(url)
    try:
        _check(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check(engine: Engine) -> None:
    with told(engine.url):
        with snapshot(engine) as reading:
            version = schema.check(reading)
        if version == 0:
            with engine.begin() as connection:
                schema.create(connection)


def connect_state(settings: Settings) -> Engine:
    """The state store of `settings`, in a private directory that is made where it is missing."""
    _check_finished(settings)
    _make_private(settings)
    return connect(settings.state_url.get_secret_value())


@contextmanager
def opened(settings: Settings) -> Iterator[Engine]:
    """Like `connect_state`, with every connection closed at the end."""
    _check_finished(settings)
    _make_private(settings)
    with engines.lent(settings.state_url.get_secret_value()) as engine:
        _check(engine)
        yield engine


@contextmanager
def unchecked(settings: Settings, *, finished: bool = True) -> Iterator[Engine]:
    """Like `opened`, but a store of whatever schema, or none; for upkeep. `finished` False: even if
    a restore has not ended."""
    if finished:
        _check_finished(settings)
    _make_private(settings)
    engine = engine_at(settings.state_url.get_secret_value())
    try:
        with told(engine.url):
            yield engine
    finally:
        engine.dispose()


def unfinished(settings: Settings) -> Path:
    """The file that is there while a restore is under way; it says what is restored."""
    return settings.private_dir / "restore.unfinished"


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end of the block, or leaves nothing."""
    with (
        told(engine.url),
        Session(engine, expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Reads one moment of the store, for as long as it takes; nobody waits for it."""
    with told(engine.url), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            reading = connection.execution_options(isolation_level="REPEATABLE READ")
        else:
            reading = connection.execution_options(**{READS: True})
        with reading.begin():
            if reading.dialect.name == "postgresql":
                # A backup copies the other store meanwhile. It locks nothing here.
                reading.exec_driver_sql("set local idle_in_transaction_session_timeout = 0")
            yield reading


def insert_new(session: Session, key: Column[Any], rows: list[dict[str, Any]]) -> int:
    """Inserts the rows whose key is new, whoever else does so now; returns how many."""
    if not rows:
        return 0
    query = _insert(session, key).on_conflict_do_nothing(index_elements=[key])
    return len(session.connection().execute(query.returning(key), rows).all())


def upsert(session: Session, key: Column[Any], rows: list[dict[str, Any]]) -> None:
    """Inserts the rows, each in the place of the one with its key, if there is one."""
    if not rows:
        return
    query = _insert(session, key)
    new = {name: query.excluded[name] for name in rows[0] if name != key.name}
    query = query.on_conflict_do_update(index_elements=[key], set_=new)
    session.connection().execute(query, rows)


def _insert(session: Session, key: Column[Any]) -> Any:
    # The same words in both dialects, which share no type.
    named = session.connection().dialect.name
    return (postgresql if named == "postgresql" else sqlite).insert(key.table)


def _check_finished(settings: Settings) -> None:
    marker = unfinished(settings)
    if marker.exists():
        raise StoreUnusable(
            f"a restore into {settings.data_dir} did not end; "
            f"type `stocktake restore {marker.read_text('utf-8')}` again"
        )


def _make_private(settings: Settings) -> None:
    try:
        settings.private_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreUnusable(
            f"cannot use the state store in {settings.private_dir}: {error.strerror}; "
            "check data_dir, state_url and who owns them"
        ) from None
