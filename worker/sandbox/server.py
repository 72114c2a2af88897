"""The thin HTTP shell: one port on loopback for both platforms, a receiver and the controls."""

import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from worker import clock
from worker.sandbox import aeontel, gestal
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.calls import Answer, Call, refused
from worker.sandbox.control import Log, control
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.receiver import Received, Receiver
from worker.sandbox.world import World

Handle = Callable[[Call, datetime], Answer]
Now = Callable[[], datetime]
NOTICE_S = 0.02  # how soon the accepting thread notices that it should stop


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running sandbox: its address, and what every mount was asked for."""

    url: str
    requests: Log
    lock: Lock  # to be held by who changes a world while clients are at work

    def at(self, mount: str) -> str:
        """The base URL of `gestal`, `aeontel` or `hooks`."""
        return f"{self.url}/{mount}"


@dataclass(frozen=True, slots=True)
class Listening:
    """A running receiver."""

    url: str
    receiver: Receiver

    @property
    def received(self) -> list[Received]:
        """Every request so far, oldest first."""
        return self.receiver.received


@contextmanager
def serve(
    gestal_world: GestalWorld | None = None,
    aeontel_world: AeontelWorld | None = None,
    receiver: Receiver | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    now: Now = clock.now,
) -> Iterator[Sandbox]:
    """Serve what is given under /gestal, /aeontel and /hooks, and /control beside it."""
    mounts: dict[str, Handle] = {}
    worlds: dict[str, World] = {}
    if gestal_world is not None:
        worlds["gestal"] = gestal_world
        mounts["gestal"] = partial(gestal.handle, gestal_world)
    if aeontel_world is not None:
        worlds["aeontel"] = aeontel_world
        mounts["aeontel"] = partial(aeontel.handle, aeontel_world)
    if receiver is not None:
        mounts["hooks"] = receiver.handle
    log: dict[str, list[tuple[str, str]]] = {mount: [] for mount in mounts}
    mounts["control"] = lambda call, _: control(worlds, log, call)
    with _listening(_Server((host, port), mounts, log, now)) as server:
        yield Sandbox(f"http://{host}:{server.server_port}", log, server.lock)


@contextmanager
def serve_receiver(
    receiver: Receiver,
    host: str = "127.0.0.1",
    port: int = 0,
    now: Now = clock.now,
) -> Iterator[Listening]:
    """Serve a receiver alone."""
    with serve(receiver=receiver, host=host, port=port, now=now) as sandbox:
        yield Listening(sandbox.at("hooks"), receiver)


@contextmanager
def _listening(server: "_Server") -> Iterator["_Server"]:
    accepting = Thread(target=server.serve_forever, args=(NOTICE_S,), daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        server.shutdown()
        accepting.join()
        server.server_close()
        server.hang_up()


class _Server(ThreadingHTTPServer):
    """One thread per connection, one lock around everything that is asked."""

    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], mounts: Mapping[str, Handle], log: Log, now: Now
    ) -> None:
        self.mounts, self.log, self.now = mounts, log, now
        self.lock = Lock()
        self.connections: dict[Thread, socket.socket] = {}
        super().__init__(address, _Connection)

    def answer(self, call: Call) -> Answer:
        """Ask the mount that the first part of the path names."""
        mount, _, path = call.path.removeprefix("/").partition("/")
        if mount not in self.mounts:
            return refused(404, f"nothing here but {', '.join(self.mounts)}")
        inner = replace(call, path=f"/{path}")
        with self.lock:
            if mount in self.log:
                self.log[mount].append((inner.method, inner.target))
            return self.mounts[mount](inner, self.now())

    def process_request(self, request: Any, client_address: Any) -> None:
        """As the parent does, but remember the threads that live, so that none is left behind."""
        self.connections = {
            thread: s for thread, s in self.connections.items() if thread.is_alive()
        }
        arguments = (request, client_address)
        thread = Thread(target=self.process_request_thread, args=arguments, daemon=True)
        self.connections[thread] = request
        thread.start()

    def hang_up(self) -> None:
        """End the connections that clients keep alive, and wait for their threads."""
        for thread, connection in self.connections.items():
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave when it likes; everything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    """Reads calls from one connection and writes what is answered."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet

    def answer(self) -> None:
        """Answer one call."""
        answer = self.server.answer(self._call())
        if answer.reset:
            self.close_connection = True
        else:
            self._write(answer)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer

    def _call(self) -> Call:
        address = urlsplit(self.path)
        return Call(
            method=self.command,
            path=unquote(address.path),
            params=tuple(parse_qsl(address.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("content-length") or 0)),
        )

    def _write(self, answer: Answer) -> None:
        length = str(len(answer.body))
        headers = {"content-length": length, **answer.headers}
        self.send_response(answer.status)
        for name, value in headers.items():
            if answer.status != 204 or name != "content-length":  # RFC 9110, 8.6
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        self.close_connection = self.close_connection or headers["content-length"] != length

    def log_message(self, format: str, *args: Any) -> None:
        """The log of a sandbox is `Sandbox.requests`."""
