"""What is behind the event log in a test: a state store that fails, and a receiver that does."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Literal
from unittest.mock import patch

import msgspec
from examples import Crash
from receivers import endpoint
from sqlalchemy import Engine, event, text

from worker import aftermath, clock
from worker.deliver import deliver
from worker.outbound import Answer
from worker.settings import Settings, Source
from worker.state import connect_state, processes
from worker.warehouse import Store

Manner = Literal["takes it", "refuses", "dies before", "dies after"]
LOGIN = {"email": "a@b.example", "password": "hush", "base_url": "https://gestal.example"}


@dataclass
class Outpost:
    """The state store beside a warehouse, with an endpoint that was there before the first sync."""

    folder: Path
    engine: Engine = field(init=False)
    arrived: list[str] = field(default_factory=list)  # webhook ids, as often as they came
    waited: timedelta = timedelta()

    def __post_init__(self) -> None:
        source = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})
        heard = endpoint(events=("install.*", "integration.*"))
        self.settings = Settings(data_dir=self.folder, sources=(source,), endpoints=(heard,))
        self.engine = connect_state(self.settings)

    def relay(self, store: Store, crash_at: int = 0) -> None:
        """Makes deliveries; the process dies at the `crash_at`-th statement (0: it lives)."""
        with self._dying(crash_at):
            aftermath.relay(self.settings, self.engine, store)

    def deliver(self, manner: Manner = "takes it") -> None:
        """Sends what is due, an hour later than before: every lease and every retry is due."""
        self.waited += timedelta(hours=1)
        with suppress(Crash), patch.object(processes, "monotonic", self._elapsed):
            deliver(
                self.engine,
                self.settings.endpoints,
                stop=threading.Event(),
                now=lambda: clock.now() + self.waited,
                jitter=float,
                make_sender=lambda endpoint: Post(self, manner),  # type: ignore[arg-type,return-value]
            )

    def _elapsed(self) -> float:
        return monotonic() + self.waited.total_seconds()

    def states(self) -> set[str]:
        """The states that deliveries are in."""
        with self.engine.connect() as state:
            return set(state.execute(text("select distinct state from deliveries")).scalars())

    @contextmanager
    def _dying(self, crash_at: int) -> Iterator[None]:
        left = iter(range(crash_at - 1, -1, -1))

        def count(*_about: object) -> None:
            if crash_at and next(left, 1) == 0:
                raise Crash

        event.listen(self.engine, "before_cursor_execute", count)
        try:
            yield
        except Crash:
            pass
        finally:
            event.remove(self.engine, "before_cursor_execute", count)


@dataclass
class Post:
    """Stands for the network and a receiver; dying is that of the process that sends."""

    outpost: Outpost
    manner: Manner

    async def send(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Keeps what arrives."""
        if self.manner == "dies before":
            raise Crash
        assert msgspec.json.decode(body)
        self.outpost.arrived.append(headers["webhook-id"])
        if self.manner == "dies after":
            raise Crash
        return Answer(200 if self.manner == "takes it" else 503)

    async def aclose(self) -> None:
        """Nothing is open."""
