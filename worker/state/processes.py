"""Who holds a thing: a process told apart from all others, and until when it does."""

import os
import socket
from datetime import timedelta
from functools import cache
from pathlib import Path
from time import monotonic


def owner() -> str:
    """This process, told apart from every other one of every host."""
    return _process(os.getpid())


def holding(life: timedelta) -> str:
    """This process as one that holds something for `life` from now: the text to keep of it."""
    return f"{owner()}/{monotonic() + life.total_seconds():.3f}"


def shown(holder: str) -> str:
    """Who that is, for people."""
    host, process, *_ = holder.split("/")
    return f"{process} on {host}"


def is_dead(holder: str) -> bool:
    """Whether it was a process of this host that has ended (a reused pid started later)."""
    host, process, started, *_ = holder.split("/")
    return host == socket.gethostname() and _started(_pid(process)) != started


def left(holder: str) -> timedelta:
    """For how long a live process of this host still holds it; zero where only a calendar can tell.

    All processes since boot have one monotonic clock, and nobody sets it.
    """
    host, _, _, *until = holder.split("/")
    if host != socket.gethostname() or is_dead(holder):
        return timedelta()
    return timedelta(seconds=max(0.0, _number(until) - monotonic()))


def _number(until: list[str]) -> float:
    try:
        return float(until[0])
    except (IndexError, ValueError):  # an older version kept none
        return 0.0


@cache
def _process(pid: int) -> str:
    return f"{socket.gethostname()}/process {pid}/{_started(pid)}"


def _pid(process: str) -> int:
    return int(process.removeprefix("process "))


def _started(pid: int) -> str:
    """When a process of this host started, in ticks since boot; empty when there is none."""
    try:
        # Fields 3 and 22 of proc(5) stat; the command name before them may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _alive_without_proc(pid)
    return "" if fields[0] == "Z" else fields[19]  # a zombie has ended; nobody has noticed yet


def _alive_without_proc(pid: int) -> str:
    if Path("/proc").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
