"""What a sync's walks, plan and errors amount to: rows of `sync_runs`, an exit code. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from worker.errors import RateLimited, Refused, RetryLater, StocktakeError
from worker.findings import Plan, Run, ScopeWalk
from worker.models import INTEGRATIONS, Mode, Outcome, Walked
from worker.routes import escalates

_EXIT_CODES: Final[Mapping[Outcome, int]] = {
    "ok": 0, "unchanged": 0, "failed": 1, "held": 3, "partial": 75, "rate_limited": 75,
}  # fmt: skip
_MOST_SERIOUS_FIRST: Final[tuple[Outcome, ...]] = (
    "failed", "held", "partial", "rate_limited", "ok", "unchanged",
)  # fmt: skip


def run_of(
    source: str,
    walk: ScopeWalk,
    error: StocktakeError | None,
    plan: Plan,
    suspects: Mapping[str, frozenset[str]],
    started_at: datetime,
    finished_at: datetime,
) -> Run:
    """The run of one walk, after the commit of `plan`."""
    events = Counter(event.type for event in plan.events if event.run_id == walk.run_id)
    held = plan.held.get(walk.scope, 0)
    walked = walk.walked
    return Run(
        run_id=walk.run_id,
        source=source,
        scope=walk.scope,
        mode=walk.mode,
        outcome=_outcome(walk, error, events, held),
        certificate=walked.certificate,
        started_at=started_at,
        finished_at=finished_at,
        requests=walked.requests,
        pages=walked.pages,
        seen=walked.seen,
        total=walked.total,
        events=dict(sorted(events.items())),
        held=held,
        suspects=len(suspects.get(walk.scope, ())),
        reason=walked.reason,
        error=str(error) if error else None,
    )


def never_begun(source: str, mode: Mode, error: StocktakeError, now: datetime) -> Run:
    """The run of a sync that did not come to walk anything."""
    walk = ScopeWalk("", INTEGRATIONS, mode, 0, Walked("none", reason=str(error)))
    return run_of(source, walk, error, Plan(), {}, now, now)


def joined(first: Run, second: Run) -> Run:
    """One run of two walks over the same scope, the second made to settle what the first left."""
    events = Counter(first.events or {}) + Counter(second.events or {})
    outcome = second.outcome
    if outcome == "unchanged" and events:
        outcome = "ok"
    return replace(
        second,
        outcome=outcome,
        started_at=first.started_at,
        requests=first.requests + second.requests,
        events=dict(sorted(events.items())),
    )


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """The most serious one counts: 1 failed, then 3 held, then 75 try again later, else 0."""
    return _EXIT_CODES[most_serious(outcomes)]


def most_serious(outcomes: Iterable[Outcome]) -> Outcome:
    """The one that stands for all of them."""
    there = set(outcomes)
    return next((each for each in _MOST_SERIOUS_FIRST if each in there), "unchanged")


def failed(runs: Sequence[Run]) -> bool:
    """Whether a sync that ended so counts as a failure in a row; being rate limited does not."""
    return any(run.outcome in ("failed", "partial") for run in runs)


def _outcome(
    walk: ScopeWalk, error: StocktakeError | None, events: Mapping[str, int], held: int
) -> Outcome:
    match error:
        case RateLimited():
            return "rate_limited"
        case RetryLater():
            return "partial"
        case Refused():
            return "failed"
    if held:
        return "held"
    if not _sure(walk):
        return "partial"
    return "ok" if events else "unchanged"


def _sure(walk: ScopeWalk) -> bool:
    """Whether the walk did what it can do. An incremental one that met what only a full walk can
    settle has: the full walk follows when it is its turn."""
    if walk.mode == "full":
        return walk.proves_absence
    return walk.walked.complete or escalates(walk.walked.reason)
