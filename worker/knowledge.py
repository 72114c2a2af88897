"""What both stores know of a source, asked while it is walked and never held open."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from worker import routes
from worker.findings import Accepted, Brief
from worker.routes import Escalation, Memory
from worker.schedule import next_after
from worker.settings import Settings, Source
from worker.state import holds, runs, sources
from worker.state.tables import SourceState
from worker.warehouse import Store


@dataclass(frozen=True, slots=True)
class Knowledge:
    """`keeps` is False in a dry run, which changes nothing that is known."""

    settings: Settings
    engine: Engine
    source: Source
    store: Callable[[], AbstractContextManager[Store]]
    brief: Brief
    keeps: bool

    def absent(self, spools: Mapping[Path, int]) -> list[tuple[str, str]]:
        """(id, state) of the installs that no spool brings, active ones first."""
        with self.store() as store:
            return store.absent(self.source.name, spools, self.source.integrations)

    def memory(self, scope: str, *, deleted: bool) -> Memory:
        """What is remembered of a listing of installs, which may show `deleted` rows."""
        kept = holds.every(self.engine, self.source.name)
        decided = [id for hold in kept if hold.status in ("open", "rejected") for id in hold.ids]
        with self.store() as store:
            found = store.remembered(self.source.name, scope, decided, deleted=deleted)
        return Memory(
            based=found.full_at is not None,
            unsure=found.unsure,
            active=found.active,
            doubtful=found.suspects - found.decided,
            decided=found.decided,
            order=found.order,
            digests=found.digests,
        )

    def bounds(self, scope: str, size: int) -> list[str]:
        """Ids that cut a long keyset listing into ranges, where the source filters by id."""
        active = self.brief.active.get(scope, 0)
        worth = self.source.max_concurrency > 1 and routes.worth_ranges(active, size)
        if not (worth and self.accepted().filters):
            return []
        with self.store() as store:
            return store.bounds(self.source.name, self.source.max_concurrency)

    def parallel(self, scope: str) -> int:
        """How many pages of a numbered listing to ask for at once."""
        last = runs.last_full(self.engine, self.source.name, scope)
        if last is None or last.finished_at is None or not last.requests:
            return 1
        latency_s = (last.finished_at - last.started_at).total_seconds() / last.requests
        rate = self.source.requests_per_second
        worth = routes.worth_parallel(last.certificate, rate, latency_s)
        return self.source.max_concurrency if worth else 1

    def accepted(self) -> Accepted:
        """What the source accepts, as it was found out; nothing, until it is."""
        kept = sources.known(self.engine, self.source).accepted
        return Accepted(**kept) if kept else Accepted()

    def is_probed(self) -> bool:
        """Whether it was found out what the source accepts."""
        return sources.known(self.engine, self.source).accepted is not None

    def accept(self, accepted: Accepted) -> None:
        """Keeps what was found out."""
        if self.keeps:
            sources.accept(self.engine, self.source, accepted)

    def may_escalate(self, scope: str, now: datetime) -> bool:
        """Whether a listing that calls for a full walk may have it, or has had many in a row."""
        schedule = self.settings.schedule_for(self.source)
        interval = next_after(schedule.incremental, now) - now
        return self._escalation(scope).allowed(now, interval, next_after(schedule.full, now) - now)

    def escalated(self, scope: str, now: datetime) -> None:
        """A listing called for a full walk, and gets it."""
        count = self._escalation(scope).count + 1
        self._change(lambda row: _escalations(row, scope, [count, now.isoformat()]))

    def settled(self, scope: str) -> None:
        """A listing could be read incrementally again."""
        if self._escalation(scope).count:
            self._change(lambda row: _escalations(row, scope, None))

    def _escalation(self, scope: str) -> Escalation:
        kept = sources.known(self.engine, self.source).escalations.get(scope)
        return Escalation(kept[0], datetime.fromisoformat(kept[1])) if kept else Escalation()

    def _change(self, edit: Callable[[SourceState], None]) -> None:
        if self.keeps:
            sources.change(self.engine, self.source, edit)


def _escalations(row: SourceState, scope: str, value: list[object] | None) -> None:
    others = {key: kept for key, kept in row.escalations.items() if key != scope}
    row.escalations = others | ({scope: value} if value else {})
