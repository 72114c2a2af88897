"""Sends again what was recorded: events, deliveries that are dead, or all that is installed."""

import hashlib
import logging
from base64 import b32encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Event as Stop
from typing import Final, Literal
from uuid import uuid4

from sqlalchemy import Engine

from worker import aftermath, clock, relay, warehouse, webhooks
from worker.errors import ConfigInvalid, Stopped
from worker.models import Event
from worker.outbound import Draft, Tally
from worker.settings import Endpoint, Settings
from worker.state import by_hand, deliveries, replays, transaction
from worker.state.by_hand import Graves
from worker.state.delivery_tables import Replay
from worker.warehouse import Store

log = logging.getLogger(__name__)

SNAPSHOT: Final = "install.created"  # what a snapshot says of every install
# Deliveries per transaction, during which the store is open: nobody should notice.
_BATCH: Final = 2000


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be sent again, to whom; without `since`, `until` and `event_id` from the start to
    the end. `fresh_ids` are new to a receiver that remembers the ids it has had."""

    endpoint: Endpoint
    what: Literal["events", "dead", "snapshot"]
    types: tuple[str, ...]
    since: datetime | None = None
    until: datetime | None = None
    event_id: str | None = None
    fresh_ids: bool = False


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is, or dry: would be, sent again; `waits` says why the endpoint is sent nothing now."""

    replay_id: str | None
    deliveries: int
    types: Mapping[str, int]
    oldest: datetime | None
    newest: datetime | None
    waits: str | None


def replay(
    settings: Settings, engine: Engine, wish: Wish, stop: Stop, *, dry_run: bool = False
) -> Replayed:
    """Makes the deliveries again; `dry_run` counts them and changes nothing.

    What is wanted is kept before the first of them is made, and each batch with how far it goes, so
    that after a crash the rest is made by the next delivery run, and nothing twice. Stopped, if
    `stop` was set: what was made until then is sent.
    """
    if wish.what == "dead":
        return _reopened(settings, engine, wish, dry_run=dry_run)
    if dry_run:
        return _replayed(engine, wish, _rehearsed(settings, wish))
    go_on(settings, engine, stop)
    with warehouse.opened(settings.store_path, clock.now()) as store:
        aftermath.relay(settings, engine, store)
        tallies = _wanted(store, wish)
        replay_id = _ask(engine, store, wish, tallies) if tallies else None
    go_on(settings, engine, stop)
    if replay_id:
        _end_if_stopped(engine, replay_id, stop)
    return _replayed(engine, wish, tallies, replay_id)


def go_on(settings: Settings, engine: Engine, stop: Stop) -> bool:
    """Makes what is missing of every replay, batch by batch, until `stop` is set; says whether
    anything was.

    Until a replay is complete the relay makes nothing new for its endpoint, so that each install is
    told of in order: first what is sent again, then what happened since.
    """
    went_on = False
    while not stop.is_set() and _is_unfinished(engine):
        with warehouse.opened(settings.store_path, clock.now()) as store:
            _make_next(settings, engine, store)
            aftermath.relay(settings, engine, store)
        went_on = True
    return went_on


def _is_unfinished(engine: Engine) -> bool:
    with transaction(engine) as session:
        return bool(replays.unfinished(session))


def _end_if_stopped(engine: Engine, replay_id: str, stop: Stop) -> None:
    with transaction(engine) as session:
        stopped = stop.is_set() and replays.is_unfinished(session, replay_id)
        replays.end(session, replay_id)
    if stopped:
        raise Stopped(f"{replay_id} was stopped; what was made of it so far is sent")


def _reopened(settings: Settings, engine: Engine, wish: Wish, *, dry_run: bool) -> Replayed:
    if not dry_run:
        relay.introduce(settings, engine)
    name = wish.endpoint.name
    graves = Graves(name, wish.types, wish.since, wish.until, wish.event_id)
    with transaction(engine) as session:
        tallies = by_hand.count_dead(session, graves)
        if not dry_run:
            halted = deliveries.healths(session, [name])[name].halted
            by_hand.reopen(session, graves, halted, clock.now())
    return _replayed(engine, wish, tallies)


def _rehearsed(settings: Settings, wish: Wish) -> list[Tally]:
    if not settings.store_path.exists():
        return []
    with warehouse.opened(settings.store_path, clock.now()) as store:
        return _wanted(store, wish)


