"""`metrics`: what a monitor asks."""

from worker import exporter
from worker.cli.context import app, chosen, settings
from worker.settings import environment


@app.command()
def metrics() -> None:
    """Serve /metrics, /livez and /readyz where the metrics settings say, until told to stop."""
    exporter.address(settings())
    named = {"STOCKTAKE_CONFIG": str(chosen.config.resolve())} if chosen.config else {}
    exporter.become({**environment(), **named})
