"""Who gets what, and what notices are called."""

import base64
import hashlib
from collections.abc import Iterable
from fnmatch import fnmatchcase

TEST = "webhook.test"
DISABLED = "endpoint.disabled"


def wants(events: Iterable[str], sources: Iterable[str], type: str, source: str | None) -> bool:
    """Whether globs over event types and sources let a message through.

    A test goes to whom it is sent, whatever it subscribes to; so does, as to the source, what
    concerns no source.
    """
    if type != TEST and not any(fnmatchcase(type, glob) for glob in events):
        return False
    return source is None or any(fnmatchcase(source, glob) for glob in sources)


def notice_id(*facts: str) -> str:
    """The id of the notice about `facts`: the same facts are the same notice, said once."""
    digest = hashlib.sha256("\n".join(facts).encode()).digest()
    return "ntc_" + base64.b32encode(digest).decode().lower()[:26]
