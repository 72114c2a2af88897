"""Counts that only grow: what they count is pruned, so it is counted when it is recorded."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Final

import msgspec
from sqlalchemy import Executable, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, Session, SQLModel

from worker.findings import Brief, Run
from worker.models import INTEGRATIONS
from worker.outbound import Attempt, Settled
from worker.state.delivery_tables import table_of

RUNS: Final = "stocktake_sync_runs_total"
SYNC_SECONDS: Final = "stocktake_sync_duration_seconds"
REQUESTS: Final = "stocktake_source_requests_total"
ACTIVE: Final = "stocktake_active_installs"
SUSPECTS: Final = "stocktake_suspects"
EVENTS: Final = "stocktake_events_total"
DELIVERIES: Final = "stocktake_deliveries_total"
DELIVERY_SECONDS: Final = "stocktake_delivery_duration_seconds"

# Upper bounds of the buckets of each histogram, in seconds; above the last one is +Inf.
BOUNDS: Final[Mapping[str, tuple[float, ...]]] = {
    SYNC_SECONDS: (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
    DELIVERY_SECONDS: (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
}
# What an attempt came to, by what its delivery is in after it.
OUTCOMES: Final = {
    "delivered": "delivered",
    "pending": "failed",  # to be tried again
    "paused": "failed",
    "dead": "dead",
}

Key = tuple[str, str]  # the metric, and its labels as canonical JSON


class Tally(SQLModel, table=True):
    """One number of one metric: a count, a bucket of a histogram, or how things stood last."""

    __tablename__ = "tallies"

    metric: str = Field(primary_key=True)
    labels: str = Field(primary_key=True)
    value: float


_TALLIES: Final = table_of(Tally)


def count_sync(
    session: Session,
    source: str,
    done: Sequence[Run],
    brief: Brief,
    requests: int,
    now: datetime,
) -> None:
    """Count a sync that ended `now` with these runs; `brief` is what the store knows after it."""
    seconds = (now - min(run.started_at for run in done)).total_seconds()
    counted: Counter[Key] = Counter()
    for run in done:
        counted[_key(RUNS, source=source, mode=run.mode, outcome=run.outcome)] += 1
        for type_, count in (run.events or {}).items():
            counted[_key(EVENTS, source=source, type=type_)] += count
    counted[_key(REQUESTS, source=source)] += requests
    _add(session, {**counted, **_observed(SYNC_SECONDS, [seconds])})
    active = (count for scope, count in brief.active.items() if scope != INTEGRATIONS)
    stands = {
        _key(ACTIVE, source=source): sum(active),
        _key(SUSPECTS, source=source): sum(map(len, brief.suspects.values())),
    }
    _put(session, stands)


def count_attempts(session: Session, ended: Collection[tuple[Attempt, Settled]]) -> None:
    """Count attempts by endpoint and outcome, and how long they took."""
    if not ended:
        return
    outcomes = Counter(
        _key(DELIVERIES, endpoint=attempt.claim.endpoint, outcome=OUTCOMES[settled.state])
        for attempt, settled in ended
    )
    seconds = [attempt.seconds for attempt, _ in ended]
    _add(session, {**outcomes, **_observed(DELIVERY_SECONDS, seconds)})


def every(session: Session) -> Iterator[tuple[str, dict[str, str], float]]:
    """Metric, labels and value of all that was counted."""
    for metric, labels, value in session.connection().execute(select(_TALLIES)):
        yield metric, msgspec.json.decode(labels), value


def _key(metric: str, **labels: str) -> Key:
    return metric, msgspec.json.encode(labels, order="sorted").decode()


def _observed(metric: str, seconds: Collection[float]) -> dict[Key, float]:
    """The buckets that these fall into, each counted in one alone, and their sum."""
    bounds = (*map(str, BOUNDS[metric]), "+Inf")
    falls = Counter(bounds[bisect_left(BOUNDS[metric], each)] for each in seconds)
    buckets = {_key(f"{metric}_bucket", le=le): float(count) for le, count in falls.items()}
    # A clock that was set back must not let a sum go down.
    return buckets | {_key(f"{metric}_sum"): sum(max(0.0, each) for each in seconds)}


def _add(session: Session, counted: Mapping[Key, float]) -> None:
    _upsert(session, counted, grows=True)


def _put(session: Session, values: Mapping[Key, float]) -> None:
    _upsert(session, values, grows=False)


def _upsert(session: Session, values: Mapping[Key, float], *, grows: bool) -> None:
    # In one order, so that two who count at once wait for each other and do not block each other.
    rows = [
        {"metric": metric, "labels": labels, "value": value}
        for (metric, labels), value in sorted(values.items())
    ]
    connection = session.connection()
    connection.execute(_statement(connection.dialect.name, grows), rows)


@cache
def _statement(dialect: str, grows: bool) -> Executable:
    insert = (postgresql if dialect == "postgresql" else sqlite).insert(_TALLIES)
    new = insert.excluded.value
    statement: Executable = insert.on_conflict_do_update(
        index_elements=[_TALLIES.c.metric, _TALLIES.c.labels],
        set_={"value": _TALLIES.c.value + new if grows else new},
    )
    return statement
