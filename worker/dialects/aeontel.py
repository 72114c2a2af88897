"""Aeontel: keyset cursors, soft-deleted installs, a long-lived bearer token."""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from worker.dialects.rows import convert, decode, split, utc
from worker.errors import UnusableBody
from worker.models import (
    INTEGRATIONS,
    After,
    Among,
    Ask,
    Install,
    Integration,
    One,
    Page,
    Request,
)

ID: Final = "id"
PAGING: Final[Literal["keyset"]] = "keyset"
MAX_PAGE_SIZE: Final = 100  # "Page size (1-100, default 100)"
PENALTY_S: Final[float | None] = None  # no rule is documented: back off exponentially
ACCEPT: Final = "application/json"
# "asc/desc plus the four explicit nulls variants", whose spelling is not documented. Without nulls
# last, PostgreSQL puts the rows that were never upgraded before the newest upgrade.
NEWEST_FIRST: Final = ("desc_nulls_last", "descNullsLast", "DESC_NULLS_LAST", "desc nulls last")


class _Install(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    integration_id: str | None = None
    integration_version_id: str | None = None
    workspace_id: str | None = None
    variables: Any = None
    auth_state_id: str | None = None
    member_policy: str | None = None
    parent_install_id: str | None = None
    solution_id: str | None = None
    installed_by: str | None = None
    installed_at: datetime | None = None
    last_upgraded_at: datetime | None = None
    deleted_at: datetime | None = None
    retention_tier: str | None = None


class _Integration(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    workspace_id: str | None = None
    slug: str | None = None
    name: str | None = None
    description: str | None = None
    publisher: str | None = None
    trust_tier: str | None = None
    current_version: str | None = None
    visibility: str | None = None
    deleted_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class _PageInfo(msgspec.Struct, frozen=True, rename="camel"):
    has_next_page: bool
    total: int | None = None
    end_cursor: str | None = None


class _Listing(msgspec.Struct, frozen=True, rename="camel"):
    data: list[msgspec.Raw]
    page_info: _PageInfo


def login() -> None:
    """Nothing to do: the API token is configured."""


def read_token(body: bytes) -> str:
    """Never called: there is no login."""
    raise UnusableBody("Aeontel has no login")


def request(scope: str, ask: Ask) -> Request:
    """The request that answers `ask` (seed 002: "List", "Get an integration install by ID")."""
    path = "/api/integrations" if scope == INTEGRATIONS else "/api/integration-installs"
    match ask:
        case After():
            return Request("GET", path, tuple(_listing_params(scope, ask)))
        case Among(ids):
            return Request("GET", path, (("limit", str(len(ids))), ("ids", ",".join(ids))))
        case One(id):
            return Request("GET", f"{path}/{id}")
        case _:
            raise TypeError(f"Aeontel has no request for {ask} in {scope}")


def read(scope: str, ask: Ask, body: bytes) -> Page:
    """The page in `body`; UnusableBody when it is not as documented."""
    row_type = _Integration if scope == INTEGRATIONS else _Install
    if isinstance(ask, One):
        return Page(split([msgspec.Raw(body)], row_type, ID))
    listing = decode(body, _Listing, "the answer")
    info = listing.page_info
    if info.has_next_page and not info.end_cursor:
        raise UnusableBody("the answer's `pageInfo` says hasNextPage but has no endCursor")
    return Page(
        rows=split(listing.data, row_type, ID),
        total=info.total,
        next_cursor=info.end_cursor if info.has_next_page else None,
    )


def install(payload: Any, integration_id: str | None) -> Install:
    """The columns of one install row; `integration_id` is in the row, the argument is not used."""
    row = convert(payload, _Install)
    return Install(
        install_id=row.id,
        integration_id=row.integration_id,
        version_id=row.integration_version_id,
        account_id=row.workspace_id,
        installed_by=row.installed_by,
        member_policy=row.member_policy,
        retention_tier=row.retention_tier,
        parent_install_id=row.parent_install_id,
        solution_id=row.solution_id,
        auth_state_id=row.auth_state_id,
        installed_at=utc(row.installed_at),
        upgraded_at=utc(row.last_upgraded_at),
        deleted_at=utc(row.deleted_at),
        variables=row.variables,
        payload=payload,
    )


def integration(payload: Any) -> Integration:
    """The columns of one integration row."""
    row = convert(payload, _Integration)
    return Integration(
        integration_id=row.id,
        name=row.name,
        description=row.description,
        slug=row.slug,
        publisher=row.publisher,
        current_version=row.current_version,
        visibility=row.visibility,
        trust_tier=row.trust_tier,
        workspace_id=row.workspace_id,
        created_at=utc(row.created_at),
        updated_at=utc(row.updated_at),
        deleted_at=utc(row.deleted_at),
        payload=payload,
    )


def _listing_params(scope: str, ask: After) -> list[tuple[str, str]]:
    params = [("limit", str(ask.size))]
    if scope == INTEGRATIONS:
        params.append(("include_deleted", "true"))
    if ask.cursor is not None:
        params.append(("after", ask.cursor))
    bounds = {"gte": ask.lower, "lt": ask.upper}
    within = {operator: bound for operator, bound in bounds.items() if bound is not None}
    if within:
        params.append(("filter", _json({"id": within})))
    if ask.newest is not None:
        field, _, direction = ask.newest.partition(" ")
        params.append(("orderBy", _json([{field: direction}])))
    return params


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
