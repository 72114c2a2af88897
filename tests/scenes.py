"""A store with an event log and an endpoint behind it, without a platform or a network."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples import MINUTE, NOON, OF_A, Shown, commit, connected, gestal_row, harvest, new_store
from outposts import Outpost
from sqlalchemy import text
from terminals import Terminal

from worker import replay, warehouse
from worker.deliver import deliver
from worker.outbound import Answer, Health
from worker.playground import SECRET
from worker.replay import Replayed, Wish
from worker.sandbox.logins import EMAIL, PASSWORD
from worker.settings import EVENT_TYPES, NOTICE_TYPES, Endpoint
from worker.state import deliveries, replays, transaction

EVERYTHING = EVENT_TYPES + NOTICE_TYPES
LOG = [("install.updated", "ins_1"), ("install.created", "ins_3"), ("install.deleted", "ins_2")]


@dataclass
class Scene:
    """A store with an event log, and an endpoint that was there from the beginning."""

    folder: Path
    outpost: Outpost = field(init=False)
    taken: list[tuple[Mapping[str, str], dict[str, Any]]] = field(default_factory=list)
    status: int = 200
    syncs: int = 0

    def __post_init__(self) -> None:
        self.outpost = Outpost(self.folder)
        if not self.syncs:
            new_store(self.outpost.settings.store_path)

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """DuckDB loads a file once per process: while it is open here, opening it costs nothing."""
        with connected(self.outpost.settings.store_path):
            yield
        self.outpost.engine.dispose()

    @property
    def crm(self) -> Endpoint:
        return self.outpost.settings.endpoints[0]

    def configure(self, *endpoints: Endpoint) -> None:
        settings = self.outpost.settings.model_copy(update={"endpoints": endpoints})
        self.outpost.settings = settings

    def sync(self, *rows: Mapping[str, Any], scope: str = OF_A, relayed: bool = True) -> None:
        """One certified walk of a listing that finds `rows`, a minute after the one before."""
        self.syncs += 1
        at = NOON + self.syncs * MINUTE
        with self._store() as store:
            self.outpost.relay(store)
            brought = harvest(store, self.folder, Shown(scope, rows), at=at, fence=self.syncs)
            commit(store, brought)
            if relayed:
                self.outpost.relay(store)

    def _store(self) -> Any:
        return warehouse.opened(self.outpost.settings.store_path, NOON)

    def relay(self) -> None:
        with self._store() as store:
            self.outpost.relay(store)

    def replay(
        self, what: Any = "events", stop: Any = None, dry_run: bool = False, **wish: Any
    ) -> Replayed:
        values = {"endpoint": self.crm, "types": EVERYTHING, **wish}
        stop = stop or threading.Event()
        settings, engine = self.outpost.settings, self.outpost.engine
        return replay.replay(settings, engine, Wish(what=what, **values), stop, dry_run=dry_run)

    def go_on(self) -> None:
        """What the next delivery run does first."""
        replay.go_on(self.outpost.settings, self.outpost.engine, threading.Event())

    def deliver(self, status: int = 200) -> list[tuple[Mapping[str, str], dict[str, Any]]]:
        """Sends what is due, in order; what arrived: headers and body."""
        self.taken, self.status = [], status
        deliver(
            self.outpost.engine,
            self.outpost.settings.endpoints,
            stop=threading.Event(),
            jitter=float,
            make_sender=lambda endpoint: Mailbox(self),  # type: ignore[arg-type,return-value]
        )
        return self.taken

    def rows(self, *columns: str, where: str = "1 = 1") -> list[tuple[Any, ...]]:
        query = f"select {', '.join(columns)} from deliveries where {where} order by position"  # noqa: S608
        with self.outpost.engine.connect() as state:
            return [tuple(row) for row in state.execute(text(query))]

    def save_health(self, health: Health) -> None:
        with transaction(self.outpost.engine) as session:
            deliveries.save_health(session, self.crm.name, health)

    def unfinished(self) -> int:
        with transaction(self.outpost.engine) as session:
            return len(replays.unfinished(session))


@dataclass
class Mailbox:
    """Stands for the network and a receiver."""

    scene: Scene

    async def send(self, headers: Mapping[str, str], body: bytes) -> Answer:
        self.scene.taken.append((headers, json.loads(body)))
        return Answer(self.scene.status)

    async def aclose(self) -> None:
        """Nothing is open."""


def made_scene(folder: Path) -> Scene:
    """A baseline of two installs; then one changed, one came, one went: LOG, delivered."""
    scene = Scene(folder)
    with scene.at_hand():
        first, second = gestal_row("ins_1"), gestal_row("ins_2")
        scene.sync(first, second)
        scene.sync({**first, "note": 1}, second)
        scene.sync(gestal_row("ins_3"), {**first, "note": 1}, second)
        scene.sync(gestal_row("ins_3"), {**first, "note": 1})
        scene.sync(gestal_row("ins_3"), {**first, "note": 1})
        assert told(scene.deliver()) == LOG
    return scene


def told(taken: Sequence[tuple[Any, dict[str, Any]]]) -> list[tuple[str, str]]:
    """Type and install of each message."""
    return [(body["type"], body["data"].get("install", {}).get("install_id")) for _, body in taken]


def ids(taken: Sequence[tuple[Mapping[str, str], Any]]) -> list[str]:
    return [headers["webhook-id"] for headers, _ in taken]


def configured(scene: Scene, url: str, more: str = "") -> Terminal:
    """The command line in the folder of a scene; its endpoint, crm, is at `url`."""
    terminal = Terminal(scene.folder)
    terminal.config.write_text(
        f"""
data_dir = "."
[[sources]]
name = "farm"
dialect = "gestal"
base_url = "http://127.0.0.1:9"
email = "{EMAIL}"
password = "{PASSWORD}"
{table_of("crm", url)}{more}"""
    )
    return terminal


def table_of(name: str, url: str, events: str = "install.*") -> str:
    """An endpoint as it is written in the configuration."""
    return f"""
[[endpoints]]
name = "{name}"
url = "{url}"
secrets = ["{SECRET}"]
events = ["{events}"]
allow_http = true
allow_private_networks = true
"""
