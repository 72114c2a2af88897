"""How logs look: key=value lines or JSON, to stderr."""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode({
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }).decode()  # fmt: skip


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return f"{time} {record.levelname.lower()} {record.getMessage()}"


def configure(format: Literal["text", "json"], level: str) -> None:
    """Sends the logs of this program to stderr; of libraries only what is serious."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    root, own = logging.getLogger(), logging.getLogger("worker")
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    own.setLevel(level.upper())
