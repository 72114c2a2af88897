"""Whether a source may be asked now, and the client to ask it with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Event

from sqlalchemy import Engine

from worker import clock, dialects
from worker.budget import Budget
from worker.client import Client, Manners
from worker.errors import RateLimited, Refused, StocktakeError
from worker.settings import Settings, Source
from worker.state import sources
from worker.state.tables import SourceState


def check_allowed(engine: Engine, source: Source) -> None:
    """Refused while the source is paused, RateLimited while it asked to be left alone."""
    if error := obstacle(sources.known(engine, source), clock.now()):
        raise error


def obstacle(state: SourceState, now: datetime) -> StocktakeError | None:
    """Why a source may not be asked now, if so."""
    name, until = state.source, state.rate_limited_until
    if state.paused:
        return Refused(f"{name} is paused; `stocktake resume {name}` goes on with it")
    if until and until > now:
        return RateLimited(
            f"{name}: rate limited until {until:%Y-%m-%d %H:%M:%S} UTC; "
            f"`stocktake resume {name}` lifts it",
            until,
            (until - now).total_seconds(),
        )
    return None


@contextmanager
def client_of(
    settings: Settings,
    engine: Engine,
    source: Source,
    stop: Event,
    on_request: Callable[[], None] = lambda: None,
) -> Iterator[Client]:
    """A client of `source` within its budget; a 429 it meets is kept for all processes."""
    dialect = dialects.named(source.dialect)
    client = Client(
        source,
        Manners(dialect.ACCEPT, dialect.login(), dialect.read_token, dialect.PENALTY_S),
        Budget(
            settings.private_dir / "budgets",
            source.name,
            source.requests_per_second,
            source.max_concurrency,
        ),
        stop,
        strikes=sources.known(engine, source).strikes,
        on_limit=lambda until: sources.limit(engine, source, until),
        on_request=on_request,
    )
    try:
        yield client
    finally:
        client.close()
