"""Makes a plan of what was gathered: changes, suspects, holds and numbered events. Pure."""

import hashlib
from base64 import b32encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from worker import absences
from worker.changes import Reading, classify, gone
from worker.findings import Change, Gathered, Known, Limits, Pair, Plan, ScopeWalk
from worker.models import INSTALLS, INTEGRATIONS, Event, Install, installs_of


@dataclass(frozen=True, slots=True)
class Policy:
    """What the plan must know of a source: how rows are read, what is an accident, and whether an
    integration takes its installs along (Gestal: "Removes all existing installations too")."""

    source: str
    reading: Reading
    limits: Limits
    cascades: bool
    listed: tuple[str, ...] = ()  # the configured integrations; empty: all


def plan(gathered: Gathered, walks: Sequence[ScopeWalk], policy: Policy) -> Plan:
    """What the commit writes. `walks` are the walks of this sync, one per scope."""
    now = gathered.commit_at
    seen = [c for p in gathered.pairs if p.payload is not None
            if (c := classify(p, policy.reading, now))]  # fmt: skip
    verdicts = dict(absences.verdicts(gathered, walks, policy.limits))
    lost = [
        change
        for scope, verdict in verdicts.items()
        for missing in verdict.allowed
        if (change := gone(_pair(scope, missing.before), now))
    ]
    cascaded = _cascaded(lost, _install_ids([*seen, *lost]), gathered) if policy.cascades else []
    changes = _integrations_first([*seen, *lost, *cascaded])
    appeared = _appeared(changes, gathered, policy)
    told = appeared | gathered.announced
    return Plan(
        changes=tuple(changes),
        events=tuple(_events(changes, told, gathered, walks, policy)),
        suspects=tuple(absences.suspects(gathered, walks, _install_ids(changes))),
        appeared=appeared - gathered.announced,
        baselined=_baselines_ended(walks, policy.listed) - told,
        holds=tuple(hold for verdict in verdicts.values() for hold in verdict.holds),
        held={scope: verdict.held for scope, verdict in verdicts.items() if verdict.held},
    )


def _cascaded(lost: Sequence[Change], recorded: frozenset[str], gathered: Gathered) -> list[Change]:
    """The installs that went with their integration: one cause, so they are not held."""
    went = (
        gone(_pair(installs_of(install.integration_id or ""), install), gathered.commit_at)
        for install in absences.orphans(lost, gathered, recorded)
    )
    return [change for change in went if change]


def _install_ids(changes: Iterable[Change]) -> frozenset[str]:
    return frozenset(c.after.install_id for c in changes if isinstance(c.after, Install))


def _pair(scope: str, before: Known) -> Pair:
    if isinstance(before, Install):
        return Pair("install", scope, before.install_id, None, before)
    return Pair("integration", scope, before.integration_id, None, before)


def _integrations_first(changes: Iterable[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: change.kind == "install")


def _appeared(changes: Iterable[Change], gathered: Gathered, policy: Policy) -> frozenset[str]:
    """The scopes of integrations that appeared (their own event is no baseline): no baseline."""
    if policy.listed or INTEGRATIONS not in gathered.announced:
        return frozenset()
    new = (c.after for c in changes if c.kind == "integration" and c.before is None)
    return frozenset(installs_of(integration.integration_id or "") for integration in new)


def _baselines_ended(walks: Sequence[ScopeWalk], listed: Sequence[str]) -> frozenset[str]:
    """The scopes whose created events are announced after this commit: walked with a certificate.

    With configured integrations, a listing of all ends only their baselines: one that is added
    to the configuration later, or all of them, have their own.
    """
    certified = frozenset(walk.scope for walk in walks if walk.proves_absence)
    if not listed:
        return certified
    theirs = {installs_of(id) for id in listed} if INSTALLS in certified else set()
    return (certified - {INSTALLS, INTEGRATIONS}) | theirs


def _events(
    changes: Iterable[Change],
    announced: frozenset[str],
    gathered: Gathered,
    walks: Sequence[ScopeWalk],
    policy: Policy,
) -> Iterator[Event]:
    runs = {walk.scope: walk.run_id for walk in walks}
    fallback = walks[0].run_id
    sequence = gathered.last_sequence
    for change in changes:
        before, after = _document(policy, change.before), _document(policy, change.after)
        for told in change.announcements:
            sequence += 1
            yield Event(
                sequence=sequence,
                event_id=event_id(gathered.store_id, policy.source, change, told.type),
                type=told.type,
                source=policy.source,
                integration_id=change.after.integration_id,
                install_id=change.after.install_id if isinstance(change.after, Install) else None,
                revision=change.after.revision,
                occurred_at=told.occurred_at,
                detected_at=gathered.commit_at,
                deletion_inferred=_inferred(change, told.type),
                baseline=told.type.endswith(".created")
                and not _announces(change, announced, policy),
                changed_fields=told.changed_fields,
                before=before,
                after=after,
                run_id=runs.get(change.scope, fallback),
            )


def _announces(change: Change, announced: frozenset[str], policy: Policy) -> bool:
    if change.kind == "integration":
        # A configured integration was there before a person could name it.
        return INTEGRATIONS in announced and not policy.listed
    return bool(announced & {change.scope, installs_of(change.after.integration_id or "")})


def _inferred(change: Change, type_: str) -> bool:
    if type_.endswith(".deleted"):
        return change.after.deletion_inferred
    return type_.endswith(".restored") and change.retraction


def event_id(store_id: str, source: str, change: Change, type_: str) -> str:
    """The same for the same change of the same store; never the same for another."""
    after = change.after
    object_id = after.install_id if isinstance(after, Install) else after.integration_id
    parts = (store_id, source, change.kind, object_id, str(after.revision), type_)
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return f"evt_{b32encode(digest).decode()[:26].lower()}"


def _document(policy: Policy, known: Known | None) -> Mapping[str, Any] | None:
    if known is None:
        return None
    return {"source": policy.source, **msgspec.to_builtins(known)}
