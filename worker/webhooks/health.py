"""How an endpoint fares: its circuit breaker, its way to being disabled, its free slots."""

from dataclasses import replace
from datetime import datetime, timedelta

from worker.outbound import Health
from worker.webhooks.outcomes import DELAYS, Verdict

_BREAKER_AFTER = 5
_BREAKER_FIRST = timedelta(seconds=60)
_BREAKER_LONGEST = timedelta(minutes=15)
_DISABLED_AFTER = timedelta(hours=120)


def fare(health: Health, verdict: Verdict, now: datetime) -> Health:
    """How the endpoint fares after one more answer."""
    if verdict.kind == "delivered":
        return Health(
            last_success_at=now, disabled_reason=health.disabled_reason, paused=health.paused
        )
    failed = replace(
        _break(health, verdict, now),
        failures=health.failures + verdict.uses_attempt,
        failing_since=health.failing_since or now,
        flag=verdict.reason or health.flag,
    )
    return replace(
        failed, disabled_reason=health.disabled_reason or _disabled(failed, verdict, now)
    )


def _break(health: Health, verdict: Verdict, now: datetime) -> Health:
    if not verdict.overload:
        return replace(health, overloads=0, breaker_until=None)
    if health.breaker_until and now < health.breaker_until:
        return health  # sent before it opened; only a probe may double it
    overloads = health.overloads + 1
    if overloads < _BREAKER_AFTER:
        return replace(health, overloads=overloads)
    doublings = min(overloads - _BREAKER_AFTER, 10)
    opens_for = min(_BREAKER_FIRST * 2**doublings, _BREAKER_LONGEST)
    return replace(health, overloads=overloads, breaker_until=now + opens_for)


def _disabled(failed: Health, verdict: Verdict, now: datetime) -> str | None:
    if verdict.gone:
        return "gone"
    # Measured from the first failure after a success: an endpoint may have had nothing to get.
    failing_for = now - (failed.failing_since or now)
    worn_out = failing_for >= _DISABLED_AFTER and failed.failures >= len(DELAYS)
    return "failing" if worn_out else None


def slots(
    health: Health,
    in_flight: int,
    recent: int,
    max_in_flight: int,
    max_per_minute: int,
    now: datetime,
) -> int:
    """How many deliveries an endpoint may be sent now; `recent` began in the last minute."""
    if health.halted or (health.breaker_until and now < health.breaker_until):
        return 0
    # Behind a breaker whose time is over one probe goes first.
    free = (1 if health.breaker_until else max_in_flight) - in_flight
    if max_per_minute:
        free = min(free, max_per_minute - recent - in_flight)
    return max(0, free)
