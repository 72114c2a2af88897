"""A webhook receiver on 127.0.0.1 for tests, and the values that deliveries are made of."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any

from worker.models import Event
from worker.settings import Endpoint

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "whsec_" + "a" * 43 + "="
STORE = "st_1"


@dataclass(frozen=True)
class Received:
    """One request as it arrived; header names are lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


Reply = Callable[[BaseHTTPRequestHandler, Received], None]


def replying(status: int, body: bytes = b"", **headers: str) -> Reply:
    """An answer of `status`; header names may be written with underscores."""

    def reply(handler: BaseHTTPRequestHandler, _received: Received) -> None:
        handler.send_response(status)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


class Receiver:
    """What a receiver got, and how it answers: `reply` may be changed at any time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reply: Reply = replying(204)
        self.received: list[Received] = []
        self.released = threading.Event()

    def hang(self, handler: BaseHTTPRequestHandler, _received: Received) -> None:
        """Answer nothing until the receiver is closed."""
        handler.close_connection = True
        self.released.wait()


@contextmanager
def receiving(trust: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver that runs until the end of the block; with `trust`, it speaks TLS."""
    server = _Server(("127.0.0.1", 0), _Handler)
    scheme = "http"
    if trust is not None:
        scheme = "https"
        server.socket = trust.wrap_socket(server.socket, server_side=True)
    receiver = server.receiver = Receiver(f"{scheme}://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    receiver: Receiver
    daemon_threads = False  # server_close waits for them

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients here break off on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 5

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(self.path, headers, body)
        receiver = self.server.receiver  # type: ignore[attr-defined]
        receiver.received.append(received)
        receiver.reply(self, received)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def endpoint(
    name: str = "crm", url: str = "https://crm.example.com/hook", **fields: Any
) -> Endpoint:
    """An endpoint as configured; http and private networks are allowed, as tests need them."""
    allowed = {"allow_http": True, "allow_private_networks": True}
    return Endpoint.model_validate(
        {"name": name, "url": url, "secrets": (SECRET,), **allowed, **fields}
    )


def event(sequence: int = 1, install: str | None = "ins_1", **fields: Any) -> Event:
    """An event of an install, upgraded from 1.0 to 1.1 unless `fields` say otherwise."""
    row = {"install_id": install, "integration_id": "int_1", "account_name": "Ø & Co"}
    values: dict[str, Any] = {
        "event_id": f"evt_{sequence}",
        "type": "install.upgraded",
        "source": "voice",
        "integration_id": "int_1",
        "revision": 2,
        "occurred_at": None,
        "detected_at": NOON,
        "deletion_inferred": False,
        "baseline": False,
        "changed_fields": ("version_id",),
        "before": MappingProxyType({**row, "version_id": "1.0"}),
        "after": {**row, "version_id": "1.1", "state": "active"},
        "run_id": "run_1",
    }
    return Event(sequence=sequence, install_id=install, **{**values, **fields})
