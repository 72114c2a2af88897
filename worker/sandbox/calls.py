"""One HTTP exchange as frozen values, so that a platform can be asked without a socket."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

LISTINGS = ("integrations", "installations", "integration-installs")


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks; header names are lower case, the path is decoded and has no prefix."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def target(self) -> str:
        """The path with its query, readable rather than escaped."""
        query = "&".join(f"{name}={value}" for name, value in self.params)
        return f"{self.path}?{query}" if query else self.path

    @property
    def segments(self) -> tuple[str, ...]:
        """The parts of the path."""
        return tuple(self.path.strip("/").split("/"))

    @property
    def lists(self) -> bool:
        """Whether it asks for a page of a listing."""
        return self.method == "GET" and self.segments[-1] in LISTINGS

    def param(self, name: str) -> str | None:
        """The last value given for `name`, as web frameworks read it; None if there is none."""
        return dict(self.params).get(name)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the platform says. A `content-length` among the headers wins over the length of the
    body, and `reset` closes the connection without a word: that is how an answer gets lost."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: bool = False


def said(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer of JSON."""
    kind = {"content-type": "application/json"}
    return Answer(status, kind | dict(headers or {}), msgspec.json.encode(content))


def refused(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error as both platforms word it."""
    return said(status, {"error": message}, headers)
