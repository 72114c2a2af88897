"""Whole values to vary: rows of both platforms, what was gathered of them, and commits of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import msgspec

from worker import dialects, planning
from worker.changes import Reading
from worker.dialects.rows import digest
from worker.findings import Absence, Gathered, Harvest, Known, Limits, Pair, Plan, ScopeWalk
from worker.models import (
    INSTALLS,
    INTEGRATIONS,
    Certificate,
    Event,
    Install,
    Integration,
    Kind,
    Mode,
    One,
    Page,
    PageNumber,
    Row,
    Walked,
    installs_of,
)
from worker.planning import Policy
from worker.spool import Spool
from worker.walking import integration_of, kind_of
from worker.warehouse import Store, connection, rows

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OF_A = installs_of("int_a")
OPEN = Limits(min_rows=10**6, max_share=1.0, max_count=10**6)  # nothing but lost access is held


# What the platforms answer.


def gestal_row(id: str = "ins_1", **fields: Any) -> dict[str, Any]:
    """An installation as Gestal lists it (seed 000)."""
    return {
        "cloud_id": id,
        "created_at": "2026-01-02T03:04:05.000Z",
        "site": {"cloud_id": "site_1", "name": "Kirchhof"},
        "tenant": {"cloud_id": "ten_1", "name": "Müller & Söhne"},
        **fields,
    }


def gestal_integration(id: str = "int_a", **fields: Any) -> dict[str, Any]:
    """An integration as Gestal lists it (seed 001)."""
    return {
        "cloud_id": id,
        "name": "Post",
        "url": "https://post.example",
        "description": "Sends post.",
        "created_at": "2025-01-01T00:00:00.000Z",
        "updated_at": "2025-06-01T00:00:00.000Z",
        **fields,
    }


def aeontel_row(id: str = "ins_1", **fields: Any) -> dict[str, Any]:
    """An install as Aeontel lists it (seed 002)."""
    return {
        "id": id,
        "integrationId": "int_a",
        "integrationVersionId": "v1",
        "workspaceId": "ws_1",
        "variables": {"language": "de", "api_key": "hush"},
        "memberPolicy": "manual",
        "installedBy": "usr_1",
        "installedAt": "2026-01-02T03:04:05Z",
        "lastUpgradedAt": None,
        "deletedAt": None,
        "retentionTier": "short",
        **fields,
    }


def aeontel_integration(id: str = "int_a", **fields: Any) -> dict[str, Any]:
    """An integration as Aeontel lists it."""
    return {
        "id": id,
        "workspaceId": "ws_0",
        "slug": "post",
        "name": "Post",
        "currentVersion": "v1",
        "deletedAt": None,
        "createdAt": "2025-01-01T00:00:00Z",
        "updatedAt": "2025-06-01T00:00:00Z",
        **fields,
    }


# What the core is given.


def reading(dialect: str = "aeontel", *ignore: str) -> Reading:
    """How the rows of a dialect are read, as a sync does."""
    talk = dialects.named(dialect)

    def columns(pair: Pair, payload: Any) -> Known:
        if pair.kind == "integration":
            return talk.integration(payload)
        return talk.install(payload, integration_of(pair.scope))

    return Reading(columns, ignore)


def install(id: str = "ins_1", **fields: Any) -> Install:
    """An install as kept."""
    values: dict[str, Any] = {
        "integration_id": "int_a", "account_id": "ws_1", "revision": 1, "first_seen_at": NOON,
        "last_changed_at": NOON, "payload": aeontel_row(id),
    }  # fmt: skip
    return Install(install_id=id, **{**values, **fields})


def integration(id: str = "int_a", **fields: Any) -> Integration:
    """An integration as kept."""
    values: dict[str, Any] = {
        "name": "Post", "revision": 1, "first_seen_at": NOON, "last_changed_at": NOON,
        "payload": gestal_integration(id),
    }  # fmt: skip
    return Integration(integration_id=id, **{**values, **fields})


def pair(payload: Any | None, before: Known | None = None, scope: str = INSTALLS) -> Pair:
    """An object as kept and as answered; without a payload, the object `before` answers 404."""
    kind: Kind = "integration" if scope == INTEGRATIONS else "install"
    return Pair(kind, scope, _id_of(payload, before), payload, before)


def _id_of(payload: Any | None, before: Known | None) -> str:
    if isinstance(payload, Mapping):
        return str(payload.get("id") or payload["cloud_id"])
    if before is None:
        return "never_seen"
    return before.install_id if isinstance(before, Install) else before.integration_id


def absence(before: Install, suspected_round: int | None = None, scope: str = OF_A) -> Absence:
    """An active install that a certified walk of its scope did not see."""
    return Absence(scope, before, suspected_round)


def gathered(*pairs: Pair, **fields: Any) -> Gathered:
    """What a commit finds in a store that has announced its listings."""
    values: dict[str, Any] = {
        "store_id": "st_1", "commit_at": NOON, "round": 5, "last_sequence": 40, "absences": (),
        "dependents": (), "integrations_seen": 1, "active": {INSTALLS: 100, OF_A: 100},
        "announced": frozenset({INTEGRATIONS, INSTALLS, OF_A}), "account_sizes": {},
    }  # fmt: skip
    return Gathered(pairs=pairs, **{**values, **fields})


def walk(
    scope: str = INSTALLS,
    certificate: Certificate = "pristine",
    *,
    mode: Mode = "full",
    round: int = 5,
    **walked: Any,
) -> ScopeWalk:
    """A walk that saw something, begun after five commits."""
    found = Walked(certificate, **{"seen": 1, **walked})
    return ScopeWalk(f"run_of_{scope}", scope, mode, round, found)


def policy(dialect: str = "aeontel", *, limits: Limits = OPEN, **fields: Any) -> Policy:
    """The policy of the source `farm`."""
    values: dict[str, Any] = {"reading": reading(dialect), "cascades": dialect == "gestal"}
    return Policy("farm", limits=limits, **{**values, **fields})


# What a sync brings home, and its commit.

Handle = duckdb.DuckDBPyConnection


def new_store(path: Path) -> Path:
    """A store without a row; made once, because its schema takes longer than most tests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_blank())
    return path


