"""What the daemon consists of: a broker if none is configured, two workers and beat (DAEMON)."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from worker import broker
from worker.errors import StoreBusy
from worker.locks import lock
from worker.settings import Settings, environment
from worker.state import connect_state
from worker.supervising import Program, Supervisor


@contextmanager
def supervisor(
    settings: Settings, config: Path | None, tell: Callable[[str, str], None]
) -> Iterator[Supervisor]:
    """The daemon of a data directory, to be run; StoreBusy while another one has it."""

    def busy(holder: str) -> StoreBusy:
        return StoreBusy(f"`stocktake up` runs already for {settings.data_dir}: process {holder}")

    with lock(settings.private_dir / "up.lock", 0.0, busy):
        connect_state(settings).dispose()  # made once, before two workers try it at once
        environ = dict(environment())
        if config is not None:
            environ["STOCKTAKE_CONFIG"] = str(config.resolve())
        yield Supervisor(programs(settings), environ, tell)


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
    ]


def _broker(path: Path) -> Program:
    ready = partial(broker.answers, path)
    return Program("broker", broker.command(path), ready, stops_last=True)
