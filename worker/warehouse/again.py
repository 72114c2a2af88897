"""What the store has to send again: stretches of its event log, and all that is installed now."""

from collections.abc import Sequence
from datetime import datetime

from worker.models import Event
from worker.outbound import Tally
from worker.warehouse import rows
from worker.warehouse.store import Store


def count_events(
    store: Store, since: datetime | None, until: datetime | None, event_id: str | None
) -> list[Tally]:
    """The events detected from `since` on and before `until`, by type and source."""
    found = store._rows("count_events", since=since, until=until, event_id=event_id)
    return [Tally(**row) for row in found]


def count_snapshot(store: Store) -> list[Tally]:
    """The active installs by source."""
    return [Tally(**row) for row in store._rows("count_snapshot")]


def events_again(
    store: Store, after: int, upto: int, types: Sequence[str], sources: Sequence[str], limit: int
) -> list[Event]:
    """Events of those types and sources with a sequence in (`after`, `upto`], in order."""
    values = {"after": after, "upto": upto, "types": list(types), "sources": list(sources)}
    return [rows.event(row) for row in store._rows("select_events_again", **values, limit=limit)]


def snapshot(
    store: Store, after: int, upto: int, sources: Sequence[str], limit: int
) -> list[Event]:
    """The newest event of every install that was active at `upto`, if its sequence is above
    `after`, in order; `before` is left out, and `occurred_at` is when it was installed."""
    values = {"after": after, "upto": upto, "sources": list(sources), "limit": limit}
    return [rows.event(row) for row in store._rows("select_snapshot", **values)]
