"""The only module that speaks HTTP to receivers, and to no address they may not have."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
)
_CAUGHT = tuple(kind for kind, _, _ in _FAULTS)


def resolve(host: str, port: int) -> list[str]:
    """Every address of a host, as the system resolves it."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


@cache
def _public_trust() -> ssl.SSLContext:
    # Building one takes 70 ms, so all senders share it.
    return httpx.create_ssl_context(trust_env=False)


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
        self._network = _CheckedNetwork(resolve, private=endpoint.allow_private_networks)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trust() if self._address.startswith("https:") else None,
            max_connections=endpoint.max_in_flight,
            network_backend=self._network,
        )

    async def send(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST `body`; one deadline holds for DNS, connect, headers and the answer's body."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._post(headers, body)
        except _CAUGHT as error:
            return self._failed(error)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()
        self._network.close()

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
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"its certificate is not valid ({cause.verify_message})"
            return Answer(fault="tls", error=f"{self._origin}: {why}")
        fault, why = next((fault, why) for kind, fault, why in _FAULTS if isinstance(error, kind))
        return Answer(fault=fault, error=f"{self._origin}: {why}")


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a name itself, checks every answer and connects to what it checked, so that DNS
    cannot change in between; the server name and the Host header stay the name."""

    def __init__(self, resolve: Resolve, *, private: bool) -> None:
        self._tcp = httpcore.AnyIOBackend()
        self._resolve = resolve
        self._private = private
        # Its own threads: a name server that hangs for one endpoint must not delay another.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="resolve")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        *others, last = await self._addresses(host, port)
        connect = partial(self._tcp.connect_tcp, port=port, socket_options=socket_options)
        for address in others:
            try:
                return await connect(address, timeout=_NEXT_ADDRESS_S)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await connect(last, timeout=timeout)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _addresses(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.run_in_executor(self._threads, self._resolve, host, port)
        except (OSError, UnicodeError) as error:
            raise _Unresolved(host) from error
        if not addresses:
            raise _Unresolved(host)
        if not all(is_allowed(address, private=self._private) for address in addresses):
            raise _Blocked(host)
        return addresses


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
