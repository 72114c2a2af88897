"""The headers of a webhook, with the signatures of Standard Webhooks 1.0.0."""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from worker.outbound import Claim


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each `whsec_` secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets)


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def headers(
    claim: Claim,
    secrets: Sequence[str],
    extra: Mapping[str, str],
    version: str,
    now: datetime,
) -> dict[str, str]:
    """The request's headers, names in lower case; `extra` ones never override ours."""
    timestamp = int(now.timestamp())
    ours = {
        "content-type": "application/json",
        "user-agent": f"stocktake/{version}",
        "accept-encoding": "identity",
        "webhook-id": claim.event_id,
        "webhook-timestamp": str(timestamp),
        "stocktake-event-type": claim.type,
        "stocktake-attempt": str(claim.attempts + 1),
    }
    if secrets:
        ours["webhook-signature"] = sign(secrets, claim.event_id, timestamp, claim.body)
    if claim.is_replay:
        ours["stocktake-replay"] = "1"
    return {name.lower(): value for name, value in extra.items()} | ours
