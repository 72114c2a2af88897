"""Rows as JSON values: paths taken out or blotted out, and a hash that key order does not move."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

REDACTED: Final = "[redacted]"
ANY: Final = "*"  # in a path: every key of an object, every element of an array


def decoded(raw: bytes) -> Any:
    """The JSON value in `raw`."""
    return msgspec.json.decode(raw)


def encoded(payload: Any) -> bytes:
    """`payload` as JSON text."""
    return msgspec.json.encode(payload)


def redacted(payload: Any, paths: Sequence[str]) -> Any:
    """`payload` with the value at each of `paths` (such as "variables.api_key") blotted out."""
    for path in paths:
        payload = _replaced(payload, path.split("."), REDACTED)
    return payload


def pruned(payload: Any, paths: Sequence[str]) -> Any:
    """`payload` without the values at `paths`."""
    for path in paths:
        payload = _replaced(payload, path.split("."), msgspec.UNSET)
    return payload


def canonical_hash(payload: Any) -> str:
    """32 hex digits that are equal for equal values, whatever the order of their keys."""
    text = msgspec.json.encode(payload, order="sorted")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _replaced(value: Any, path: list[str], new: Any) -> Any:
    key, rest = path[0], path[1:]
    if isinstance(value, list):
        items = [_step(item, rest, new) if key in (ANY, str(n)) else item
                 for n, item in enumerate(value)]  # fmt: skip
        return [item for item in items if item is not msgspec.UNSET]
    if not isinstance(value, dict):
        return value
    stepped = {name: _step(item, rest, new) if key in (ANY, name) else item
               for name, item in value.items()}  # fmt: skip
    return {name: item for name, item in stepped.items() if item is not msgspec.UNSET}


def _step(item: Any, rest: list[str], new: Any) -> Any:
    return _replaced(item, rest, new) if rest else new
