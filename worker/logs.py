"""How logs look: one line a record, key=value or JSON, to stderr.

What is to be told in fields goes into `extra={"facts": {…}}`: log.info("sync", extra={"facts":
{"source": "farm"}}) is `sync source=farm`, or an object with a `source`.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from worker import clock

_BARE = re.compile(r"[\w.:/@+*-]+")  # a value that needs no quotes


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().rstrip(),
            **_facts(record),
        }
        if trace := _traceback(self, record):
            told["traceback"] = trace
        # ASCII alone: whoever reads lines finds no separator in a value, however they split.
        return json.dumps(told, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = f"{_time(record)} {record.levelname.lower()} {record.getMessage().rstrip()}"
        facts = (f"{name}={_value(value)}" for name, value in _facts(record).items())
        line = visible(" ".join([head, *facts]))
        # Indented, so that no line of an error's text is taken for one of the log.
        below = (f"\n    {visible(each)}" for each in _traceback(self, record).splitlines())
        return line + "".join(below)


def configure(format: Literal["text", "json"], level: str) -> None:
    """Sends the logs of this program to stderr; of libraries only what is serious."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    root, own = logging.getLogger(), logging.getLogger("worker")
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    own.setLevel(level.upper())
    logging.captureWarnings(True)


def enveloped(name: str, line: str) -> str:
    """What the program `name` printed as a line of JSON, which it is if it was logged here."""
    if line.startswith("{"):
        return line
    told = {"time": _stamp(clock.now()), "level": "info", "logger": name, "message": line}
    return json.dumps(told)


def visible(text: str) -> str:
    """`text` with what cannot be seen escaped: what a source says makes no line of its own."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _facts(record: logging.LogRecord) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = getattr(record, "facts", {})
    return facts


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    return formatter.formatException(record.exc_info)


def _time(record: logging.LogRecord) -> str:
    return _stamp(datetime.fromtimestamp(record.created, UTC))


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
