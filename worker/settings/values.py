"""The whole configuration as one frozen value."""

import re
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, field_validator

from worker.errors import ConfigInvalid
from worker.settings import defaults
from worker.settings.endpoint import Endpoint
from worker.settings.source import Count, Share, Source
from worker.settings.table import Table
from worker.settings.timing import Duration, Timing

_BROKERS = ("redis://", "rediss://", "redis+socket://", "sentinel://")
_LISTEN = re.compile(r"(?P<host>[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
Named = TypeVar("Named", Source, Endpoint)
_STATES = ("sqlite:///", "postgresql://", "postgresql+")


class Schedule(Table):
    """When each kind of work is due."""

    incremental: Timing = Field(default_factory=lambda: defaults.entries()["incremental"].when)
    full: Timing = Field(default_factory=lambda: defaults.entries()["full"].when)
    deliver: Timing = Field(default_factory=lambda: defaults.entries()["deliver"].when)
    prune: Timing = Field(default_factory=lambda: defaults.entries()["prune"].when)


class Guard(Table):
    """How many absences of one scope in one run look like an accident."""

    min_rows: Count = 10
    max_share: Share = 0.10
    max_count: Count = 1000


class Publish(Table):
    """How often the published copy is made."""

    min_interval: Duration = timedelta()
    max_age: Duration = timedelta(minutes=15)
    parquet: bool = False


class Retention(Table):
    """How long what is no longer needed is kept."""

    attempts: Duration = timedelta(days=30)
    deliveries: Duration = timedelta(days=90)
    runs: Duration = timedelta(days=365)
    spool: Duration = timedelta(days=1)


class Metrics(Table):
    """Where metrics are served; `listen` is host:port."""

    listen: str | None = None

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str | None) -> str | None:
        if listen is None:
            return None
        match = _LISTEN.fullmatch(listen)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ValueError('expected host:port, such as "127.0.0.1:9464"')
        return listen

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on, if metrics are wanted."""
        match = _LISTEN.fullmatch(self.listen or "")
        return (match["host"].strip("[]"), int(match["port"])) if match else None


class Log(Table):
    """How logs look."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Table):
    """The whole configuration."""

    data_dir: Path
    state_url: SecretStr = Field(default_factory=lambda data: _state_beside(data.get("data_dir")))
    broker_url: SecretStr | None = None
    sources: tuple[Source, ...]
    schedule: Schedule = Field(default_factory=Schedule)
    deletion_guard: Guard = Guard()
    publish: Publish = Publish()
    retention: Retention = Retention()
    metrics: Metrics = Metrics()
    log: Log = Log()
    endpoints: tuple[Endpoint, ...] = ()

    @field_validator("sources")
    @classmethod
    def _some(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        if not sources:
            raise ValueError("expected at least one")
        return sources

    @field_validator("state_url")
    @classmethod
    def _known_store(cls, url: SecretStr) -> SecretStr:
        return _starting_with(_STATES, url)

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: SecretStr | None) -> SecretStr | None:
        return None if url is None else _starting_with(_BROKERS, url)

    @property
    def private_dir(self) -> Path:
        """For this program only (mode 0700): stores and spool."""
        return self.data_dir / "private"

    @property
    def broker_socket(self) -> Path:
        """Where the broker listens that `up` starts; without `broker_url` it is the broker."""
        return self.private_dir / "broker.sock"

    @property
    def published_dir(self) -> Path:
        """For analysts: the published copy, alone."""
        return self.data_dir / "published"

    @property
    def store_path(self) -> Path:
        """The private DuckDB file."""
        return self.private_dir / "store.duckdb"

    @property
    def published_path(self) -> Path:
        """The DuckDB file that analysts open."""
        return self.published_dir / "warehouse.duckdb"

    @property
    def spool_dir(self) -> Path:
        """Pages of walks that are under way."""
        return self.private_dir / "spool"

    def source(self, name: str) -> Source:
        """The source of that name, or ConfigInvalid with the nearest one."""
        return _named("source", name, {source.name: source for source in self.sources})

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of that name, or ConfigInvalid with the nearest one."""
        return _named("endpoint", name, {endpoint.name: endpoint for endpoint in self.endpoints})

    def guard_for(self, source: Source) -> Guard:
        """`[deletion_guard]` with what `source` overrides."""
        return self.deletion_guard.model_copy(update=_overrides(source.deletion_guard))

    def schedule_for(self, source: Source) -> Schedule:
        """`[schedule]` with what `source` overrides."""
        return self.schedule.model_copy(update=_overrides(source.schedule))


def _overrides(table: Table) -> dict[str, Any]:
    return {key: value for key, value in table if value is not None}


def _starting_with(prefixes: tuple[str, ...], url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(prefixes):
        raise ValueError(f"expected an address that starts with {' or '.join(prefixes)}")
    return url


def _state_beside(data_dir: Path | None) -> SecretStr:
    return SecretStr(f"sqlite:///{data_dir}/private/state.db")


def _named(kind: str, name: str, known: dict[str, Named]) -> Named:
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    configured = ", ".join(known) or "none"
    raise ConfigInvalid(f"there is no {kind} {name!r}{hint}", [f"configured: {configured}"])
