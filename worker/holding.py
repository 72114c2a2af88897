"""What a person decides about a hold: approve (walk, then record) or reject (keep as active)."""

from threading import Event

from sqlalchemy import Engine

from worker import clock
from worker.errors import RetryLater
from worker.findings import Progress, Run
from worker.settings import Settings
from worker.state import holds
from worker.sync import Wish, sync


def approve(
    settings: Settings, engine: Engine, hold_id: str, stop: Event, progress: Progress
) -> tuple[Run, ...]:
    """Walks at once, and records as deleted exactly those of the hold that the walk still misses.

    The hold stays open when the walk gets no certificate: RetryLater says so.
    """
    hold = holds.named(engine, hold_id)
    source = settings.source(hold.source)
    wish = Wish(scopes=(hold.scope,), approved=frozenset(hold.ids))
    runs = sync(settings, engine, source, wish, stop, progress).runs
    uncertain = [run for run in runs if run.certificate == "none"]
    if uncertain:
        why = uncertain[0].error or uncertain[0].reason
        raise RetryLater(f"{hold_id} stays open, nothing was deleted: the walk is not sure ({why})")
    holds.decide(engine, hold_id, "approved", clock.now())
    return runs


def reject(engine: Engine, hold_id: str) -> None:
    """Keeps the installs of the hold as active until they have been seen and go missing again."""
    holds.named(engine, hold_id)
    holds.decide(engine, hold_id, "rejected", clock.now())
