"""Variables of the environment in configured values; the only reader of the environment."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_REFERENCE = re.compile(r"\$(?:\$|\{(?P<inside>[^}]*)(?P<closed>\})?)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


class Unresolved(Exception):
    """A reference in a value that cannot be replaced; the message says why."""


def environment() -> Mapping[str, str]:
    """The environment of this process, read-only."""
    return MappingProxyType(os.environ)


def refers(text: str) -> bool:
    """Whether `text` takes anything from the environment."""
    return any(match["inside"] is not None for match in _REFERENCE.finditer(text))


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """`text` with every `${NAME}`, `${NAME:-default}` and `$$` replaced, or Unresolved."""
    return _REFERENCE.sub(lambda match: _replacement(match, environ), text)


def _replacement(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match["inside"] is None:
        return "$"
    reference = _INSIDE.fullmatch(match["inside"])
    if reference is None or match["closed"] is None:
        raise Unresolved("expected ${NAME} or ${NAME:-default}; a dollar alone is written $$")
    return _variable(reference["name"], reference["default"], environ)


def _variable(name: str, default: str | None, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if value is None and (file := environ.get(f"{name}_FILE")):
        value = _content(name, file)
    if default is not None:
        return value or default  # as in a shell, `:-` stands in for an empty value too
    if value is None:
        raise Unresolved(f"environment variable {name} is not set, nor is {name}_FILE")
    return value


def _content(name: str, file: str) -> str:
    try:
        return Path(file).read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Unresolved(f"cannot read {file}, which {name}_FILE names: {reason}") from error
