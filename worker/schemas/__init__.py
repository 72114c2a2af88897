"""What every webhook body looks like, as JSON Schema (2020-12): the contract with receivers."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

_MESSAGES: Final = Path(__file__).parent / "messages.json"
_DEFS: Final = "#/$defs/"


def types() -> dict[str, str]:
    """Every type of event and notice, and what it says."""
    defs = _messages()["$defs"]
    listed = (one["$ref"].removeprefix(_DEFS) for one in _messages()["oneOf"])
    return {type: defs[type]["description"] for type in listed}


def schema(type: str) -> dict[str, Any]:
    """The schema of the bodies of one type, with all that it refers to and nothing else."""
    messages = _messages()
    defs = messages["$defs"]
    needed: set[str] = set()
    waiting = {type}
    while waiting:
        needed |= waiting
        waiting = {ref for name in waiting for ref in _refs(defs[name])} - needed
    return {
        "$schema": messages["$schema"],
        "$id": f"urn:stocktake:{type}",
        "title": type,
        **defs[type],
        "$defs": {name: part for name, part in defs.items() if name in needed - {type}},
    }


@cache
def _messages() -> Any:
    return msgspec.json.decode(_MESSAGES.read_bytes())


def _refs(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from _refs(item)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value.removeprefix(_DEFS)
            else:
                yield from _refs(value)
