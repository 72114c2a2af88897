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


class Fuse:
    """Counts the steps of a restore, which are the lines that call something, and kills this
    process at one of them."""

    def __init__(self, deadly: int) -> None:
        self.deadly, self.steps = deadly, dict[int, None]()

    def __call__(self, frame: FrameType, what: str, _argument: object) -> None:
        caller = frame.f_back
        if what != "call" or not caller or caller.f_globals.get("__name__") != "worker.restore":
            return
        self.steps[caller.f_lineno] = None
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
