"""Gestal Cloud: numbered pages, most recently updated first, a login token that lives a day."""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from worker.dialects.rows import convert, decode, split, utc
from worker.errors import UnusableBody
from worker.models import (
    INTEGRATIONS,
    Ask,
    Install,
    Integration,
    One,
    Page,
    PageNumber,
    Request,
)

ID: Final = "cloud_id"
PAGING: Final[Literal["numbered"]] = "numbered"
MAX_PAGE_SIZE: Final = 1000  # a higher per_page is cut down to it
PENALTY_S: Final = 7200.0  # 429 is flood protection, "wait 2 hours"; no Retry-After is promised
ACCEPT: Final = "application/vnd.gestal+json"
NEWEST_FIRST: Final[tuple[str, ...]] = ()  # there is one order: most recently updated first


class _Party(msgspec.Struct, frozen=True):
    cloud_id: str | None = None
    name: str | None = None


class _Install(msgspec.Struct, frozen=True):
    cloud_id: str
    created_at: datetime | None = None
    tenant: _Party | None = None
    site: _Party | None = None


class _Integration(msgspec.Struct, frozen=True):
    cloud_id: str
    name: str | None = None
    url: str | None = None
    description: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class _Meta(msgspec.Struct, frozen=True):
    total: int
    next_page: int | bool | None  # the number of the next page, or false
    per_page: int | None = None
    current_page: int | None = None
    current_age: int | None = None  # an older page of the vendor spells it so


class _Listing(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    meta: _Meta


class _Token(msgspec.Struct, frozen=True):
    token: str


def login() -> Request:
    """`POST /auth`, to be sent with HTTP basic `email:password`."""
    return Request("POST", "/auth")


def read_token(body: bytes) -> str:
    """The session token in the answer to a login."""
    return decode(body, _Token, "the answer to the login").token


def request(scope: str, ask: Ask) -> Request:
    """The request that answers `ask` (seeds 000 and 001: "List all", "Retrieve an integration")."""
    match ask:
        case PageNumber(number, size):
            return Request("GET", _path(scope), (("page", str(number)), ("per_page", str(size))))
        case One(id) if scope == INTEGRATIONS:
            return Request("GET", f"/integrations/{id}")
        case _:
            raise TypeError(f"Gestal Cloud has no request for {ask} in {scope}")


def read(scope: str, ask: Ask, body: bytes) -> Page:
    """The page in `body`; UnusableBody when it is not as documented."""
    row_type = _Integration if scope == INTEGRATIONS else _Install
    if isinstance(ask, One):
        return Page(split([msgspec.Raw(body)], row_type, ID))
    listing = decode(body, _Listing, "the answer")
    meta = listing.meta
    if meta.total < 0:
        raise UnusableBody(f"the answer's `meta.total` is {meta.total}")
    if meta.next_page is True:  # neither the number of a page nor "no more"
        raise UnusableBody("the answer's `meta.next_page` is true")
    return Page(
        rows=split(listing.data, row_type, ID),
        total=meta.total,
        number=meta.current_page if meta.current_page is not None else meta.current_age,
        size=meta.per_page,
        next_page=meta.next_page or None,
    )


def install(payload: Any, integration_id: str | None) -> Install:
    """The columns of one installation row; the row itself does not name its integration."""
    row = convert(payload, _Install)
    tenant, site = row.tenant or _Party(), row.site or _Party()
    return Install(
        install_id=row.cloud_id,
        integration_id=integration_id,
        account_id=tenant.cloud_id,
        account_name=tenant.name,
        site_id=site.cloud_id,
        site_name=site.name,
        installed_at=utc(row.created_at),
        payload=payload,
    )


def integration(payload: Any) -> Integration:
    """The columns of one integration row."""
    row = convert(payload, _Integration)
    return Integration(
        integration_id=row.cloud_id,
        name=row.name,
        url=row.url,
        description=row.description,
        created_at=utc(row.created_at),
        updated_at=utc(row.updated_at),
        payload=payload,
    )


def _path(scope: str) -> str:
    if scope == INTEGRATIONS:
        return "/integrations"
    _, _, integration_id = scope.partition("/")
    return f"/integrations/{integration_id}/installations"
