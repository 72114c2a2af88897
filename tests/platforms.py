"""Stocktake pointed at a sandbox platform over HTTP, with stores in a directory of its own."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from sqlalchemy import Engine

from worker import clock, outcomes, warehouse
from worker.findings import Run
from worker.sandbox.aeontel_world import TOKEN, AeontelWorld
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.logins import EMAIL, PASSWORD
from worker.sandbox.receiver import Receiver
from worker.sandbox.server import Sandbox, serve
from worker.sandbox.world import Change, mutate
from worker.settings import Endpoint, Settings, Source
from worker.settings.values import Guard, Publish
from worker.state import connect_state
from worker.sync import Synced, Wish, sync

World = GestalWorld | AeontelWorld
OPEN = Guard(min_rows=10**6, max_share=1.0, max_count=10**6)  # nothing but lost access is held
SELDOM = Publish(min_interval=timedelta(days=999), max_age=timedelta(days=999))
_JSON = ("payload", "variables", "before", "after")


class Unhurried(threading.Event):
    """A stop that nobody waits for; `waited` keeps for how long they would have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        return self.is_set()


def mount_of(world: World) -> str:
    """The dialect of a world, which is also where the sandbox serves it."""
    return "gestal" if isinstance(world, GestalWorld) else "aeontel"


def source_at(world: World, base_url: str, **fields: Any) -> Source:
    """The source `farm` (Gestal) or `voice` (Aeontel), without a pace."""
    login: dict[str, Any] = {"name": "voice", "token": TOKEN}
    if isinstance(world, GestalWorld):
        login = {"name": "farm", "email": EMAIL, "password": PASSWORD}
    values = {"dialect": mount_of(world), "base_url": base_url, "requests_per_second": 0}
    return Source.model_validate({**values, **login, **fields})


@dataclass(slots=True)
class Stocktake:
    """One source of one world, and what Stocktake has made of it."""

    world: World
    sandbox: Sandbox
    settings: Settings
    engine: Engine = field(init=False)
    at_hand: duckdb.DuckDBPyConnection | None = None  # the store, if it is held open

    def __post_init__(self) -> None:
        self.engine = connect_state(self.settings)

    @property
    def source(self) -> Source:
        """As configured."""
        return self.settings.sources[0]

    @property
    def requests(self) -> list[tuple[str, str]]:
        """All that the platform was asked: method, and path with query."""
        return self.sandbox.requests[mount_of(self.world)]

    def configure(self, **fields: Any) -> None:
        """Changes the configuration of the source."""
        source = source_at(self.world, **{**dict(self.source), **fields})
        self.settings = self.settings.model_copy(update={"sources": (source,)})

    def restart(self) -> None:
        """What a new process would begin with: only the files."""
        self.engine.dispose()
        self.engine = connect_state(self.settings)

    def sync(self, stop: threading.Event | None = None, **wish: Any) -> Synced:
        """Syncs the source; by default nobody waits for anything."""
        return sync(self.settings, self.engine, self.source, Wish(**wish), stop or Unhurried())

    def change(self, count: int, *kinds: str) -> list[Change]:
        """Changes the world `count` times at random."""
        with self.sandbox.lock:
            return mutate(self.world, count, kinds)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What the published copy (the store, if it is held open) answers, JSON columns decoded."""
        if self.at_hand is not None:
            return warehouse.rows.dicts(self.at_hand.execute(query))
        answer = warehouse.ask(self.settings.published_path, query)
        return [
            {name: _value(name, value) for name, value in zip(answer.columns, row, strict=True)}
            for row in answer.rows
        ]

    def installs(self) -> dict[str, dict[str, Any]]:
        """The snapshot by install."""
        return {row["install_id"]: row for row in self.rows("from installs")}

    def states(self) -> dict[str, str]:
        """The state of every install ever seen."""
        return {id: row["state"] for id, row in self.installs().items()}

    def active(self) -> set[str]:
        """The installs that the snapshot has as active."""
        return {id for id, state in self.states().items() if state == "active"}

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """The event log after a sequence."""
        return self.rows(f"from events where sequence > {after} order by sequence")

    def last_sequence(self) -> int:
        """The end of the event log."""
        return max((event["sequence"] for event in self.events()), default=0)


@contextmanager
def held_open(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The store of a data directory, and a copy of it that is not made again: see SELDOM.

    DuckDB loads a file once per process: while it is open here, each of the many openings of a sync
    costs 1 ms instead of 20.
    """
    path, copy = folder / "private" / "store.duckdb", folder / "published" / "warehouse.duckdb"
    with warehouse.opened(path, clock.now()):
        pass  # it is made
    warehouse.publish(path, copy, clock.now(), {})
    with (
        warehouse.connection.connect(path, clock.now()) as store,
        duckdb.connect(str(copy), read_only=True),
    ):
        store.execute("set threads = 1")  # for so few rows more are only in the way
        yield store


@contextmanager
def stocktaking(
    folder: Path,
    world: World,
    *,
    hold_open: bool = False,
    guard: Guard = OPEN,
    receiver: Receiver | None = None,
    endpoints: Callable[[Sandbox], Sequence[Endpoint]] = lambda sandbox: (),
    now: Callable[[], datetime] = clock.now,
    state_url: str | None = None,
    **fields: Any,
) -> Iterator[Stocktake]:
    """A Stocktake of `world` in `folder`. `now` is the platform's; `fields` are of the source."""
    served = {f"{mount_of(world)}_world": world}
    with serve(receiver=receiver, now=now, **served) as sandbox:  # type: ignore[arg-type]
        source = source_at(world, sandbox.at(mount_of(world)), **fields)
        settings = Settings(
            data_dir=folder,
            sources=(source,),
            deletion_guard=guard,
            endpoints=tuple(endpoints(sandbox)),
            **({"state_url": state_url} if state_url else {}),
        )
        taken = Stocktake(world, sandbox, settings)
        with ExitStack() as stack:
            stack.callback(lambda: taken.engine.dispose())
            if hold_open:
                taken.at_hand = stack.enter_context(held_open(folder))
                taken.settings = settings.model_copy(update={"publish": SELDOM})
            yield taken


def source_rows(world: World) -> dict[str, Mapping[str, Any]]:
    """Every install that the platform still knows, soft-deleted ones too, by id."""
    if isinstance(world, AeontelWorld):
        return dict(world.installs)
    return {id: row for rows in world.installs.values() for id, row in rows.items()}


def summary(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Scope, outcome and certificate of each run."""
    return [(run.scope, run.outcome, run.certificate) for run in runs]


def exit_code(synced: Synced) -> int:
    """What the command would exit with."""
    return outcomes.exit_code(run.outcome for run in synced.runs)


def counts(synced: Synced) -> dict[str, int]:
    """Events by type, over all runs."""
    total: dict[str, int] = {}
    for run in synced.runs:
        for type_, count in (run.events or {}).items():
            total[type_] = total.get(type_, 0) + count
    return total


def _value(name: str, value: Any) -> Any:
    return msgspec.json.decode(value) if name in _JSON and isinstance(value, str) else value
