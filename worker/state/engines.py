"""The engines on the state store: SQLite in WAL mode, or PostgreSQL by URL."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from time import monotonic, sleep
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import create_engine

from worker.errors import ConfigInvalid

READS: Final = "stocktake_reads"  # the execution option of a connection that only reads
_PATIENCE_S: Final = 30  # with another process that writes
_POLL_S: Final = 0.01
_DRIVER: Final = "postgresql+psycopg"


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


def lent(url: str) -> AbstractContextManager[Engine]:
    """The engine on the store at `url` that this process has, or one that is made; its connections
    are closed when the last of those who use it has ended."""
    return _LOANS.engine(url)


class _Loans:
    """The engines that are in use, and the one that was used last: an engine remembers how its
    statements compile, which takes longer than running them."""

    def __init__(self) -> None:
        self._lock, self._engines, self._users = Lock(), dict[str, Engine](), Counter[str]()

    @contextmanager
    def engine(self, url: str) -> Iterator[Engine]:
        with self._lock:
            if url not in self._engines:
                used = {each: engine for each, engine in self._engines.items() if self._users[each]}
                self._engines = {**used, url: engine_at(url)}
            engine = self._engines[url]
            self._users[url] += 1
        try:
            yield engine
        finally:
            with self._lock:
                self._users[url] -= 1
                if not self._users[url]:
                    engine.dispose()


_LOANS: Final = _Loans()


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
    cursor.execute(f"pragma busy_timeout = {_PATIENCE_S * 1000}")
    _to_wal(cursor)
    cursor.execute("pragma synchronous = full")
    cursor.execute("pragma foreign_keys = on")
    cursor.close()


def _to_wal(cursor: sqlite3.Cursor) -> None:
    # While another connection writes to a file that is not in this mode yet, as where several open
    # a new one, SQLite says at once that it is busy, whatever its time-out (sqlite3_busy_handler).
    ends_s = monotonic() + _PATIENCE_S
    while True:
        try:
            cursor.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > ends_s:
                raise
            sleep(_POLL_S)
        else:
            return


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(READS)
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