@cache
def _blank() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store.duckdb"
        connection.connect(path, NOON - 60 * MINUTE).close()
        return path.read_bytes()


def connected(path: Path) -> Handle:
    """A connection for few rows: a second thread would only cost time."""
    opened = connection.connect(path, NOON)
    opened.execute("set threads = 1")
    return opened


@dataclass(frozen=True, slots=True)
class Shown:
    """What one walk brought of one scope: rows, newest first, and ids that answered 404."""

    scope: str
    rows: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[str] = ()
    certificate: Certificate = "pristine"
    total: int | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids in their order."""
        return tuple(_id_of(row, None) for row in self.rows)


def row(payload: Mapping[str, Any]) -> Row:
    """A row as a dialect reads it."""
    raw = msgspec.json.encode(payload)
    return Row(_id_of(payload, None), digest(raw), raw)


def spool(folder: Path, shown: Shown, observed_at: datetime) -> Spool:
    """What was shown, on disk, all of it asked for at `observed_at`."""
    file = Spool(folder, shown.scope, kind_of(shown.scope), part="example")
    rows = [row(payload) for payload in shown.rows]
    file.record([PageNumber(1, 100)], [Page(tuple(rows))], [rows], observed_at)
    file.record([One(id) for id in shown.missing], [None for _ in shown.missing],
                [() for _ in shown.missing], observed_at)  # fmt: skip
    return file


def harvest(
    store: Store, folder: Path, *shown: Shown, at: datetime = NOON, fence: int = 1
) -> Harvest:
    """What a sync that began at `at` brings home; certified walks of installs place their order."""
    round = store.brief("farm").round
    walks = tuple(
        walk(each.scope, each.certificate, round=round, order=each.ids, seen=len(each.rows),
             total=len(each.rows) if each.total is None else each.total)
        for each in shown
    )  # fmt: skip
    placed = tuple(
        (each.scope, each.ids)
        for each in shown
        if each.scope != INTEGRATIONS and each.certificate != "none"
    )
    spools = [spool(folder, each, at) for each in shown]
    return Harvest("farm", fence, at, walks, {s.path: s.length for s in spools}, placed)


def commit(
    store: Store, brought: Harvest, now: datetime | None = None, *, policy: Policy | None = None
) -> Plan:
    """Gathers, plans and applies in one transaction, as a sync does."""
    with store.transaction():
        found = store.gather(brought, now or brought.began_at)
        plan = planning.plan(found, brought.walks, policy or _GESTAL)
        store.apply(brought, found, plan)
    return plan


class Crash(Exception):
    """The process dies at a statement."""


class Failing:
    """A connection whose n-th statement is not executed."""

    def __init__(self, handle: Handle, n: int) -> None:
        self.handle, self.left = handle, n

    def execute(self, *args: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise Crash(*args)
        return self.handle.execute(*args)


def event_log(opened: Handle) -> list[Event]:
    """The event log as analysts see it."""
    log = opened.execute("from events order by sequence")
    return [rows.event(row) for row in rows.dicts(log)]


_GESTAL = policy("gestal")
