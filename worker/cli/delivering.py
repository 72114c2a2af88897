"""`deliveries`, `replay`: what was sent, what came back, and to send it again."""

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

import msgspec
import typer

from worker import clock
from worker import replay as replaying
from worker.cli import output
from worker.cli.context import Json, app, settings, state, stopping
from worker.cli.legible import legible, pretty
from worker.cli.waking import wake_deliverer
from worker.errors import ConfigInvalid
from worker.replay import Replayed, Wish
from worker.settings import EVENT_TYPES, NOTICE_TYPES
from worker.settings.timing import parse_moment
from worker.state import inspection, transaction
from worker.state.inspection import Row

_ON_A_SCREEN: Final = 50
_IN_JSON: Final = 10_000
_COLUMNS = ("delivery", "endpoint", "type", "state", "next / done (UTC)", "detail")
_TRIES = ("began (UTC)", "seconds", "detail")

deliveries_app = typer.Typer(invoke_without_command=True)
app.add_typer(deliveries_app, name="deliveries")

EndpointName = Annotated[str | None, typer.Option("--endpoint", help="Only to this endpoint.")]


@deliveries_app.callback()
def deliveries(
    context: typer.Context,
    endpoint: EndpointName = None,
    state_: Annotated[
        str | None, typer.Option("--state", help=f"Only {', '.join(inspection.STATES)}.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"At most so many, the newest: {_ON_A_SCREEN}, with --json {_IN_JSON}."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the deliveries, newest first."""
    if context.invoked_subcommand:
        return
    if state_ and state_ not in inspection.STATES:
        near = get_close_matches(state_, inspection.STATES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = f"known: {', '.join(inspection.STATES)}"
        raise ConfigInvalid(f"there is no state {state_!r}{hint}", [known])
    loaded = settings()
    most = limit or (_IN_JSON if json else _ON_A_SCREEN)
    with state(loaded) as engine, transaction(engine) as session:
        found = inspection.newest(session, endpoint, state_, most + 1)
        if endpoint and not found and not inspection.has_deliveries(session, endpoint):
            loaded.endpoint(endpoint)  # a name that nobody knows is a slip
    if json:
        output.emit({"deliveries": found[:most]})
    else:
        output.table(_COLUMNS, [_line(row) for row in found[:most]], "no such deliveries")
    if len(found) > most and limit is None:
        output.note(f"these are the {most} newest; --limit shows more")


def _line(row: Row) -> tuple[Any, ...]:
    when = row["next_at"] if row["state"] == "pending" else row["delivered_at"]
    moment = f"{when:%m-%d %H:%M:%S}" if when else None
    return row["delivery_id"], row["endpoint"], row["type"], row["state"], moment, _why(row)


def _why(row: Row) -> str | None:
    """What a person should know of a delivery that has not arrived."""
    if row["state"] == "delivered":
        return None
    tries = f"{row['attempts']} tries" if row["attempts"] > 1 else None
    return (
        ", ".join(part for part in (row["reason"], _plain(row["last_error"]), tries) if part)
        or None
    )


@deliveries_app.command("show")
def show_delivery(
    id: Annotated[str, typer.Argument(help="Of a delivery or an event; its beginning will do.")],
    json: Json = False,
) -> None:
    """Show one delivery with what it says and its attempts."""
    with state(settings()) as engine, transaction(engine) as session:
        begun = id.rstrip("…")
        row = _only(id, inspection.beginning(session, begun) if begun else [])
        said = inspection.body(session, row["delivery_id"])
        tries = inspection.attempts(session, row["delivery_id"])
    if json:
        told = [{**each, "answer": legible(each["answer"])} for each in tries]
        output.emit({"delivery": row, "body": msgspec.Raw(said), "attempts": told})
        return
    output.table(("field", "value"), list(row.items()))
    output.say(f"\nbody ({len(said)} bytes)", style="bold")
    output.say(pretty(said))
    output.say("\nattempts", style="bold")
    output.table(_TRIES, [_try(each) for each in tries], "none yet")
    for each in tries:
        if each["answer"]:
            output.say(f"\nanswer of {output.cell(each['started_at'])}", style="bold")
            output.say(legible(each["answer"]))


def _only(id: str, found: list[Row]) -> Row:
    if not found:
        raise ConfigInvalid(f"no delivery {id!r}", ["`stocktake deliveries` lists them"])
    if len(found) > 1:
        listed = [f"{row['delivery_id']} to {row['endpoint']}: {row['state']}" for row in found]
        raise ConfigInvalid(f"{id} has {len(found)} deliveries; name one", listed[:20])
    return found[0]


def _try(row: Row) -> tuple[Any, ...]:
    phases = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in row["phases"].items())
    detail = f"{came_back(row)} ({phases})" if phases else came_back(row)
    return row["started_at"], row["seconds"], detail


def came_back(attempt: Row) -> str:
    """What came of an attempt."""
    return _plain(attempt["error"]) or f"answered {attempt['status']}"


def _plain(error: str | None) -> str:
    """An error without the address that it begins with, which the endpoint's name says already."""
    return (error or "").partition(" ")[2]


@app.command()
def replay(
    endpoint: Annotated[str, typer.Option(help="Whom to send it again.")],
    since: Annotated[
        str | None, typer.Option(help="What was detected since: a time, or 2h, 3d ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="What was detected before.")] = None,
    type: Annotated[str | None, typer.Option(help="Only types like this glob.")] = None,
    event: Annotated[str | None, typer.Option(help="Only the event of this id.")] = None,
    dead: Annotated[
        bool, typer.Option("--dead", help="Only what is dead: it begins anew.")
    ] = False,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="All that is installed now, as install.created.")
    ] = False,
    new_id: Annotated[
        bool, typer.Option("--new-id", help="For receivers that ignore ids they know.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count; send nothing.")] = False,
    json: Json = False,
) -> None:
    """Send events again to one endpoint; say which."""
    filters = {"--since": since, "--until": until, "--type": type, "--event": event}
    _check_modes({name for name, value in filters.items() if value}, dead, snapshot, new_id)
    now = clock.now()
    since_time = parse_moment("--since", since, now) if since else None
    until_time = parse_moment("--until", until, now) if until else None
    if since_time and until_time and until_time <= since_time:
        raise ConfigInvalid("stocktake replay", [f"--until {until} is not after --since {since}"])
    loaded = settings()
    wish = Wish(
        loaded.endpoint(endpoint),
        "dead" if dead else "snapshot" if snapshot else "events",
        _types(type, dead=dead),
        since_time,
        until_time,
        event,
        new_id,
    )
    with state(loaded) as engine, stopping() as stop:
        done = replaying.replay(loaded, engine, wish, stop, dry_run=dry_run)
    if done.deliveries and not dry_run:
        wake_deliverer(loaded)
    _tell(wish, done, dry_run=dry_run, json=json)


def _check_modes(filters: set[str], dead: bool, snapshot: bool, new_id: bool) -> None:
    problems = []
    if dead and snapshot:
        problems.append("--dead and --snapshot exclude each other")
    elif snapshot and filters:
        among = ", ".join(sorted(filters))
        problems.append(f"--snapshot is of all that is installed now; it goes without {among}")
    if dead and new_id:
        problems.append("--dead goes on with the same deliveries; their ids stay (no --new-id)")
    if not (filters or dead or snapshot):
        problems.append(
            "this would send every event again; say which with --since, --until, --type, --event, "
            "--dead or --snapshot"
        )
    if problems:
        raise ConfigInvalid("stocktake replay", problems)


def _types(glob: str | None, *, dead: bool) -> tuple[str, ...]:
    known = EVENT_TYPES + NOTICE_TYPES if dead else EVENT_TYPES
    found = tuple(type_ for type_ in known if fnmatchcase(type_, glob or "*"))
    if not found:
        problem = f"--type {glob!r} matches none of {', '.join(known)}"
        raise ConfigInvalid("stocktake replay", [problem])
    return found


def _tell(wish: Wish, done: Replayed, *, dry_run: bool, json: bool) -> None:
    name = wish.endpoint.name
    if json:
        about = {"endpoint": name, "mode": wish.what, "dry_run": dry_run}
        output.emit({**about, **msgspec.to_builtins(done, builtin_types=())})
        return
    if not done.deliveries:
        output.say(f"there is nothing of that to send {name} again")
        return
    output.table(("type", "deliveries"), list(done.types.items()))
    output.say(
        f"the oldest of {output.cell(done.oldest)}, the newest of {output.cell(done.newest)}"
    )
    if dry_run:
        output.say(f"{done.deliveries} deliveries to {name} would be made; nothing was changed")
        return
    output.say(f"{done.deliveries} deliveries to {name} are made; `up` or `deliver` sends them")
    if done.waits:
        output.note(
            f"{name} is sent nothing ({done.waits}): they wait for "
            f"`stocktake endpoints resume {name}`"
        )
