"""A light webhook receiver that runs in a process of its own, so that it takes no time of ours.

`python letterbox.py SHARE`: prints its port, answers that share of its requests with 503 and the
others with 204, a path that begins with /silent never; when stdin ends, prints what arrived.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from random import Random

BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
TAKEN = b"HTTP/1.1 204 Taken\r\n\r\n"


@dataclass(frozen=True)
class Letter:
    """One request as it arrived; header names are lower case."""

    at: float  # seconds since the epoch
    path: str
    headers: dict[str, str]
    body: str
    status: int | None

    @property
    def id(self) -> str:
        """The event or notice."""
        return self.headers["webhook-id"]


@dataclass
class Letterbox:
    """The receiver, as the process that started it sees it."""

    url: str
    letters: list[Letter] = field(default_factory=list)  # once the block has ended


@contextmanager
def letterbox(busy: float = 0.0) -> Iterator[Letterbox]:
    """A receiver in its own process, until the end of the block."""
    command = [sys.executable, __file__, str(busy)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        box = Letterbox(f"http://127.0.0.1:{int(process.stdout.readline())}")
        try:
            yield box
        finally:
            process.stdin.close()
            box.letters += [Letter(**json.loads(line)) for line in process.stdout]


class Reading(asyncio.Protocol):
    """One connection: requests one after the other, each with its length."""

    def __init__(self, letters: list[Letter], busy: float, chance: Random) -> None:
        self.letters, self.busy, self.chance = letters, busy, chance
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.unread += data
        head, end, rest = self.unread.partition(b"\r\n\r\n")
        if not end:
            return
        request, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        length = int(headers["content-length"])
        if len(rest) >= length:
            self.unread = rest[length:]
            self.take(request.split(" ")[1], headers, rest[:length].decode())

    def take(self, path: str, headers: dict[str, str], body: str) -> None:
        silent = path.startswith("/silent")
        status = None if silent else 503 if self.chance.random() < self.busy else 204
        self.letters.append(Letter(time.time(), path, headers, body, status))
        if status:
            self.transport.write(BUSY if status == 503 else TAKEN)  # type: ignore[attr-defined]


async def main(busy: float) -> None:
    """Receive until stdin ends."""
    letters, chance = list[Letter](), Random(1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Reading(letters, busy, chance), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for letter in letters:
        print(json.dumps(asdict(letter)))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
