"""The command line: `stocktake`. Arguments in, shell called, tables or JSON out."""

import sys
from collections.abc import Sequence
from threading import Event

from worker.cli import (
    deciding,
    delivering,
    endpoints,
    following,
    keeping,
    looking,
    running,
    serving,
    syncing,
    trying,
)
from worker.cli.context import app
from worker.errors import StocktakeError

__all__ = [
    "app",
    "deciding",
    "delivering",
    "endpoints",
    "following",
    "keeping",
    "looking",
    "main",
    "running",
    "serving",
    "syncing",
    "trying",
]


def main(arguments: Sequence[str] | None = None, stop: Event | None = None) -> None:
    """Runs the command; an error raised on purpose is one message and its exit code.

    Without `arguments` those of the process count. Setting `stop` ends the command between two
    steps, as a signal does.
    """
    try:
        app(arguments, obj=stop)
    except StocktakeError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
