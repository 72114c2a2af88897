"""Speaks HTTP to sources: login, retries, rate limits. The only module that uses httpx for them."""

import base64
import random
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

import httpx
import msgspec

from worker import __version__, clock
from worker.budget import Budget
from worker.errors import (
    NotListed,
    RateLimited,
    SourceDown,
    SourceRefused,
    Stopped,
    UnusableBody,
)
from worker.models import Request, Response
from worker.settings import Source

T = TypeVar("T")

ATTEMPTS = 5
LONGEST_LIMIT = timedelta(hours=24)  # a Retry-After beyond it is taken for a mistake and cut
FIRST_LIMIT_S = 60.0  # where neither the source nor its documentation says how long to wait
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


@dataclass(frozen=True, slots=True)
class Manners:
    """What the client must know of a dialect: how to log in, what to accept, how long 429 lasts."""

    accept: str
    login: Request | None
    read_token: Callable[[bytes], str]
    penalty_s: float | None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and the function that makes a value of its answer (UnusableBody: ask again);
    `missing` makes one of a 404, where that is an answer and not an error."""

    request: Request
    read: Callable[[bytes], T]
    missing: Callable[[], T] | None = None


class Client:
    """One source over HTTP. Threads share its token, its budget and its TLS context."""

    def __init__(
        self,
        source: Source,
        manners: Manners,
        budget: Budget,
        stop: threading.Event,
        *,
        strikes: int = 0,
        on_limit: Callable[[datetime], None] = lambda until: None,
        on_request: Callable[[], None] = lambda: None,
        first_wait_s: float = 0.5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._source, self._manners, self._budget, self._stop = source, manners, budget, stop
        self._strikes, self._first_wait_s = strikes, first_wait_s
        self._transport, self._tls = transport, _tls(source.base_url)
        self._local, self._opened = threading.local(), list[httpx.Client]()
        self._login_lock = threading.Lock()
        self._token = source.token.get_secret_value() if source.token else None
        self._limit: RateLimited | None = None
        self._on_limit, self._limit_lock = on_limit, threading.Lock()
        self._on_request = on_request
        self._pool = ThreadPoolExecutor(source.max_concurrency, f"client-{source.name}")
        self.requests = 0
        self._failed = 0  # tries in a row that brought nothing

    def close(self) -> None:
        """Ends the threads and closes their connections."""
        self._pool.shutdown(cancel_futures=True)
        for client in self._opened:
            client.close()

    def send(self, call: Call[T]) -> T:
        """The value of one answer, after login and bounded retries.

        RateLimited, SourceDown (after ATTEMPTS tries), NotListed (404), SourceRefused, Stopped.
        """
        for attempt in range(1, self._attempts()):
            try:
                return self._counted(call)
            except SourceDown:
                # Jitter, so that several hosts do not come back at the same moment.
                self._wait(self._first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        return self._counted(call)

    def send_all(self, calls: Sequence[Call[T]]) -> list[T]:
        """The values of all answers, in the order of `calls`, fetched side by side."""
        if len(calls) == 1:
            return [self.send(calls[0])]
        futures = [self._pool.submit(self.send, call) for call in calls]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _attempts(self) -> int:
        # Where one call has waited through all its tries for nothing, the next need not.
        return 1 if self._failed >= ATTEMPTS else ATTEMPTS

    def _counted(self, call: Call[T]) -> T:
        try:
            value = self._try(call)
        except SourceDown:
            self._failed += 1
            raise
        self._failed = 0
        return value

    def _try(self, call: Call[T]) -> T:
        token = self._logged_in()
        response = self._send(call.request, self._bearer(token))
        if response.status == 401 and self._manners.login:
            token = self._logged_in(instead_of=token)
            response = self._send(call.request, self._bearer(token))
        if response.status == 404 and call.missing:
            return call.missing()
        self._check(call.request, response)
        return self._read(call, response.body)

    def _read(self, call: Call[T], body: bytes) -> T:
        try:
            return call.read(body)
        except UnusableBody as error:
            raise UnusableBody(f"{self._source.name}: {call.request}: {error}") from None

    def _logged_in(self, instead_of: str | None = None) -> str | None:
        login = self._manners.login
        if login is None:
            return self._token
        with self._login_lock:
            if self._token is None or self._token == instead_of:
                response = self._send(login, self._basic())
                self._check(login, response)
                self._token = self._read(Call(login, self._manners.read_token), response.body)
            return self._token

    def _bearer(self, token: str | None) -> str:
        return f"Bearer {token}"

    def _basic(self) -> str:
        password = self._source.password.get_secret_value() if self._source.password else ""
        pair = f"{self._source.email}:{password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def _send(self, request: Request, authorization: str) -> Response:
        with self._budget.request(self._stop):
            if self._limit:
                raise self._limit
            self.requests += 1
            self._on_request()
            try:
                answer = self._client().request(
                    request.method,
                    request.path,
                    params=request.params or None,
                    content=None if request.body is None else msgspec.json.encode(request.body),
                    headers=self._headers(request, authorization),
                )
            except httpx.HTTPError as error:
                raise SourceDown(
                    f"{self._source.name}: {request}: no answer from "
                    f"{httpx.URL(self._source.base_url).netloc.decode()} ({_cause(error)})"
                ) from None
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status_code, headers, answer.content)

    def _headers(self, request: Request, authorization: str) -> dict[str, str]:
        headers = {"accept": self._manners.accept, "authorization": authorization}
        if request.body is not None:
            headers["content-type"] = "application/json"
        return headers

    def _client(self) -> httpx.Client:
        """This thread's own client: one shared by threads waits on its connection pool."""
        if not hasattr(self._local, "client"):
            self._local.client = httpx.Client(
                base_url=self._source.base_url,
                verify=self._tls,
                timeout=_TIMEOUT,
                transport=self._transport,
                headers={"user-agent": f"stocktake/{__version__}"},
            )
            self._opened.append(self._local.client)
        client: httpx.Client = self._local.client
        return client

    def _check(self, request: Request, response: Response) -> None:
        where = f"{self._source.name}: {request}: the source answered {response.status}"
        match response.status:
            case status if 200 <= status < 300:
                return
            case 429:
                raise self._limited(where, response.headers.get("retry-after"))
            case 408 | 425:
                raise SourceDown(where)
            case status if status >= 500:
                raise SourceDown(where)
            case 404 if request != self._manners.login:
                raise NotListed(f"{where}: it knows no such thing; is base_url right?")
            case status:
                raise SourceRefused(f"{where}: {_ADVICE.get(status, _ANY_ADVICE)}", status)

    def _limited(self, where: str, retry_after: str | None) -> RateLimited:
        now = clock.now()
        until = limited_until(now, retry_after, self._manners.penalty_s, self._strikes)
        limit = RateLimited(
            f"{where}: no request before {until:%Y-%m-%d %H:%M:%S} UTC",
            until,
            (until - now).total_seconds(),
        )
        with self._limit_lock:
            is_first, self._limit = self._limit is None, limit
        if is_first:
            self._on_limit(until)  # at once: this process may be gone before its sync ends
        return limit

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped(f"{self._source.name}: asked to stop")


