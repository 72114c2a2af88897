"""The budget of a source: how many requests at once and how often, over threads and processes."""

import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from platforms import Unhurried

from worker.budget import Budget
from worker.errors import Stopped

HOUR_S = 3600.0

# Another process: takes a turn, tells whether there was a slot and what it would have waited,
# and keeps the slot until its input ends.
OTHER = """
import sys, threading
from pathlib import Path
from worker.budget import Budget

class Impatient(threading.Event):
    waited = []
    def wait(self, timeout=None):
        self.waited.append(timeout)
        return len(self.waited) > 1 or timeout == 0.01  # polls for a slot are every 10 ms

try:
    with Budget(Path(sys.argv[1]), "farm", float(sys.argv[2]), 1).request(Impatient()):
        print("free", flush=True)
        sys.stdin.read()
except Exception as error:
    print(type(error).__name__, flush=True)
"""


def other(folder: Path, requests_per_second: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OTHER, str(folder), str(requests_per_second)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> str:
    """What another process told, without ending it."""
    assert process.stdout
    return process.stdout.readline().strip()


def next_turn(folder: Path) -> float:
    """When the next request may begin, on the monotonic clock."""
    turn: float = struct.unpack("<d", (folder / "farm.pace").read_bytes())[0]
    return turn


class Impatient(Unhurried):
    """A stop that comes as soon as somebody would have to wait."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(timeout) or bool(timeout)


def test_no_more_requests_run_at_once_than_allowed(tmp_path: Path) -> None:
    together, running, most = threading.Barrier(3), 0, 0
    lock, stop = threading.Lock(), threading.Event()

    def request(number: int) -> None:
        nonlocal running, most
        # A budget of its own for each: what they share are the files.
        with Budget(tmp_path, "farm", 0, 3).request(stop):
            with lock:
                running += 1
                most = max(most, running)
            together.wait(timeout=30)  # three are let in, or this breaks
            with lock:
                running -= 1

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(request, range(9)))
    assert (most, running) == (3, 0)


def test_sources_do_not_share_a_budget(tmp_path: Path) -> None:
    with (
        Budget(tmp_path, "farm", 0, 1).request(Impatient()),
        Budget(tmp_path, "voice", 0, 1).request(Impatient()),
    ):
        pass


def test_a_slot_is_free_again_after_an_error(tmp_path: Path) -> None:
    budget = Budget(tmp_path, "farm", 0, 1)
    with pytest.raises(ZeroDivisionError), budget.request(Impatient()):
        raise ZeroDivisionError
    with budget.request(Impatient()):
        pass


def test_requests_begin_one_interval_after_another(tmp_path: Path) -> None:
    stop = Unhurried()
    budget = Budget(tmp_path, "farm", 1 / HOUR_S, 4)
    for _ in range(3):
        with budget.request(stop):
            pass
    first, second, third = stop.waited
    assert first == 0
    assert second == pytest.approx(HOUR_S, abs=60)
    assert third == pytest.approx(2 * HOUR_S, abs=60)


def test_a_turn_that_nobody_took_is_not_made_up_for(tmp_path: Path) -> None:
    budget = Budget(tmp_path, "farm", 1 / HOUR_S, 1)
    long_ago = time.monotonic() - 1e6
    (tmp_path / "farm.pace").write_bytes(struct.pack("<d", long_ago))
    with budget.request(Impatient()):
        pass
    assert next_turn(tmp_path) > time.monotonic()


@pytest.mark.parametrize("left", [struct.pack("<d", 1e12), b"", b"\x01\x02\x03"])
def test_what_a_reboot_or_a_crash_left_in_the_pace_does_not_block(
    left: bytes, tmp_path: Path
) -> None:
    # The monotonic clock begins anew at boot: an old turn lies far in the future.
    (tmp_path / "farm.pace").write_bytes(left)
    with Budget(tmp_path, "farm", 5, 1).request(Impatient()):
        pass
    assert next_turn(tmp_path) < time.monotonic() + 1


def test_without_a_rate_nobody_waits(tmp_path: Path) -> None:
    budget = Budget(tmp_path, "farm", 0, 1)
    for _ in range(3):
        with budget.request(Impatient()):
            pass
    assert not (tmp_path / "farm.pace").exists()


@pytest.mark.parametrize("requests_per_second", [0, 1 / HOUR_S])
def test_a_stop_ends_the_wait(requests_per_second: float, tmp_path: Path) -> None:
    budget = Budget(tmp_path, "farm", requests_per_second, 1)
    stop = threading.Event()
    with budget.request(stop):
        stop.set()
        with pytest.raises(Stopped), budget.request(stop):
            pass


def test_a_stop_ends_the_wait_for_a_turn(tmp_path: Path) -> None:
    budget = Budget(tmp_path, "farm", 1 / HOUR_S, 2)
    with budget.request(Impatient()), pytest.raises(Stopped), budget.request(Impatient()):
        pass


def test_processes_share_the_slots(tmp_path: Path) -> None:
    budget = Budget(tmp_path, "farm", 0, 1)
    with budget.request(Impatient()), other(tmp_path) as late:
        assert told(late) == "Stopped"
    with other(tmp_path) as holder:
        assert told(holder) == "free"
        with pytest.raises(Stopped), budget.request(Impatient()):
            pass
        holder.kill()
        holder.wait()
        with budget.request(Impatient()):  # what a dead process held is free at once
            pass


def test_processes_share_the_pace(tmp_path: Path) -> None:
    budget = Budget(tmp_path, "farm", 1 / HOUR_S, 1)
    with budget.request(Impatient()):
        pass
    before = next_turn(tmp_path)
    with other(tmp_path, 1 / HOUR_S) as process:
        assert told(process) == "free"
    assert next_turn(tmp_path) == before + HOUR_S
