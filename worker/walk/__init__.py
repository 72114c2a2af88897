"""The walks over listings that move, as generators that ask for pages and do no I/O (WALK.md)."""

from worker.walk.absent import ask_absent, ask_each
from worker.walk.full import numbered_full
from worker.walk.incremental import LONG, MOVED, SHORT, Known, numbered_incremental
from worker.walk.keyset import OUTSIDE, keyset_full, keyset_incremental
from worker.walk.steps import Steps

__all__ = [
    "LONG",
    "MOVED",
    "OUTSIDE",
    "SHORT",
    "Known",
    "Steps",
    "ask_absent",
    "ask_each",
    "keyset_full",
    "keyset_incremental",
    "numbered_full",
    "numbered_incremental",
]