def _wanted(store: Store, wish: Wish) -> list[Tally]:
    """Of all that the store could send again, what is wished for and wanted by the endpoint."""
    endpoint = wish.endpoint
    if wish.what == "snapshot":
        if not webhooks.wants(endpoint.events, ("*",), SNAPSHOT, None):
            problem = f"its events are {', '.join(endpoint.events)}"
            raise ConfigInvalid(f"{endpoint.name} is sent no {SNAPSHOT}", [problem])
        found = warehouse.count_snapshot(store)
    else:
        found = warehouse.count_events(store, wish.since, wish.until, wish.event_id)
        if wish.event_id and not found:
            problem = "`stocktake events` lists them; what belongs to a baseline is not sent again"
            raise ConfigInvalid(f"no event {wish.event_id!r} that was announced", [problem])
    return [
        tally
        for tally in found
        if tally.type in wish.types
        and webhooks.wants(endpoint.events, endpoint.sources, tally.type, tally.source)
    ]


def _ask(engine: Engine, store: Store, wish: Wish, tallies: Sequence[Tally]) -> str:
    replay_id = f"rpl_{uuid4().hex[:12]}"
    asked = Replay(
        replay_id=replay_id,
        endpoint=wish.endpoint.name,
        store_id=store.id,
        asked_at=clock.now(),
        snapshot=wish.what == "snapshot",
        fresh_ids=wish.fresh_ids,
        types=sorted({tally.type for tally in tallies}),
        sources=sorted({tally.source for tally in tallies if tally.source}),
        after=min(tally.first for tally in tallies) - 1,
        upto=max(tally.last for tally in tallies),
    )
    with transaction(engine) as session:
        replays.ask(session, asked)
    return replay_id


def _make_next(settings: Settings, engine: Engine, store: Store) -> None:
    """One batch of the oldest replay; its deliveries and how far it is are one transaction."""
    with transaction(engine) as session:
        asked = next(iter(replays.unfinished(session)), None)
    if asked is None:
        return  # another process was faster
    endpoints = [endpoint for endpoint in settings.endpoints if endpoint.name == asked.endpoint]
    if asked.store_id != store.id:
        log.warning("replay dropped", extra={"facts": {"id": asked.replay_id}})
        endpoints = []
    found = _read(store, asked) if endpoints else []

    drafts = [draft for event in found for draft in _drafts(event, store, asked, endpoints)]

    with transaction(engine) as session:
        healths = deliveries.healths(session, [asked.endpoint])
        if healths:
            deliveries.add(session, drafts, healths, clock.now(), asked.replay_id)
        # Without: it was taken out of the configuration, though we may have an older one.
        if len(found) < _BATCH or not healths:
            replays.end(session, asked.replay_id)
        else:
            replays.move(session, asked.replay_id, found[-1].sequence)
    facts = {"id": asked.replay_id, "endpoint": asked.endpoint, "made": len(drafts)}
    log.info("replay", extra={"facts": facts})


def _read(store: Store, asked: Replay) -> list[Event]:
    if asked.snapshot:
        return warehouse.snapshot(store, asked.after, asked.upto, asked.sources, _BATCH)
    return warehouse.events_again(
        store, asked.after, asked.upto, asked.types, asked.sources, _BATCH
    )


def _drafts(
    event: Event, store: Store, asked: Replay, endpoints: Sequence[Endpoint]
) -> Iterator[Draft]:
    said = _as_installed(event, store.id) if asked.snapshot else event
    for draft in relay.drafts_of(said, endpoints):
        fresh = f"{draft.event_id}_{asked.replay_id}"
        yield replace(draft, event_id=fresh) if asked.fresh_ids else draft


def _as_installed(newest: Event, store_id: str) -> Event:
    """What a snapshot says of an install, given its newest event: that it is there, as it is.

    With the sequence of that event: who keeps the last one takes it, and all that comes later is
    higher. The same revision is told under the same id and in the same words.
    """
    install, revision = str(newest.install_id), str(newest.revision)
    facts = (store_id, newest.source, "install", install, revision, "snapshot")
    digest = hashlib.sha256("\n".join(facts).encode()).digest()
    return replace(
        newest,
        event_id=f"evt_{b32encode(digest).decode()[:26].lower()}",
        type=SNAPSHOT,
        deletion_inferred=False,
        baseline=True,
        changed_fields=(),
    )


def _replayed(
    engine: Engine, wish: Wish, tallies: Sequence[Tally], replay_id: str | None = None
) -> Replayed:
    name = wish.endpoint.name
    with transaction(engine) as session:
        health = deliveries.healths(session, [name]).get(name)
    types: Counter[str] = Counter()
    for tally in tallies:
        types[tally.type] += tally.count
    return Replayed(
        replay_id=replay_id,
        deliveries=types.total(),
        types=dict(types),
        oldest=min((tally.oldest for tally in tallies), default=None),
        newest=max((tally.newest for tally in tallies), default=None),
        waits=health.halted if health else None,
    )
