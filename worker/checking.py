"""Tries everything a configuration names: stores, broker, sources, endpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Literal

import redis
from sqlalchemy import Engine

from worker import clock, dialects, receivers, relay, warehouse
from worker.admission import client_of
from worker.client import Call
from worker.dialects import Dialect
from worker.errors import StocktakeError
from worker.findings import Accepted
from worker.models import INTEGRATIONS, After, Ask, Page, PageNumber
from worker.probing import probe
from worker.settings import Endpoint, Settings, Source
from worker.state import sources

Result = Literal["ok", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried; `code` is the exit code that its failure asks for."""

    what: str
    level: Result
    detail: str
    code: int = 0


def check(
    settings: Settings, engine: Engine, stop: Event, *, send_test: bool = False
) -> list[Check]:
    """Everything, one after the other; nothing raises."""
    checks = [_store(settings), *_broker(settings)]
    checks += [_source(settings, engine, source, stop) for source in settings.sources]
    checks += _tests(settings, engine) if send_test else _endpoints(settings)
    return checks


def exit_code(checks: Sequence[Check]) -> int:
    """The most serious one counts: 2, then 1, then 75, else 0."""
    codes = {each.code for each in checks}
    return next((code for code in (2, 1, 75) if code in codes), 0)


def _store(settings: Settings) -> Check:
    try:
        with warehouse.opened(settings.store_path, clock.now()) as store:
            detail = f"{store.last_sequence} events in {settings.store_path}"
    except StocktakeError as error:
        return _failed("store", error)
    return Check("store", "ok", detail)


def _broker(settings: Settings) -> Iterator[Check]:
    if settings.broker_url is None:
        return
    url = settings.broker_url.get_secret_value().replace("redis+socket://", "unix://")
    if url.startswith("sentinel://"):
        yield Check("broker", "ok", "behind sentinels, which only Celery asks; not tried")
        return
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as broker:
            broker.ping()
    except ValueError:
        yield Check("broker", "failed", "broker_url is no address that Redis understands", 2)
    except redis.RedisError as error:
        yield Check("broker", "failed", f"no answer ({type(error).__name__})", 75)
    else:
        yield Check("broker", "ok", "answers")


def _source(settings: Settings, engine: Engine, source: Source, stop: Event) -> Check:
    what, dialect = f"source {source.name}", dialects.named(source.dialect)
    ask = _first(source, dialect)
    call = Call(
        dialect.request(INTEGRATIONS, ask), lambda body: dialect.read(INTEGRATIONS, ask, body)
    )
    try:
        with client_of(settings, engine, source, stop) as client:
            page, accepted = client.send(call), probe(client, dialect)
    except StocktakeError as error:
        return _failed(what, error)
    sources.accept(engine, source, accepted)
    return Check(what, "ok", f"{_described(page, dialect)}{_accepted(dialect, accepted)}")


def _first(source: Source, dialect: Dialect) -> Ask:
    size = source.page_size or dialect.MAX_PAGE_SIZE
    return PageNumber(1, size) if dialect.PAGING == "numbered" else After(None, size)


def _described(page: Page, dialect: Dialect) -> str:
    count = page.total if page.total is not None else len(page.rows)
    granted = f", pages of {page.size}" if page.size else ""
    return f"logged in; {count} integrations{granted}; {dialect.PAGING} pages"


def _accepted(dialect: Dialect, accepted: Accepted) -> str:
    if dialect.PAGING == "numbered":
        return ""
    sorts = "sorts newest first" if accepted.newest_first else "refuses orderBy: walks in full"
    return f"; {sorts}; {'filters by id' if accepted.filters else 'does not filter by id'}"


def _endpoints(settings: Settings) -> Iterator[Check]:
    for endpoint in settings.endpoints:
        count = len(endpoint.secrets)
        signed = f"{count} secret{'s' * (count > 1)}" if count else "not signed"
        yield Check(f"endpoint {endpoint.name}", "ok", f"{endpoint.origin}, {signed}; not tried")


def _tests(settings: Settings, engine: Engine) -> Iterator[Check]:
    """Sends webhook.test to each endpoint, and says what came back."""
    try:
        relay.introduce(settings, engine)
    except StocktakeError as error:
        yield _failed("endpoints", error)
        return
    for endpoint in settings.endpoints:
        yield _test(engine, settings.endpoints, endpoint)


def _test(engine: Engine, endpoints: Sequence[Endpoint], endpoint: Endpoint) -> Check:
    what, trial = f"endpoint {endpoint.name}", receivers.test(engine, endpoints, endpoint)
    if trial.taken:
        return Check(what, "ok", f"{endpoint.origin} took webhook.test")
    if trial.seconds is None:
        return Check(what, "failed", str(trial.error), 1)
    return Check(what, "failed", f"{endpoint.origin} did not take webhook.test", 1)


def _failed(what: str, error: StocktakeError) -> Check:
    return Check(what, "failed", str(error), error.exit_code)
