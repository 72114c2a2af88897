"""Deliverers that are killed in the middle of their work: what arrives, how often, and when."""

import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from deliverer import endpoints
from letterbox import Letter, letterbox
from receivers import STORE, event

from worker import clock, relay
from worker.relay import Log
from worker.state import connect

HANG_S = 120.0  # how long a broken deliverer may block a test


@dataclass(frozen=True)
class Shape:
    """What is to be delivered, and how often the deliverer dies meanwhile."""

    installs: int
    changes: int
    endpoints: int
    kills: int
    busy: float = 0.1  # the share of requests that are answered with 503

    @property
    def deliveries(self) -> int:
        return self.installs * self.changes * self.endpoints


@dataclass(frozen=True)
class Figures:
    """What came of it."""

    kills: int
    arrived: int  # deliveries that were taken
    extra: int  # requests for what had been taken before
    in_flight: int  # at the kills, all in all
    inversions: int  # requests after one for a later event of the same install
    miscounted: int  # attempts that are not the same as before or the next one
    seconds: float


def killed(directory: Path, shape: Shape, seed: int = 1) -> Figures:
    """Delivers what `shape` says through deliverers that are killed at random moments."""
    database, hours = directory / "state.db", directory / "hours"
    hours.write_text("0")
    url = f"sqlite:///{database}"
    moments = sorted(Random(seed).sample(range(1, shape.deliveries * 9 // 10), shape.kills))
    with letterbox(shape.busy) as box:
        make(url, box.url, shape)
        command = [sys.executable, str(Path(__file__).with_name("deliverer.py")), url, box.url]
        command += [str(shape.endpoints), str(hours)]
        began, kills, in_flight = time.monotonic(), 0, 0
        for moment in [*moments, None]:
            with subprocess.Popen(command) as process:
                while process.poll() is None:
                    states = states_in(database)
                    if moment is not None and states["delivered"] >= moment:
                        process.kill()
                        process.wait()
                        kills, in_flight = kills + 1, in_flight + states_in(database)["in_flight"]
                    assert time.monotonic() < began + HANG_S + shape.deliveries / 10
                    time.sleep(0.002)
        took = time.monotonic() - began
    extra, inversions, miscounted = requests(box.letters)
    arrived = states_in(database)["delivered"]
    taken = {(each.path, each.id) for each in box.letters if each.status == 204}
    assert len(taken) == arrived
    return Figures(kills, len(taken), extra, in_flight, inversions, miscounted, took)


def make(url: str, box: str, shape: Shape) -> None:
    """The deliveries: one change of every install after the other."""
    engine, to = connect(url), endpoints(box, shape.endpoints)
    events = [
        event(number + 1, f"ins_{number % shape.installs}")
        for number in range(shape.installs * shape.changes)
    ]
    relay.register(engine, to, STORE, 0, clock.now())
    relay.relay(engine, to, Log(STORE, len(events), events), clock.now())
    engine.dispose()


def states_in(database: Path) -> Counter[str]:
    """How many deliveries are in each state, read beside whoever writes."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        query = "select state, count(*) from deliveries group by state"
        return Counter(dict(connection.execute(query).fetchall()))


def requests(letters: Iterable[Letter]) -> tuple[int, int, int]:
    """Requests too many, requests too late, and attempts that were miscounted."""
    lanes, tries = defaultdict[object, list[int]](list), defaultdict[object, list[Letter]](list)
    for letter in letters:
        data = json.loads(letter.body)["data"]
        assert letter.id == data["event_id"]
        lanes[letter.path, data["install"]["install_id"]].append(data["sequence"])
        tries[letter.path, letter.id].append(letter)
    inversions = sum(later < sooner for lane in lanes.values() for sooner, later in pairwise(lane))
    extra = sum(each.status == 204 for of_one in tries.values() for each in of_one) - len(tries)
    return extra, inversions, sum(miscounted(each) for each in tries.values())


def miscounted(tries: Sequence[Letter]) -> int:
    """Attempts that are neither the first nor one more; the same again if a kill forgot it."""
    counted = [int(each.headers["stocktake-attempt"]) for each in tries]
    return (counted[0] != 1) + sum(
        later - sooner not in (0, 1) for sooner, later in pairwise(counted)
    )


def check(shape: Shape, figures: Figures) -> None:
    print(shape, figures)
    assert figures.kills == shape.kills
    assert figures.arrived == shape.deliveries
    assert figures.extra <= figures.in_flight
    assert (figures.inversions, figures.miscounted) == (0, 0)


FULL = Shape(installs=200, changes=20, endpoints=2, kills=25)


@pytest.mark.slow
def test_what_killed_deliverers_leave_arrives_in_order_and_hardly_twice(tmp_path: Path) -> None:
    shape = Shape(installs=75, changes=10, endpoints=2, kills=8)
    check(shape, killed(tmp_path, shape))


@pytest.mark.slow
@pytest.mark.soak
def test_eight_thousand_deliveries_survive_twenty_five_kills(tmp_path: Path) -> None:
    check(FULL, killed(tmp_path, FULL))
