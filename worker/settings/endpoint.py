"""One `[[endpoints]]` table: a configured webhook receiver."""

import binascii
import re
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

# What the sender sets itself, and a receiver's checks rest on; then what says where the body ends,
# is for the connection alone or asks for another answer (RFC 9110, 7.6.1; RFC 9112, 6): with two
# readings of one request a second one could be hidden in its body.
_RESERVED = frozenset({
    "accept-encoding", "content-length", "content-type", "host", "user-agent",
    "connection", "content-encoding", "expect", "http2-settings", "keep-alive", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
_RESERVED_PREFIXES = ("webhook-", "stocktake-", "proxy-")
_SHORTEST_SECRET = 8  # what is shorter is a word that any answer may have in it
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110, 5.6.2


def _check_secret(secret: SecretStr) -> SecretStr:
    prefix, _, encoded = secret.get_secret_value().partition("_")
    try:
        key = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    # Python overlooks padding that is too long; other languages do not.
    if prefix != "whsec" or len(encoded) % 4 or not 24 <= len(key) <= 64:
        what = "whsec_ and the base64 of 24 to 64 bytes"
        raise ValueError(f"expected {what}, as `stocktake endpoints secret` makes it")
    return secret


def _check_types(glob: str) -> str:
    if not any(fnmatchcase(known, glob) for known in EVENT_TYPES + NOTICE_TYPES):
        raise ValueError(f"matches none of {', '.join(EVENT_TYPES + NOTICE_TYPES)}")
    return glob


def _check_headers(headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    seen: set[str] = set()
    for name, value in headers.items():
        # Many a server (CGI, WSGI, PHP) takes Webhook_Id for Webhook-Id.
        read_as = name.lower().replace("_", "-")
        if read_as in _RESERVED or read_as.startswith(_RESERVED_PREFIXES):
            raise ValueError(f"{name} is reserved")
        if not name or not set(name.lower()) <= _TOKEN:
            raise ValueError(f"{name!r} is no header name")
        if read_as in seen:
            raise ValueError(f"{name} is there twice, in another spelling")
        seen.add(read_as)
        _check_header_value(name, value.get_secret_value())
    return MappingProxyType(dict(headers))


def _check_header_value(name: str, text: str) -> None:
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"the value of {name} has control or non-ASCII characters")
    if text != text.strip():
        raise ValueError(f"the value of {name} begins or ends with a space")


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

    def concealed(self, answer: bytes) -> bytes:
        """What the receiver answered, without the secrets of this endpoint that it may quote."""
        for piece in self._secret_pieces():
            answer = answer.replace(piece.encode(), b"[hidden]")
        return answer

    def _secret_pieces(self) -> list[str]:
        # Not the keys: nobody is sent them.
        target = self.url.get_secret_value().removeprefix(self.origin)
        pieces = set(re.split(r"[/?&=]", target))
        pieces.update(*(value.get_secret_value().split() for value in self.headers.values()))
        return sorted((each for each in pieces if len(each) >= _SHORTEST_SECRET), key=len)[::-1]

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
