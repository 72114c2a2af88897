"""Whether a source may be asked now, and the client to ask it with."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from sqlalchemy import Engine

from worker import clock, dialects
from worker.budget import Budget
from worker.client import Client, Manners
from worker.errors import RateLimited, Refused
from worker.settings import Settings, Source
from worker.state import sources


def check_allowed(engine: Engine, source: Source) -> None:
    """Refused while the source is paused, RateLimited while it asked to be left alone."""
    state, now = sources.known(engine, source), clock.now()
    if state.paused:
        raise Refused(f"{source.name} is paused; `stocktake resume {source.name}` goes on with it")
    until = state.rate_limited_until
    if until and until > now:
        raise RateLimited(
            f"{source.name}: rate limited until {until:%Y-%m-%d %H:%M:%S} UTC; "
            f"`stocktake resume {source.name}` lifts it",
            until,
            (until - now).total_seconds(),
        )


@contextmanager
def client_of(settings: Settings, engine: Engine, source: Source, stop: Event) -> Iterator[Client]:
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
    )
    try:
        yield client
    finally:
        client.close()
