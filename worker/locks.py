"""Locks between the processes of this host; the kernel releases them when their holder ends."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.errors import StocktakeError, StoreUnusable

_POLL_S: Final = 0.02


@contextmanager
def lock(path: Path, patience_s: float, refusal: Callable[[str], StocktakeError]) -> Iterator[int]:
    """Holds the lock file `path`, in a private directory that is made where it is missing; yields
    its descriptor.

    After `patience_s` raises what `refusal` makes of the holder's process id.
    """
    descriptor = _open(path)
    try:
        deadline = time.monotonic() + patience_s
        while not _taken(descriptor):
            if time.monotonic() >= deadline:
                raise refusal(os.pread(descriptor, 20, 0).decode() or "unknown")
            time.sleep(_POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUnusable(
            f"cannot write in {path.parent}: {error.strerror}; check data_dir and its owner"
        ) from None


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
