"""Replays in the state store: what is to be sent again, and how far that is."""

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from worker.state.delivery_tables import Replay


def ask(session: Session, replay: Replay) -> None:
    """Keep what is wanted: from now on no crash forgets it."""
    session.add(replay)


def unfinished(session: Session) -> Sequence[Replay]:
    """The replays that are not made completely, the oldest first."""
    query = select_rows(Replay).order_by(col(Replay.asked_at), col(Replay.replay_id))
    return session.exec(query).all()


def is_unfinished(session: Session, replay_id: str) -> bool:
    """Whether a replay is not made completely."""
    found = select(col(Replay.replay_id)).where(col(Replay.replay_id) == replay_id)
    return session.connection().execute(found).first() is not None


def move(session: Session, replay_id: str, after: int) -> None:
    """All up to `after` is made."""
    query = update(Replay).where(col(Replay.replay_id) == replay_id).values(after=after)
    session.connection().execute(query)


def end(session: Session, replay_id: str) -> None:
    """Nothing more of this replay is to be made."""
    session.connection().execute(delete(Replay).where(col(Replay.replay_id) == replay_id))
