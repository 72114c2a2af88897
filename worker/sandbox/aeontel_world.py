"""The state behind Aeontel: integrations and installs by id, soft-deleted ones among them."""

from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from random import Random
from typing import Any, Literal

from worker.sandbox.aeontel_rows import made_install, made_integration
from worker.sandbox.calls import Call
from worker.sandbox.faults import Faults
from worker.sandbox.names import PRODUCTS, made_name, made_uuid
from worker.sandbox.world import START, Access, Change, LogicalClock, Row, stamp

TOKEN = "aeon_live_token"  # noqa: S105  of nobody but the sandbox


class AeontelWorld:
    """One account. Ids rise with time, so that both indexes stand in the order of their ids.

    What the documents leave open is an attribute: `lists_deleted` (the plain listing has the
    soft-deleted), `accepts_filter`, `accepts_order_by` (else 400), and `total_mode`."""

    kinds: Sequence[str] = ("install", "upgrade", "update", "uninstall", "restore", "purge")

    def __init__(
        self,
        now: datetime = START,
        seed: int = 0,
        lists_deleted: bool = True,
        accepts_filter: bool = True,
        accepts_order_by: bool = True,
        total_mode: Literal["exact", "unfiltered", "missing"] = "exact",
    ) -> None:
        self.rng = Random(seed)
        self.clock = LogicalClock(now)
        self.faults = Faults()
        self.access = Access()
        self.tokens = {TOKEN}
        self.lists_deleted = lists_deleted
        self.accepts_filter = accepts_filter
        self.accepts_order_by = accepts_order_by
        self.total_mode = total_mode
        self.before_request: Callable[[AeontelWorld, Call], None] | None = None
        self.integrations: dict[str, Row] = {}
        self.versions: dict[str, str] = {}  # the version id that an upgrade brings
        self.installs: dict[str, Row] = {}
        self._remembered: dict[Hashable, list[Row]] = {}
        self._remembered_at: Hashable = None

    # What can be seen

    def seen(self, rows: dict[str, Row], key: str) -> Row | None:
        """A row of `rows` by its id, soft-deleted ones too; None if the login has no such row."""
        row = rows.get(key)
        return row if row and self.access.shows(row["workspaceId"]) else None

    def shown(self, rows: dict[str, Row], deleted: bool) -> list[Row]:
        """What the login sees of `rows`, by id, with the soft-deleted ones or without."""
        return [
            row
            for row in rows.values()
            if (deleted or row["deletedAt"] is None) and self.access.shows(row["workspaceId"])
        ]

    def listed(self) -> dict[str, list[Row]]:
        """What every scope would list now, in the default order."""
        return {
            "integrations": self.shown(self.integrations, deleted=False),
            "installs": self.shown(self.installs, deleted=self.lists_deleted),
        }

    def live(self) -> set[str]:
        """The ids of all installs that are not deleted, whatever the login may see."""
        return {key for key, row in self.installs.items() if row["deletedAt"] is None}

    def remember(self, key: Hashable, find: Callable[[], list[Row]]) -> list[Row]:
        """The rows that `find` finds, looked for only once until something changes."""
        seen = (self.clock.changes, frozenset(self.access.lost), self.access.is_other_account)
        if self._remembered_at != seen:
            self._remembered, self._remembered_at = {}, seen
        if key not in self._remembered:
            self._remembered[key] = find()
        return self._remembered[key]

    # What workspaces do

    def install(self, integration_id: str, workspace_id: str | None = None, **given: Any) -> str:
        """A workspace (default: a new one) installs the integration; `given` sets fields."""
        now = self.clock.tick()
        return self.put(
            made_install(self.rng, now)
            | {
                "integrationId": integration_id,
                "integrationVersionId": self.versions[integration_id],
                "workspaceId": workspace_id or made_uuid(self.rng, now),
            }
            | given
        )

    def put(self, row: Row) -> str:
        """Keep an install; its id."""
        self.installs[row["id"]] = row
        self._remembered_at = None
        return str(row["id"])

    def upgrade(self, install_id: str) -> None:
        """Bring an install to the current version of its integration, or apply that again."""
        row = self.installs[install_id]
        self._set(
            install_id,
            integrationVersionId=self.versions[row["integrationId"]],
            lastUpgradedAt=stamp(self.clock.tick()),
        )

    def update(self, install_id: str, **changed: Any) -> None:
        """Set fields of an install; none given: some variable gets a new value."""
        self.clock.tick()
        variables = self.installs[install_id]["variables"]
        limit = {"limit": self.rng.randrange(1_000_000)}
        self._set(install_id, **(changed or {"variables": variables | limit}))

    def uninstall(self, install_id: str) -> None:
        """Soft-delete an install."""
        self._set(install_id, deletedAt=stamp(self.clock.tick()))

    def restore(self, install_id: str) -> None:
        """Undo a soft deletion."""
        self.clock.tick()
        self._set(install_id, deletedAt=None)

    def purge(self, install_id: str) -> None:
        """Forget an install for good."""
        self.clock.tick()
        del self.installs[install_id]

    # What the publisher does

    def create_integration(self, name: str | None = None, workspace_id: str | None = None) -> str:
        """Publish an integration in its first version."""
        now = self.clock.tick()
        row = made_integration(self.rng, now, name or made_name(self.rng, PRODUCTS))
        row["workspaceId"] = workspace_id or row["workspaceId"]
        self.integrations[row["id"]] = row
        self.versions[row["id"]] = made_uuid(self.rng, now)
        return str(row["id"])

    def publish(self, integration_id: str) -> str:
        """Publish the next version, which no install has yet; its version id."""
        now = self.clock.tick()
        major, minor, patch = self.integrations[integration_id]["currentVersion"].split(".")
        self.versions[integration_id] = made_uuid(self.rng, now)
        version = f"{major}.{int(minor) + 1}.{patch}"
        self._set_integration(integration_id, currentVersion=version, updatedAt=stamp(now))
        return self.versions[integration_id]

    def update_integration(self, integration_id: str, **changed: Any) -> None:
        """Set fields of an integration."""
        now = stamp(self.clock.tick())
        self._set_integration(integration_id, **changed, updatedAt=now)

    def delete_integration(self, integration_id: str) -> None:
        """Soft-delete an integration; its installs stay as they are."""
        now = stamp(self.clock.tick())
        self._set_integration(integration_id, deletedAt=now, updatedAt=now)

    def expire_tokens(self) -> None:
        """Revoke the token, until it is added to `tokens` again."""
        self.tokens.clear()

    # What happens by chance

    def change(self, kind: str, rng: Random) -> Change | None:
        """Do `kind` to something drawn by `rng`; None if nothing can have that done to it."""
        acts: dict[str, Callable[[str], str | None]] = {
            "install": lambda key: self.install(key, self._known_workspace(rng)),
            "upgrade": lambda key: self._upgrade_by_chance(key, rng),
            "update": self.update,
            "uninstall": self.uninstall,
            "restore": self.restore,
            "purge": self.purge,
            "create_integration": lambda _: self.create_integration(),
            "rename_integration": lambda key: self.update_integration(
                key, name=made_name(rng, PRODUCTS)
            ),
            "delete_integration": self.delete_integration,
        }
        key = self._drawn(kind, rng)
        return None if key is None else Change(kind, acts[kind](key) or key)

    def _drawn(self, kind: str, rng: Random) -> str | None:
        match kind:
            case "create_integration":
                return ""
            case "install" | "rename_integration" | "delete_integration":
                keys = [key for key, row in self.integrations.items() if not row["deletedAt"]]
            case "restore" | "purge":
                keys = [key for key, row in self.installs.items() if row["deletedAt"]]
            case "upgrade" | "update" | "uninstall":
                keys = [key for key, row in self.installs.items() if not row["deletedAt"]]
            case _:
                raise ValueError(f"Aeontel knows no {kind!r}")
        return rng.choice(keys) if keys else None

    def _known_workspace(self, rng: Random) -> str | None:
        """Half the installs are by somebody who has one already."""
        known = list(self.installs.values())
        return str(rng.choice(known)["workspaceId"]) if known and rng.random() < 0.5 else None

    def _upgrade_by_chance(self, install_id: str, rng: Random) -> None:
        if rng.random() < 0.5:
            self.publish(self.installs[install_id]["integrationId"])
        self.upgrade(install_id)

    def _set(self, install_id: str, **changed: Any) -> None:
        self.installs[install_id] = self.installs[install_id] | changed

    def _set_integration(self, integration_id: str, **changed: Any) -> None:
        self.integrations[integration_id] = self.integrations[integration_id] | changed
