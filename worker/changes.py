"""The truth table: what a pair (as kept, as answered) means; one branch per row of DESIGN 7."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from worker.findings import Announcement, Change, Known, Pair
from worker.models import Install, Integration
from worker.payloads import canonical_hash, pruned

UPGRADE_FIELDS: Final = ("upgraded_at", "version_id")
_KEPT_BY_US: Final = frozenset({
    "state", "deletion_inferred", "missing_since", "revision", "first_seen_at", "last_changed_at",
    "row_hash", "payload", "deleted_at", "purged_at",
})  # fmt: skip
_INSTALL_FIELDS: Final = tuple(f for f in Install.__struct_fields__ if f not in _KEPT_BY_US)
_INTEGRATION_FIELDS: Final = tuple(f for f in Integration.__struct_fields__ if f not in _KEPT_BY_US)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a dialect's rows are read, and which of their paths do not count as a change."""

    columns: Callable[[Pair, Any], Known]  # the pair names the scope; the payload the values
    ignore: tuple[str, ...] = ()


def classify(pair: Pair, reading: Reading, now: datetime) -> Change | None:
    """What happened to `pair`, or None when nothing did that is kept. A 404 is for `gone`."""
    row = reading.columns(pair, pair.payload)
    after = _kept(row, canonical_hash(pruned(pair.payload, reading.ignore)))
    before = pair.before
    if before is None:
        return _first_seen(pair, _revised(after, None, now))
    fields = _differing(pair, before, reading)
    after = _revised(after, before, now)
    match before.state, after.state:
        case "active", "active":
            return _change(pair, after, *_updates(after, fields)) if fields else None
        case "active", _:
            return _change(pair, after, _told(after, "deleted", (), after.deleted_at))
        case _, "active":
            told = (_told(after, "restored"), *_updates(after, fields))
            return _change(pair, after, *told, retraction=before.deletion_inferred and not fields)
        case _ if fields or before.deleted_at != after.deleted_at or before.state != after.state:
            return _change(pair, after)
        case _:
            return None


def gone(pair: Pair, now: datetime) -> Change | None:
    """What it means that an object is proven absent: two certified walks, or a 404."""
    before = pair.before
    if before is None or before.state == "purged":
        return None
    if before.state == "active":
        missing_since = before.missing_since if isinstance(before, Install) else None
        after = _next(before, now, state="deleted", deleted_at=missing_since or now,
                      deletion_inferred=True)  # fmt: skip
        return _change(pair, after, _told(after, "deleted"))
    if isinstance(before, Integration):
        return None
    after = _next(before, now, state="purged", purged_at=now)
    return _change(pair, after, _told(after, "purged"))


def _first_seen(pair: Pair, after: Known) -> Change:
    if after.state != "active":
        return _change(pair, after)
    return _change(pair, after, _told(after, "created", (), _created_at(after)))


def _created_at(row: Known) -> datetime | None:
    return row.installed_at if isinstance(row, Install) else row.created_at


def _kept(row: Known, row_hash: str) -> Known:
    state = "deleted" if row.deleted_at else "active"
    return msgspec.structs.replace(row, state=state, row_hash=row_hash)


def _revised(row: Known, before: Known | None, now: datetime) -> Known:
    return msgspec.structs.replace(
        row,
        revision=before.revision + 1 if before else 1,
        first_seen_at=before.first_seen_at if before else now,
        last_changed_at=now,
    )


def _next(before: Known, now: datetime, **values: Any) -> Known:
    if isinstance(before, Install):
        values["missing_since"] = None
    revision = before.revision + 1
    return msgspec.structs.replace(before, revision=revision, last_changed_at=now, **values)


def _differing(pair: Pair, before: Known, reading: Reading) -> tuple[str, ...]:
    """The columns that differ; `payload` alone when only fields differ that are no column."""
    was, is_ = pruned(before.payload, reading.ignore), pruned(pair.payload, reading.ignore)
    names = _INSTALL_FIELDS if pair.kind == "install" else _INTEGRATION_FIELDS
    old, new = reading.columns(pair, was), reading.columns(pair, is_)
    fields = [name for name in names if getattr(old, name) != getattr(new, name)]
    # The listing, not the row, may name the integration (Gestal): the kept column decides.
    moved = new.integration_id is not None and before.integration_id != new.integration_id
    if moved and "integration_id" not in fields:
        fields.append("integration_id")
    if not fields and _unknown_differ(was, is_, old, new):
        fields = ["payload"]
    return tuple(sorted(fields))


def _unknown_differ(was: Any, is_: Any, old: Known, new: Known) -> bool:
    # deletedAt is told by the state, so it is no change of an unknown field.
    hides = old.deleted_at != new.deleted_at
    if hides:
        was, is_ = pruned(was, ("deletedAt",)), pruned(is_, ("deletedAt",))
    return canonical_hash(was) != canonical_hash(is_)


def _updates(after: Known, fields: tuple[str, ...]) -> tuple[Announcement, ...]:
    upgrade = UPGRADE_FIELDS if isinstance(after, Install) else ()
    upgraded = tuple(name for name in fields if name in upgrade)
    updated = tuple(name for name in fields if name not in upgrade)
    told = (("upgraded", upgraded, "upgraded_at"), ("updated", updated, "updated_at"))
    return tuple(
        _told(after, verb, names, getattr(after, time) if time in names else None)
        for verb, names, time in told
        if names
    )


def _told(
    after: Known, verb: str, fields: tuple[str, ...] = (), occurred_at: datetime | None = None
) -> Announcement:
    kind = "install" if isinstance(after, Install) else "integration"
    return Announcement(f"{kind}.{verb}", fields, occurred_at)


def _change(pair: Pair, after: Known, *told: Announcement, retraction: bool = False) -> Change:
    return Change(pair.kind, pair.scope, pair.before, after, told, retraction)
