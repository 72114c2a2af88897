"""One source over HTTP: logins, retries, rate limits, and what an error never says."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import Unhurried, source_at

from worker import dialects
from worker.budget import Budget
from worker.client import ATTEMPTS, LONGEST_LIMIT, Call, Client, Manners, limited_until
from worker.dialects.rows import decode
from worker.errors import (
    NotListed,
    RateLimited,
    SourceDown,
    SourceRefused,
    StocktakeError,
    Stopped,
    UnusableBody,
)
from worker.models import Request
from worker.sandbox.aeontel_world import TOKEN, AeontelWorld
from worker.sandbox.faults import Fault
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.logins import PASSWORD
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.server import Sandbox, serve

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LISTING = Request("GET", "/integrations")
Handler = Callable[[httpx.Request], httpx.Response]
Opened = Callable[..., Client]


def listing(request: Request = LISTING) -> Call[Any]:
    return Call(request, lambda body: decode(body, dict[str, Any], "the answer"))


@pytest.fixture
def farm() -> GestalWorld:
    return gestal_world(integrations=1, installs=3)


@pytest.fixture
def sandbox(farm: GestalWorld) -> Iterator[Sandbox]:
    with serve(farm) as running:
        yield running


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Clients of a source, closed when the test ends."""
    with ExitStack() as stack:

        def opened(
            world: GestalWorld | AeontelWorld,
            base_url: str = "http://127.0.0.1:9",
            *,
            answer: Handler | None = None,
            stop: threading.Event | None = None,
            **fields: Any,
        ) -> Client:
            source = source_at(world, base_url, **fields)
            dialect = dialects.named(source.dialect)
            client = Client(
                source,
                Manners(dialect.ACCEPT, dialect.login(), dialect.read_token, dialect.PENALTY_S),
                Budget(tmp_path / "budgets", source.name, 0, source.max_concurrency),
                stop or Unhurried(),
                transport=httpx.MockTransport(answer) if answer else None,
            )
            stack.callback(client.close)
            return client

        yield opened


@pytest.fixture
def client(farm: GestalWorld, sandbox: Sandbox, opened: Opened) -> Client:
    return opened(farm, sandbox.at("gestal"))


@pytest.fixture
def to_voice(opened: Opened) -> Callable[[Handler], Client]:
    """A client without a login whose requests a function answers."""
    return lambda answer: opened(AeontelWorld(), answer=answer)


# Logging in


def test_it_logs_in_once_for_all_threads(client: Client, sandbox: Sandbox) -> None:
    pages = client.send_all([listing()] * 8)
    assert [len(page["data"]) for page in pages] == [1] * 8
    assert sandbox.requests["gestal"].count(("POST", "/auth")) == 1
    assert client.requests == 9


def test_a_token_that_died_is_replaced_once_for_all_threads(
    client: Client, farm: GestalWorld, sandbox: Sandbox
) -> None:
    client.send(listing())
    farm.expire_tokens()
    client.send_all([listing()] * 8)
    assert sandbox.requests["gestal"].count(("POST", "/auth")) == 2


def test_a_second_401_with_a_new_token_is_final(
    client: Client, farm: GestalWorld, sandbox: Sandbox
) -> None:
    farm.faults.add(Fault("unauthorized", times=None, match="/integrations"))
    with pytest.raises(SourceRefused, match="answered 401") as caught:
        client.send(listing())
    assert caught.value.status == 401
    assert sandbox.requests["gestal"] == [("POST", "/auth"), ("GET", "/integrations")] * 2


def test_a_wrong_password_is_tried_once(
    farm: GestalWorld, sandbox: Sandbox, opened: Opened
) -> None:
    client = opened(farm, sandbox.at("gestal"), password="guessed")
    with pytest.raises(SourceRefused, match="check email and password") as caught:
        client.send(listing())
    assert caught.value.status == 401
    assert "guessed" not in str(caught.value)
    assert sandbox.requests["gestal"] == [("POST", "/auth")]


def test_a_revoked_api_token_is_final_at_once(opened: Opened) -> None:
    world = aeontel_world(integrations=1, installs=1)
    with serve(aeontel_world=world) as sandbox:
        world.expire_tokens()
        client = opened(world, sandbox.at("aeontel"))
        with pytest.raises(SourceRefused, match="answered 401"):
            client.send(listing(Request("GET", "/api/integrations")))
        assert len(sandbox.requests["aeontel"]) == 1


def test_a_login_that_fails_for_a_moment_is_tried_again(client: Client, farm: GestalWorld) -> None:
    farm.faults.add(Fault("server_error", match="/auth"), Fault("html", match="/auth"))
    assert len(client.send(listing())["data"]) == 1


# Trying again

