"""Opens the state store (SQLite in WAL mode, or PostgreSQL by URL) and hands out sessions."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeDecorator
from sqlmodel import Session, SQLModel, create_engine

from worker.errors import StoreUnusable
from worker.settings import Settings


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite keeps no zone, so it is taken off and put on again here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return (
            None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value
        )


def connect(url: str) -> Engine:
    """An engine on the state store, its tables made where they are missing."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    SQLModel.metadata.create_all(engine)
    return engine


def connect_state(settings: Settings) -> Engine:
    """The state store of `settings`, in a private directory that is made where it is missing."""
    try:
        settings.private_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return connect(settings.state_url.get_secret_value())
    except (OSError, SQLAlchemyError) as error:
        reason = getattr(error, "orig", None) or getattr(error, "strerror", None) or error
        raise StoreUnusable(
            f"cannot use the state store in {settings.private_dir}: {reason}; "
            "check data_dir, state_url and who owns them"
        ) from None


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end of the block, or leaves nothing."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # pysqlite's own transaction control would begin a deferred transaction, which fails with
    # SQLITE_BUSY when it turns from reading to writing; we begin immediately instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("pragma journal_mode = wal")
    cursor.execute("pragma synchronous = full")
    cursor.execute("pragma busy_timeout = 30000")
    cursor.execute("pragma foreign_keys = on")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("begin immediate")
