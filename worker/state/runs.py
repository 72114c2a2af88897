"""The history of runs."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Engine
from sqlmodel import Session, col, delete, func, select

from worker.errors import ConfigInvalid
from worker.findings import Run
from worker.state.database import transaction, upsert
from worker.state.delivery_tables import table_of
from worker.state.tables import RunRow

_RUN: Final = table_of(RunRow).c.run_id


def record(engine: Engine, done: Iterable[Run]) -> None:
    """Keeps runs that have ended; one that went on since is kept as it ended last."""
    with transaction(engine) as session:
        record_in(session, done)


def record_in(session: Session, done: Iterable[Run]) -> None:
    """Like `record`, as part of a transaction."""
    upsert(session, _RUN, [_row(run).model_dump() for run in done])


def recent(engine: Engine, source: str | None = None, limit: int | None = None) -> Sequence[RunRow]:
    """Runs, newest first."""
    query = select(RunRow).order_by(col(RunRow.started_at).desc(), col(RunRow.run_id)).limit(limit)
    if source is not None:
        query = query.where(RunRow.source == source)
    with transaction(engine) as session:
        return session.exec(query).all()


def kept(engine: Engine, run_ids: Collection[str]) -> list[Run]:
    """Runs by their ids, as they ended, in the order of the ids."""
    query = select(RunRow).where(col(RunRow.run_id).in_(run_ids))
    with transaction(engine) as session:
        found = {row.run_id: row for row in session.exec(query)}
    return [_run(found[id]) for id in run_ids if id in found]


def first(engine: Engine, source: str) -> datetime | None:
    """When a source was first walked, of the runs that are kept."""
    query = select(func.min(RunRow.started_at)).where(RunRow.source == source)
    with transaction(engine) as session:
        return session.exec(query).one()


def last_full(engine: Engine, source: str, scope: str) -> RunRow | None:
    """The newest full run over one listing."""
    query = (
        select(RunRow)
        .where(RunRow.source == source, RunRow.scope == scope, RunRow.mode == "full")
        .order_by(col(RunRow.started_at).desc())
        .limit(1)
    )
    with transaction(engine) as session:
        return session.exec(query).first()


def named(engine: Engine, run_id: str) -> RunRow:
    """One run; ConfigInvalid when there is none of that id."""
    with transaction(engine) as session:
        run = session.get(RunRow, run_id)
    if run is None:
        raise ConfigInvalid(f"no run {run_id!r}", ["`stocktake runs` lists them"])
    return run


def _row(run: Run) -> RunRow:
    values: dict[str, Any] = asdict(run) | run.counts
    evidence = {"reason": values.pop("reason"), "events": values.pop("events")}
    return RunRow(**values, evidence=evidence)


def _run(row: RunRow) -> Run:
    values = {**row.model_dump(), **row.evidence}
    return Run(**{each.name: values[each.name] for each in fields(Run)})


def prune(session: Session, before: datetime) -> int:
    """Removes runs that began before a moment; returns how many."""
    old = delete(RunRow).where(col(RunRow.started_at) < before)
    return session.connection().execute(old).rowcount
