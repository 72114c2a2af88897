"""Restores as told on stdin, each in a process of its own that kills itself at a given step.

`python restorer.py CONFIG BACKUP`. A line is the number of the step to die at (0: it lives). The
answer is JSON: how the process ended (its exit code, or minus the signal), and its steps so far.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from worker.restore import restore
from worker.settings import load

# Where something may be half done.
HALF_DONE = (
    "worker.backup", "worker.locks", "worker.publishing", "worker.restore", "worker.state",
    "worker.warehouse",
)  # fmt: skip


class Fuse:
    """Counts which functions were called from which lines; kills this process at one of them."""

    def __init__(self, deadly: int) -> None:
        self.deadly, self.steps = deadly, dict[tuple[str, str, int], None]()

    def __call__(self, frame: FrameType, what: str, _argument: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if what != "call" or not module.startswith(HALF_DONE):
            return
        line = frame.f_back.f_lineno if frame.f_back else 0
        self.steps[module, frame.f_code.co_name, line] = None
        if self.deadly and len(self.steps) >= self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def apart(config: Path, folder: Path, deadly: int) -> tuple[int, int]:
    """Restores in a child: nothing that must not be inherited is open before the fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        fuse, settings = Fuse(deadly), load(config, {})
        threading.setprofile(fuse)
        sys.setprofile(fuse)
        restore(settings, folder)
        sys.setprofile(None)
        os.write(writing, str(len(fuse.steps)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(said or 0)


def main() -> None:
    config, folder = map(Path, sys.argv[1:])
    for line in sys.stdin:
        print(json.dumps(apart(config, folder, int(line))), flush=True)


if __name__ == "__main__":
    main()
