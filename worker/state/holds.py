"""Holds: frozen sets of absences that wait for a person, and what a person decided."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from worker.errors import ConfigInvalid
from worker.findings import Proposal
from worker.state.database import transaction
from worker.state.tables import HoldRow


def every(engine: Engine, source: str | None = None) -> Sequence[HoldRow]:
    """All holds, newest first."""
    query = select(HoldRow).order_by(col(HoldRow.opened_at).desc(), col(HoldRow.hold_id))
    if source is not None:
        query = query.where(HoldRow.source == source)
    with transaction(engine) as session:
        return session.exec(query).all()


def named(engine: Engine, hold_id: str) -> HoldRow:
    """One open hold; ConfigInvalid when there is none of that id, or it is decided."""
    with transaction(engine) as session:
        hold = session.get(HoldRow, hold_id)
    if hold is None:
        raise ConfigInvalid(f"no hold {hold_id!r}", ["`stocktake holds` lists them"])
    if hold.status != "open":
        raise ConfigInvalid(f"hold {hold_id} is {hold.status} already", ["nothing was changed"])
    return hold


def open_in(
    session: Session, source: str, proposals: Iterable[Proposal], now: datetime
) -> list[HoldRow]:
    """Opens a hold for each proposal."""
    opened = [
        HoldRow(
            hold_id=_id(source, proposal, now),
            source=source,
            scope=proposal.scope,
            opened_at=now,
            installs=len(proposal.ids),
            share=proposal.share,
            reason=proposal.reason,
            ids=list(proposal.ids),
        )
        for proposal in proposals
    ]
    session.add_all(opened)
    return opened


def decide(engine: Engine, hold_id: str, status: str, now: datetime) -> None:
    """Keeps what a person decided: "approved" or "rejected". Of two who decide, the first counts:
    ConfigInvalid tells the other."""
    with transaction(engine) as session:
        hold = session.get_one(HoldRow, hold_id, with_for_update=True)
        if hold.status != "open":
            raise ConfigInvalid(f"hold {hold_id} is {hold.status} meanwhile", ["and stays so"])
        hold.status, hold.decided_at = status, now


def _id(source: str, proposal: Proposal, now: datetime) -> str:
    parts = (source, proposal.scope, now.isoformat(), *sorted(proposal.ids))
    return f"hold_{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:12]}"
