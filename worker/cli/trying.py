"""`demo`, `init`, `check`, `sandbox`: what there is for a newcomer."""

from pathlib import Path
from typing import Annotated

import typer

from worker import checking
from worker import demo as story
from worker.cli import output
from worker.cli.context import Json, app, settings, state, stopping
from worker.errors import ConfigInvalid
from worker.logs import configure
from worker.playground import playground
from worker.settings import template


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("stocktake.toml"),
) -> None:
    """Write a commented configuration."""
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(template())
    except FileExistsError:
        raise ConfigInvalid(str(file), ["exists already; nothing was written"]) from None
    except OSError as error:
        raise ConfigInvalid(str(file), [f"cannot be written: {error.strerror}"]) from None
    output.say(f"wrote {file}; edit it, then `stocktake check`")


@app.command()
def check(
    json: Json = False,
    send_test: Annotated[
        bool, typer.Option("--send-test", help="Send webhook.test to every endpoint.")
    ] = False,
) -> None:
    """Try the configuration, the stores, the broker, every source and every endpoint."""
    loaded = settings()
    with state(loaded) as engine, stopping() as stop:
        checks = checking.check(loaded, engine, stop, send_test=send_test)
    if json:
        output.emit({"checks": checks})
    else:
        rows = [(each.what, each.level, each.detail) for each in checks]
        output.table(("what", "result", "detail"), rows)
    raise typer.Exit(checking.exit_code(checks))


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--dir", help="Where the demo keeps its files; made anew.")
    ] = Path("stocktake-demo"),
) -> None:
    """See the whole story on this machine: no configuration, no network, no Redis."""
    configure("text", "warning")
    with stopping() as stop:
        story.demo(folder, stop)


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8420,
    installs: Annotated[int, typer.Option(min=0, help="Per integration.")] = 500,
    seed: Annotated[int, typer.Option(help="The same seed makes the same platforms.")] = 0,
) -> None:
    """Run the stand-in platforms and a webhook receiver on loopback."""
    with stopping() as stop, playground(port, installs, seed) as running:
        output.say(running.guide)
        while not stop.wait(0.5):
            for line in running.news():
                output.say(line)
