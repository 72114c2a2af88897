"""What we sign verifies with the Standard Webhooks library, and nothing else does."""

import json
import string
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from receivers import NOON, SECRET, event
from standardwebhooks import Webhook
from standardwebhooks import webhooks as library
from test_webhooks import CLAIM

from worker import webhooks
from worker.outbound import Claim
from worker.sandbox.receiver import verifies

BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
LETTERS = 'aZ09 "\\/\n\t\u0000é€\u2028\u202e漢字🚜👩\u200d🌾'
# Of what is not verified the library raises its own error, or says why it cannot be read.
REFUSED = (library.WebhookVerificationError, ValueError)


@pytest.fixture(autouse=True)
def at_noon(monkeypatch):
    """The library's clock stands still at noon."""

    class Noon(datetime):
        @classmethod
        def now(cls, tz=None):
            return NOON.astimezone(tz)

    monkeypatch.setattr(library, "datetime", Noon)


def secret(rng):
    """A secret of any length that is allowed."""
    return "whsec_" + b64encode(rng.randbytes(rng.randint(24, 64))).decode()


def claim(rng):
    """A delivery of an event or a notice in any letters and of any length."""
    text = "".join(rng.choices(LETTERS, k=rng.choice([0, 1, 40, 1000])))
    upgraded = event(rng.randint(1, 9**9), after={"account_name": text}, occurred_at=NOON)
    bodies = (
        webhooks.event_body(upgraded, "standard"),
        webhooks.event_body(upgraded, "slack"),
        webhooks.notice_body("ntc_1", "sync.held", "voice", {"reason": text}, NOON, "standard"),
    )
    return replace(CLAIM, event_id=upgraded.event_id, body=rng.choice(bodies))


def signed(claim: Claim = CLAIM, secrets=(SECRET,), now: datetime = NOON):
    return webhooks.headers(claim, secrets, {}, "1.2.3", now)


def is_refused(headers, body=CLAIM.body):
    """Whether the library refuses a request, and so does the sandbox's receiver."""
    assert not verifies(headers, body, [SECRET], NOON)
    with pytest.raises(REFUSED):
        Webhook(SECRET).verify(body, headers)
    return True


def assert_verified(requests):
    rng = Random(requests)
    for _ in range(requests):
        one, secrets = claim(rng), [secret(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        headers = signed(one, secrets, NOON + timedelta(seconds=rng.randint(-300, 300)))
        for each in secrets:
            assert Webhook(each).verify(one.body, headers) == json.loads(one.body)
            assert verifies(headers, one.body, [each], NOON)
        with pytest.raises(library.WebhookVerificationError):
            Webhook(secret(rng)).verify(one.body, headers)


def test_what_is_signed_verifies_with_each_secret_and_with_no_other():
    assert_verified(100)


@pytest.mark.slow
def test_ten_thousand_of_ten_thousand_signed_requests_verify():
    assert_verified(10_000)


@pytest.mark.parametrize("position", range(len(CLAIM.body)))
def test_a_flipped_byte_of_the_body_is_refused(position):
    body = bytearray(CLAIM.body)
    for bit in range(8):
        body[position] = CLAIM.body[position] ^ 1 << bit
        assert is_refused(signed(), bytes(body))


def test_a_flipped_byte_of_a_long_body_is_refused_wherever_it_is():
    one = claim(Random(3))
    headers = signed(one)
    for position in range(0, len(one.body), 7):
        body = bytearray(one.body)
        body[position] ^= 0x01
        assert is_refused(headers, bytes(body))
    assert is_refused(headers, one.body[:-1])
    assert is_refused(headers, one.body + b" ")


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_a_flipped_byte_of_the_id_or_the_timestamp_is_refused(name):
    headers = signed()
    value = headers[name].encode()
    for position in range(len(value)):
        for bit in range(7):
            flipped = bytearray(value)
            flipped[position] ^= 1 << bit
            assert is_refused({**headers, name: flipped.decode()})


def test_a_flipped_byte_of_the_signature_is_refused():
    headers = signed()
    version, _, encoded = headers["webhook-signature"].partition(",")
    mac = b64decode(encoded)
    for position in range(len(mac)):
        for bit in range(8):
            flipped = bytearray(mac)
            flipped[position] ^= 1 << bit
            other = f"{version},{b64encode(flipped).decode()}"
            assert is_refused({**headers, "webhook-signature": other})
    for position in range(len(encoded) - 1):
        # Four letters on: the last letter before the = has two bits that mean nothing.
        letter = BASE64[(BASE64.index(encoded[position]) + 4) % 64]
        other = f"{version},{encoded[:position]}{letter}{encoded[position + 1 :]}"
        assert is_refused({**headers, "webhook-signature": other})
    for version in ("v0", "v2", "w1", "v1a"):
        assert is_refused({**headers, "webhook-signature": f"{version},{encoded}"})


@pytest.mark.parametrize("seconds", [-301, 301, -86_400])
def test_a_request_of_another_time_is_refused(seconds):
    assert is_refused(signed(now=NOON + timedelta(seconds=seconds)))


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_five_minutes_of_difference_are_tolerated(seconds):
    headers = signed(now=NOON + timedelta(seconds=seconds))
    assert Webhook(SECRET).verify(CLAIM.body, headers) == {"a": 1}


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_without_one_of_its_headers_a_request_is_refused(name):
    headers = signed()
    del headers[name]
    assert is_refused(headers)


def test_a_signature_of_another_message_is_refused():
    other = signed(replace(CLAIM, event_id="evt_2"))["webhook-signature"]
    assert is_refused({**signed(), "webhook-signature": other})


def test_the_timestamp_is_that_of_the_attempt_in_utc():
    assert signed()["webhook-timestamp"] == str(
        int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp())
    )
