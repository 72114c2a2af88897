"""`status`, `runs`, `query`: what there is to see."""

import csv
import sys
from typing import Annotated

import typer

from worker import health, warehouse
from worker.cli import output
from worker.cli.context import Json, Limit, Source, app, settings, state
from worker.errors import ConfigInvalid
from worker.state import runs as kept_runs
from worker.state.tables import document


@app.command()
def status(
    json: Json = False,
    live: Annotated[bool, typer.Option("--live", help="Only processes and stores.")] = False,
) -> None:
    """Show workers, sources, holds and deliveries: ok, warning, or critical (exits with 1)."""
    loaded = settings()
    with state(loaded) as engine:
        lines = health.health(loaded, engine, live=live)
    level = health.worst(*(line.level for line in lines))
    if json:
        output.emit({"level": level, "lines": lines})
    else:
        rows = [(line.what, line.level, line.detail) for line in lines]
        output.table(("what", "level", "detail"), rows)
    raise typer.Exit(1 if level == "critical" else 0)


runs_app = typer.Typer(invoke_without_command=True)
app.add_typer(runs_app, name="runs")


@runs_app.callback()
def runs(
    context: typer.Context, source: Source = None, limit: Limit = 20, json: Json = False
) -> None:
    """List the runs, newest first."""
    if context.invoked_subcommand:
        return
    loaded = settings()
    with state(loaded) as engine:
        found = kept_runs.recent(engine, source, limit)
    if source and not found:
        loaded.source(source)  # a name that nobody knows is a slip, and not a source without runs
    if json:
        output.emit({"runs": [document(run) for run in found]})
        return
    rows = [
        (
            f"{run.started_at:%Y-%m-%d %H:%M}",
            run.run_id,
            run.source,
            run.scope,
            run.outcome,
            output.proof(run),
        )
        for run in found
    ]
    columns = ("started (UTC)", "run", "source", "listing", "outcome", "proof")
    output.table(columns, rows, "no runs yet")


@runs_app.command("show")
def show_run(run: Annotated[str, typer.Argument(help="Its id.")], json: Json = False) -> None:
    """Show one run with its evidence."""
    with state(settings()) as engine:
        found = document(kept_runs.named(engine, run))
    if json:
        output.emit(found)
    else:
        output.table(("field", "value"), list(found.items()))


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="Read-only SQL on the published copy.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Json = False,
) -> None:
    """Ask the published copy."""
    if as_csv and json:
        raise ConfigInvalid("stocktake query", ["--csv and --json exclude each other"])
    answer = warehouse.ask(settings().published_path, sql)
    if json:
        named = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        output.emit({"rows": named})
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
    else:
        output.answer(answer.columns, answer.rows)
