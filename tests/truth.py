"""What a sync must find out, worked out from the rows of the platform alone (DESIGN 7)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from platforms import World, source_rows

from worker.sandbox.gestal_world import GestalWorld

Row = Mapping[str, Any]
Told = tuple[str, tuple[str, ...], bool, datetime | None]  # type, fields, inferred, occurred_at

GESTAL = {
    "install_id": "cloud_id",
    "account_id": "tenant.cloud_id",
    "account_name": "tenant.name",
    "site_id": "site.cloud_id",
    "site_name": "site.name",
    "installed_at": "created_at",
}
AEONTEL = {
    "install_id": "id",
    "integration_id": "integrationId",
    "version_id": "integrationVersionId",
    "account_id": "workspaceId",
    "installed_by": "installedBy",
    "member_policy": "memberPolicy",
    "retention_tier": "retentionTier",
    "parent_install_id": "parentInstallId",
    "solution_id": "solutionId",
    "auth_state_id": "authStateId",
    "installed_at": "installedAt",
    "upgraded_at": "lastUpgradedAt",
    "variables": "variables",
}
UPGRADE = ("upgraded_at", "version_id")
TIMES = ("installed_at", "upgraded_at")


def columns(world: World, row: Row) -> dict[str, Any]:
    """The columns that a row of the platform fills."""
    names = GESTAL if isinstance(world, GestalWorld) else AEONTEL
    found = {name: _at(row, path) for name, path in names.items()}
    return {name: moment(v) if name in TIMES else v for name, v in found.items()}


def moment(text: str | None) -> datetime | None:
    """A time as the platforms write it."""
    return datetime.fromisoformat(text) if text else None


def integration_of(world: World, id: str) -> str:
    """The integration of an install that the platform knows."""
    if isinstance(world, GestalWorld):
        return world.homes[id]
    return str(world.installs[id]["integrationId"])


@dataclass
class Truth:
    """What is known of a world after each look at it: per install its state and its last row."""

    world: World
    states: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    def look(self) -> dict[str, list[Told]]:
        """What has happened to each install since the last look, in the order of its telling."""
        now = source_rows(self.world)
        told = {id: self._told(id, now.get(id)) for id in {**self.rows, **now}}
        for id, row in now.items():
            self.states[id] = "deleted" if row.get("deletedAt") else "active"
            self.rows[id] = row
        return {id: each for id, each in told.items() if each}

    def _told(self, id: str, row: Row | None) -> list[Told]:
        was = self.states.get(id)
        if row is None:
            return self._gone(id)
        if row.get("deletedAt"):
            at = moment(row["deletedAt"])
            return [("install.deleted", (), False, at)] if was == "active" else []
        if was is None:
            return [("install.created", (), False, columns(self.world, row)["installed_at"])]
        restored: list[Told] = [("install.restored", (), False, None)]
        return (restored if was != "active" else []) + self._updates(id, row)

    def _gone(self, id: str) -> list[Told]:
        is_gestal = isinstance(self.world, GestalWorld)
        match self.states[id]:
            case "active":
                self.states[id] = "deleted"
                return [("install.deleted", (), True, None)]
            case "deleted" if not is_gestal:
                self.states[id] = "purged"
                return [("install.purged", (), False, None)]
            case _:
                return []

    def _updates(self, id: str, row: Row) -> list[Told]:
        was, is_ = columns(self.world, self.rows[id]), columns(self.world, row)
        differing = sorted(name for name in is_ if was[name] != is_[name])
        upgraded = tuple(name for name in differing if name in UPGRADE)
        updated = tuple(name for name in differing if name not in UPGRADE)
        at = is_["upgraded_at"] if "upgraded_at" in upgraded else None
        told: list[Told] = [("install.upgraded", upgraded, False, at)] if upgraded else []
        return told + ([("install.updated", updated, False, None)] if updated else [])


def told_by(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Told]]:
    """The same of recorded events; a restored one may say that it takes a conclusion back."""
    told: dict[str, list[Told]] = defaultdict(list)
    for event in events:
        if event["install_id"] is not None:
            inferred = event["type"] == "install.deleted" and event["deletion_inferred"]
            fields = tuple(event["changed_fields"])
            told[event["install_id"]].append(
                (event["type"], fields, inferred, event["occurred_at"])
            )
    return dict(told)


def _at(row: Row, path: str) -> Any:
    value: Any = row
    for key in path.split("."):
        value = value[key]
    return value
