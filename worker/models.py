"""The values that travel through Stocktake: frozen, without behaviour that does I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec

Kind = Literal["install", "integration"]
State = Literal["active", "deleted", "purged"]
Mode = Literal["full", "incremental"]
Certificate = Literal["pristine", "repaired", "keyset", "none"]
Outcome = Literal["ok", "unchanged", "held", "partial", "rate_limited", "failed"]

INTEGRATIONS = "integrations"
INSTALLS = "installs"


def installs_of(integration_id: str) -> str:
    """The scope that lists the installs of one integration (Gestal)."""
    return f"{INSTALLS}/{integration_id}"


# --- what is asked of a source, and what it answers ---------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to a source, without its host and without credentials."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.params)
        return f"{self.method} {self.path}" + (f"?{query}" if query else "")


@dataclass(frozen=True, slots=True)
class Response:
    """What came back; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One listed object as received: its id, the digest of its text, the text."""

    id: str
    digest: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a listing. `number`, `size` and `total` are what the source says, if it does;
    `next_cursor` is set while a keyset listing goes on, `next_page` while a numbered one does."""

    rows: tuple[Row, ...]
    total: int | None = None
    number: int | None = None
    size: int | None = None
    next_page: int | None = None
    next_cursor: str | None = None


# --- what a walk may ask for: the dialect turns each into a Request -------------------------------


@dataclass(frozen=True, slots=True)
class PageNumber:
    """Page `number` (from 1) of a numbered listing, `size` rows a page."""

    number: int
    size: int


@dataclass(frozen=True, slots=True)
class After:
    """The page after `cursor` (None: the first) of a keyset listing, optionally only ids in
    [`lower`, `upper`), optionally sorted by `newest`: a field and a direction as the source spells
    it, such as "installedAt desc_nulls_last"."""

    cursor: str | None
    size: int
    lower: str | None = None
    upper: str | None = None
    newest: str | None = None


@dataclass(frozen=True, slots=True)
class Among:
    """Those of `ids` that the listing shows."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class One:
    """One object by its id; a 404 is an answer."""

    id: str


Ask = PageNumber | After | Among | One


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk is worth: its certificate, the order it found, and the evidence."""

    certificate: Certificate
    order: tuple[str, ...] = ()
    complete: bool = False  # an incremental walk that accounts for the whole listing
    pages: int = 0
    requests: int = 0
    seen: int = 0
    total: int | None = None
    reason: str | None = None  # why there is no certificate


# --- what is kept --------------------------------------------------------------------------------


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """One install: the columns of `installs` but `source`."""

    install_id: str
    integration_id: str | None = None
    version_id: str | None = None
    account_id: str | None = None
    account_name: str | None = None
    site_id: str | None = None
    site_name: str | None = None
    installed_by: str | None = None
    member_policy: str | None = None
    retention_tier: str | None = None
    parent_install_id: str | None = None
    solution_id: str | None = None
    auth_state_id: str | None = None
    installed_at: datetime | None = None
    upgraded_at: datetime | None = None
    deleted_at: datetime | None = None
    purged_at: datetime | None = None
    state: State = "active"
    deletion_inferred: bool = False
    missing_since: datetime | None = None
    revision: int = 0
    first_seen_at: datetime | None = None
    last_changed_at: datetime | None = None
    row_hash: str = ""
    variables: Any = None
    payload: Any = None


class Integration(msgspec.Struct, frozen=True, kw_only=True):
    """One integration: the columns of `integrations` but `source`."""

    integration_id: str
    name: str | None = None
    url: str | None = None
    description: str | None = None
    slug: str | None = None
    publisher: str | None = None
    current_version: str | None = None
    visibility: str | None = None
    trust_tier: str | None = None
    workspace_id: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    state: State = "active"
    deletion_inferred: bool = False
    revision: int = 0
    first_seen_at: datetime | None = None
    last_changed_at: datetime | None = None
    row_hash: str = ""
    payload: Any = None


@dataclass(frozen=True, slots=True)
class Event:
    """One row of `events`; `before` and `after` are the columns of the pair as JSON objects."""

    sequence: int
    event_id: str
    type: str
    source: str
    integration_id: str | None
    install_id: str | None
    revision: int
    occurred_at: datetime | None
    detected_at: datetime
    deletion_inferred: bool
    baseline: bool
    changed_fields: tuple[str, ...]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    run_id: str
