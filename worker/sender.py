"""The only module that speaks HTTP to receivers, and to no address they may not have."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import cache, partial
from typing import Any

import httpcore
import httpx

from worker.addresses import is_allowed
from worker.outbound import Answer, Fault
from worker.settings import Endpoint

DEADLINE_S = 15.0
KEPT = 4096
# With more than one address to try, none but the last may use up the whole deadline.
_NEXT_ADDRESS_S = 4.0
# Shorter than the 5 s of many servers: a request that meets their closing is lost.
_KEPT_ALIVE_S = 4.0

Resolve = Callable[[str, int], list[str]]


class _Blocked(httpcore.ConnectError):
    """The name, or one of its answers, is no address for a webhook."""


class _Unresolved(httpcore.ConnectError):
    """The name has no address."""


# From the special to the general.
_FAULTS: tuple[tuple[type[Exception], Fault, str], ...] = (
    (_Blocked, "blocked", "its address is not allowed for webhooks"),
    (httpx.InvalidURL, "blocked", "its address is not valid"),
    (_Unresolved, "dns", "its name does not resolve"),
    (TimeoutError, "deadline", "no complete answer within the deadline"),
    (httpcore.TimeoutException, "deadline", "no complete answer within the deadline"),
    (httpcore.ConnectError, "connect", "cannot connect"),
    (httpcore.NetworkError, "reset", "the connection broke"),
    (httpcore.ProtocolError, "protocol", "the answer is no HTTP"),
    (OSError, "reset", "the connection broke"),  # TLS, after its handshake
    # Ours or a library's defect: it must not stop what goes to other endpoints.
    (Exception, "protocol", "a request cannot be made of it, or its answer not be read"),
)


def resolve(host: str, port: int) -> list[str]:
    """Every address of a host, as the system resolves it."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


@cache
def _public_trust() -> ssl.SSLContext:
    # Building one takes 70 ms, so all senders share it.
    context = httpx.create_ssl_context(trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Steps:
    """When each step of a request began: it ended where the next one did."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}

    def begin(self, step: str) -> None:
        """The first time counts, should it begin again."""
        self._began.setdefault(step, time.monotonic())

    def seconds(self) -> dict[str, float]:
        """How long each step took; the last one ends now."""
        _, *ends = *self._began.values(), time.monotonic()
        pairs = zip(self._began.items(), ends, strict=True)
        return {step: ended - began for (step, began), ended in pairs}


# Of the request that the running task makes: the network below it has no other way to know.
_steps: ContextVar[_Steps] = ContextVar("steps")


class Sender:
    """A small client of one endpoint. Knows nothing of proxies, redirects or compression."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        deadline_s: float = DEADLINE_S,
        resolve: Resolve = resolve,
        trust: Callable[[], ssl.SSLContext] = _public_trust,
    ) -> None:
        self._address = endpoint.url.get_secret_value()
        self._origin = endpoint.origin
        self._deadline_s = deadline_s
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trust() if self._address.startswith("https:") else None,
            max_connections=endpoint.max_in_flight,
            keepalive_expiry=_KEPT_ALIVE_S,
            network_backend=_CheckedNetwork(resolve, private=endpoint.allow_private_networks),
        )

    async def send(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST `body`; one deadline holds for DNS, connect, headers and the answer's body."""
        steps = _Steps()
        _steps.set(steps)
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await self._post(headers, body)
        except Exception as error:
            answer = self._failed(error)
        return replace(answer, phases=steps.seconds())

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def _post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        address = httpx.URL(self._address)
        url = httpcore.URL(
            scheme=address.raw_scheme,
            host=address.raw_host,
            port=address.port,
            target=address.raw_path,
        )
        sent = [(b"host", address.netloc), *_encoded(headers)]
        async with self._pool.stream("POST", url, headers=sent, content=body) as response:
            kept = await _start_of(response)
        status = response.status
        return Answer(
            status=status,
            error=None if 200 <= status < 300 else f"{self._origin} answered {status}",
            retry_after=_header(response.headers, b"retry-after"),
            body=kept,
        )

    def _failed(self, error: Exception) -> Answer:
        # Our own words: what libraries say may quote the path, which can be a secret.
        cause = error.__context__  # httpcore's pool drops the `__cause__`
        if isinstance(cause, ssl.SSLError):
            return Answer(fault="tls", error=f"{self._origin}: {_refusal(cause)}")
        fault, why = next((fault, why) for kind, fault, why in _FAULTS if isinstance(error, kind))
        return Answer(fault=fault, error=f"{self._origin}: {why}")


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a name itself, checks every answer and connects to what it checked, so that DNS
    cannot change in between; the server name and the Host header stay the name."""

    def __init__(self, resolve: Resolve, *, private: bool) -> None:
        self._tcp = httpcore.AnyIOBackend()
        self._resolve = resolve
        self._private = private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        _steps.get().begin("dns")
        *others, last = await self._addresses(host, port)
        _steps.get().begin("connect")
        connect = partial(self._tcp.connect_tcp, port=port, socket_options=socket_options)
        for address in others:
            try:
                return _TimedStream(await connect(address, timeout=_NEXT_ADDRESS_S))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return _TimedStream(await connect(last, timeout=timeout))

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = await _apart(partial(self._resolve, host, port))
        except (OSError, UnicodeError) as error:
            raise _Unresolved(host) from error
        if not addresses:
            raise _Unresolved(host)
        if not all(is_allowed(address, private=self._private) for address in addresses):
            raise _Blocked(host)
        return addresses


class _TimedStream(httpcore.AsyncNetworkStream):
    """A connection that notes when the steps of the request on it begin, and sends headers and
    body as one: they come in two writes, of which each costs a system call and a packet."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._unsent = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        steps = _steps.get()
        if self._unsent:
            steps.begin("send")
            unsent, self._unsent = self._unsent, b""
            with suppress(httpcore.WriteError):  # who closed before it read all may have answered
                await self._stream.write(unsent, timeout)
        steps.begin("wait")
        data = await self._stream.read(max_bytes, timeout)
        steps.begin("read")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unsent += buffer

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        _steps.get().begin("tls")
        try:
            return _TimedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except asyncio.CancelledError:  # at the deadline; httpcore closes it after errors alone
            await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _apart(resolve: Callable[[], list[str]]) -> asyncio.Future[list[str]]:
    """What `resolve` returns, from a thread of its own: a name server that hangs must delay
    neither another look-up nor the end of the process, as one of a pool would."""
    answer: Future[list[str]] = Future()
    answer.set_running_or_notify_cancel()  # who no longer waits for it cannot take it back

    def run() -> None:
        try:
            answer.set_result(resolve())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    return asyncio.wrap_future(answer)


def _refusal(error: ssl.SSLError) -> str:
    """Why a TLS handshake failed, in OpenSSL's words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    reason = (error.reason or "unknown reason").replace("_", " ").lower()
    return f"its TLS handshake failed ({reason})"


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _start_of(response: httpcore.Response) -> bytes:
    """The first 4 KiB as they came, not unzipped; leaving a longer answer closes its connection."""
    kept = b""
    async for chunk in response.aiter_stream():
        kept += chunk[: KEPT - len(kept)]
        if len(kept) >= KEPT:
            break
    return kept


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    found = (value for key, value in headers if key.lower() == name)
    value = next(found, None)
    return None if value is None else value.decode("latin-1")