BROKEN = [
    *(Fault("server_error", status=status) for status in (500, 502, 503, 504)),
    Fault("reset"),
    Fault("truncated"),
    Fault("html"),
]


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_what_goes_wrong_once_is_tried_again(
    fault: Fault, client: Client, farm: GestalWorld, sandbox: Sandbox
) -> None:
    client.send(listing())
    farm.faults.add(fault)
    assert len(client.send(listing())["data"]) == 1
    assert sandbox.requests["gestal"].count(("GET", "/integrations")) == 3


@pytest.mark.parametrize("kind", ["server_error", "reset", "truncated", "html"])
def test_after_some_attempts_the_source_is_down(
    kind: Any, farm: GestalWorld, sandbox: Sandbox, opened: Opened
) -> None:
    stop = Unhurried()
    client = opened(farm, sandbox.at("gestal"), stop=stop)
    farm.faults.add(Fault(kind, times=None, match="/integrations"))
    with pytest.raises(SourceDown, match="farm: GET /integrations"):
        client.send(listing())
    assert sandbox.requests["gestal"].count(("GET", "/integrations")) == ATTEMPTS
    waits = [wait for wait in stop.waited if wait]
    assert len(waits) == ATTEMPTS - 1
    for attempt, wait in enumerate(waits):  # doubled each time, and never twice the same
        assert 0.25 * 2**attempt <= wait <= 0.75 * 2**attempt


def test_broken_json_is_asked_for_again_and_then_unusable(
    to_voice: Callable[[Handler], Client],
) -> None:
    client = to_voice(lambda request: httpx.Response(200, text='{"data": [1,'))
    with pytest.raises(UnusableBody, match=r"voice: GET /integrations: .* not valid JSON"):
        client.send(listing())
    assert client.requests == ATTEMPTS


@pytest.mark.parametrize("status", [408, 425, 500, 529])
def test_an_answer_that_asks_for_patience_is_tried_again(
    status: int, to_voice: Callable[[Handler], Client]
) -> None:
    client = to_voice(lambda request: httpx.Response(status))
    with pytest.raises(SourceDown, match=f"answered {status}"):
        client.send(listing())
    assert client.requests == ATTEMPTS


def test_nobody_listening_is_a_source_that_is_down(opened: Opened) -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), StreamRequestHandler) as closed:
        address = f"127.0.0.1:{closed.server_address[1]}"
    client = opened(AeontelWorld(), f"http://{address}")
    with pytest.raises(SourceDown, match=f"no answer from {address} .*refused"):
        client.send(listing())


# Refusals


@pytest.mark.parametrize("status", [301, 302, 307, 400, 403, 405, 409, 410, 418, 422])
def test_a_no_is_final_and_says_its_status(
    status: int, to_voice: Callable[[Handler], Client]
) -> None:
    elsewhere = {"location": "http://127.0.0.1:9/elsewhere"}
    client = to_voice(lambda request: httpx.Response(status, headers=elsewhere))
    with pytest.raises(SourceRefused, match=f"answered {status}: ") as caught:
        client.send(listing())
    assert caught.value.status == status
    assert client.requests == 1


def test_404_is_an_answer_where_the_call_says_what_it_means(client: Client) -> None:
    nothing = Request("GET", "/integrations/none")
    assert client.send(Call(nothing, bytes, missing=lambda: b"gone")) == b"gone"
    with pytest.raises(NotListed, match="GET /integrations/none: the source answered 404"):
        client.send(Call(nothing, bytes))


def test_404_for_the_login_is_a_wrong_address(
    farm: GestalWorld, sandbox: Sandbox, opened: Opened
) -> None:
    client = opened(farm, f"{sandbox.url}/nowhere")
    with pytest.raises(SourceRefused, match="base_url"):
        client.send(Call(LISTING, bytes, missing=bytes))


# Rate limits


@pytest.mark.parametrize(
    ("retry_after", "penalty_s", "strikes", "expected_s"),
    [
        ("90", 7200.0, 0, 90),
        (" 90 ", 7200.0, 0, 90),
        ("0", 7200.0, 0, 1),
        (format_datetime(NOON + timedelta(minutes=5), usegmt=True), 7200.0, 0, 300),
        (format_datetime(NOON - timedelta(minutes=5), usegmt=True), 7200.0, 0, 7200),
        (format_datetime(NOON + timedelta(days=400), usegmt=True), None, 0, 86_400),
        ("9" * 40, None, 0, 86_400),
        ("-5", 7200.0, 0, 7200),
        ("1.5", 7200.0, 0, 7200),
        ("soon", 7200.0, 0, 7200),
        ("", 7200.0, 0, 7200),
        (None, 7200.0, 0, 7200),
        (None, 7200.0, 5, 7200),
        (None, None, 0, 60),
        (None, None, 1, 120),
        (None, None, 5, 1920),
        (None, None, 500, 3840),
    ],
)
def test_a_rate_limit_lasts_as_long_as_the_header_the_vendor_or_experience_says(
    retry_after: str | None, penalty_s: float | None, strikes: int, expected_s: float
) -> None:
    until = limited_until(NOON, retry_after, penalty_s, strikes)
    assert until - NOON == timedelta(seconds=expected_s)


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ \w* -?\d* [\d:+-]*.*"))
def test_no_retry_after_can_break_the_limit(retry_after: str) -> None:
    until = limited_until(NOON, retry_after, None, 0)
    assert NOON < until <= NOON + LONGEST_LIMIT


