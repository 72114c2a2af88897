"""A webhook receiver that keeps every request and checks signatures by itself."""

import hmac
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.sandbox.calls import Answer, Call, refused

TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came, whether a signature of it holds, and the status it got."""

    headers: Mapping[str, str]
    body: bytes
    verified: bool
    status: int
    path: str = "/"


class Receiver:
    """Answers 204, or 401 where no signature by one of `secrets` holds; without secrets nothing
    is ever verified, and nothing refused."""

    def __init__(self, *secrets: str, tolerance: timedelta = TOLERANCE) -> None:
        self.secrets = secrets
        self.tolerance = tolerance
        self.received: list[Received] = []
        self._planned: deque[Answer] = deque()

    def then(self, status: int, times: int = 1, headers: Mapping[str, str] | None = None) -> None:
        """Answer so to the next requests, after those planned before, whatever they are."""
        self._planned.extend([Answer(status, dict(headers or {}))] * times)

    def then_reset(self, times: int = 1) -> None:
        """Close the connection on the next requests without an answer."""
        self._planned.extend([Answer(0, reset=True)] * times)

    def handle(self, call: Call, now: datetime) -> Answer:
        """Keep the request and answer it."""
        if call.method != "POST":
            return refused(405, "method not allowed", {"allow": "POST"})
        verified = verifies(call.headers, call.body, self.secrets, now, self.tolerance)
        answer = self._answer(verified)
        self.received.append(
            Received(dict(call.headers), call.body, verified, answer.status, call.path)
        )
        return answer

    def _answer(self, verified: bool) -> Answer:
        if self._planned:
            return self._planned.popleft()
        return refused(401, "no signature holds") if self.secrets and not verified else Answer(204)


def verifies(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[str],
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> bool:
    """Whether one of the signatures is by one of `secrets` and young enough (Standard Webhooks
    1.0.0, "Verifying webhook authenticity")."""
    sent_at = headers.get("webhook-timestamp", "")
    # Ten digits reach to the year 2286; more could overflow a date.
    if not (sent_at.isdecimal() and len(sent_at) <= 10):
        return False
    if abs(now.timestamp() - int(sent_at)) > tolerance.total_seconds():
        return False
    signed = f"{headers.get('webhook-id', '')}.{sent_at}.".encode() + body
    wanted = [_signature(secret, signed) for secret in secrets]
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(one.encode(), other) for one in given for other in wanted)


def _signature(secret: str, signed: bytes) -> bytes:
    key = b64decode(secret.removeprefix("whsec_"))
    return b"v1," + b64encode(hmac.digest(key, signed, "sha256"))
