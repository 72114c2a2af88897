"""A short look at the state store by who serves what is in it and writes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from worker.errors import StoreUnusable
from worker.settings import Settings
from worker.state.database import connect_state
from worker.state.delivery_tables import Delivery, table_of
from worker.state.tables import HoldRow

_DELIVERIES = table_of(Delivery)
_HOLDS = table_of(HoldRow)
_SQLITE = "sqlite:///"


@contextmanager
def visited(settings: Settings) -> Iterator[Engine]:
    """The state store as it is now, for one look; StoreUnusable while it is away.

    Opened anew each time: a file that was put in its place meanwhile, or a server that was started
    again, is found without anybody's doing.
    """
    url = settings.state_url.get_secret_value()
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        # To make an empty one here would tell that nothing ever happened.
        raise StoreUnusable("the state store is not there; `stocktake sync` or `up` makes it")
    engine = connect_state(settings)
    try:
        yield engine
    except SQLAlchemyError as error:
        raise StoreUnusable(f"the state store does not answer ({_reason(error)})") from None
    finally:
        engine.dispose()


def open_deliveries(session: Session) -> dict[str, tuple[int, datetime]]:
    """Of each endpoint with deliveries that wait or are under way: how many, and since when the
    oldest does. Reads none that have ended."""
    columns = _DELIVERIES.c
    waiting = (
        select(
            columns.endpoint,
            func.count().label("count"),
            func.min(columns.position).label("first"),
        )
        .where(columns.next_at.is_not(None))
        .group_by(columns.endpoint)
        .subquery()
    )
    oldest = select(waiting.c.endpoint, waiting.c.count, columns.created_at).join(
        _DELIVERIES, columns.position == waiting.c.first
    )
    rows = session.connection().execute(oldest)
    return {endpoint: (count, since) for endpoint, count, since in rows}


def open_holds(session: Session) -> dict[str, int]:
    """How many holds of each source wait for a person."""
    query = select(_HOLDS.c.source, func.count()).where(_HOLDS.c.status == "open")
    found = session.connection().execute(query.group_by(_HOLDS.c.source))
    return {source: count for source, count in found}


def _reason(error: SQLAlchemyError) -> str:
    # Its own text would quote the statement with its values.
    said = str(getattr(error, "orig", None) or type(error).__name__).strip()
    return said.partition("\n")[0]
