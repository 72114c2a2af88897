"""Signs of life: of the workers of the daemon, and of walks that are under way."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
from examples import NOON
from sqlalchemy import Engine

from worker import clock
from worker.errors import StoreDown
from worker.state import connect, heartbeats, walks
from worker.state.heartbeats import Pulse


@pytest.fixture
def engine(state_url: str) -> Iterator[Engine]:
    opened = connect(state_url)
    yield opened
    opened.dispose()


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How late it is; a test puts the next time in."""
    late = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: late[-1])
    return late


def test_a_worker_has_its_newest_sign_of_life(engine: Engine) -> None:
    assert heartbeats.every(engine) == {}
    heartbeats.beat(engine, "sync", NOON)
    heartbeats.beat(engine, "deliver", NOON)
    heartbeats.beat(engine, "sync", NOON + timedelta(seconds=15))
    seen = {name: row.beat_at for name, row in heartbeats.every(engine).items()}
    assert seen == {"sync": NOON + timedelta(seconds=15), "deliver": NOON}


def test_progress_renews_it_once_in_a_few_seconds(
    engine: Engine, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    monkeypatch.setattr(heartbeats, "beat", lambda *given: written.append(seconds[-1]))
    pulse = Pulse(engine, "sync")
    for later in (0, 4.9, 5, 5, 9, 10):
        seconds.append(1000.0 + later)
        pulse()
    assert written == [1005.0, 1010.0]


def test_a_state_store_that_is_away_does_not_end_a_walk(
    engine: Engine, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreDown("no answer")

    monkeypatch.setattr(heartbeats, "beat", away)
    pulse = Pulse(engine, "sync")
    seconds.append(2000.0)
    pulse()


def test_a_walk_shows_how_far_it_is_and_is_forgotten_when_it_has_ended(
    engine: Engine, seconds: list[float]
) -> None:
    also: list[tuple[str, int, int | None]] = []
    with walks.shown(engine, "farm", lambda *step: also.append(step)) as tell:
        tell("integrations", 2, None)
        assert walks.every(engine) == {}  # it may be over in a moment
        seconds.append(1001.0)
        tell("installs/a", 100, 5000)
        tell("installs/a", 200, 5000)  # within the same second
        (walk,) = walks.every(engine).values()
        assert list(walk.listings.items()) == [
            ("integrations", [2, None]),
            ("installs/a", [100, 5000]),
        ]
        assert abs(clock.now() - walk.progress_at) < timedelta(minutes=1)
        with walks.shown(engine, "voice", lambda *step: None) as other:
            seconds.append(1003.0)
            other("installs", 1, None)
            assert walks.every(engine).keys() == {"farm", "voice"}
        assert walks.every(engine).keys() == {"farm"}
    assert walks.every(engine) == {}
    assert len(also) == 3


def test_a_source_of_very_many_listings_shows_the_newest(
    engine: Engine, seconds: list[float]
) -> None:
    with walks.shown(engine, "farm", lambda *step: None) as tell:
        seconds.append(1001.0)
        for number in range(60):
            seconds.append(seconds[-1] + 1)
            tell(f"installs/{number}", 1, 1)
        (walk,) = walks.every(engine).values()
    assert [*walk.listings] == [f"installs/{number}" for number in range(10, 60)]


LOADED = """
import sys
{work}
print(*sorted(name for name in {unwanted} if name in sys.modules))
"""
DELIVER = """
from pathlib import Path
from threading import Event
from worker.settings import Settings, Source
from worker.deliver import deliver_due
farm = dict(name="farm", dialect="aeontel", base_url="https://a.example", token="t")
deliver_due(Settings(data_dir=Path({folder!r}), sources=[Source.model_validate(farm)]), Event())
"""
BEAT = """
from pathlib import Path
import os
path = Path({folder!r}) / "stocktake.toml"
path.write_text('[[sources]]\\nname="a"\\ndialect="aeontel"\\nbase_url="https://a.example"\\ntoken="t"')
os.environ["STOCKTAKE_CONFIG"] = str(path)
import worker.app, worker.beat
"""
STATUS = """
from worker.cli import main
try:
    main(["-c", {folder!r} + "/none.toml", "status", "--live"])
except SystemExit as end:
    assert end.code == 2
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "unwanted"),
    [
        (DELIVER, ["duckdb", "worker.client", "worker.warehouse", "worker.sync", "celery"]),
        (BEAT, ["duckdb", "httpx", "httpcore", "rich", "typer", "sqlalchemy", "worker.state"]),
        (STATUS, ["celery", "httpx", "redis", "worker.client", "worker.demo", "worker.sync"]),
    ],
    ids=["deliver", "beat", "status"],
)
def test_a_process_loads_only_what_it_needs(
    work: str, unwanted: list[str], tmp_path: object
) -> None:
    code = LOADED.format(work=work.format(folder=str(tmp_path)), unwanted=unwanted)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == []
