"""`up`: the whole daemon under one command."""

from worker import daemon, watch
from worker.cli import output
from worker.cli.context import app, chosen, settings, stopping


@app.command()
def up() -> None:
    """Run the daemon: broker, sync worker, deliver worker and beat, until it is told to stop."""
    loaded = settings()
    with stopping() as stop, daemon.claimed(loaded) as held:
        plan = daemon.plan(loaded)
        output.say(f"stocktake is up with {len(loaded.sources)} sources; Ctrl-C ends it")
        watch.become(plan, held, daemon.environ(chosen.config), stop)
