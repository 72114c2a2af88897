"""Sends what is due: claims deliveries, posts them, and settles what came back."""

import asyncio
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from math import inf

from sqlalchemy import Engine
from sqlmodel import Session

from worker import clock, relay, webhooks
from worker.outbound import Attempt, Claim, Health, Settled
from worker.posting import Post
from worker.sender import Sender
from worker.settings import Endpoint, Settings
from worker.state import deliveries, opened, tallies
from worker.state.claims import give_back, take_over
from worker.state.database import transaction
from worker.state.heartbeats import Pulse

log = logging.getLogger(__name__)

# How long new work of other processes, a lapsed lease or a retry may go unnoticed.
_POLL_S = 0.25
# What ends within so short a time is settled as one: a commit takes as long.
_GATHER_S = 0.004
# How long requests may go on after a stop; the daemon is killed after eight seconds.
_GRACE_S = 5.0
_MINUTE = timedelta(minutes=1)

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of a batch: attempts by what followed, and deliveries still open."""

    delivered: int
    failed: int  # to be tried again
    dead: int
    pending: int


def deliver(
    engine: Engine,
    endpoints: Sequence[Endpoint],
    *,
    stop: threading.Event,
    wait_s: float | None = None,
    now: Clock = clock.now,
    jitter: Callable[[], float] = random.random,
    make_sender: Callable[[Endpoint], Sender] = Sender,
    grace_s: float = _GRACE_S,
    on_turn: Callable[[], None] = lambda: None,
) -> Delivered:
    """Send what is due; with `wait_s`, until nothing is open or that many seconds are over.

    After `stop` is set nothing more is claimed, and what is in flight has `grace_s` to end; the
    deliveries of what has not are due again. `on_turn` is called between the sends.
    """
    by_name = {endpoint.name: endpoint for endpoint in endpoints}
    desk = _Desk(engine, by_name, now, jitter, on_turn)
    post = Post(by_name, now, make_sender)
    began = now()
    desk.take_over()
    asyncio.run(_work(desk, post, stop, wait_s, grace_s))
    done = desk.result()
    if desk.settled:
        level = logging.WARNING if done.failed or done.dead else logging.INFO
        seconds = round((now() - began).total_seconds(), 3)
        log.log(level, "deliver", extra={"facts": asdict(done) | {"seconds": seconds}})
    return done


def deliver_due(settings: Settings, stop: threading.Event) -> None:
    """What the deliver worker does at every wake-up: it needs the state store alone."""
    with opened(settings) as engine:
        deliver(engine, settings.endpoints, stop=stop, on_turn=Pulse(engine, "deliver"))


def send_alone(
    engine: Engine,
    endpoints: Sequence[Endpoint],
    claim: Claim,
    *,
    make_sender: Callable[[Endpoint], Sender] = Sender,
) -> Attempt:
    """Send one claimed delivery at once, whatever waits before it, and settle what came back."""
    by_name = {endpoint.name: endpoint for endpoint in endpoints}

    async def send() -> Attempt:
        post = Post(by_name, clock.now, make_sender)
        try:
            return await post.send(claim)
        finally:
            await post.aclose()

    attempt = asyncio.run(send())
    _Desk(engine, by_name, clock.now, random.random).turn([attempt], claiming=False)
    return attempt


async def _work(
    desk: "_Desk", post: Post, stop: threading.Event, wait_s: float | None, grace_s: float
) -> None:
    until = desk.now() + timedelta(seconds=wait_s or 0)
    elapsed = asyncio.get_running_loop().time
    broken_off_at = inf
    under_way: dict[asyncio.Task[Attempt], Claim] = {}
    ended: list[Attempt] = []
    try:
        while True:
            going_on = not stop.is_set() and (wait_s is None or desk.now() < until)
            # In a thread: a deadline is the receiver's time, not that of our database.
            claims = await asyncio.to_thread(desk.turn, ended, claiming=going_on)
            under_way |= {asyncio.create_task(post.send(claim)): claim for claim in claims}
            if stop.is_set():
                broken_off_at = min(broken_off_at, elapsed() + grace_s)
            ended = []
            if under_way and elapsed() < broken_off_at:
                ended = await _ended(under_way)
            elif under_way:
                desk.give_back(under_way.values())
                return
            elif wait_s is None or not going_on or not desk.pending():
                return
            else:
                # Nothing is under way, so the loop itself may sleep.
                stop.wait(min(_POLL_S, (until - desk.now()).total_seconds()))
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await post.aclose()


async def _ended(under_way: dict[asyncio.Task[Attempt], Claim]) -> list[Attempt]:
    """The attempts that end next, and those that end almost with them; taken out of `under_way`.

    None when nothing ends for a while: there may be other work.
    """
    done, others = await asyncio.wait(
        under_way, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED
    )
    if done and others:
        done |= (await asyncio.wait(others, timeout=_GATHER_S))[0]
    for task in done:
        del under_way[task]
    return [task.result() for task in done]


class _Desk:
    """Between two sends: settles what came back and claims what is due, in one transaction."""

    def __init__(
        self,
        engine: Engine,
        endpoints: Mapping[str, Endpoint],
        now: Clock,
        jitter: Callable[[], float],
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self.now = now
        self._jitter = jitter
        self._on_turn = on_turn
        self.settled: Counter[str] = Counter()

    def take_over(self) -> None:
        """Make due again what a dead process of this host had in flight."""
        with self._returning() as session:
            take_over(session, self.now())

    def give_back(self, claims: Iterable[Claim]) -> None:
        """Make due again what was claimed and has not ended."""
        with self._returning() as session:
            give_back(session, {claim.lease_token for claim in claims}, self.now())

    @contextmanager
    def _returning(self) -> Iterator[Session]:
        """A transaction after which what is due again of a halted endpoint is paused."""
        with transaction(self._engine) as session:
            healths = deliveries.healths(session, self._endpoints)
            yield session
            for name, health in healths.items():
                if health.halted:
                    deliveries.pause_pending(session, name, health.halted)

    def turn(self, attempts: Iterable[Attempt], *, claiming: bool) -> list[Claim]:
        """Settle `attempts`; returns what is to be sent next, never more than there are slots."""
        self._on_turn()
        now = self.now()
        with transaction(self._engine) as session:
            before = deliveries.healths(session, self._endpoints)

            ended, after = _judge(attempts, before, now, self._jitter)

            deliveries.finish(session, ended, now)
            tallies.count_attempts(session, ended)
            for name in after:
                if after[name] != before[name]:
                    self._keep(session, name, before[name], after[name], now)
            claims = self._claim(session, after, now) if claiming else []
        self.settled.update(settled.state for _, settled in ended)
        return claims

    def pending(self) -> int:
        """How many deliveries are pending or in flight."""
        with transaction(self._engine) as session:
            return deliveries.open_deliveries(session, self._endpoints)

    def result(self) -> Delivered:
        """What came of all turns so far."""
        count = self.settled
        failed = count["pending"] + count["paused"]
        return Delivered(count["delivered"], failed, count["dead"], self.pending())

    def _keep(
        self, session: Session, name: str, before: Health, after: Health, now: datetime
    ) -> None:
        deliveries.save_health(session, name, after)
        if after.disabled_reason and not before.disabled_reason:
            self._disable(session, name, after, after.disabled_reason, now)

    def _disable(
        self, session: Session, name: str, health: Health, reason: str, now: datetime
    ) -> None:
        log.warning("endpoint disabled name=%s reason=%s", name, reason)
        deliveries.pause_pending(session, name, reason)
        others = [endpoint for each, endpoint in self._endpoints.items() if each != name]
        notice_id = webhooks.notice_id(webhooks.DISABLED, name, now.isoformat())
        facts = {"endpoint": name, "reason": reason, "failing_since": health.failing_since}
        relay.announce_in(session, others, notice_id, webhooks.DISABLED, None, facts, now)

    def _claim(self, session: Session, healths: Mapping[str, Health], now: datetime) -> list[Claim]:
        in_flight = deliveries.in_flight(session, now)
        claims: list[Claim] = []
        for name, health in healths.items():
            endpoint = self._endpoints[name]
            recent = 0
            if endpoint.max_per_minute:
                recent = deliveries.attempts_since(session, name, now - _MINUTE)
            free = webhooks.slots(
                health,
                in_flight.get(name, 0),
                recent,
                endpoint.max_in_flight,
                endpoint.max_per_minute,
                now,
            )
            if free:
                claims += deliveries.claim(session, name, free, now)
        return claims


def _judge(
    attempts: Iterable[Attempt],
    healths: Mapping[str, Health],
    now: datetime,
    jitter: Callable[[], float],
) -> tuple[list[tuple[Attempt, Settled]], dict[str, Health]]:
    """What becomes of each attempt's delivery, and how each endpoint fares after all of them."""
    after = dict(healths)
    ended: list[tuple[Attempt, Settled]] = []
    for attempt in attempts:
        name = attempt.claim.endpoint
        if name not in after:
            continue  # taken out of the configuration meanwhile; its deliveries are dead
        after[name] = webhooks.fare(after[name], webhooks.outcome(attempt.answer), now)
        settled = webhooks.settle(attempt.claim, attempt.answer, after[name], now, jitter())
        ended.append((attempt, settled))
    return ended, after
