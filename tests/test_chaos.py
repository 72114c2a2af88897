"""A daemon in any weather, with processes killed at random: nothing lost, doubled or made up."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import monotonic

import pytest
from killing import Daemon, Killer, daemon, tracebacks_of_ours, wait_for
from reckoning import as_figures, check_deliveries, check_store, reckoned, settle
from weather import Weather, weather

from worker.settings import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="the processes are found in /proc"),
]

SCHEDULE = '[schedule]\nincremental = "1s"\nfull = "5s"\ndeliver = "1s"\n'
ROLES = ("sync", "sync", "sync", "deliver", "deliver", "beat", "broker", "up")
Show = Callable[[str, object], None]


@dataclass(frozen=True, slots=True)
class Form:
    """How hard it blows, and how long. After a second bad answer a webhook waits five minutes."""

    kills: int
    frozen_s: float
    installs: int
    every_s: float
    bad_times: int


SHORT = Form(kills=60, frozen_s=20, installs=40, every_s=0.4, bad_times=1)
FULL = Form(kills=300, frozen_s=40, installs=200, every_s=0.4, bad_times=2)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name: the path of a socket has about 100 bytes."""
    with TemporaryDirectory(prefix="up") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(SHORT, marks=pytest.mark.chaos, id="short"),
        pytest.param(FULL, marks=pytest.mark.soak, id="full"),
    ],
)
def test_whoever_is_killed_in_any_weather_nothing_is_lost_doubled_or_made_up(
    form: Form, folder: Path, record_property: Show
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    killer = Killer(Random(seed))
    with weather(seed, form.installs, form.bad_times) as around:
        with daemon(folder, SCHEDULE + around.config) as up:
            settings = load(folder / "stocktake.toml", {})
            wait_for(lambda: len(around.flaky.arrivals) >= 2, what="both baselines")
            began = monotonic()
            with around.blowing(form.every_s):
                while killer.total < form.kills:
                    strike(killer, up, around)
                killer.freeze("broker", alive(up, "broker"), form.frozen_s)
            seconds = monotonic() - began
            around.flaky.well = True
            caught_up_s = settle(settings, around)
            assert up.stop() == 0
            assert tracebacks_of_ours(up.log) == []
        wrong, sizes = reckoned(settings, around, killer.at)
    check_store(settings)
    check_deliveries(settings)
    figures = {"seed": seed, "seconds": round(seconds), "killed": dict(killer.killed)}
    figures |= {"frozen": dict(killer.frozen), "caught_up_s": round(caught_up_s)}
    record_property("chaos", {**figures, **as_figures(wrong, sizes)})
    assert set(as_figures(wrong, {}).values()) == {0}, wrong
    assert sizes["delivered"] >= form.kills  # there was something to lose


def strike(killer: Killer, up: Daemon, around: Weather) -> None:
    """Kills one or two of those that run, mostly in the middle of what they do."""
    wait_for(lambda: len(up.parts()) >= 4, what="most of it runs")
    parts = up.parts()
    roles = [role for role in ROLES if role in parts]
    chosen = set(killer.random.choices(roles, k=killer.random.choice((1, 1, 2))))
    if killer.random.random() < 0.7:
        await_work("deliver" if "deliver" in chosen else "sync", around)
    killer.pause(0.3)
    for role in chosen:
        killer.kill(role, parts[role])
    if "up" in chosen:
        up.again()
    # Whoever dies again and again is started later and later; there must be work in between.
    killer.pause(1.5)


def alive(up: Daemon, role: str) -> int:
    """The process of that role, once it runs."""
    wait_for(lambda: role in up.parts(), what=role)
    return up.parts()[role]


def await_work(role: str, around: Weather) -> None:
    """Until a walk, or a delivery, has just begun; not for long: there may be nothing to do."""

    def count() -> int:
        requests = around.running.server.requests
        return len(around.flaky.arrivals) if role == "deliver" else sum(map(len, requests.values()))

    before, until = count(), monotonic() + 2
    wait_for(lambda: count() > before or monotonic() > until)
