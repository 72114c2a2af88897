"""`python -m worker.watch PLAN`: what `stocktake up` becomes, without the weight of its libraries.

A supervisor runs for months and does next to nothing; the command line, the stores and the
settings have done their part when it begins.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Any, Final

from worker import broker
from worker.logs import configure, enveloped
from worker.supervising import Program, Supervisor

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)


def become(plan: Mapping[str, Any], held: int, environ: Mapping[str, str], stop: Event) -> None:
    """Turns this process into the supervisor of `plan`, which keeps the lock file `held` open;
    returns only if `stop` is set already."""
    os.set_inheritable(held, True)
    # Between the two there is nobody to handle a signal: it waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    if stop.is_set():  # looked at before the two were blocked, one that came then would be lost
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    command = [sys.executable, "-m", "worker.watch", json.dumps(plan)]
    os.execve(command[0], command, dict(environ))  # noqa: S606 - ourselves


def main(plan: Mapping[str, Any]) -> None:
    """Supervises until the first signal to stop."""
    configure(plan["format"], plan["level"])
    stop = Event()
    for each in _STOPS:
        signal.signal(each, lambda _signal, _frame: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    socket_path = Path(plan["socket"])
    programs = [_program(name, command, socket_path) for name, command in plan["programs"]]
    Supervisor(programs, None, _teller(plan["format"])).run(stop)


def _program(name: str, command: Sequence[str], socket_path: Path) -> Program:
    if name == "broker":
        ready = partial(broker.answers, socket_path)
        failed = partial(broker.forget, socket_path)
        return Program(name, command, ready, failed, stops_last=True)
    return Program(name, command)


def _teller(format: str) -> Callable[[str, str], None]:
    writing = Lock()

    def tell(name: str, line: str) -> None:
        text = enveloped(name, line) if format == "json" else f"{name:<7} | {line}"
        with writing:
            print(text, file=sys.stderr, flush=True)

    return tell


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
