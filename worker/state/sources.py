"""What is known of a source between its syncs: paused, rate limited, failing, fresh."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final

from sqlalchemy import Engine
from sqlmodel import Session, select

from worker.findings import Accepted
from worker.settings import Source
from worker.state.database import insert_new, transaction
from worker.state.delivery_tables import table_of
from worker.state.tables import SourceState

_SOURCE: Final = table_of(SourceState).c.source


def known(engine: Engine, source: Source) -> SourceState:
    """The state of `source`, made if it was never seen."""
    with transaction(engine) as session:
        row = session.get(SourceState, source.name)
        if row is None:  # another process may find the same at this moment
            new = SourceState(source=source.name, dialect=source.dialect)
            insert_new(session, _SOURCE, [new.model_dump()])
            row = session.get_one(SourceState, source.name)
        return row


def every(engine: Engine) -> Sequence[SourceState]:
    """All sources ever synced, by name."""
    with transaction(engine) as session:
        return session.exec(select(SourceState).order_by(SourceState.source)).all()


def change(engine: Engine, source: Source, edit: Callable[[SourceState], None]) -> SourceState:
    """Applies `edit` to the state of `source` in one transaction."""
    known(engine, source)
    with transaction(engine) as session:
        return change_in(session, source, edit)


def change_in(session: Session, source: Source, edit: Callable[[SourceState], None]) -> SourceState:
    """Like `change`, as part of a transaction; the source is `known`."""
    row = session.get_one(SourceState, source.name, with_for_update=True)
    edit(row)
    session.add(row)
    return row


def limit(engine: Engine, source: Source, until: datetime) -> None:
    """The source said 429: no request before `until`, whichever process asks."""

    def edit(row: SourceState) -> None:
        row.strikes += 1
        row.rate_limited_until = max(until, row.rate_limited_until or until)

    change(engine, source, edit)


def pause(engine: Engine, source: Source) -> None:
    """No sync of `source` until it is resumed."""

    def edit(row: SourceState) -> None:
        row.paused = True

    change(engine, source, edit)


def resume(engine: Engine, source: Source) -> None:
    """Syncs go on; a rate limit is lifted too."""

    def edit(row: SourceState) -> None:
        row.paused, row.rate_limited_until, row.strikes = False, None, 0

    change(engine, source, edit)


def accept(engine: Engine, source: Source, accepted: Accepted) -> None:
    """Keeps what the source was found to accept."""

    def edit(row: SourceState) -> None:
        row.accepted = asdict(accepted)

    change(engine, source, edit)
