"""What the daemon consists of: a broker if none is configured, two workers, beat, metrics."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker import broker
from worker.errors import StoreBusy
from worker.locks import lock
from worker.settings import Settings, environment
from worker.state import connect_state
from worker.supervising import Program
from worker.upkeep import migrate


@contextmanager
def claimed(settings: Settings) -> Iterator[int]:
    """The data directory, with its stores, for one daemon: yields the descriptor that holds the
    claim. StoreBusy while another daemon has it."""

    def busy(holder: str) -> StoreBusy:
        return StoreBusy(f"`stocktake up` runs already for {settings.data_dir}: process {holder}")

    with lock(settings.private_dir / "up.lock", 0.0, busy) as held:
        migrate(settings)  # and made, if need be: once, before two workers try it at once
        connect_state(settings).dispose()
        yield held


def plan(settings: Settings) -> dict[str, Any]:
    """What is to be supervised, and how its lines look: what `worker.watch` takes."""
    return {
        "programs": [(each.name, each.command) for each in programs(settings)],
        "socket": str(settings.broker_socket),
        "format": settings.log.format,
        "level": settings.log.level,
    }


def environ(config: Path | None) -> Mapping[str, str]:
    """The environment in which every program finds the configuration `config`."""
    chosen = {} if config is None else {"STOCKTAKE_CONFIG": str(config.resolve())}
    return {**environment(), **chosen}


def programs(settings: Settings) -> list[Program]:
    """In the order in which they start."""
    celery = (sys.executable, "-m", "celery", "-A", "worker.app", "--quiet")
    worker = (*celery, "worker", "-P", "solo", "--without-gossip", "--without-mingle")
    own = [] if settings.broker_url else [_broker(settings.broker_socket)]
    return [
        *own,
        Program("sync", (*worker, "-Q", "sync", "-n", "sync@%h")),
        Program("deliver", (*worker, "-Q", "deliver", "-n", "deliver@%h")),
        Program("beat", (*celery, "beat")),
        *([_metrics()] if settings.metrics.listen else []),
    ]


def _metrics() -> Program:
    return Program("metrics", (sys.executable, "-m", "worker.exporter"))


def _broker(path: Path) -> Program:
    return Program("broker", broker.command(path))
