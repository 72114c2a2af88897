"""What a daemon costs that has nothing to do: memory and processor time of each process."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from killing import Daemon, daemon, wait_for

from worker.playground import playground

pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux says so"),
]
MB = 1024  # of the kilobytes that Linux counts in
MOST_MEMORY, MOST_SHARE, MOST_GROWTH = 350, 0.03, 5
WARM_S = 30  # the first syncs, and what is loaded with them
TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process: megabytes resident, of those its share where they are shared, and seconds."""

    rss: float
    pss: float
    cpu_s: float


def cost(pid: int) -> Cost:
    """What a process costs now."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / MB for line in lines}
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Cost(sizes["Rss"], sizes["Pss"], (int(fields[11]) + int(fields[12])) / TICKS_S)


def costs(up: Daemon) -> dict[str, Cost]:
    """The same of all processes of a daemon."""
    return {role: cost(pid) for role, pid in up.parts().items()}


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="up") as folder:
        yield Path(folder)


def test_an_idle_daemon_is_small_sleeps_and_does_not_grow(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    seconds = int(os.environ.get("IDLE_S", "600"))
    with playground(installs=500) as running, daemon(folder, running.config) as up:
        wait_for(lambda: len(running.receiver.received) == 2, what="both baselines")
        time.sleep(WARM_S)
        before, began = costs(up), time.monotonic()
        time.sleep(seconds)
        after, lasted = costs(up), time.monotonic() - began
        assert up.stop() == 0
    assert before.keys() == after.keys()
    shares = {role: (after[role].cpu_s - before[role].cpu_s) / lasted for role in after}
    # Not of the shares: they grow as well when something else on this machine ends.
    growth = sum(each.rss for each in after.values()) - sum(each.rss for each in before.values())
    for role, each in after.items():
        figures = {"rss_mb": round(each.rss), "pss_mb": round(each.pss)}
        record_property(role, {**figures, "cpu_percent": round(100 * shares[role], 2)})
    total = {"rss_mb": sum(each.rss for each in after.values()), "growth_mb": growth,
             "pss_mb": sum(each.pss for each in after.values()), "seconds": lasted}  # fmt: skip
    total["cpu_percent"] = 100 * sum(shares.values())
    record_property("all", {name: round(value, 1) for name, value in total.items()})
    assert total["rss_mb"] <= MOST_MEMORY
    assert total["cpu_percent"] <= 100 * MOST_SHARE
    assert growth <= MOST_GROWTH
