"""The configuration: its file, its values, and what is wrong with them (DESIGN, section 4)."""

from worker.settings.endpoint import EVENT_TYPES, NOTICE_TYPES, Endpoint
from worker.settings.environment import environment
from worker.settings.loading import find, load, template
from worker.settings.source import Source
from worker.settings.timing import Cron, Every
from worker.settings.values import Guard, Schedule, Settings

__all__ = [
    "EVENT_TYPES",
    "NOTICE_TYPES",
    "Cron",
    "Endpoint",
    "Every",
    "Guard",
    "Schedule",
    "Settings",
    "Source",
    "environment",
    "find",
    "load",
    "template",
]
