"""Opens the state store (SQLite in WAL mode, or PostgreSQL by URL) and hands out sessions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Column, Connection, Engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, create_engine

from worker.errors import ConfigInvalid, StoreUnusable
from worker.settings import Settings
from worker.state import schema
from worker.state.faults import told
from worker.state.types import UtcTime

__all__ = [
    "UtcTime",
    "connect",
    "connect_state",
    "engine_at",
    "insert_new",
    "opened",
    "snapshot",
    "transaction",
    "unchecked",
    "unfinished",
    "upsert",
]

_DRIVER: Final = "postgresql+psycopg"
_READS: Final = "stocktake_reads"


def connect(url: str) -> Engine:
    """An engine on the state store, which is made where there is none; to be disposed of.

    StoreOlder or StoreNewer where it has another schema; StoreDown, StoreBusy or StoreUnusable
    where it does not open.
    """
    engine = engine_at(url)
    try:
        with told(engine.url):
            with snapshot(engine) as reading:
                version = schema.check(reading)
            if version == 0:
                with engine.begin() as connection:
                    schema.create(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def connect_state(settings: Settings) -> Engine:
    """The state store of `settings`, in a private directory that is made where it is missing."""
    _check_finished(settings)
    _make_private(settings)
    return connect(settings.state_url.get_secret_value())


@contextmanager
def opened(settings: Settings) -> Iterator[Engine]:
    """Like `connect_state`, with every connection closed at the end."""
    engine = connect_state(settings)
    try:
        yield engine
    finally:
        engine.dispose()


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


def engine_at(url: str) -> Engine:
    """An engine on the store at `url`, which is neither looked at nor made."""
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername=_DRIVER)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(parsed)
        return _postgresql(parsed)
    except (ImportError, SQLAlchemyError, ValueError):
        problem = f"expected sqlite:///FILE or {_DRIVER}://USER:PASSWORD@HOST/DATABASE"
        raise ConfigInvalid("state_url", [problem]) from None  # the cause would quote the address


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
            reading = connection.execution_options(**{_READS: True})
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


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, hide_parameters=True)  # errors do not quote values
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # pysqlite's own transaction control would begin a deferred transaction, which fails with
    # SQLITE_BUSY when it turns from reading to writing; we begin immediate instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("pragma busy_timeout = 30000")
    cursor.execute("pragma journal_mode = wal")
    cursor.execute("pragma synchronous = full")
    cursor.execute("pragma foreign_keys = on")
    cursor.close()


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READS)
    connection.exec_driver_sql("begin" if reads else "begin immediate")


def _postgresql(url: URL) -> Engine:
    # Without a time-out a host that is away would be waited for as long as the kernel likes.
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": 10}
    # A connection is tried before it is used: a server that was restarted costs nothing.
    engine = create_engine(url, pool_pre_ping=True, connect_args=patience, hide_parameters=True)
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    # A process that hangs, or whose host went away, must not keep its locks from all others.
    connection.execute("set lock_timeout = '30s'")
    connection.execute("set idle_in_transaction_session_timeout = '60s'")
    connection.commit()
