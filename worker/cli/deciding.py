"""`holds`, `approve`, `reject`, `pause`, `resume`: what a person decides."""

from typing import Annotated

import typer

from worker import holding
from worker.cli import output
from worker.cli.context import Json, app, settings, state, stopping
from worker.outcomes import exit_code
from worker.state import holds as kept_holds
from worker.state import sources

HoldId = Annotated[str, typer.Argument(help="As `stocktake holds` shows it.")]
SourceName = Annotated[str, typer.Argument(help="A configured source.")]

_COLUMNS = ("hold_id", "source", "scope", "opened_at", "installs", "share", "status", "decided_at")


@app.command()
def holds(json: Json = False) -> None:
    """List the absences that wait, or waited, for a person."""
    with state(settings()) as engine:
        kept = kept_holds.every(engine)
    if json:
        shown = [{name: getattr(hold, name) for name in _COLUMNS} for hold in kept]
        output.emit({"holds": shown})
        return
    rows = [
        (hold.hold_id, hold.status, hold.source, hold.scope, hold.installs, hold.opened_at)
        for hold in kept
    ]
    columns = ("hold", "status", "source", "listing", "installs", "opened (UTC)")
    output.table(columns, rows, "nothing is held")
    waiting = [hold for hold in kept if hold.status == "open"]
    for hold in waiting:
        output.say(f"{hold.hold_id}: {hold.reason}")
    if waiting:
        output.say("`stocktake approve HOLD` walks again and deletes what is still absent;")
        output.say("`stocktake reject HOLD` keeps it.")


@app.command()
def approve(hold: HoldId, json: Json = False) -> None:
    """Walk now, and record as deleted what of a hold is still absent."""
    loaded = settings()
    with state(loaded) as engine, stopping() as stop, output.progress(shown=not json) as report:
        runs = holding.approve(loaded, engine, hold, stop, report)
    if json:
        output.emit({"runs": [output.run_document(run) for run in runs]})
    else:
        output.runs(runs)
    raise typer.Exit(exit_code(run.outcome for run in runs))


@app.command()
def reject(hold: HoldId) -> None:
    """Keep the installs of a hold as active until they are seen and go missing again."""
    with state(settings()) as engine:
        holding.reject(engine, hold)
    output.say(f"{hold} is rejected: its installs stay active")


@app.command()
def pause(source: SourceName) -> None:
    """Stop the syncs of a source."""
    loaded = settings()
    configured = loaded.source(source)
    with state(loaded) as engine:
        sources.pause(engine, configured)
    output.say(f"{source} is paused; `stocktake resume {source}` goes on with it")


@app.command()
def resume(source: SourceName) -> None:
    """Go on with the syncs of a source; a rate limit is lifted too."""
    loaded = settings()
    configured = loaded.source(source)
    with state(loaded) as engine:
        sources.resume(engine, configured)
    output.say(f"{source} is synced again")
