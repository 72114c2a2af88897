"""What a webhook says, how it is signed, and what follows from its answer. Pure."""

from worker.webhooks.bodies import MAX_BODY, event_body, notice_body
from worker.webhooks.health import fare, slots
from worker.webhooks.outcomes import DELAYS, Verdict, next_attempt, outcome, settle
from worker.webhooks.signing import headers, sign
from worker.webhooks.subscriptions import DISABLED, TEST, notice_id, wants

__all__ = [
    "DELAYS",
    "DISABLED",
    "MAX_BODY",
    "TEST",
    "Verdict",
    "event_body",
    "fare",
    "headers",
    "next_attempt",
    "notice_body",
    "notice_id",
    "outcome",
    "settle",
    "sign",
    "slots",
    "wants",
]
