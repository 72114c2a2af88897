"""What every command starts from: the configuration, the state store, logging, a stop event."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Annotated, Any, Final

import typer
from sqlalchemy import Engine
from typer.core import TyperGroup

from worker import __version__
from worker.logs import configure
from worker.settings import Settings, environment, find, load
from worker.state import opened

# As `stocktake --help` shows them: by what one wants to do, in the order in which one comes to it;
# each with the module that has it.
COMMANDS: Final = {
    "Begin": {"demo": "trying", "init": "trying", "check": "trying", "sandbox": "trying"},
    "Run": {"up": "running", "sync": "syncing", "deliver": "syncing", "metrics": "serving"},
    "See": {
        "status": "looking",
        "runs": "looking",
        "events": "following",
        "deliveries": "delivering",
        "endpoints": "endpoints",
        "holds": "deciding",
        "query": "looking",
    },
    "Decide": {
        **dict.fromkeys(("approve", "reject", "pause", "resume"), "deciding"),
        "replay": "delivering",
    },
    "Keep": {
        **dict.fromkeys(("publish", "prune"), "syncing"),
        **dict.fromkeys(("backup", "restore", "migrate"), "keeping"),
    },
}
_HEADINGS: Final = {name: heading for heading, names in COMMANDS.items() for name in names}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Source = Annotated[str | None, typer.Option(help="Only this source.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many, the newest.")]


class _Commands(TyperGroup):
    """The commands under their headings."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in _HEADINGS if name in self.commands]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        if command:
            command.rich_help_panel = _HEADINGS[cmd_name]
        return command


app = typer.Typer(
    name="stocktake",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(slots=True)
class Chosen:
    """The options before the command."""

    config: Path | None = None
    stop: Event = field(default_factory=Event)


chosen = Chosen()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stocktake {__version__}")
        raise typer.Exit


@app.callback()
def stocktake(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The configuration file.", show_default=False),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Mirrors integration installs into DuckDB and fires signed webhooks for what changed."""
    chosen.config, chosen.stop = config, context.obj or Event()


def settings() -> Settings:
    """The configuration of this call."""
    environ = environment()
    loaded = load(find(chosen.config, environ), environ)
    # On a terminal the tables tell what a line of log per sync would.
    quiet = sys.stderr.isatty() and loaded.log.level == "info"
    configure(loaded.log.format, "warning" if quiet else loaded.log.level)
    return loaded


@contextmanager
def state(loaded: Settings) -> Iterator[Engine]:
    """The state store, closed at the end."""
    with opened(loaded) as engine:
        yield engine


@contextmanager
def stopping() -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set: work ends between two pages or sends."""
    stop = chosen.stop

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # who insists is obeyed

    before = {each: signal.signal(each, ask_to_stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
