"""What a daemon goes through: platforms that never rest, and a receiver that is not well."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from random import Random

import msgspec
from receivers import Received, Receiver, receiving, replying

from worker.playground import Playground, playground
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.world import World, mutate

# No purges: a workspace that loses all its installs at once would be held.
KINDS = {"farm": GestalWorld().kinds, "voice": ("install", "upgrade", "update", "uninstall")}
NOTHING_IS_HELD = "[deletion_guard]\nmin_rows = 100000\nmax_share = 1.0\nmax_count = 100000\n"
_FINE, _BUSY = replying(204), replying(503)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A webhook as it came: when, and the status it got (None: the connection was cut)."""

    at: float
    webhook_id: str
    install: str | None
    sequence: int | None
    status: int | None


@dataclass
class Flaky:
    """A receiver that answers 503, resets, or takes its time, at the first `bad_times` requests of
    each webhook."""

    random: Random
    bad_times: int = 1
    well: bool = False
    arrivals: list[Arrival] = field(default_factory=list)
    _seen: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, handler: BaseHTTPRequestHandler, received: Received) -> None:
        """Answers one request."""
        id, at = received.headers["webhook-id"], time.monotonic()
        with self._lock:
            luck = self.random.random() if self._seen[id] < self.bad_times else 1.0
            self._seen[id] += 1
            status = 204 if self.well or luck >= 0.15 else 503 if luck < 0.10 else None
            self.arrivals.append(_arrival(at, id, received.body, status))
        if luck > 0.9 and not self.well:
            time.sleep(10 * (luck - 0.9))
        match status:
            case 204:
                _FINE(handler, received)
            case 503:
                _BUSY(handler, received)
            case _:
                handler.close_connection = True


def _arrival(at: float, id: str, body: bytes, status: int | None) -> Arrival:
    data = msgspec.json.decode(body)["data"]
    install = data.get("install", {}).get("install_id")
    return Arrival(at, id, install and f"{data['source']} {install}", data.get("sequence"), status)


@dataclass
class Weather:
    """Platforms and a receiver; `uninstalls` counts what happened to each install."""

    running: Playground
    receiver: Receiver
    flaky: Flaky
    uninstalls: Counter[str] = field(default_factory=Counter)
    changes: int = 0

    @property
    def worlds(self) -> dict[str, World]:
        """The platforms by the names of their sources."""
        return {"farm": self.running.gestal, "voice": self.running.aeontel}

    @property
    def config(self) -> str:
        """A configuration that points at all this."""
        hooks = self.running.server.at("hooks")
        return NOTHING_IS_HELD + self.running.config.replace(hooks, self.receiver.url)

    def change(self, count: int = 1) -> None:
        """Something happens at each platform."""
        with self.running.server.lock:
            for source, world in self.worlds.items():
                for change in mutate(world, count, KINDS[source]):
                    self.changes += 1
                    self.uninstalls[change.id] += change.kind == "uninstall"

    @contextmanager
    def blowing(self, every_s: float) -> Iterator[None]:
        """Things happen all the time, until the end of the block."""
        calm = threading.Event()

        def blow() -> None:
            while not calm.wait(every_s):
                self.change()

        thread = threading.Thread(target=blow)
        thread.start()
        try:
            yield
        finally:
            calm.set()
            thread.join()


@contextmanager
def weather(seed: int, installs: int = 40, bad_times: int = 1) -> Iterator[Weather]:
    """Platforms and a receiver in motion; who calls the receiver `well` may expect an end."""
    flaky = Flaky(Random(seed), bad_times)
    with playground(installs=installs, seed=seed) as running, receiving() as receiver:
        receiver.reply = flaky
        yield Weather(running, receiver, flaky)
