"""The default schedule: schedules/default.toml as values."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from worker import resources
from worker.settings.timing import Cron, Every, parse_timing


@dataclass(frozen=True, slots=True)
class Entry:
    """When a task is woken, and on which queue."""

    when: Every | Cron
    task: str
    queue: str


@cache
def entries() -> Mapping[str, Entry]:
    """Every entry of the default schedule by its name."""
    text = (resources.directory("schedules") / "default.toml").read_text("utf-8")
    return {name: _entry(**fields) for name, fields in tomllib.loads(text).items()}


def _entry(when: str, task: str, queue: str) -> Entry:
    return Entry(parse_timing(when), task, queue)
