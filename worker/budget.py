"""The budget of requests of one source, shared by all processes of this host in locked files."""

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from worker.errors import Stopped

_POLL_S = 0.01
_LONGEST_QUEUE_S = (
    60.0  # a slot further away than the longest queue is left over from before a reboot
)


class Budget:
    """At most `requests_per_second` (0: no limit) and `max_concurrency` for one source."""

    def __init__(
        self, folder: Path, source: str, requests_per_second: float, max_concurrency: int
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._pace = folder / f"{source}.pace"
        self._slots = [folder / f"{source}.{n}.slot" for n in range(max_concurrency)]
        self._interval_s = 1 / requests_per_second if requests_per_second else 0.0
        self._horizon_s = max(_LONGEST_QUEUE_S, 64 * self._interval_s)

    @contextmanager
    def request(self, stop: Event) -> Iterator[None]:
        """Holds one of the concurrent slots, and begins no earlier than the pace allows."""
        with self._slot(stop):
            if stop.wait(self._turn()):
                raise Stopped("asked to stop")
            yield

    @contextmanager
    def _slot(self, stop: Event) -> Iterator[None]:
        while True:
            for path in self._slots:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    if _try_lock(descriptor):
                        yield
                        return
                finally:
                    os.close(descriptor)
            if stop.wait(_POLL_S):
                raise Stopped("asked to stop")

    def _turn(self) -> float:
        """Takes the next turn and says in how many seconds it begins."""
        if not self._interval_s:
            return 0.0
        descriptor = os.open(self._pace, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The monotonic clock is one for all processes since boot, and no clock change moves it.
            now = time.monotonic()
            stored = os.pread(descriptor, 8, 0)
            turn = struct.unpack("<d", stored)[0] if len(stored) == 8 else now
            turn = max(now, turn) if turn - now < self._horizon_s else now
            os.pwrite(descriptor, struct.pack("<d", turn + self._interval_s), 0)
        finally:
            os.close(descriptor)
        return turn - now


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
