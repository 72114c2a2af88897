"""`up`: the whole daemon under one command."""

import sys
from threading import Lock

from worker.cli import output
from worker.cli.context import app, chosen, settings, stopping
from worker.daemon import supervisor


@app.command()
def up() -> None:
    """Run the daemon: broker, sync worker, deliver worker and beat, until it is told to stop."""
    loaded = settings()
    writing = Lock()

    def tell(name: str, line: str) -> None:
        # A JSON line says itself where it comes from.
        text = line if loaded.log.format == "json" else f"{name:<7} | {line}"
        with writing:
            print(text, file=sys.stderr, flush=True)

    with stopping() as stop, supervisor(loaded, chosen.config, tell) as daemon:
        output.say(f"stocktake is up with {len(loaded.sources)} sources; Ctrl-C ends it")
        daemon.run(stop)
