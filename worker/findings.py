"""What a sync found out, and what was decided about it: the values between walk and commit."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from worker.models import (
    Certificate,
    Event,
    Install,
    Integration,
    Kind,
    Mode,
    Outcome,
    Walked,
)

Known = Install | Integration
Progress = Callable[[str, int, int | None], None]  # scope, rows seen, total
_VERBS: Final = ("created", "upgraded", "updated", "deleted", "restored", "purged")


@dataclass(frozen=True, slots=True)
class ScopeWalk:
    """One walk of one scope. `round` is the number of commits of the source when it began: only a
    row that was a suspect by then is confirmed absent by this walk."""

    run_id: str
    scope: str
    mode: Mode
    round: int
    walked: Walked

    @property
    def proves_absence(self) -> bool:
        """Whether what this walk did not see was not there."""
        return self.mode == "full" and self.walked.certificate != "none"

    @property
    def is_partial(self) -> bool:
        """Whether it is a full walk that may have brought rows beside others it missed."""
        return self.mode == "full" and self.walked.certificate == "none"


@dataclass(frozen=True, slots=True)
class Brief:
    """What the store knows of a source before it is walked. `round` is the number of commits of the
    source so far, `commit_number` counts those that analysts see."""

    store_id: str
    commit_number: int
    committed_at: datetime
    round: int
    integrations: tuple[str, ...]  # ids of those we hold active
    active: Mapping[str, int]  # active rows per scope
    suspects: Mapping[str, frozenset[str]]  # ids of rows absent but not proven gone, per scope


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the store knows of one listing of installs. `full_at` None: no certified full walk yet;
    `unsure`: one without a certificate came after it.

    `decided` of the suspects are in holds; `order` is newest first, `digests` of every row.
    """

    full_at: datetime | None
    unsure: bool
    active: int
    suspects: int
    decided: int
    order: tuple[str, ...]
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Harvest:
    """What a sync brings home for one commit. `began_at`: when it began to look. `spools`: the
    files of what it saw, and how long it left them."""

    source: str
    fence: int
    began_at: datetime
    walks: tuple[ScopeWalk, ...]
    spools: Mapping[Path, int]
    placed: tuple[tuple[str, tuple[str, ...]], ...] = ()  # scope and its walked order


@dataclass(frozen=True, slots=True)
class Pair:
    """An object as kept (None: never seen) and as answered (`payload` None: 404)."""

    kind: Kind
    scope: str
    id: str
    payload: Any | None
    before: Known | None


@dataclass(frozen=True, slots=True)
class Absence:
    """An active install that a certified walk of its scope did not see."""

    scope: str
    before: Install
    suspected_round: int | None


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that the decision needs from the store, read inside the transaction of the commit."""

    store_id: str
    commit_at: datetime
    round: int
    last_sequence: int
    pairs: tuple[Pair, ...]
    absences: tuple[Absence, ...]
    active: Mapping[str, int]  # active rows per scope
    announced: frozenset[str]  # scopes past their baseline
    # Of integrations that answered 404: their active installs, and how many others we saw again.
    dependents: tuple[Install, ...] = ()
    integrations_seen: int = 0
    # Of accounts with an install that answered 404: their active installs.
    account_sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Announcement:
    """One event to be: its type, the columns it announces, when the source says it happened."""

    type: str
    changed_fields: tuple[str, ...] = ()
    occurred_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A pair that differs: its next revision, and what is announced of it."""

    kind: Kind
    scope: str
    before: Known | None
    after: Known
    announcements: tuple[Announcement, ...]
    retraction: bool = False  # takes an inferred deletion back: nothing else differs


@dataclass(frozen=True, slots=True)
class Limits:
    """`[deletion_guard]` and what people decided about earlier holds of the source."""

    min_rows: int
    max_share: float
    max_count: int
    held: frozenset[str] = frozenset()  # ids in open holds: they wait on
    rejected: frozenset[str] = frozenset()  # ids of rejected holds that were not seen since
    approved: frozenset[str] = frozenset()  # ids a person has released
    recorded: Mapping[str, int] = field(default_factory=dict)  # per scope, in this run before


@dataclass(frozen=True, slots=True)
class Proposal:
    """Absences of one scope that wait for a person."""

    scope: str
    reason: str
    ids: tuple[str, ...]
    share: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What the commit writes, and what it holds back."""

    changes: tuple[Change, ...] = ()
    events: tuple[Event, ...] = ()
    suspects: tuple[str, ...] = ()  # installs that become suspects
    appeared: frozenset[str] = frozenset()  # scopes that have no baseline: theirs is announced
    baselined: frozenset[str] = frozenset()  # scopes whose baseline ends with this commit
    holds: tuple[Proposal, ...] = ()
    held: Mapping[str, int] = field(default_factory=dict)  # rows held back per scope, old and new

    def absences(self, besides: frozenset[str]) -> Mapping[str, int]:
        """How many installs it records as absent per scope, `besides` those."""
        return Counter(
            change.scope
            for change in self.changes
            if isinstance(change.after, Install)
            and change.after.deletion_inferred
            and (change.before is None or change.before.state == "active")
            and change.after.install_id not in besides
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One run over one scope: what a person and `sync_runs` are told of it."""

    run_id: str
    source: str
    scope: str
    mode: Mode
    outcome: Outcome
    certificate: Certificate
    started_at: datetime
    finished_at: datetime
    requests: int = 0
    pages: int = 0
    seen: int = 0
    total: int | None = None
    events: Mapping[str, int] | None = None  # by type
    held: int = 0
    suspects: int = 0
    reason: str | None = None  # why there is no certificate
    error: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Events by verb: created, upgraded, …"""
        counted: Counter[str] = Counter()
        for type_, count in (self.events or {}).items():
            counted[type_.partition(".")[2]] += count
        return {verb: counted[verb] for verb in _VERBS}


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a keyset source accepts of what is not documented (SOURCES.md): the direction that puts
    the newest first and nulls last, and a filter on id. None or False: it refused."""

    newest_first: str | None = None
    filters: bool = False
