"""Syncs as told on stdin, each in a process of its own that kills itself at the n-th call.

`python crasher.py CONFIG`; a line is a source, a mode and a number of calls (0: it lives); the
answer is how the process ended (its exit code, or minus the signal), and how many calls there were.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from worker.models import Mode
from worker.settings import Settings, load
from worker.state import connect_state
from worker.sync import Wish, sync

# Where something may be half done: not in what reads rows and pages, of which there are thousands.
STEPS = (
    "worker.aftermath", "worker.harvest", "worker.knowledge", "worker.publishing", "worker.relay",
    "worker.spool", "worker.state", "worker.sync", "worker.warehouse",
)  # fmt: skip


class Fuse:
    """Counts the calls into STEPS, and kills this process at the last one it allows."""

    def __init__(self, allowed: int) -> None:
        self.allowed, self.calls = allowed, 0

    def __call__(self, frame: FrameType, what: str, _argument: object) -> None:
        if what != "call" or not frame.f_globals.get("__name__", "").startswith(STEPS):
            return
        self.calls += 1
        if self.calls == self.allowed:
            os.kill(os.getpid(), signal.SIGKILL)


def run(settings: Settings, source: str, mode: Mode, allowed: int) -> int:
    """Syncs until the fuse blows; returns how many calls there were."""
    fuse = Fuse(allowed)
    threading.setprofile(fuse)
    sys.setprofile(fuse)
    engine = connect_state(settings)
    sync(settings, engine, settings.source(source), Wish(mode), threading.Event())
    sys.setprofile(None)
    return fuse.calls


def apart(settings: Settings, source: str, mode: Mode, allowed: int) -> tuple[int, int]:
    """Runs in a child: nothing that must not be inherited is open before the fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        calls = run(settings, source, mode, allowed)
        os.write(writing, str(calls).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    calls = int(os.read(reading, 20) or b"0")
    os.close(reading)
    return os.waitstatus_to_exitcode(status), calls


def main() -> None:
    settings = load(Path(sys.argv[1]), {})
    for line in sys.stdin:
        source, mode, allowed = line.split()
        code, calls = apart(settings, source, "full" if mode == "full" else "incremental",
                            int(allowed))  # fmt: skip
        print(code, calls, flush=True)


if __name__ == "__main__":
    main()
