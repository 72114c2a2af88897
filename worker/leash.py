"""`python -m worker.leash PID COMMAND…`: runs COMMAND, which ends when process PID does.

Whoever supervises may be killed with -9 and end nobody; then the kernel does it (prctl(2),
PR_SET_PDEATHSIG, which survives the exec), or where there is no such thing this process.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.5


def main(parent: int, command: list[str]) -> int:
    """Becomes `command` on Linux; elsewhere waits for it and returns its exit code."""
    if sys.platform == "linux":
        # Killed, not asked: no step of ours needs a good end, and nobody would be there to insist.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.execvp(command[0], command)  # noqa: S606 - our own commands
        return 1  # it died before the kernel knew of us
    return _guarded(parent, command)


def _guarded(parent: int, command: list[str]) -> int:
    with subprocess.Popen(command) as process:  # noqa: S603 - our own commands
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda number, _frame: process.send_signal(number))
        while process.poll() is None:
            if os.getppid() != parent:
                process.kill()
            time.sleep(_POLL_S)
        return process.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
