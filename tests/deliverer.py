"""Delivers until nothing is open: python deliverer.py STATE_URL LETTERBOX_URL ENDPOINTS CLOCK_FILE.

Retries are not waited for: when nothing is due, the clock, which is in a file so that it outlives
this process, goes forward by an hour.
"""

import sys
import threading
from datetime import timedelta
from pathlib import Path

from receivers import endpoint

from worker import clock
from worker.deliver import deliver
from worker.settings import Endpoint
from worker.state import connect


def endpoints(url: str, count: int) -> list[Endpoint]:
    """So many endpoints at one letterbox."""
    return [endpoint(f"e{number}", f"{url}/e{number}") for number in range(count)]


def main(state_url: str, url: str, count: str, clock_file: str) -> None:
    """Deliver, again and again."""
    engine, hours = connect(state_url), Path(clock_file)
    while True:
        ahead = timedelta(hours=int(hours.read_text()))
        done = deliver(
            engine,
            endpoints(url, int(count)),
            stop=threading.Event(),
            now=lambda: clock.now() + ahead,  # noqa: B023 - used up before the next turn
        )
        if not done.pending:
            return
        hours.write_text(str(int(hours.read_text()) + 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
