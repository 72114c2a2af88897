"""A sync killed at any point loses nothing, says nothing twice, and leaves stores that open."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from reckoning import check_deliveries, check_snapshot, check_store
from sqlalchemy import text
from weather import KINDS, NOTHING_IS_HELD

from worker.playground import Playground, playground
from worker.sandbox.world import mutate
from worker.settings import Settings, load
from worker.state import connect_state
from worker.warehouse import connection

WRITES = "worker.warehouse.store._run"
OTHERS = 40  # of each kind of sync
CRASHER = Path(__file__).with_name("crasher.py")
Run = Callable[[str, str, str | None], tuple[int, list[str]]]

pytestmark = pytest.mark.slow


@contextmanager
def crasher(config: Path) -> Iterator[Run]:
    """Runs a sync that is killed at a step; its exit code, and its steps if it lived."""
    command = [sys.executable, str(CRASHER), str(config)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        orders, answers = process.stdin, process.stdout

        def run(source: str, mode: str, deadly: str | None) -> tuple[int, list[str]]:
            orders.write(f"{json.dumps([source, mode, deadly])}\n")
            orders.flush()
            code, steps = json.loads(answers.readline())
            return code, steps

        yield run
        orders.close()


def configured(folder: Path, running: Playground) -> Settings:
    config = folder / "stocktake.toml"
    config.write_text(f"{NOTHING_IS_HELD}{running.config}")
    return load(config, {})


def chosen(random: Random, steps: list[str]) -> list[str]:
    """All statements of the store, between which a commit could tear, and some of the rest."""
    writes = [step for step in steps if step.startswith(WRITES)]
    others = [step for step in steps if not step.startswith(WRITES)]
    return random.sample(writes, len(writes)) + random.sample(others, OTHERS)


def waiting(settings: Settings) -> int:
    """How many events of the log have no delivery yet."""
    with connection.connect(settings.store_path, datetime.now(UTC)) as store:
        events = {id for (id,) in store.execute(
            "select event_id from events where not baseline").fetchall()}  # fmt: skip
    engine = connect_state(settings)
    with engine.connect() as state:
        made = set(state.execute(text("select event_id from deliveries")).scalars())
    engine.dispose()
    return len(events - made)


@pytest.mark.parametrize("mode", ["full", "incremental"])
@pytest.mark.parametrize("source", ["farm", "voice"])
def test_a_sync_that_is_killed_at_any_step_loses_and_doubles_nothing(
    source: str, mode: str, tmp_path: Path
) -> None:
    with playground(installs=12) as running:
        settings = configured(tmp_path, running)
        world = running.gestal if source == "farm" else running.aeontel
        with crasher(tmp_path / "stocktake.toml") as run:
            assert run(source, "full", None)[0] == 0
            mutate(world, 12, KINDS[source])
            code, steps = run(source, mode, None)
            assert code == 0
            killed = 0
            for step in chosen(Random(source), steps):
                mutate(world, 4, KINDS[source])
                killed += run(source, mode, step)[0] == -signal.SIGKILL
                check_store(settings)
            assert killed >= 50  # some steps are not made twice
            # The first may go on with an interrupted walk, the second begins anew.
            assert [run(source, "full", None)[0] for _ in range(2)] == [0, 0]
        check_store(settings)
        check_snapshot(settings, world, source)
        check_deliveries(settings)


def test_a_sync_that_is_killed_between_its_commit_and_its_deliveries_a_hundred_times(
    tmp_path: Path,
) -> None:
    random = Random(0)
    with playground(installs=12) as running:
        settings = configured(tmp_path, running)
        with crasher(tmp_path / "stocktake.toml") as run:
            assert run("farm", "full", None)[0] == 0
            mutate(running.gestal, 12, KINDS["farm"])
            _, steps = run("farm", "full", None)
            names = [step.partition(" from ")[0] for step in steps]
            first = names.index("worker.aftermath.record")
            made = [
                names.index(f"worker.state.deliveries.{act}", first) for act in ("add", "advance")
            ]
            between = steps[first : max(made) + 1]
            killed = recorded = 0
            while killed < 100:
                mutate(running.gestal, 2, ("install", "update"))
                killed += run("farm", "incremental", random.choice(between))[0] == -signal.SIGKILL
                recorded += waiting(settings) > 0
            assert recorded >= 80  # the commit was there, and its deliveries were not
            assert [run("farm", "full", None)[0] for _ in range(2)] == [0, 0]
        check_store(settings)
        check_snapshot(settings, running.gestal, "farm")
        check_deliveries(settings)
