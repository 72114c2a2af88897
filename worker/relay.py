"""Turns events and notices into deliveries, once for every endpoint that wants them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Engine
from sqlmodel import Session

from worker import clock, webhooks
from worker.errors import CursorMismatch
from worker.models import Event
from worker.outbound import Draft
from worker.settings import Endpoint, Settings
from worker.state import deliveries, inspection
from worker.state.database import transaction
from worker.state.deliveries import Cursor

# Events per transaction: a large first sync must not keep the state store from others.
_BATCH = 500
_WAY_ON = (
    "no new event is delivered. Put the right store back with `stocktake restore BACKUP`; or go on "
    "with this one: `stocktake backup DIR && stocktake restore DIR` (DIR: any new directory)"
)


@dataclass(frozen=True, slots=True)
class Log:
    """A stretch of a store's event log, ascending; `head` is the newest sequence of all."""

    store_id: str
    head: int
    events: Sequence[Event]


def register(
    engine: Engine, endpoints: Sequence[Endpoint], store_id: str, head: int, now: datetime
) -> None:
    """Let new endpoints start at the end of the log; what was for removed ones is dead."""
    with transaction(engine) as session:
        deliveries.register(session, _names(endpoints), store_id, head, now)


def introduce(settings: Settings, engine: Engine) -> None:
    """Register the endpoints as they are configured; the store is opened only if that is news."""
    with transaction(engine) as session:
        known = inspection.registered(session)
    if known == set(_names(settings.endpoints)):
        return
    # Here, because who only delivers, maybe on another host, does without DuckDB (40 MB).
    from worker import warehouse

    with warehouse.opened(settings.store_path, clock.now()) as store:
        register(engine, settings.endpoints, store.id, store.last_sequence, clock.now())


def cursor(engine: Engine, endpoints: Sequence[Endpoint]) -> int | None:
    """The sequence after which some endpoint still needs events; None if there is no endpoint."""
    with transaction(engine) as session:
        cursors = deliveries.cursors(session, _names(endpoints))
    return min((cursor.sequence for cursor in cursors.values()), default=None)


def relay(engine: Engine, endpoints: Sequence[Endpoint], log: Log, now: datetime) -> int:
    """Make the deliveries of the events that endpoints have not had yet; returns how many.

    Raises CursorMismatch if the log is not the one that the endpoints were fed from.
    """
    with transaction(engine) as session:
        _check(deliveries.cursors(session, _names(endpoints)), log)
    batches = (log.events[first : first + _BATCH] for first in range(0, len(log.events), _BATCH))
    return sum(_relay(engine, endpoints, events, now) for events in batches)


def _relay(
    engine: Engine, endpoints: Sequence[Endpoint], events: Sequence[Event], now: datetime
) -> int:
    with transaction(engine) as session:
        names = _names(endpoints)
        # The endpoints first: until the end nobody removes one of them or relays to them.
        healths = deliveries.healths(session, names)
        cursors = deliveries.cursors(session, names)

        drafts = _drafts(endpoints, cursors, events)

        made = deliveries.add(session, drafts, healths, now)
        deliveries.advance(session, names, events[-1].sequence)
    return made


def unannounced(engine: Engine, notice_ids: Collection[str]) -> list[str]:
    """Those of the notices that are not recorded yet."""
    with transaction(engine) as session:
        known = deliveries.known_notices(session, notice_ids)
    return [id for id in notice_ids if id not in known]


def announce(
    engine: Engine,
    endpoints: Sequence[Endpoint],
    notice_id: str,
    type: str,
    source: str | None,
    data: Mapping[str, Any],
    now: datetime,
) -> bool:
    """Record a notice and make its deliveries; False if it was announced before."""
    with transaction(engine) as session:
        return announce_in(session, endpoints, notice_id, type, source, data, now)


def announce_in(
    session: Session,
    endpoints: Sequence[Endpoint],
    notice_id: str,
    type: str,
    source: str | None,
    data: Mapping[str, Any],
    now: datetime,
) -> bool:
    """Like `announce`, as part of a transaction."""
    data = msgspec.to_builtins(dict(data))
    if not deliveries.add_notice(session, notice_id, type, source, data, now):
        return False
    healths = deliveries.healths(session, _names(endpoints))
    drafts = (
        Draft(
            event_id=notice_id,
            endpoint=endpoint.name,
            type=type,
            source=source,
            body=webhooks.notice_body(notice_id, type, source, data, now, endpoint.format),
        )
        for endpoint in endpoints
        if endpoint.name in healths
        and webhooks.wants(endpoint.events, endpoint.sources, type, source)
    )
    deliveries.add(session, drafts, healths, now)
    return True


def _names(endpoints: Sequence[Endpoint]) -> list[str]:
    return [endpoint.name for endpoint in endpoints]


def _check(cursors: Mapping[str, Cursor], log: Log) -> None:
    for name, cursor in cursors.items():
        fed = f"endpoint {name} was fed from store {cursor.store_id} up to event {cursor.sequence}"
        if cursor.store_id != log.store_id:
            raise CursorMismatch(
                f"{fed}, but this is store {log.store_id} with {log.head} events; {_WAY_ON}"
            )
        if cursor.sequence > log.head:
            raise CursorMismatch(
                f"{fed}, but its log ends at event {log.head}: it is an older copy; {_WAY_ON}"
            )
        if log.events and log.events[0].sequence > cursor.sequence + 1:
            raise CursorMismatch(
                f"{fed}, but the log goes on at {log.events[0].sequence}; {_WAY_ON}"
            )


def _drafts(
    endpoints: Sequence[Endpoint], cursors: Mapping[str, Cursor], events: Sequence[Event]
) -> Iterator[Draft]:
    registered = [endpoint for endpoint in endpoints if endpoint.name in cursors]
    for event in events:
        if event.baseline:
            continue
        fresh = [each for each in registered if cursors[each.name].sequence < event.sequence]
        yield from drafts_of(event, fresh)


def drafts_of(event: Event, endpoints: Collection[Endpoint]) -> Iterator[Draft]:
    """The deliveries of an event to those of the endpoints that want it."""
    wanting = [
        endpoint
        for endpoint in endpoints
        if webhooks.wants(endpoint.events, endpoint.sources, event.type, event.source)
    ]
    formats = {endpoint.format for endpoint in wanting}
    bodies = {format: webhooks.event_body(event, format) for format in formats}
    for endpoint in wanting:
        yield Draft(
            event_id=event.event_id,
            endpoint=endpoint.name,
            type=event.type,
            source=event.source,
            install_id=event.install_id,
            sequence=event.sequence,
            lane=_lane(event),
            body=bodies[endpoint.format],
        )


def _lane(event: Event) -> str:
    """What is delivered in order: the events of one install, and those of one integration."""
    if event.install_id is not None:
        return f"{event.source}/install/{event.install_id}"
    return f"{event.source}/integration/{event.integration_id}"
