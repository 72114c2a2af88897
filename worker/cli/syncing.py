"""`sync`, `deliver`, `publish`, `prune`: what the daemon does by itself, by hand."""

import re
from threading import Event
from typing import Annotated

import typer
from sqlalchemy import Engine

from worker import clock, publishing
from worker.backlog import deliver_now
from worker.cli import asking, output
from worker.cli.context import Json, app, settings, state, stopping
from worker.dialects import named
from worker.errors import ConfigInvalid, StocktakeError
from worker.findings import Plan, Progress
from worker.models import INSTALLS, Mode, installs_of
from worker.outcomes import exit_code, never_begun
from worker.prune import prune as prune_old
from worker.settings import Settings, Source
from worker.state import sources as known_sources
from worker.state.requests import Asked
from worker.sync import Synced, Wish
from worker.sync import sync as sync_source
from worker.upkeep import brought_up, migrate


@app.command()
def sync(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Which sources; all, if none.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Walk everything (the default).")] = False,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Read only what moved.")
    ] = False,
    integration: Annotated[
        str | None, typer.Option(help="Only the installs of this integration.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be recorded; write nothing.")
    ] = False,
    enqueue: Annotated[
        bool, typer.Option("--enqueue", help="Ask the daemon to; do not wait for it.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --enqueue: until it is done, and show it.")
    ] = False,
    json: Json = False,
) -> None:
    """Sync now, in this process or (--enqueue) in the daemon."""
    _check(full and incremental, integration, dry_run and enqueue, wait and not enqueue)
    loaded = settings()
    named_ones = [loaded.source(name) for name in dict.fromkeys(sources or ())]
    mode: Mode = "incremental" if incremental else "full"
    if enqueue:
        with state(loaded) as engine, stopping() as stop:
            asked = [
                Asked(source.name, mode, _scope(source, integration))
                for source in named_ones or _unpaused(loaded, engine)
            ]
            raise typer.Exit(asking.ask(loaded, engine, asked, stop, wait=wait, json=json))
    store = state(loaded) if dry_run else brought_up(loaded)
    with store as engine, stopping() as stop, output.progress(shown=not json) as report:
        done = [
            _synced(loaded, engine, source, _wish(source, mode, integration, dry_run), stop, report)
            for source in named_ones or _unpaused(loaded, engine)
        ]
    _show(done, json=json, dry_run=dry_run)
    raise typer.Exit(exit_code(run.outcome for synced in done for run in synced.runs))


@app.command()
def deliver(
    wait: Annotated[
        float | None, typer.Option(min=0, help="Until nothing is pending, at most so many seconds.")
    ] = None,
    json: Json = False,
) -> None:
    """Send the webhooks that are due."""
    loaded = settings()
    with state(loaded) as engine, stopping() as stop:
        done = deliver_now(loaded, engine, stop, wait_s=wait)
    if json:
        output.emit(done)
    else:
        counts = (done.delivered, done.failed, done.dead, done.pending)
        output.table(("delivered", "to be tried again", "dead", "pending"), [counts])


@app.command()
def publish() -> None:
    """Make the published copy now."""
    loaded = settings()
    with state(loaded) as engine:
        publishing.publish(loaded, engine)
    output.say(f"published {loaded.published_path}")


@app.command()
def prune(json: Json = False) -> None:
    """Remove what the retention settings give up; never an event, a revision or a hold."""
    loaded = settings()
    with state(loaded) as engine:
        done = prune_old(loaded, engine)
    if json:
        output.emit(done)
    else:
        counts = (done.runs, done.deliveries, done.attempts, done.spools, done.requests)
        output.table(("runs", "deliveries", "attempts", "spools", "requests"), [counts])


def _check(
    two_modes: bool, integration: str | None, dry_request: bool, wait_for_nothing: bool
) -> None:
    problems = []
    if two_modes:
        problems.append("--full and --incremental exclude each other")
    if dry_request:
        problems.append("--dry-run works in this process: it cannot be asked of the daemon")
    if wait_for_nothing:
        problems.append("--wait goes with --enqueue; without it a sync is waited for anyway")
    if integration is not None and not re.fullmatch(r"[^\s/?#]+", integration):
        problems.append(f"--integration {integration!r} is no id")
    if problems:
        raise ConfigInvalid("stocktake sync", problems)


def _unpaused(loaded: Settings, engine: Engine) -> list[Source]:
    """All sources, but for those that a person has paused: of them it is only said."""
    paused = {each.source for each in known_sources.every(engine) if each.paused}
    for name in sorted(paused):
        output.note(f"{name} is paused; `stocktake resume {name}` goes on with it")
    return [source for source in loaded.sources if source.name not in paused]


def _wish(source: Source, mode: Mode, integration: str | None, dry_run: bool) -> Wish:
    scope = _scope(source, integration)
    return Wish(mode, (scope,) if scope else (), dry_run)


def _scope(source: Source, integration: str | None) -> str | None:
    if integration is None:
        return None
    # One listing holds the installs of all integrations where there are cursors (Aeontel).
    numbered = named(source.dialect).PAGING == "numbered"
    return installs_of(integration) if numbered else INSTALLS


def _synced(
    loaded: Settings,
    engine: Engine,
    source: Source,
    wish: Wish,
    stop: Event,
    report: Progress,
) -> Synced:
    """One source after the other: what keeps one from being synced does not keep the others."""
    try:
        if not wish.dry_run:
            migrate(loaded)
        return sync_source(loaded, engine, source, wish, stop, report)
    except StocktakeError as error:
        return Synced((never_begun(source.name, wish.mode, error, clock.now()),))


def _show(done: list[Synced], *, json: bool, dry_run: bool) -> None:
    runs = [run for synced in done for run in synced.runs]
    would = [event for synced in done for plan in synced.plans for event in _events(plan)]
    if json:
        documents = {"runs": [output.run_document(run) for run in runs]}
        output.emit(documents | ({"events": would} if dry_run else {}))
        return
    if dry_run:
        rows = [tuple(event.values()) for event in would]
        columns = ("type", "source", "integration", "install", "changed")
        output.table(columns, rows, "nothing would be recorded")
    output.runs(runs, dry=dry_run)


def _events(plan: Plan) -> list[dict[str, object]]:
    return [
        {
            "type": event.type,
            "source": event.source,
            "integration_id": event.integration_id,
            "install_id": event.install_id,
            "changed_fields": list(event.changed_fields),
        }
        for event in plan.events
    ]
