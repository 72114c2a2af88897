"""A sync killed at any point loses nothing, says nothing twice, and leaves stores that open."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from platforms import source_rows
from sqlalchemy import text

from worker import warehouse
from worker.playground import Playground, playground
from worker.sandbox.world import mutate
from worker.settings import Settings, load
from worker.state import connect_state

POINTS = 60  # of each kind of sync
CRASHER = Path(__file__).with_name("crasher.py")
Run = Callable[[str, str, int], tuple[int, int]]

pytestmark = pytest.mark.slow


@contextmanager
def crasher(config: Path) -> Iterator[Run]:
    """Runs a sync that is killed at the n-th call; its exit code and how many calls there were."""
    command = [sys.executable, str(CRASHER), str(config)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        orders, answers = process.stdin, process.stdout

        def run(source: str, mode: str, allowed: int) -> tuple[int, int]:
            orders.write(f"{source} {mode} {allowed}\n")
            orders.flush()
            code, calls = answers.readline().split()
            return int(code), int(calls)

        yield run
        orders.close()


def configured(folder: Path, running: Playground) -> Settings:
    guard = "[deletion_guard]\nmin_rows = 100000\nmax_share = 1.0\nmax_count = 100000\n"
    config = folder / "stocktake.toml"
    config.write_text(f"{guard}{running.config}")
    return load(config, {})


def check_log(settings: Settings) -> None:
    """The store opens; its log has no gap, and no event twice."""
    with warehouse.opened(settings.store_path, datetime.now(UTC)) as store:
        events = store.events(0, 1_000_000)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert len({event.event_id for event in events}) == len(events)


def check_end(settings: Settings, running: Playground, source: str) -> None:
    """The snapshot is the source, and every event that is no baseline is one delivery."""
    world = running.gestal if source == "farm" else running.aeontel
    asked = f"select install_id, payload from active_installs where source = '{source}'"  # noqa: S608
    kept = {id for id, _ in warehouse.ask(settings.published_path, asked).rows}
    live = {id for id, row in source_rows(world).items() if not row.get("deletedAt")}
    assert kept == live
    told = warehouse.ask(settings.published_path, "select event_id from events where not baseline")
    engine = connect_state(settings)
    with engine.connect() as state:
        made = Counter(state.execute(text("select event_id from deliveries")).scalars())
    engine.dispose()
    events = {id for (id,) in told.rows}
    assert all(made[id] == 1 for id in events)
    assert {id for id in made if id.startswith("evt_")} == events


@pytest.mark.parametrize("mode", ["full", "incremental"])
@pytest.mark.parametrize("source", ["farm", "voice"])
def test_a_sync_that_is_killed_anywhere_loses_and_doubles_nothing(
    source: str, mode: str, tmp_path: Path
) -> None:
    with playground(installs=12) as running:
        settings = configured(tmp_path, running)
        world = running.gestal if source == "farm" else running.aeontel
        with crasher(tmp_path / "stocktake.toml") as run:
            assert run(source, "full", 0)[0] == 0
            mutate(world, 4)
            code, calls = run(source, mode, 0)
            assert code == 0
            points = [1 + calls * n // POINTS for n in range(POINTS)]
            Random(source).shuffle(points)
            killed = 0
            for point in points:
                mutate(world, 4)
                killed += run(source, mode, point)[0] == -signal.SIGKILL
                check_log(settings)
            assert killed >= 50
            # The first may go on with an interrupted walk, the second begins anew.
            assert [run(source, "full", 0)[0] for _ in range(2)] == [0, 0]
        check_log(settings)
        check_end(settings, running, source)
