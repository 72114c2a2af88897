"""What becomes of a state store that another one is restored into, besides its rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import delete, insert, update
from sqlmodel import Session, select

from worker.outbound import Health
from worker.state import copying, deliveries, leases
from worker.state.delivery_tables import Delivery, EndpointRow, Replay, table_of
from worker.state.heartbeats import HeartbeatRow
from worker.state.requests import RequestRow
from worker.state.tables import LeaseRow, SourceState
from worker.state.walks import WalkRow

REASON: Final = "restored"
_DELIVERIES: Final = table_of(Delivery)
_ENDPOINTS: Final = table_of(EndpointRow)
_OF_THE_MOMENT: Final = tuple(  # nobody waits for them any more
    table_of(row) for row in (LeaseRow, HeartbeatRow, RequestRow, Replay, WalkRow)
)


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds now, and not as it was when a backup was made: how often each thing was leased,
    which sources a person has paused or have asked for quiet, how endpoints fare."""

    fences: Mapping[str, int]
    sources: Mapping[str, SourceState]
    healths: Mapping[str, Health]


def standing(session: Session) -> Standing:
    """What holds in a store."""
    names = session.exec(select(EndpointRow.name)).all()
    return Standing(
        leases.fences(session),
        {each.source: each for each in session.exec(select(SourceState))},
        deliveries.healths(session, names),
    )


def restore(
    session: Session,
    saved: Path,
    now_holds: Standing,
    fences: Mapping[str, int],
    store_id: str,
    head: int,
) -> int:
    """Fills a store with what `saved` (of this schema) holds, and ties it to the restored event
    log; returns how many deliveries that were open are dead now."""
    connection = session.connection()
    copying.load(connection, saved)
    for table in _OF_THE_MOMENT:
        connection.execute(delete(table))
    if fences:
        rows = [{"name": name, "fence": fence} for name, fence in fences.items()]
        connection.execute(insert(table_of(LeaseRow)), rows)
    _keep_standing(session, now_holds)
    connection.execute(update(_ENDPOINTS).values(store_id=store_id, sequence=head))
    return connection.execute(
        update(_DELIVERIES)
        .where(_DELIVERIES.c.state.in_(("pending", "in_flight", "paused")))
        .values(state="dead", reason=REASON, next_at=None, lease_token=None)
    ).rowcount


def _keep_standing(session: Session, now_holds: Standing) -> None:
    for name, now in now_holds.sources.items():
        if row := session.get(SourceState, name):
            row.paused, row.strikes = now.paused, now.strikes
            row.rate_limited_until = now.rate_limited_until
    for name, health in now_holds.healths.items():
        query = update(_ENDPOINTS).where(_ENDPOINTS.c.name == name).values(**asdict(health))
        session.connection().execute(query)
    session.flush()
