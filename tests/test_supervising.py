"""Processes that are kept running, and the leash on which they are."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from worker import watch
from worker.supervising import Program, Supervisor

HANG_S = 60.0  # how long a broken program may block a test
WAITS = "import time; print('up', flush=True); time.sleep(600)"


def python(name: str, text: str, **fields: object) -> Program:
    return Program(name, (sys.executable, "-c", text), **fields)  # type: ignore[arg-type]


@dataclass
class Run:
    """A supervisor that runs until `until` says of what it was told that it is enough."""

    programs: list[Program]
    until: Callable[[list[tuple[str, str]]], bool]
    told: list[tuple[str, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def tell(self, name: str, line: str) -> None:
        self.told.append((name, line))
        if self.until(self.told):
            self.stop.set()

    def __call__(self, **fields: object) -> list[tuple[str, str]]:
        timer = threading.Timer(HANG_S, self.stop.set)
        timer.start()
        Supervisor(self.programs, dict(os.environ), self.tell, **fields).run(self.stop)  # type: ignore[arg-type]
        assert timer.is_alive(), "it hung"
        timer.cancel()
        return self.told


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_what_is_printed_is_told_with_its_name_and_everything_ends() -> None:
    says = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    told = Run([python("a", says), python("b", says)], lambda told: len(told) == 2)()
    assert sorted(name for name, _ in told) == ["a", "b"]
    assert not any(is_running(int(line)) for _, line in told)


@pytest.mark.slow
def test_what_starts_later_waits_until_the_one_before_is_ready() -> None:
    ready = iter([False, False, True])
    asked: list[int] = []

    def is_ready() -> bool:
        asked.append(len(run.told))
        return next(ready)

    run = Run([python("a", "import time; time.sleep(600)", ready=is_ready), python("b", WAITS)],
              lambda told: len(told) == 1)  # fmt: skip
    assert run() == [("b", "up")]
    assert asked == [0, 0, 0]


@pytest.mark.slow
def test_what_ends_is_started_again_at_once_and_then_with_longer_and_longer_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dies = "import sys; print('up', flush=True); sys.exit(3)"
    began = time.monotonic()
    # Time runs a hundred times as fast: pauses of seconds are over at once.
    hurried = lambda: began + 100 * (time.monotonic() - began)  # noqa: E731
    Run([python("a", dies)], lambda told: len(told) == 4)(clock=hurried)
    assert [record.getMessage() for record in caplog.records][:3] == [
        f"a ended with exit code 3; it is started again in {pause} s" for pause in (0, 1, 2)
    ]


@pytest.mark.slow
def test_the_broker_is_stopped_last() -> None:
    ends = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit()))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)"
    )
    programs = [python("broker", ends, stops_last=True), python("a", ends), python("b", ends)]
    told = Run(programs, lambda told: len(told) == 3)()
    assert [name for name, line in told if line == "bye"][-1] == "broker"


@pytest.mark.slow
def test_who_is_on_the_leash_of_a_process_that_is_killed_ends_with_it() -> None:
    holder = (
        "import os, subprocess, sys, time\n"
        "leash = [sys.executable, '-m', 'worker.leash', str(os.getpid())]\n"
        f"subprocess.Popen([*leash, sys.executable, '-c', {WAITS!r}])\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGKILL)
        # The pipe is closed when nobody is left who could write into it.
        assert process.stdout.read() == b""


@pytest.mark.slow
def test_nothing_is_run_on_the_leash_of_a_process_that_is_gone() -> None:
    command = [sys.executable, "-m", "worker.leash", "1", sys.executable, "-c", "print('up')"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=HANG_S)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_stop_that_came_while_the_daemon_was_being_prepared_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(os, "execve", lambda *given: begun.append(given))
    stop, before = threading.Event(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with (tmp_path / "up.lock").open("w") as held:
        try:
            watch.become({}, held.fileno(), {}, stop)
            stop.set()
            watch.become({}, held.fileno(), {}, stop)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert len(begun) == 1
