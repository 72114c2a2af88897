"""The state behind Gestal: integrations by creation, installs by a hidden time of update."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

from worker.sandbox.calls import Call
from worker.sandbox.faults import Faults
from worker.sandbox.logins import Logins
from worker.sandbox.names import OWNERS, PRODUCTS, SITES, made_id, made_name
from worker.sandbox.world import START, Access, Change, LogicalClock, Row, stamp

TOKEN_LIFE = timedelta(days=1)


class GestalWorld:
    """One integrator's account. Both indexes of installs hold the row updated last at their end,
    so that a change moves one row and reads the listing backwards."""

    kinds: Sequence[str] = ("install", "update", "touch", "uninstall", "restore")

    def __init__(
        self,
        now: datetime = START,
        seed: int = 0,
        token_life: timedelta = TOKEN_LIFE,
        max_per_page: int = 1000,
    ) -> None:
        self.rng = Random(seed)
        self.clock = LogicalClock(now)
        self.faults = Faults()
        self.access = Access()
        self.logins = Logins(token_life, f"gestal/{seed}")
        self.max_per_page = max_per_page
        self.before_request: Callable[[GestalWorld, Call], None] | None = None
        self.integrations: dict[str, Row] = {}
        self.installs: dict[str, dict[str, Row]] = {}
        self.homes: dict[str, str] = {}  # the integration of every install, removed ones too
        self.removed: dict[str, Row] = {}

    # What can be seen

    def sees(self, integration_id: str) -> bool:
        """Whether the integrator has that integration."""
        return integration_id in self.integrations and not self.access.is_other_account

    def shown_integrations(self) -> list[Row]:
        """The integrations in listing order: created last comes first."""
        return [row for key, row in reversed(self.integrations.items()) if self.sees(key)]

    def shown_installs(self, integration_id: str) -> list[Row]:
        """The installs of one integration in listing order: updated last comes first."""
        rows = reversed(self.installs.get(integration_id, {}).values())
        if not self.access.lost and not self.access.is_other_account:
            return list(rows)
        return [row for row in rows if self.access.shows(row["tenant"]["cloud_id"])]

    def listed(self) -> dict[str, list[Row]]:
        """What every scope would list now, in listing order."""
        shown = self.shown_integrations()
        scopes = {f"installs/{row['cloud_id']}": row["cloud_id"] for row in shown}
        installs = {scope: self.shown_installs(key) for scope, key in scopes.items()}
        return {"integrations": shown, **installs}

    def live(self) -> set[str]:
        """The ids of all installs that exist, whatever the login may see."""
        return {key for rows in self.installs.values() for key in rows}

    # What tenants do

    def install(self, integration_id: str, account: Row | None = None) -> str:
        """A tenant (default: a new one) activates the integration on a new site."""
        row = {
            "cloud_id": made_id(self.rng, "inst"),
            "created_at": stamp(self.clock.tick()),
            "tenant": account or made_tenant(self.rng),
            "site": made_site(self.rng),
        }
        self.put(integration_id, row)
        return str(row["cloud_id"])

    def put(self, integration_id: str, row: Row) -> None:
        """Stand `row` in front of the listing of its integration."""
        rows = self.installs[integration_id]
        rows.pop(row["cloud_id"], None)
        rows[row["cloud_id"]] = row
        self.homes[row["cloud_id"]] = integration_id

    def update(
        self, install_id: str, site_name: str | None = None, account_name: str | None = None
    ) -> None:
        """Rename the site or the tenant of one install; of neither, the site gets a new name."""
        row = self._row(install_id)
        if site_name is None and account_name is None:
            site_name = made_name(self.rng, SITES)
        names = {"site": site_name, "tenant": account_name}
        renamed = {part: row[part] | {"name": name} for part, name in names.items() if name}
        self.clock.tick()
        self.put(self.homes[install_id], row | renamed)

    def touch(self, install_id: str) -> None:
        """Move an install to the front although nothing of it that is listed has changed."""
        self.clock.tick()
        self.put(self.homes[install_id], self._row(install_id))

    def rename_account(self, account_id: str, name: str) -> None:
        """Rename a tenant in all its installs, none of which moves: they were not updated."""
        self.clock.tick()
        for rows in self.installs.values():
            for key, row in rows.items():
                if row["tenant"]["cloud_id"] == account_id:
                    rows[key] = row | {"tenant": row["tenant"] | {"name": name}}

    def uninstall(self, install_id: str) -> None:
        """The tenant deactivates the integration: the row is gone from the listing."""
        self.clock.tick()
        self.removed[install_id] = self.installs[self.homes[install_id]].pop(install_id)

    def restore(self, install_id: str) -> None:
        """The activation comes back, with the id it had, in front."""
        self.clock.tick()
        self.put(self.homes[install_id], self.removed.pop(install_id))

    # What the integrator does

    def create_integration(
        self, name: str | None = None, url: str | None = None, description: str = ""
    ) -> str:
        """Create an integration; it comes first in the listing."""
        now = stamp(self.clock.tick())
        name = name or made_name(self.rng, PRODUCTS)
        row: Row = {
            "cloud_id": made_id(self.rng, "int"),
            "name": name,
            "url": url or f"https://acme.example/products/{len(self.integrations) + 1}",
            "description": description,
            "created_at": now,
            "updated_at": now,
        }
        self.integrations[row["cloud_id"]] = row
        self.installs[row["cloud_id"]] = {}
        return str(row["cloud_id"])

    def update_integration(self, integration_id: str, **changed: Any) -> None:
        """Set `name`, `url` or `description`; the place in the listing stays."""
        now = stamp(self.clock.tick())
        row = self.integrations[integration_id]
        self.integrations[integration_id] = row | changed | {"updated_at": now}

    def delete_integration(self, integration_id: str) -> None:
        """Delete an integration with all its installs, which cannot be undone."""
        self.clock.tick()
        del self.integrations[integration_id]
        del self.installs[integration_id]
        for install_id in [key for key, home in self.homes.items() if home == integration_id]:
            del self.homes[install_id]
            self.removed.pop(install_id, None)

    def create_access_key(self, install_id: str) -> str:
        """A key that logs in as that installation."""
        key = made_id(self.rng, "ak")
        self.logins.access_keys[key] = install_id
        return key

    def expire_tokens(self) -> None:
        """Every token that was given out dies."""
        self.logins.tokens.clear()

    # What happens by chance

    def change(self, kind: str, rng: Random) -> Change | None:
        """Do `kind` to something drawn by `rng`; None if nothing can have that done to it."""
        acts: dict[str, Callable[[str], str | None]] = {
            "install": self.install,
            "update": self.update,
            "touch": self.touch,
            "uninstall": self.uninstall,
            "restore": self.restore,
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
                keys = list(self.integrations)
            case "restore":
                keys = list(self.removed)
            case "update" | "touch" | "uninstall":
                keys = [key for rows in self.installs.values() for key in rows]
            case _:
                raise ValueError(f"Gestal knows no {kind!r}")
        return rng.choice(keys) if keys else None

    def _row(self, install_id: str) -> Row:
        return self.installs[self.homes[install_id]][install_id]


def made_tenant(rng: Random) -> Row:
    """A tenant nobody has seen yet."""
    return {"cloud_id": made_id(rng, "te"), "name": made_name(rng, OWNERS)}


def made_site(rng: Random) -> Row:
    """A site nobody has seen yet."""
    return {"cloud_id": made_id(rng, "sit"), "name": made_name(rng, SITES)}
