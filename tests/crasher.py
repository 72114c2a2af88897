"""Syncs as told on stdin, each in a process of its own that kills itself at a given step.

`python crasher.py CONFIG`. A line is JSON: source, mode, and the step to die at (null: it lives).
The answer is JSON too: how the process ended (its exit code, or minus the signal), and its steps.
"""

import json
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
HALF_DONE = (
    "worker.aftermath", "worker.harvest", "worker.knowledge", "worker.publishing", "worker.relay",
    "worker.spool", "worker.state", "worker.sync", "worker.warehouse",
)  # fmt: skip


class Fuse:
    """Keeps which function was called from which line, and kills this process at one of them."""

    def __init__(self, deadly: str | None) -> None:
        self.deadly, self.steps = deadly, dict[str, None]()

    def __call__(self, frame: FrameType, what: str, _argument: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if what != "call" or not module.startswith(HALF_DONE):
            return
        line = frame.f_back.f_lineno if frame.f_back else 0
        step = f"{module}.{frame.f_code.co_name} from {line}"
        if step == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps[step] = None


def run(settings: Settings, source: str, mode: Mode, deadly: str | None) -> list[str]:
    """Syncs until the fuse blows; returns the steps, each once."""
    fuse = Fuse(deadly)
    threading.setprofile(fuse)
    sys.setprofile(fuse)
    engine = connect_state(settings)
    sync(settings, engine, settings.source(source), Wish(mode), threading.Event())
    sys.setprofile(None)
    return list(fuse.steps)


def apart(settings: Settings, source: str, mode: Mode, deadly: str | None) -> tuple[int, list[str]]:
    """Runs in a child: nothing that must not be inherited is open before the fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        steps = run(settings, source, mode, deadly)
        with open(writing, "w") as answer:
            json.dump(steps, answer)
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(said or "[]")


def main() -> None:
    settings = load(Path(sys.argv[1]), {})
    for line in sys.stdin:
        print(json.dumps(apart(settings, *json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
