"""`events`: the event log, as it is and as it grows, and what is said of its events."""

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from worker import clock, schemas, warehouse
from worker.cli import output
from worker.cli.context import Json, Limit, Source, app, settings, stopping
from worker.errors import ConfigInvalid
from worker.settings import EVENT_TYPES, Settings
from worker.settings.timing import parse_moment

_POLL_S = 1.0
_FULL_LOG = 10_000
_COLUMNS = ("sequence", "detected (UTC)", "type", "source", "object", "changed")


events_app = typer.Typer(invoke_without_command=True)
app.add_typer(events_app, name="events")


@events_app.callback()
def events(
    context: typer.Context,
    source: Source = None,
    type: Annotated[str | None, typer.Option(help="Only types like this glob.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what was detected since: a time, or 2h, 3d ago.")
    ] = None,
    limit: Limit = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as events come.")] = False,
    json: Json = False,
) -> None:
    """List the event log."""
    if context.invoked_subcommand:
        return
    _check_type(type)
    since_time = parse_moment("--since", since, clock.now()) if since else None
    wanted = {"source": source, "type": type, "since": since_time}
    loaded = settings()
    found = _events(loaded, wanted, limit)
    if source and not found:
        loaded.source(source)  # a name that nobody knows is a slip, and not a source without events
    if follow:
        _follow(loaded, wanted, found, json=json)
    elif json:
        output.emit({"events": found})
    else:
        output.table(_COLUMNS, [_line(event) for event in found], _nothing(loaded))


@events_app.command("schema")
def show_schema(
    type: Annotated[
        str | None, typer.Argument(help="A type of event or notice; without it all are listed.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the JSON Schema of the webhook bodies of a type."""
    known = schemas.types()
    if type is None and json:
        listed = [{"type": each, "description": text} for each, text in known.items()]
        output.emit({"types": listed})
    elif type is None:
        output.table(("type", "detail"), list(known.items()))
    elif type in known:
        output.emit(schemas.schema(type))
    else:
        near = get_close_matches(type, known, n=1)
        known_ones = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise ConfigInvalid("stocktake events schema", [f"no type {type!r}; {known_ones}"])


def _check_type(glob: str | None) -> None:
    if glob and not any(fnmatchcase(type_, glob) for type_ in EVENT_TYPES):
        problem = f"--type {glob!r} matches none of {', '.join(EVENT_TYPES)}"
        raise ConfigInvalid("stocktake events", [problem])


def _events(
    loaded: Settings, wanted: dict[str, Any], limit: int, after: int = 0
) -> list[dict[str, Any]]:
    if not loaded.published_path.exists():
        return []
    return warehouse.read(
        loaded.published_path, "list_events", {**wanted, "limit": limit, "after": after}
    )


def _nothing(loaded: Settings) -> str:
    if loaded.published_path.exists():
        return "no such events"
    return "no events: nothing is published yet; run `stocktake sync`"


def _line(event: dict[str, Any]) -> tuple[Any, ...]:
    changed = "baseline" if event["baseline"] else ", ".join(event["changed_fields"])
    object_id = event["install_id"] or event["integration_id"]
    return (
        event["sequence"], event["detected_at"], event["type"], event["source"], object_id, changed
    )  # fmt: skip


def _follow(
    loaded: Settings, wanted: dict[str, Any], found: list[dict[str, Any]], *, json: bool
) -> None:
    newest = 0
    with stopping() as stop:
        while True:
            for event in found:
                newest = event["sequence"]
                _print_line(event, json=json)
            if stop.wait(_POLL_S):
                return
            # The copy is opened anew each time: an open one goes on showing the old state.
            found = _events(loaded, wanted, _FULL_LOG, newest)


def _print_line(event: dict[str, Any], *, json: bool) -> None:
    if json:
        output.emit_line(event)
    else:
        output.say("  ".join(output.cell(value).plain for value in _line(event)))
