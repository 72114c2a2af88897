"""A server that answers with what it was told, secrets and all, in every way that is wrong."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def _http(status: str, body: str, **headers: str) -> bytes:
    lines = {"content-length": str(len(body.encode())), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\nconnection: close\r\n{head}\r\n{body}".encode()


def manners(echo: str) -> Mapping[str, bytes]:
    """Answers that quote `echo`, by the first part of the path that asks for them."""
    line = echo.replace("\r", " ").replace("\n", " ")
    return {
        "html": _http("200 OK", f"<!doctype html><p>{echo}", content_type="text/html"),
        "cut": _http("200 OK", f'{{"data": ["{line}'),
        "types": _http("200 OK", f'{{"data": {{"id": "{line}"}}, "pageInfo": "{line}"}}'),
        "unauthorized": _http("401 Unauthorized", echo, www_authenticate=line),
        "forbidden": _http("403 Forbidden", echo),
        "missing": _http("404 Not Found", echo),
        "limited": _http("429 Too Many Requests", echo, retry_after=line),
        "broken": _http("500 Internal Server Error", echo),
        "moved": _http("302 Found", echo, location=f"http://127.0.0.1:1/{line}"),
        "gone": _http("410 Gone", echo),
        "fine": _http("200 OK", echo),
        "noise": f"{line}\r\n{echo}".encode(),
        "header": f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode(),
        "closed": b"",
    }


class Parrot(ThreadingHTTPServer):
    """`url`/<manner>/… answers in that manner; `slow` does not answer at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.released = threading.Event()
        self.asked: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients break off."""


class _Handler(BaseHTTPRequestHandler):
    server: Parrot

    def do_GET(self) -> None:
        manner = self.path.strip("/").partition("/")[0]
        self.server.asked.add(manner)
        if manner == "slow":
            self.server.released.wait()
            return
        self.wfile.write(manners(f"{self.requestline}\r\n{self.headers}")[manner])

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def parroting() -> Iterator[Parrot]:
    """A parrot that answers until the end of the block."""
    with Parrot() as parrot:
        thread = threading.Thread(target=parrot.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield parrot
        finally:
            parrot.released.set()
            parrot.shutdown()
            thread.join()
