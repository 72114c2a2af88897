"""`migrate`, `backup`, `restore`: keeping the stores."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from worker import backup as backups
from worker import restore as restoring
from worker import upkeep
from worker.cli import output
from worker.cli.context import Json, app, settings, state


@app.command()
def migrate(json: Json = False) -> None:
    """Bring both stores to the schemas of this version, after a copy of both."""
    loaded = settings()
    done = upkeep.migrate(loaded)
    with state(loaded):
        pass  # made, where it was not there yet
    if json:
        output.emit({**asdict(done), "copy": done.copy and str(done.copy)})
    elif done.copy is None:
        now = (done.state.now, done.warehouse.now)
        output.say("both stores are at schema {} (state) and {} (warehouse)".format(*now))
    else:
        for name, step in (("state store", done.state), ("warehouse", done.warehouse)):
            output.say(f"{name}: schema {step.found or step.now} -> {step.now}")
        output.say(f"how they were before: {done.copy}")


@app.command()
def backup(
    directory: Annotated[Path, typer.Argument(help="Where to put it; new or empty.")],
    json: Json = False,
) -> None:
    """Copy both stores, as of one moment, while others work with them."""
    loaded = settings()
    with state(loaded) as engine:
        made = backups.backup(loaded, engine, directory)
    if json:
        output.emit(made)
    else:
        output.say(
            f"{directory}: {made.warehouse['active_installs']} active installs, "
            f"{made.warehouse['last_sequence']} events, {made.state['deliveries']} deliveries"
        )


@app.command()
def restore(
    directory: Annotated[Path, typer.Argument(help="What `stocktake backup` made.")],
    json: Json = False,
) -> None:
    """Put a backup in the place of both stores; they are kept in private/backups."""
    done = restoring.restore(settings(), directory)
    if json:
        output.emit({**asdict(done), "copy": str(done.copy)})
        return
    output.say(
        f"restored as store {done.store_id}: {done.active_installs} active installs, "
        f"{done.sequence} events, of {done.made_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    if done.dead:
        output.say(
            f"{done.dead} deliveries that were open then are dead now (they may have been sent "
            "since); `stocktake replay --endpoint E --dead` sends them"
        )
    output.say(f"the stores of before: {done.copy}")
    output.say("`stocktake sync` finds what has changed since")
