"""The schema of the state store: which one a store has, and the steps that lead to this one."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, Connection, Engine, Table, func, inspect, literal, select, text
from sqlalchemy.schema import CreateColumn, MetaData
from sqlmodel import Field, SQLModel

from worker import __version__, clock
from worker.errors import StoreNewer, StoreOlder
from worker.state.types import UtcTime

_LOCK: Final = 0x73746B74  # PostgreSQL's advisory locks have numbers; any that nobody else takes


class SchemaRow(SQLModel, table=True):
    """One step of the schema and which stocktake made it; the newest is how the tables are."""

    __tablename__ = "schema_version"

    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    written_by: str
    made_at: datetime = Field(sa_type=UtcTime)


_STEPS_MADE = SQLModel.metadata.tables["schema_version"]


def version_of(connection: Connection) -> int:
    """The schema of a store; 0 where there is none yet."""
    there = inspect(connection)
    if not there.has_table("schema_version"):
        return 1 if there.has_table("leases") else 0  # the first schema did not say its version
    return connection.execute(select(func.max(_STEPS_MADE.c.version))).scalar() or 1


def compatible(connection: Connection) -> int:
    """The schema of a store that this stocktake can work with or bring up, 0 where there is none
    yet; else StoreNewer."""
    version = version_of(connection)
    if version > VERSION:
        newest = select(_STEPS_MADE.c.written_by).order_by(_STEPS_MADE.c.version.desc()).limit(1)
        writer = connection.execute(newest).scalar_one()
        raise StoreNewer("the state store", writer, version, VERSION)
    return version


def check(connection: Connection) -> int:
    """Like `compatible`, but StoreOlder where it would have to be brought up."""
    version = compatible(connection)
    if 0 < version < VERSION:
        raise StoreOlder("the state store", version, VERSION)
    return version


def create(connection: Connection) -> None:
    """Makes the tables where there are none; of two processes that try, one does."""
    _alone(connection)
    if version_of(connection) == 0:
        SQLModel.metadata.create_all(connection)
        _keep(connection, VERSION)


def migrate(engine: Engine) -> int:
    """Brings the tables of a store to this schema, each step in one transaction; returns from
    which. What a crash leaves has the schema of its last whole step, and the next call goes on."""
    with engine.begin() as connection:
        found = compatible(connection)
    if found == 0:
        with engine.begin() as connection:
            create(connection)
    for number in range(found + 1, VERSION + 1) if found else ():
        with engine.begin() as connection:
            _alone(connection)
            if version_of(connection) < number:
                STEPS[number](connection)
                _keep(connection, number)
    return found


def _alone(connection: Connection) -> None:
    """Until the transaction ends nobody else changes the schema (SQLite has one writer anyway)."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _keep(connection: Connection, version: int) -> None:
    made = {"version": version, "written_by": __version__, "made_at": clock.now()}
    connection.execute(_STEPS_MADE.insert(), made)


def _add_what_is_missing(connection: Connection) -> None:
    """Tables, columns with their defaults, and indexes that came with the models."""
    metadata = SQLModel.metadata
    metadata.create_all(connection)
    there = inspect(connection)
    for table in metadata.sorted_tables:
        kept = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in kept:
                _add(connection, table, column)
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def _add(connection: Connection, table: Table, column: Column[Any]) -> None:
    default = _default(table, column)
    new = Column(column.name, column.type, nullable=column.nullable)
    if default is not None and not column.nullable:
        # Only so can a column that is never null be added to rows that are there.
        value = literal(default, column.type).compile(
            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
        )
        new.server_default = text(str(value))  # type: ignore[assignment]
    added = Table(table.name, MetaData(), new)
    named = connection.dialect.identifier_preparer.format_table(added)
    definition = CreateColumn(new).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"alter table {named} add column {definition}")
    if default is not None and column.nullable:
        connection.execute(added.update().values({column.name: default}))


def _default(table: Table, column: Column[Any]) -> Any:
    """What a new row has there: the model says it, also where the column does not."""
    model = next(each for each in _models() if each.__tablename__ == table.name)
    field = model.model_fields[column.name]
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _models() -> Iterator[type[SQLModel]]:
    for mapper in SQLModel._sa_registry.mappers:
        yield mapper.class_


# By the schema that each leads to. The first one added what the models have beyond it, so a later
# step may find done what it would do.
STEPS: Final[Mapping[int, Callable[[Connection], None]]] = {2: _add_what_is_missing}
VERSION: Final = max(STEPS)
