"""One `[[endpoints]]` table: a configured webhook receiver."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from worker.settings.addresses import check_address, origin
from worker.settings.table import Name, Table

EVENT_TYPES = (
    "install.created",
    "install.upgraded",
    "install.updated",
    "install.deleted",
    "install.restored",
    "install.purged",
    "integration.created",
    "integration.updated",
    "integration.deleted",
    "integration.restored",
)
NOTICE_TYPES = (
    "sync.baseline",
    "sync.held",
    "sync.failed",
    "sync.recovered",
    "endpoint.disabled",
    "webhook.test",
)

# What the sender sets itself; a receiver's checks rest on them.
_RESERVED = ("content-type", "content-length", "user-agent", "host", "accept-encoding")
_RESERVED_PREFIXES = ("webhook-", "stocktake-")
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110, 5.6.2


def _check_secret(secret: SecretStr) -> SecretStr:
    prefix, _, encoded = secret.get_secret_value().partition("_")
    try:
        key = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if prefix != "whsec" or not 24 <= len(key) <= 64:
        raise ValueError("expected whsec_ and the base64 of 24 to 64 bytes")
    return secret


def _check_types(glob: str) -> str:
    if not any(fnmatchcase(known, glob) for known in EVENT_TYPES + NOTICE_TYPES):
        raise ValueError(f"matches none of {', '.join(EVENT_TYPES + NOTICE_TYPES)}")
    return glob


def _check_headers(headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    for name, value in headers.items():
        if name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES):
            raise ValueError(f"{name} is reserved")
        if not name or not set(name.lower()) <= _TOKEN:
            raise ValueError(f"{name!r} is no header name")
        if not (text := value.get_secret_value()).isascii() or not text.isprintable():
            raise ValueError(f"the value of {name} has control or non-ASCII characters")
    return MappingProxyType(dict(headers))


class Endpoint(Table):
    """One configured webhook receiver."""

    name: Name
    # These two stand before what depends on them: a validator sees the fields above its own.
    format: Literal["standard", "slack"] = "standard"
    allow_http: bool = False
    url: SecretStr
    secrets: tuple[Annotated[SecretStr, AfterValidator(_check_secret)], ...] = Field(
        (), validate_default=True
    )
    events: tuple[Annotated[str, AfterValidator(_check_types)], ...] = ("install.*",)
    sources: tuple[str, ...] = ("*",)
    headers: Annotated[Mapping[str, SecretStr], AfterValidator(_check_headers)] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    max_per_minute: Annotated[int, Field(ge=0)] = 0
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 4
    allow_private_networks: bool = False

    @property
    def origin(self) -> str:
        """Scheme, host and port of the address: what may be shown of it."""
        return origin(self.url.get_secret_value())

    @field_validator("url")
    @classmethod
    def _private(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        plain = info.data.get("allow_http", True)
        check_address(url.get_secret_value(), plain=plain, query=True)
        return url

    @field_validator("secrets")
    @classmethod
    def _signed(cls, secrets: tuple[SecretStr, ...], info: ValidationInfo) -> tuple[SecretStr, ...]:
        if not secrets and info.data.get("format") == "standard":
            raise ValueError('missing: deliveries are signed (format = "slack" needs none)')
        return secrets