def test_a_limit_is_told_at_once_and_once(tmp_path: Path) -> None:
    told: list[datetime] = []
    both = threading.Barrier(2)

    def answer(_: httpx.Request) -> httpx.Response:
        both.wait(60)
        return httpx.Response(429)

    source = source_at(AeontelWorld(), "http://127.0.0.1:9")
    dialect = dialects.named(source.dialect)
    client = Client(
        source,
        Manners(dialect.ACCEPT, dialect.login(), dialect.read_token, dialect.PENALTY_S),
        Budget(tmp_path / "budgets", source.name, 0, source.max_concurrency),
        Unhurried(),
        on_limit=told.append,
        transport=httpx.MockTransport(answer),
    )
    with closing(client), pytest.raises(RateLimited):
        client.send_all([listing()] * 2)
    assert len(told) == 1


def test_after_429_nothing_more_is_sent(
    client: Client, farm: GestalWorld, sandbox: Sandbox
) -> None:
    client.send(listing())
    farm.faults.add(Fault("rate_limited", retry_after="120"))
    with pytest.raises(RateLimited, match="no request before") as caught:
        client.send(listing())
    assert caught.value.wait_s == pytest.approx(120)
    asked = list(sandbox.requests["gestal"])
    for send in (lambda: client.send(listing()), lambda: client.send_all([listing()] * 9)):
        with pytest.raises(RateLimited):
            send()
    assert sandbox.requests["gestal"] == asked


def test_429_at_the_login_is_a_rate_limit_too(client: Client, farm: GestalWorld) -> None:
    farm.faults.add(Fault("rate_limited"))
    with pytest.raises(RateLimited) as caught:
        client.send(listing())
    assert caught.value.wait_s == pytest.approx(7200)


# Stopping


def test_a_stop_ends_the_wait_before_the_next_attempt(
    to_voice: Callable[[Handler], Client], opened: Opened
) -> None:
    stop = threading.Event()  # a real one: its waits would be long

    def answer(request: httpx.Request) -> httpx.Response:
        stop.set()
        return httpx.Response(500)

    client = opened(AeontelWorld(), answer=answer, stop=stop)
    with pytest.raises(Stopped):
        client.send(listing())
    assert client.requests == 1


def test_nothing_is_sent_after_a_stop(opened: Opened) -> None:
    stop = threading.Event()
    stop.set()
    client = opened(AeontelWorld(), answer=lambda request: httpx.Response(200), stop=stop)
    with pytest.raises(Stopped):
        client.send_all([listing()] * 3)
    assert client.requests == 0


# What travels, and what is never said


def test_requests_say_who_asks_and_what_they_accept(opened: Opened) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"token": "t0ken"})

    client = opened(gestal_world(0, 0), answer=answer)
    client.send(listing(Request("PATCH", "/integrations/1", (("a", "1 & 2"),), {"name": "Ø"})))
    login, change = seen
    assert login.headers["authorization"].startswith("Basic ")
    assert change.headers["authorization"] == "Bearer t0ken"
    assert change.headers["accept"] == dialects.named("gestal").ACCEPT
    assert change.headers["user-agent"].startswith("stocktake/")
    assert change.headers["content-type"] == "application/json"
    assert dict(change.url.params) == {"a": "1 & 2"}
    assert change.content == '{"name":"Ø"}'.encode()


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 429, 500])
def test_no_error_quotes_a_secret_or_a_body(status: int, opened: Opened) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        said = f"{PASSWORD} {request.headers['authorization']} of customer 4711"
        return httpx.Response(status, text=said, headers={"retry-after": said})

    for world in (gestal_world(0, 0), AeontelWorld()):
        client = opened(world, answer=echo)
        with pytest.raises(StocktakeError) as caught:
            client.send(listing())
        said = f"{caught.value!s} {caught.value!r}"
        assert not any(word in said for word in (PASSWORD, TOKEN, "Basic", "Bearer", "4711"))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


class Parrot(StreamRequestHandler):
    """Answers a request with the lines of its head, which is not HTTP."""

    def handle(self) -> None:
        head = b""
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"authorization"):
                head = line
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + head.replace(b":", b"") + b"\r\n")


def test_an_answer_that_is_not_http_is_not_quoted_either(opened: Opened) -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), Parrot) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            client = opened(AeontelWorld(), f"http://127.0.0.1:{server.server_address[1]}")
            with pytest.raises(SourceDown, match="RemoteProtocolError") as caught:
                client.send(listing())
        finally:
            server.shutdown()
            serving.join()
    assert TOKEN not in str(caught.value)
