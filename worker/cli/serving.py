"""`metrics`: what a monitor asks."""

from worker import daemon, exporter
from worker.cli.context import app, chosen, settings


@app.command()
def metrics() -> None:
    """Serve /metrics, /livez and /readyz where the metrics settings say, until told to stop."""
    exporter.address(settings())
    exporter.become(daemon.environ(chosen.config))
