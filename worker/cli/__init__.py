"""The command line: `stocktake`. Arguments in, shell called, tables or JSON out."""

import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from threading import Event

from typer import Typer

from worker.cli.context import COMMANDS, app
from worker.errors import StocktakeError


def main(arguments: Sequence[str] | None = None, stop: Event | None = None) -> None:
    """Runs the command; an error raised on purpose is one message and its exit code.

    Without `arguments` those of the process count. Setting `stop` ends the command between two
    steps, as a signal does.
    """
    try:
        loaded(sys.argv[1:] if arguments is None else arguments)(arguments, obj=stop)
    except StocktakeError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None


def loaded(words: Collection[str] = ()) -> Typer:
    """The application with the commands that are named among `words`, or with all of them.

    All take half as long again to import as `status`, which health checks call all the time.
    """
    modules = {name: module for names in COMMANDS.values() for name, module in names.items()}
    named = {modules[word] for word in words if word in modules}
    if not named or {"-h", "--help"}.intersection(words):
        named = set(modules.values())
    for module in sorted(named):
        import_module(f"worker.cli.{module}")
    return app
