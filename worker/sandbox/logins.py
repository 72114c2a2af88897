"""Who may ask Gestal: the integrator with a token that dies, an installation with an access key."""

import hashlib
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

EMAIL = "integrator@example.com"
PASSWORD = "correct horse"  # noqa: S105  of nobody but the sandbox


@dataclass(slots=True)
class Logins:
    """The accounts, and the tokens and keys that were given out."""

    token_life: timedelta
    seed: str
    email: str = EMAIL
    password: str = PASSWORD
    tokens: dict[str, datetime] = field(default_factory=dict)  # until when each is good
    access_keys: dict[str, str] = field(default_factory=dict)  # the install each belongs to
    last_active: dict[str, datetime] = field(default_factory=dict)
    _given: int = 0

    def log_in(self, authorization: str, now: datetime) -> str | None:
        """A new token for the right email and password."""
        if _basic(authorization) != (self.email, self.password):
            return None
        self._given += 1
        token = _jwt(f"{self.seed}/{self._given}", self.email, now, now + self.token_life)
        self.tokens[token] = now + self.token_life
        return token

    def is_integrator(self, authorization: str, now: datetime) -> bool:
        """Whether it is a bearer token that still lives."""
        scheme, _, token = authorization.partition(" ")
        dies = self.tokens.get(token)
        return scheme.lower() == "bearer" and dies is not None and now < dies

    def access_key(self, authorization: str) -> str | None:
        """The access key of an installation: the user name, with an empty password."""
        key, password = _basic(authorization) or ("", "")
        return key if key in self.access_keys and not password else None


def _basic(authorization: str) -> tuple[str, str] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = b64decode(encoded, validate=True).decode().partition(":")
    except (NotBase64, UnicodeDecodeError):
        return None
    return user, password


def _jwt(serial: str, subject: str, issued: datetime, dies: datetime) -> str:
    """What looks like a JWT; nobody but the sandbox has to verify it."""
    head = {"alg": "HS256", "typ": "JWT"}
    claims = {"sub": subject, "iat": int(issued.timestamp()), "exp": int(dies.timestamp())}
    parts = [msgspec.json.encode(head), msgspec.json.encode(claims | {"jti": serial})]
    parts.append(hashlib.sha256(b".".join(parts)).digest())
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
