"""Keeps processes running: started in order, restarted with back-off, stopped in time."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

log = logging.getLogger(__name__)

STOP_S: Final = 8.0  # for all that is stopped; who is not done by then is killed
_LAST_STOP_S: Final = 1.5  # for the broker, when nobody needs it any more
_STEADY_S: Final = 30.0  # a process that ran for so long is restarted at once again
_LONGEST_PAUSE_S: Final = 30.0
_READY_S: Final = 5.0
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Program:
    """What is to run. What starts after it waits until it is `ready`, for a few seconds.

    `failed` is called with its exit code when it has ended by itself."""

    name: str
    command: Sequence[str]
    ready: Callable[[], bool] = lambda: True
    failed: Callable[[int], None] = lambda code: None
    stops_last: bool = False


@dataclass(slots=True)
class _Running:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    crashes: int = 0  # in a row
    due_at: float = 0.0  # when it is started again
    reader: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass(slots=True)
class Supervisor:
    """Runs programs until it is told to stop. `tell` gets each line that one of them prints.

    Use it from one thread: the kernel ends the processes when the thread that started them ends.
    """

    programs: Sequence[Program]
    environ: Mapping[str, str] | None  # None: that of this process
    tell: Callable[[str, str], None]
    clock: Callable[[], float] = time.monotonic
    _running: list[_Running] = field(init=False)

    def __post_init__(self) -> None:
        self._running = [_Running(program) for program in self.programs]

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; then everything has ended."""
        try:
            for each in self._running:
                if stop.is_set():
                    break
                self._start(each)
                self._wait_until_ready(each, stop)
            while not stop.wait(_POLL_S):
                self._look_after()
        finally:
            self._stop()

    def _look_after(self) -> None:
        now = self.clock()
        for each in self._running:
            if each.is_alive:
                continue
            if each.process is not None:
                self._mourn(each, now)
            if now >= each.due_at:
                self._start(each)

    def _mourn(self, each: _Running, now: float) -> None:
        assert each.process is not None  # noqa: S101 - for mypy: only who ran can have ended
        each.crashes = 1 if now - each.started_at >= _STEADY_S else each.crashes + 1
        pause = 0.0 if each.crashes == 1 else min(2.0 ** (each.crashes - 2), _LONGEST_PAUSE_S)
        each.due_at = now + pause
        log.warning(
            "%s ended with %s; it is started again in %g s",
            each.program.name, _ending(each.process.returncode), pause,
        )  # fmt: skip
        each.program.failed(each.process.returncode)
        each.process = None

    def _start(self, each: _Running) -> None:
        leash = [sys.executable, "-m", "worker.leash", str(os.getpid())]
        each.process = subprocess.Popen(  # noqa: S603 - our own commands
            [*leash, *each.program.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environ,
            # A key press that ends us must not reach them as well: we end them in order.
            start_new_session=True,
        )
        each.started_at = self.clock()
        assert each.process.stdout  # noqa: S101 - for mypy: it is a pipe
        each.reader = threading.Thread(
            target=self._read, args=(each.program.name, each.process.stdout), daemon=True
        )
        each.reader.start()

    def _wait_until_ready(self, each: _Running, stop: threading.Event) -> None:
        deadline = self.clock() + _READY_S
        while not each.program.ready() and each.is_alive and self.clock() < deadline:
            if stop.wait(_POLL_S / 5):
                return

    def _read(self, name: str, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                if text := line.decode(errors="replace").rstrip():
                    self.tell(name, text)

    def _stop(self) -> None:
        last = [each for each in self._running if each.program.stops_last]
        first = [each for each in reversed(self._running) if not each.program.stops_last]
        self._end(first, STOP_S)
        self._end(last, _LAST_STOP_S)

    def _end(self, ending: Sequence[_Running], patience_s: float) -> None:
        for each in ending:
            if each.is_alive and each.process:
                each.process.terminate()
        deadline = time.monotonic() + patience_s
        for each in ending:
            if each.process is None:
                continue
            try:
                each.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("%s did not end in time and is killed", each.program.name)
                each.process.kill()
                each.process.wait()
            if each.reader:
                each.reader.join(1.0)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
