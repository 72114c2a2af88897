"""What a sync found no more: which of it is proven gone, and which is only a suspect. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from worker.findings import Change, Gathered, Known, Limits, ScopeWalk
from worker.guard import Missing, Verdict, hold_all, judge, release
from worker.models import INTEGRATIONS, Install


def verdicts(
    gathered: Gathered, walks: Sequence[ScopeWalk], limits: Limits
) -> Iterator[tuple[str, Verdict]]:
    """Per scope what the guard says of the objects that are proven absent."""
    for scope, missing in _missing(gathered, walks).items():
        active = gathered.active.get(scope, 0)
        if scope != INTEGRATIONS:
            yield scope, judge(scope, missing, active, limits, gathered.account_sizes)
        elif gathered.integrations_seen:
            yield scope, release(missing, limits)
        else:
            # Every integration gone at once: another account, or a wrong base URL.
            reason = "no known integration is listed any more; is this still the same account?"
            yield scope, hold_all(scope, reason, missing, active, limits)


def suspects(
    gathered: Gathered, walks: Sequence[ScopeWalk], recorded: frozenset[str]
) -> Iterator[str]:
    """Ids of the installs found absent for the first time, but for the deletions `recorded` now."""
    unseen = (a.before for a in gathered.absences if a.suspected_round is None)
    asked = (before for _, before in _answered_404(gathered, walks) if _unsuspected(before))
    for install in (*unseen, *asked):
        if isinstance(install, Install) and install.install_id not in recorded:
            yield install.install_id


def orphans(
    lost: Iterable[Change], gathered: Gathered, recorded: frozenset[str]
) -> Iterator[Install]:
    """The installs that went with their `lost` integration, but for those `recorded` already."""
    ids = {change.after.integration_id for change in lost if change.kind == "integration"}
    for install in gathered.dependents:
        if install.integration_id in ids and install.install_id not in recorded:
            yield install


def _missing(gathered: Gathered, walks: Sequence[ScopeWalk]) -> Mapping[str, list[Missing]]:
    """Per scope what is proven absent: asked for and 404, or missed by two certified walks."""
    rounds = {walk.scope: walk.round for walk in walks if walk.proves_absence}
    missing: dict[str, list[Missing]] = defaultdict(list)
    emptied = _emptied(gathered, walks)
    for scope, before in _answered_404(gathered, walks):
        if scope not in emptied:
            missing[scope].append(Missing(before, asked=True))
    for absence in gathered.absences:
        suspected = absence.suspected_round
        if suspected is not None and suspected <= rounds.get(absence.scope, -1):
            missing[absence.scope].append(Missing(absence.before))
    return missing


def _answered_404(gathered: Gathered, walks: Sequence[ScopeWalk]) -> Iterator[tuple[str, Known]]:
    """Scope and object of each 404 that ends something; only a certified walk's count."""
    certified = {walk.scope for walk in walks if walk.proves_absence}
    for pair in gathered.pairs:
        if pair.payload is None and pair.before is not None and pair.scope in certified:
            # An install that was deleted can still be purged; nothing else can end twice.
            states = ("active", "deleted") if isinstance(pair.before, Install) else ("active",)
            if pair.before.state in states:
                yield pair.scope, pair.before


def _emptied(gathered: Gathered, walks: Sequence[ScopeWalk]) -> frozenset[str]:
    """Scopes that had installs and show none any more, which no walk before this one has said.

    Their 404s wait, as suspects, for a second, separate walk (DESIGN 8, guard).
    """
    empty = {walk.scope for walk in walks if not walk.walked.seen}
    return frozenset(
        scope
        for scope, before in _answered_404(gathered, walks)
        if scope in empty and _unsuspected(before)
    )


def _unsuspected(known: Known) -> bool:
    return isinstance(known, Install) and known.state == "active" and known.missing_since is None