def _cause(error: httpx.HTTPError) -> str:
    # What the parser says of an answer that is not HTTP quotes it.
    quotes = isinstance(error, httpx.ProtocolError | httpx.DecodingError)
    return type(error).__name__ if quotes else f"{type(error).__name__}: {error}"


_ADVICE = {
    400: "it does not accept the request",
    401: "the login is wrong; check email and password, or the token",
    403: "this account has no access",
    404: "is base_url right?",
    **dict.fromkeys((301, 302, 303, 307, 308), "a redirect; is base_url right?"),
}
_ANY_ADVICE = "it refuses the request"


def limited_until(
    now: datetime, retry_after: str | None, penalty_s: float | None, strikes: int
) -> datetime:
    """When a source that said 429 may be asked again.

    `retry_after` is the header, in seconds or as an HTTP date; what is not readable, or absurd, is
    not believed. Without it `penalty_s` counts, else FIRST_LIMIT_S doubled with each of `strikes`
    limits in a row.
    """
    wait = _wait_of(retry_after, now)
    if wait is None:
        seconds = penalty_s if penalty_s is not None else FIRST_LIMIT_S * 2 ** min(strikes, 6)
        wait = timedelta(seconds=seconds)
    return now + min(max(wait, timedelta(seconds=1)), LONGEST_LIMIT)


def _wait_of(retry_after: str | None, now: datetime) -> timedelta | None:
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return timedelta(seconds=min(int(text[:9]), LONGEST_LIMIT.total_seconds()))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment - now if moment.tzinfo and moment > now else None


def _tls(base_url: str) -> ssl.SSLContext:
    # Loading the certificates takes 40 ms, and plain http on loopback needs none of them.
    if base_url.startswith("https:"):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
