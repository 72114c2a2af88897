"""`python -m worker.exporter`: what `stocktake metrics` becomes, without the weight of DuckDB."""

import logging
import os
import signal
import socket
import socketserver
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from typing import Any, Final, NoReturn

import msgspec
from prometheus_client.exposition import choose_encoder

from worker import metrics
from worker.errors import ConfigInvalid, RetryLater, StocktakeError, StoreUnusable
from worker.logs import configure
from worker.settings import Settings, environment, find, load
from worker.state import connect_state
from worker.state.looking import visited

log = logging.getLogger(__name__)

_POLL_S: Final = 0.1  # how soon a stop is noticed
_PATIENCE_S: Final = 10.0  # with a client that says nothing, or reads nothing
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets."""

    status: HTTPStatus
    type: str
    body: bytes


def become(environ: Mapping[str, str]) -> NoReturn:
    """Turns this process into the one that serves, by the configuration that `environ` names."""
    command = [sys.executable, "-m", "worker.exporter"]
    sys.stderr.flush()
    os.execve(command[0], command, dict(environ))  # noqa: S606 - ourselves


def address(settings: Settings) -> tuple[str, int]:
    """Where metrics are to be served, or ConfigInvalid."""
    if settings.metrics.address is None:
        problem = 'not set; metrics are served at host:port, such as "127.0.0.1:9464"'
        raise ConfigInvalid("[metrics] listen", [problem])
    return settings.metrics.address


def serve(settings: Settings, stop: Event) -> None:
    """Serves until `stop` is set; ConfigInvalid when the address cannot be had."""
    host, port = address(settings)
    try:
        server = Server(settings, host, port)
    except OSError as error:
        problem = f"cannot listen on {settings.metrics.listen}: {error.strerror}"
        raise ConfigInvalid("[metrics] listen", [problem]) from None
    with server:
        try:
            connect_state(settings).dispose()  # made where it is missing, as every command does it
        except (RetryLater, StoreUnusable) as error:  # as each answer will say, while it is so
            log.warning("metrics", extra={"facts": {"error": str(error)}})
        while not stop.is_set():
            server.handle_request()


def answer(settings: Settings, path: str, accept: str) -> Answer:
    """What is said at a path; 503 where something is critical, or the state store is away."""
    try:
        match path:
            case "/metrics":
                encode, type_ = choose_encoder(accept)
                with visited(settings) as engine:
                    return Answer(HTTPStatus.OK, type_, encode(metrics.registry(settings, engine)))
            case "/livez" | "/readyz":
                return _health(settings, live=path == "/livez")
    except StocktakeError as error:
        log.warning("metrics", extra={"facts": {"path": path, "error": str(error)}})
        line = {"what": "state store", "level": "critical", "detail": str(error)}
        return _lines("critical", [line])
    return Answer(HTTPStatus.NOT_FOUND, _TEXT, b"here are /metrics, /livez and /readyz\n")


def _health(settings: Settings, *, live: bool) -> Answer:
    # Here, because it loads DuckDB, which metrics alone do not need.
    from worker.health import health, worst

    with visited(settings) as engine:
        lines = health(settings, engine, live=live)
    return _lines(worst(*(line.level for line in lines)), [asdict(line) for line in lines])


def _lines(level: str, lines: list[dict[str, Any]]) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if level == "critical" else HTTPStatus.OK
    return Answer(status, _JSON, msgspec.json.encode({"level": level, "lines": lines}))


class Server(ThreadingHTTPServer):
    """A thread for each client: who is slow holds up nobody, and nobody waits for it at the end."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    timeout = _POLL_S

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.settings = settings
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks a name server who we are
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Called where an exception is handled. That a client went away is no defect of ours.
        if not isinstance(sys.exc_info()[1], OSError):
            log.exception("metrics")


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self._say(answer(self.server.settings, path, self.headers.get("accept", "")))

    def do_POST(self) -> None:
        self._say(Answer(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"ask with GET or HEAD\n"))

    do_HEAD = do_GET
    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def _say(self, said: Answer) -> None:
        self.send_response(said.status)
        self.send_header("content-type", said.type)
        self.send_header("content-length", str(len(said.body)))
        if said.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.body)

    def version_string(self) -> str:
        return "stocktake"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: that somebody looked is no news."""


def main() -> None:
    """The process: its configuration, its signals, its exit code."""
    stop, environ = Event(), environment()
    for each in (signal.SIGINT, signal.SIGTERM):
        # The main thread never waits for `stop`, so that to set it here cannot block.
        signal.signal(each, lambda _signal, _frame: stop.set())
    try:
        settings = load(find(None, environ), environ)
        configure(settings.log.format, settings.log.level)
        serve(settings, stop)
    except StocktakeError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
