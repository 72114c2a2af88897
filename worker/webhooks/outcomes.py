"""What an answer means, and when a delivery is tried again (WEBHOOKS.md: outcomes)."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal

from worker.outbound import Answer, Claim, Health, Settled

# Delay before attempt n + 1 (DESIGN section 9: the last one 75 h 35 m after the first).
DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
)
_JITTER = 0.2
_UNHURRIED = timedelta(seconds=60)
_LONGEST_RETRY_AFTER = timedelta(hours=24)
_LONGEST_RATE_LIMIT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means, for its delivery and for its endpoint."""

    kind: Literal["delivered", "retry", "dead"]
    reason: str | None = None  # of death; while it is retried, what a person should look at
    overload: bool = False  # counts towards the breaker
    unhurried: bool = False  # at least 60 s until the next attempt, unless Retry-After says so
    uses_attempt: bool = True
    gone: bool = False  # the endpoint wants nothing any more


_OVERLOAD = Verdict("retry", overload=True)
_SLOW = Verdict("retry", overload=True, unhurried=True)
_PLAIN = Verdict("retry")


def outcome(answer: Answer) -> Verdict:
    """What an answer means."""
    return _of_fault(answer.fault) if answer.status is None else _of_status(answer.status)


def _of_fault(fault: str | None) -> Verdict:
    match fault:
        case "blocked":
            return Verdict("dead", "blocked")
        case "tls":
            return Verdict("retry", "tls")
        case "deadline":
            return _SLOW
        case "connect":
            return _OVERLOAD
        case _:
            return _PLAIN


def _of_status(status: int) -> Verdict:
    match status:
        case _ if 200 <= status < 300:
            return Verdict("delivered")
        case _ if 300 <= status < 400:
            return Verdict("retry", "redirect")
        case 410:
            return Verdict("dead", "gone", gone=True)
        case 429:
            return replace(_SLOW, uses_attempt=False)
        case 502 | 504:
            return _SLOW
        case 408 | 425:
            return _PLAIN
        case _ if 400 <= status < 500:
            return Verdict("retry", "receiver_config")
        case _:
            return _OVERLOAD


def settle(claim: Claim, answer: Answer, health: Health, now: datetime, jitter: float) -> Settled:
    """What becomes of a delivery, given its answer and how its endpoint fares after it."""
    verdict = outcome(answer)
    attempts = claim.attempts + verdict.uses_attempt
    if verdict.kind != "retry":
        return Settled(verdict.kind, attempts, verdict.reason)
    if attempts >= len(DELAYS):
        return Settled("dead", attempts, "exhausted")
    if not verdict.uses_attempt and now - claim.first_attempt_at >= _LONGEST_RATE_LIMIT:
        return Settled("dead", attempts, "rate_limited")
    if health.halted:
        return Settled("paused", attempts, health.halted)
    next_at = next_attempt(attempts, verdict, answer.retry_after, health, now, jitter)
    return Settled("pending", attempts, verdict.reason, next_at)


def next_attempt(
    attempts: int,
    verdict: Verdict,
    retry_after: str | None,
    health: Health,
    now: datetime,
    jitter: float,
) -> datetime:
    """When to try again after `attempts` used-up attempts; `jitter` is a number from 0 to 1."""
    asked = _asked(retry_after, now)
    if asked is None:
        asked = _UNHURRIED if verdict.unhurried else timedelta()
    at = now + max(DELAYS[attempts], asked) * (1 + _JITTER * jitter)
    return max(at, health.breaker_until or at)


def _asked(retry_after: str | None, now: datetime) -> timedelta | None:
    """The delay that a Retry-After header asks for: seconds or a date, at most 24 h."""
    value = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(timedelta(seconds=int(value)), _LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(date - now, timedelta()), _LONGEST_RETRY_AFTER)
