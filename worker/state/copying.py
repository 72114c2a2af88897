"""Copies the whole state store, table by table, into an SQLite file and out of one."""

from pathlib import Path
from typing import Final

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    create_engine,
    func,
    inspect,
    select,
    text,
)
from sqlmodel import SQLModel

from worker.state.database import snapshot
from worker.state.engines import engine_at
from worker.state.faults import told

_BATCH: Final = 500


def save(reading: Connection, target: Path) -> dict[str, int]:
    """Writes what one moment of a store holds, of whatever schema, into the new file `target`;
    returns the rows of each table."""
    engine = create_engine(f"sqlite:///{target}")
    try:
        with told(engine.url), engine.begin() as writing:
            counts = {}
            for table in _tables(reading):
                table.create(writing)
                counts[table.name] = _pour(reading, writing, table)
    finally:
        engine.dispose()
    target.chmod(0o600)
    return counts


def load(writing: Connection, source: Path) -> None:
    """Replaces all that a store of this schema holds by what the file `source` holds."""
    engine = engine_at(f"sqlite:///{source}")
    tables = SQLModel.metadata.sorted_tables
    try:
        _lock(writing, tables)
        with snapshot(engine) as reading:
            for table in reversed(tables):
                writing.execute(table.delete())
            for table in tables:
                _pour(reading, writing, _plain(table, {column.name for column in table.columns}))
                _count_on(writing, table)
    finally:
        engine.dispose()


def _tables(reading: Connection) -> list[Table]:
    """Our tables as they are in an older store, too: some columns, or all of them."""
    there = inspect(reading)
    return [
        _plain(table, {column["name"] for column in there.get_columns(table.name)})
        for table in SQLModel.metadata.sorted_tables
        if there.has_table(table.name)
    ]


def _plain(table: Table, columns: set[str]) -> Table:
    kept = [column for column in table.columns if column.name in columns]
    # A null stays one: as a value of JSON it would become the text "null".
    types = [JSON(none_as_null=True) if isinstance(c.type, JSON) else c.type for c in kept]
    plain = [
        Column(c.name, type_, primary_key=c.primary_key, nullable=c.nullable)
        for c, type_ in zip(kept, types, strict=True)
    ]
    return Table(table.name, MetaData(), *plain)


def _pour(reading: Connection, writing: Connection, table: Table) -> int:
    found = reading.execute(select(table), execution_options={"yield_per": _BATCH})
    count = 0
    for batch in found.mappings().partitions():
        writing.execute(table.insert(), [dict(row) for row in batch])
        count += len(batch)
    return count


def _lock(writing: Connection, tables: list[Table]) -> None:
    """SQLite has one writer; in PostgreSQL nobody may add a row between those we take away."""
    if writing.dialect.name == "postgresql":
        names = ", ".join(table.name for table in tables)
        writing.execute(text(f"lock table {names} in access exclusive mode"))


def _count_on(writing: Connection, table: Table) -> None:
    """In PostgreSQL a counter that gives the numbers of new rows does not see those we insert."""
    if writing.dialect.name != "postgresql":
        return
    counted = table.autoincrement_column
    if counted is None or not isinstance(counted.type, Integer):
        return
    highest = select(func.coalesce(func.max(counted), 0) + 1).scalar_subquery()
    sequence = func.pg_get_serial_sequence(table.name, counted.name)
    writing.execute(select(func.setval(sequence, highest, False)))
