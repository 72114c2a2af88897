"""The whole story in one command: platforms, a first sync, changes, a second sync, webhooks."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from threading import Event
from typing import Final

from sqlalchemy import Engine

from worker import warehouse
from worker.backlog import deliver_now
from worker.cli import output
from worker.deliver import Delivered
from worker.errors import ConfigInvalid, Refused
from worker.outcomes import exit_code
from worker.playground import Playground, playground
from worker.settings import Settings, load
from worker.state import connect_state
from worker.sync import Wish, sync

INSTALLS_EACH: Final = 100  # per integration, two integrations on each platform
CHANGES_EACH: Final = 4  # of every kind on each platform
_MARK: Final = ".stocktake-demo"
_WAIT_S: Final = 20.0
_FIRST: Final = ("install", "update", "upgrade", "uninstall")
_THEN: Final = ("restore", "purge")  # what can only follow an uninstall that was seen
_EVENTS: Final = """
    select
        type,
        count(*) filter (source = 'farm') as farm,
        count(*) filter (source = 'voice') as voice
    from events where not baseline group by type order by type
"""
_TO_TRY: Final = "select state, count(*) from installs group by all"


def demo(folder: Path, stop: Event) -> None:
    """Runs the story in `folder`, which is made anew; Refused if it did not end well."""
    _make(folder)
    with playground(installs=INSTALLS_EACH) as running:
        config = folder / "stocktake.toml"
        config.write_text(running.config, encoding="utf-8")
        settings = load(config, {})
        engine = connect_state(settings)
        try:
            _tell(settings, engine, running, stop)
        finally:
            engine.dispose()


def _tell(settings: Settings, engine: Engine, running: Playground, stop: Event) -> None:
    headline("1. First sync: everything that is installed already is recorded as a baseline.")
    _sync(settings, engine, stop)
    headline("2. Customers install, upgrade, change and uninstall.")
    _change(running, _FIRST, CHANGES_EACH)
    _sync(settings, engine, stop)
    headline("3. Some of what was uninstalled is restored, some of it purged.")
    _change(running, _THEN, CHANGES_EACH // 2)
    _sync(settings, engine, stop)
    headline("4. What changed is delivered as signed webhooks.")
    done = deliver_now(settings, engine, stop, wait_s=_WAIT_S)
    _conclude(settings, running, done)


def headline(text: str) -> None:
    """Tells what comes next."""
    output.say(text, style="bold")


def _make(folder: Path) -> None:
    if folder.exists() and not (folder / _MARK).exists():
        raise ConfigInvalid(str(folder), ["exists and is no demo; choose another with --dir"])
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise ConfigInvalid(str(folder), [f"cannot be written: {error.strerror}"]) from None


def _sync(settings: Settings, engine: Engine, stop: Event) -> None:
    runs = [
        run
        for source in settings.sources
        for run in sync(settings, engine, source, Wish(), stop).runs
    ]
    output.runs(runs)
    output.say("")
    if exit_code(run.outcome for run in runs):
        raise Refused("the demo's sync did not end well; see above")


def _change(running: Playground, kinds: Sequence[str], times: int) -> None:
    rng = Random(1)
    with running.server.lock:
        for world in (running.gestal, running.aeontel):
            for kind in (kind for kind in kinds if kind in world.kinds):
                for _ in range(times):
                    world.change(kind, rng)


def _conclude(settings: Settings, running: Playground, done: Delivered) -> None:
    events = warehouse.ask(settings.published_path, _EVENTS)
    output.table(events.columns, events.rows)
    received = running.receiver.received
    verified = sum(each.verified for each in received)
    notices = sum(not each.headers["webhook-id"].startswith("evt_") for each in received)
    config = shlex.quote(str(settings.data_dir.parent / "stocktake.toml"))
    lines = (
        f"{len(received)} webhooks arrived, {verified} signatures verified.",
        f"{notices} of them tell that a baseline is complete, the others what changed since.",
        f"The DuckDB file: {settings.published_path}",
        f'Try: {_command()} -c {config} query "{_TO_TRY}"',
    )
    output.say("")
    for line in lines:
        output.say(line)
    if done.pending or done.dead or verified != len(received):
        raise Refused("not every webhook was delivered and verified")


def _command() -> str:
    """What this program was called as: in a virtual environment the name alone may not do."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == "stocktake" else "stocktake"
