"""Measures deliveries against their bounds: python deliveries.py [PART…] [--directory DISK].

The receiver is a process of its own on loopback; the state store is SQLite with synchronous=FULL
in DISK (name a real disk: in memory a commit waits for nothing). Exits with 1 if a bound is missed.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from itertools import repeat
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]  # a checkout that is not installed

from letterbox import Letter, letterbox  # noqa: E402 - found through the line above
from receivers import SECRET, STORE, endpoint, event  # noqa: E402
from standardwebhooks import Webhook  # noqa: E402
from test_deliver_kills import FULL, killed, states_in  # noqa: E402

from worker import broker, clock, relay  # noqa: E402
from worker.deliver import deliver  # noqa: E402
from worker.queues import application  # noqa: E402
from worker.relay import Log  # noqa: E402
from worker.sender import Sender  # noqa: E402
from worker.settings import Endpoint, load  # noqa: E402
from worker.state import connect, connect_state  # noqa: E402
from worker.tasks import DELIVER, wake  # noqa: E402

HANG_S = 60.0
DEADLINE_S = 1.0  # of the bad answers: each takes as long
HEAD = b"HTTP/1.1 200 OK\r\n"


def line(what: str, value: float, unit: str, bound: str, kept: bool) -> bool:
    """Print one figure with its bound beside it."""
    print(f"{what:<58} {value:>9.3f} {unit:<5} {bound:<9} {'ok' if kept else 'MISSED'}", flush=True)
    return kept


# How many a second


def throughput(disk: Path, events: int = 1000, count: int = 10) -> bool:
    """Claim, sign, send and record as fast as it goes: the deliverer here, the receiver apart."""
    engine = connect(f"sqlite:///{disk}/throughput.db")
    with letterbox() as box:
        to = [endpoint(f"e{number}", f"{box.url}/e{number}") for number in range(count)]
        relay.register(engine, to, STORE, 0, clock.now())
        made = [event(number + 1, f"ins_{number}") for number in range(events)]
        relay.relay(engine, to, Log(STORE, events, made), clock.now())
        began, used = time.perf_counter(), time.process_time()
        done = deliver(engine, to, stop=threading.Event())
        rate = done.delivered / (time.perf_counter() - began)
        cpu_ms = (time.process_time() - used) / done.delivered * 1000
    engine.dispose()
    total = events * count
    verified = sum(verifies(letter) for letter in box.letters)
    name = f"{total} deliveries to {count} endpoints, end to end"
    line("  processor time of the deliverer for each", cpu_ms, "ms", "", True)
    return all(
        (
            line(name, rate, "/s", ">= 400", rate >= 400 and done.delivered == total),
            line(f"signatures that verify, of {total}", verified, "", "all", verified == total),
        )
    )


def verifies(letter: Letter) -> bool:
    """Whether the library of Standard Webhooks accepts a request; it raises if not."""
    Webhook(SECRET).verify(letter.body, letter.headers)
    return True


# How soon


def promptness(disk: Path) -> bool:
    """50 events a second in ten commits, each of which wakes the deliver worker of Celery."""
    delays = delays_of(disk / "prompt", ["crm"], commits=100, size=5, every_s=0.1)
    name = "event -> 2xx at 50 a second: p50, the worker woken"
    p50 = statistics.median(delays)
    line("  and the 99th of a hundred", percentile(delays, 99), "s", "", True)
    return line(name, p50, "s", "< 1", p50 < 1)


def fairness(disk: Path) -> bool:
    """Ten endpoints of which one never answers: how soon the other nine have theirs."""
    names = ["silent", *(f"e{number}" for number in range(9))]
    delays = delays_of(disk / "fair", names, commits=200, size=2, every_s=0.1)
    p99 = percentile(delays, 99)
    line("  and half of them", statistics.median(delays), "s", "", True)
    name = "event -> 2xx, nine endpoints beside a silent one: p99"
    return line(name, p99, "s", "< 2", p99 < 2)


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def delays_of(
    disk: Path, names: Sequence[str], commits: int, size: int, every_s: float
) -> list[float]:
    """Seconds from the commit of each event to its arrival, at every endpoint that answers."""
    disk.mkdir()
    committed: dict[str, float] = {}
    with letterbox() as box, at_work(disk, box.url, names) as (engine, to, wake_up):
        for commit in range(commits):
            due_at = time.monotonic() + every_s
            first = commit * size + 1
            made = [event(number, f"ins_{number}") for number in range(first, first + size)]
            relay.relay(engine, to, Log(STORE, first + size - 1, made), clock.now())
            committed |= dict.fromkeys((each.event_id for each in made), time.time())
            wake_up()
            time.sleep(max(0.0, due_at - time.monotonic()))
        answering = len(names) - ("silent" in names)
        heard = answering * commits * size
        database = disk / "data/private/state.db"
        until(lambda: states_in(database)["delivered"] == heard + answering)
    taken = [letter for letter in box.letters if letter.status == 204 and letter.id in committed]
    assert len({(letter.path, letter.id) for letter in taken}) == heard
    return [letter.at - committed[letter.id] for letter in taken]


@contextmanager
def at_work(disk: Path, url: str, names: Sequence[str]) -> Iterator[tuple]:  # type: ignore[type-arg]
    """A broker and the deliver worker as the daemon runs them; what a commit needs of both."""
    lines = ['[[sources]]\nname = "voice"\ndialect = "aeontel"']
    lines += ['base_url = "http://127.0.0.1:1"\ntoken = "t0ken"\n']
    for name in names:
        lines += [f'[[endpoints]]\nname = "{name}"\nurl = "{url}/{name}"\nsecrets = ["{SECRET}"]']
        lines += ["allow_http = true\nallow_private_networks = true\n"]
    (disk / "stocktake.toml").write_text("\n".join(lines))
    settings = load(disk / "stocktake.toml", {})
    engine, to = connect_state(settings), settings.endpoints
    relay.register(engine, to, STORE, 0, clock.now())
    app = application(settings, threading.Event())
    environ = {**os.environ, "STOCKTAKE_CONFIG": str(disk / "stocktake.toml")}
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    options = ["-A", "worker.app", "worker", "-Q", "deliver", "-P", "solo", "--without-gossip"]
    options += ["--without-mingle", "--without-heartbeat"]
    with (
        running(broker.command(settings.broker_socket)),
        running([sys.executable, "-m", "celery", *options], cwd=disk, env=environ),
    ):
        until(lambda: broker.answers(settings.broker_socket))
        # The worker is up when it has sent this.
        relay.announce(engine, to, "ntc_1", "webhook.test", None, {}, clock.now())
        until(lambda: states_in(disk / "data/private/state.db")["delivered"] > 0)
        yield engine, to, lambda: wake(app, DELIVER)
    engine.dispose()


@contextmanager
def running(command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def until(holds: Callable[[], bool]) -> None:
    hung_at = time.monotonic() + HANG_S
    while not holds():
        assert time.monotonic() < hung_at, "it hangs"
        time.sleep(0.02)


# Bad answers


def bomb() -> Iterator[bytes]:
    """200 MB of zeros, zipped."""
    packer = zlib.compressobj(wbits=31)
    for _ in range(200):
        yield packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)


# The head, the pieces that follow it, and the seconds between them.
BAD: dict[str, tuple[bytes, Callable[[], Iterator[bytes]], float]] = {
    "headers that drip": (HEAD, lambda: repeat(b"x-tar: pit\r\n"), 0.05),
    "a body that drips": (HEAD + b"content-length: 100000\r\n\r\n", lambda: repeat(b"."), 0.05),
    "early hints without end": (b"", lambda: repeat(b"HTTP/1.1 103 Hints\r\n\r\n"), 0.0),
    "a body without end": (HEAD + b"\r\n", lambda: repeat(b"x" * 65536), 0.0),
    "a bomb of 200 MB": (HEAD + b"content-encoding: gzip\r\n\r\n", bomb, 0.0),
    "headers of 5 MB": (HEAD + b"x-long: ", lambda: repeat(b"x" * 1000, 5000), 0.0),
    "an answer that never begins": (b"", lambda: repeat(b""), 0.05),
}


def pour(bad: str) -> None:
    """Answer the first connection well and all others badly, until stdin ends."""
    head, pieces, every_s = BAD[bad]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        with listening.accept()[0] as first:
            first.recv(65536)
            first.sendall(b"HTTP/1.1 204 Taken\r\nconnection: close\r\n\r\n")
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(head)
                    for piece in pieces():
                        connection.sendall(piece)
                        time.sleep(every_s)
                except OSError:
                    continue


def suffer(url: str) -> None:
    """Send two requests, of which the second is measured: the seconds and memory it took."""
    to: Endpoint = endpoint(url=url)

    async def send() -> tuple[float, int, str]:
        async with aclosing(Sender(to, deadline_s=DEADLINE_S)) as sender:
            assert (await sender.send({}, b"{}")).status == 204
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            answer = await sender.send({}, b"{}")
            took = time.monotonic() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return took - DEADLINE_S, grown, answer.fault or str(answer.status)

    print(json.dumps(asyncio.run(send())))


def endurance(_disk: Path) -> bool:
    """Answers that are meant to hold the sender up: sender and receiver in processes apart."""
    return all([endured(bad) for bad in BAD])


def endured(bad: str) -> bool:
    pouring = [sys.executable, __file__, "--pour", bad]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(pouring, **pipes) as receiver:  # type: ignore[call-overload]
        url = f"http://127.0.0.1:{int(receiver.stdout.readline())}/"
        suffering = [sys.executable, __file__, "--suffer", url]
        said = subprocess.run(suffering, check=True, stdout=subprocess.PIPE).stdout
        receiver.stdin.close()
    over_s, grown, outcome = json.loads(said)
    name, unit = f"{bad} ({outcome})", 1024 * (1 if sys.platform == "linux" else 1024)
    return all(
        (
            line(f"{name}: after the deadline", max(0.0, over_s), "s", "< 0.5", over_s < 0.5),
            line(f"{name}: memory", grown / unit, "MB", "< 5", grown / unit < 5),
        )
    )


# Kills


def survival(disk: Path) -> bool:
    """The deliverer killed again and again, each a process, 10 % of the answers 503."""
    directory = disk / "kills"
    directory.mkdir()
    got = killed(directory, FULL)
    said = f"of {FULL.deliveries}, {got.kills} kills, arrived"
    return all(
        (
            line(said, got.arrived, "", "all", got.arrived == FULL.deliveries),
            line("  in flight at the kills", got.in_flight, "", "", True),
            line("  requests too many", got.extra, "", "<= them", got.extra <= got.in_flight),
            line("  requests out of order", got.inversions, "", "0", not got.inversions),
        )
    )


PARTS = {part.__name__: part for part in (throughput, promptness, fairness, endurance, survival)}


def main() -> int:
    """Print one line per figure; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))  # noqa: S108
    parser.add_argument("--pour", help=argparse.SUPPRESS)
    parser.add_argument("--suffer", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.pour or given.suffer:
        pour(given.pour) if given.pour else suffer(given.suffer)
        return 0
    kept = True
    with tempfile.TemporaryDirectory(dir=given.directory) as disk:
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, state on {disk}")
        for name in given.parts or PARTS:
            print(f"\n{PARTS[name].__doc__}")
            kept &= PARTS[name](Path(disk))
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
