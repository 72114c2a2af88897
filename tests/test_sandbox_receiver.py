"""The receiver judges signatures exactly as the library of Standard Webhooks does."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from worker.sandbox.calls import Answer, Call
from worker.sandbox.receiver import Receiver, verifies
from worker.sandbox.server import serve_receiver

SECRET = "whsec_" + b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + b64encode(bytes(range(1, 33))).decode()
BODY = '{"type":"install.created","name":"Søndergaard"}'
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def signed(body: str = BODY, secret: str = SECRET, at: datetime = NOW) -> dict[str, str]:
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("evt_1", at, body),
    }


def post(receiver: Receiver, headers: dict[str, str], body: str = BODY) -> Answer:
    return receiver.handle(Call("POST", "/crm", (), headers, body.encode()), NOW)


def judged_by_the_library(headers: dict[str, str], body: bytes) -> bool:
    try:
        Webhook(SECRET).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


@settings(deadline=None, database=None)
@given(st.text(), st.sampled_from([SECRET, OTHER]), st.booleans())
def test_it_agrees_with_the_library(text: str, secret: str, tampered: bool) -> None:
    now = datetime.now(UTC)  # the library asks the clock itself
    body = json.dumps(text)
    headers = signed(body, secret, now)
    sent = (body + " " if tampered else body).encode()
    verdict = verifies(headers, sent, [SECRET], now)
    assert verdict == judged_by_the_library(headers, sent) == (secret == SECRET and not tampered)


def test_what_is_signed_is_kept_as_it_came_and_accepted() -> None:
    receiver = Receiver(SECRET)
    assert post(receiver, signed()) == Answer(204)
    (received,) = receiver.received
    assert (received.verified, received.status, received.path) == (True, 204, "/crm")
    assert (received.headers, received.body) == (signed(), BODY.encode())


def test_any_signature_by_any_secret_will_do() -> None:
    both = signed(secret=OTHER)["webhook-signature"] + " " + signed()["webhook-signature"]
    assert verifies(signed() | {"webhook-signature": both}, BODY.encode(), [SECRET], NOW)
    assert verifies(signed(), BODY.encode(), [OTHER, SECRET], NOW)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(secret=OTHER),
        signed(body=BODY + " "),
        signed() | {"webhook-id": "evt_2"},
        signed() | {"webhook-timestamp": "now"},
        signed() | {"webhook-timestamp": "9" * 400},
        signed() | {"webhook-signature": "v1,ø"},
        signed(at=NOW - timedelta(minutes=6)),
        signed(at=NOW + timedelta(minutes=6)),
    ],
)
def test_what_does_not_verify_is_kept_and_refused(headers: dict[str, str]) -> None:
    receiver = Receiver(SECRET)
    assert post(receiver, headers).status == 401
    assert [(one.verified, one.status) for one in receiver.received] == [(False, 401)]


def test_without_secrets_nothing_is_verified_and_nothing_refused() -> None:
    receiver = Receiver()
    assert post(receiver, signed()).status == 204
    assert not receiver.received[0].verified


def test_answers_can_be_planned_one_after_the_other() -> None:
    receiver = Receiver(SECRET)
    receiver.then(503, times=2, headers={"retry-after": "7"})
    receiver.then_reset()
    answers = [post(receiver, signed()) for _ in range(4)]
    assert [answer.status for answer in answers] == [503, 503, 0, 204]
    assert answers[0].headers == {"retry-after": "7"}
    assert answers[2].reset
    assert [received.status for received in receiver.received] == [503, 503, 0, 204]


def test_only_posts_are_webhooks() -> None:
    receiver = Receiver()
    assert receiver.handle(Call("GET", "/"), NOW).status == 405
    assert receiver.received == []


def test_it_verifies_what_comes_over_the_wire() -> None:
    with serve_receiver(Receiver(SECRET), now=lambda: NOW) as listening:
        answer = httpx.post(listening.url + "/crm", content=BODY.encode(), headers=signed())
    assert answer.status_code == 204
    assert [(one.verified, one.path) for one in listening.received] == [(True, "/crm")]
