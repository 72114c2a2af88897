"""The values of webhook delivery: what is to be sent, what came back, how an endpoint fares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

DeliveryState = Literal["pending", "in_flight", "delivered", "dead", "paused"]
Fault = Literal["blocked", "dns", "connect", "tls", "reset", "protocol", "deadline"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A delivery to be made: one event or notice for one endpoint, its body frozen.

    Deliveries of one endpoint and one `lane` are sent in order; without a lane there is no order.
    """

    event_id: str
    endpoint: str
    type: str
    source: str | None
    body: bytes = field(repr=False)
    install_id: str | None = None
    sequence: int | None = None
    lane: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is ours to send until its lease ends; `attempts` were used up before."""

    position: int
    delivery_id: str
    event_id: str
    endpoint: str
    type: str
    attempts: int
    first_attempt_at: datetime
    is_replay: bool
    lease_token: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: a status, or a fault with an error that quotes no secret.

    `phases` says how many seconds each step took that was begun, in their order.
    """

    status: int | None = None
    fault: Fault | None = None
    error: str | None = None
    retry_after: str | None = None
    body: bytes = field(default=b"", repr=False)
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP try of a claimed delivery."""

    claim: Claim
    answer: Answer
    started_at: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Settled:
    """What becomes of a delivery after an attempt; `next_at` is set while it is pending."""

    state: DeliveryState
    attempts: int
    reason: str | None = None
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint fares: its breaker, how long it has failed, and who halted it."""

    overloads: int = 0  # in a row, not counting those while the breaker was open
    breaker_until: datetime | None = None
    failures: int = 0  # attempts used up since the last success
    failing_since: datetime | None = None
    last_success_at: datetime | None = None
    flag: str | None = None
    disabled_reason: str | None = None
    paused: bool = False

    @property
    def halted(self) -> str | None:
        """Why nothing is sent to the endpoint, if so."""
        return self.disabled_reason or ("paused" if self.paused else None)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many messages of one type there are to send again, and from when to when; `first` and
    `last` are their sequences where they are events of the log."""

    type: str
    source: str | None
    count: int
    oldest: datetime
    newest: datetime
    first: int = 0
    last: int = 0
