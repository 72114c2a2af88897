"""Walks the listings of one source over the network, and brings home what a commit needs."""

import logging
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from worker import clock, routes
from worker.dialects.rows import digest
from worker.errors import NotListed, SourceRefused, StocktakeError
from worker.findings import Accepted, ScopeWalk
from worker.knowledge import Knowledge
from worker.models import INSTALLS, INTEGRATIONS, Mode, Row, Walked, installs_of
from worker.payloads import decoded
from worker.probing import probe
from worker.routes import Memory
from worker.settings import Source
from worker.spool import Header, Spool
from worker.walk import Steps, ask_absent, ask_each
from worker.walking import Guide, integration_of, kind_of

log = logging.getLogger(__name__)

# Known deleted installs that a listing hides are asked for again, this many in one full walk,
# longest unasked first: so a purge is found without asking for all of them every time.
RECHECKED: Final = 100
ASKED: Final = 5000  # absent active rows asked for in one walk; the next walk asks for the rest


@dataclass(frozen=True, slots=True)
class Reaped:
    """One scope of a sync: its walk, and the error that ended it, if one did."""

    walk: ScopeWalk
    error: StocktakeError | None = None


@dataclass(slots=True)
class Field:
    """The source that a sync walks, and what has been brought home of it so far."""

    source: Source
    guide: Guide
    knowledge: Knowledge
    folder: Path
    run_id: Callable[[str], str]  # of a scope
    spools: list[Spool] = field(default_factory=list)
    placed: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)  # scope, walked order
    listed: dict[str, None] = field(default_factory=dict)  # ids of the integrations that came
    gone: set[str] = field(default_factory=set)  # ids that answered 404
    began_at: datetime = field(init=False)  # of the oldest walk: an interrupted one began earlier

    def __post_init__(self) -> None:
        self.began_at = self.guide.observed.began_at

    def reap(self, mode: Mode, scopes: Sequence[str] = ()) -> list[Reaped]:
        """Walks `scopes`; without any, all of the source: in full the integrations first, and
        incrementally (the integrations have no such walk) the installs that are known."""
        self._probe_once()
        if scopes:
            return list(self._each(scopes, mode))
        if mode == "incremental" and (known := self._install_scopes()):
            return list(self._each(known, mode))
        integrations = self._reap(INTEGRATIONS, "full")
        if isinstance(integrations.error, SourceRefused):
            return [integrations]
        return [integrations, *self._each(self._install_scopes(), "full")]

    def _each(self, scopes: Sequence[str], mode: Mode) -> Iterator[Reaped]:
        relisted = False
        for scope in scopes:
            reaped = self._reap(scope, mode)
            if mode == "incremental" and isinstance(reaped.error, NotListed):
                # Is its integration deleted? The listing of all, and asking for it, tell.
                if not relisted:
                    yield self._reap(INTEGRATIONS, "full")
                relisted = True
                if integration_of(scope) in self.gone:
                    continue
            yield reaped
            if isinstance(reaped.error, SourceRefused) and reaped.error.status == 401:
                return  # the login is refused: asking on could lock the account

    @property
    def files(self) -> dict[Path, int]:
        """The files of all rows brought home, and how long they are."""
        return {spool.path: spool.length for spool in self.spools}

    @property
    def _keyset(self) -> bool:
        return self.guide.dialect.PAGING == "keyset"

    def _probe_once(self) -> None:
        if not self._keyset or self.knowledge.is_probed():
            return
        if self.knowledge.brief.active.get(INSTALLS, 0) < 2:
            return  # one row is in any order: a source that ignores orderBy would not show it
        try:
            accepted = probe(self.guide.client, self.guide.dialect)
        except StocktakeError:
            return  # the walk meets the same, and says so
        self._accept(accepted)

    def _accept(self, accepted: Accepted) -> None:
        if accepted.newest_first is None:
            log.warning("source=%s refuses orderBy: every sync walks in full", self.source.name)
        self.knowledge.accept(accepted)

    def _install_scopes(self) -> list[str]:
        if self._keyset:
            return [INSTALLS]
        known = self.source.integrations or (*self.listed, *self.knowledge.brief.integrations)
        return [installs_of(id) for id in dict.fromkeys(known) if id not in self.gone]

    def _reap(self, scope: str, mode: Mode) -> Reaped:
        before = self.guide.client.requests
        try:
            if mode == "incremental":
                if walk := self._incremental(scope):
                    return Reaped(walk)
                mode = "full"
            return Reaped(self._full(scope))
        except StocktakeError as error:
            requests = self.guide.client.requests - before
            walked = Walked("none", requests=requests, reason=str(error))
            walk = ScopeWalk(self.run_id(scope), scope, mode, self.knowledge.brief.round, walked)
            return Reaped(walk, error)

    def _incremental(self, scope: str) -> ScopeWalk | None:
        """What moved; None where only a full walk will do."""
        memory = self.knowledge.memory(scope, deleted=self._keyset)
        paging, accepted = self.guide.dialect.PAGING, self.knowledge.accepted()
        steps = routes.incremental(paging, self.guide.page_size, memory, accepted)
        # Heads end where rows stand as known: rows of a walk that missed others would let them end
        # above those. (Along numbered pages the order tells, which no such walk changes.)
        unsure = self._keyset and memory.unsure
        if steps is None or (unsure and self._escalate(scope)):
            return None
        try:
            walked = self._heads(scope, steps)
        except SourceRefused as error:
            if not self._keyset or error.status not in (400, 422):
                raise
            self._accept(replace(accepted, newest_first=None))
            return None
        if routes.escalates(walked.reason) and self._escalate(scope):
            return None
        if unsure:
            walked = replace(walked, complete=False, reason=walked.reason or routes.UNSURE)
        if walked.complete:
            self.knowledge.settled(scope)
            self._place(scope, walked.order, memory)
        round = self.knowledge.brief.round
        return ScopeWalk(self.run_id(scope), scope, "incremental", round, walked)

    def _heads(self, scope: str, steps: Steps) -> Walked:
        """Walks what stands first; the heads of a keyset listing count only where they are whole:
        what a part of them brought would let the next walk stop above what this one missed."""
        spool, complete = self._spool(scope, "incremental"), False
        try:
            walked = self.guide.walk(scope, steps, spool)
            complete = walked.complete
        finally:
            if self._keyset and not complete:
                self.spools.remove(spool)
        return walked

    def _escalate(self, scope: str) -> bool:
        now = clock.now()
        allowed = self.knowledge.may_escalate(scope, now)
        if allowed:
            self.knowledge.escalated(scope, now)
        return allowed

    def _place(self, scope: str, order: tuple[str, ...], memory: Memory) -> None:
        """Keeps the new order of what moved: what stands as before at the end needs no new rank."""
        kept = 0
        for new, old in zip(reversed(order), reversed(memory.order), strict=False):
            if new != old:
                break
            kept += 1
        if moved := order[: len(order) - kept]:
            self.placed.append((scope, moved))

    def _full(self, scope: str) -> ScopeWalk:
        header, walked = self._walk(scope)
        if header.bounds and routes.ignores_filter(walked.reason):
            # It filters no more as it was found to: one chain of cursors needs no filter.
            self.knowledge.accept(replace(self.knowledge.accepted(), filters=False))
            header, walked = self._walk(scope)
        if walked.certificate != "none":
            walked = self._settle_absences(scope, walked)
        if walked.certificate != "none" and walked.order and scope != INTEGRATIONS:
            self.placed.append((scope, walked.order))
        return ScopeWalk(self.run_id(scope), scope, "full", header.round, walked)

    def _walk(self, scope: str) -> tuple[Header, Walked]:
        spool, fresh = self._spool(scope), self._header(scope)
        header = spool.begin(fresh, fresh.began_at)
        self.began_at = min(self.began_at, header.began_at)
        steps = routes.full(
            self.guide.dialect.PAGING,
            header.size,
            header.parallel,
            header.bounds,
            resumed=header is not fresh,
            expected=self._expected(scope),
        )
        walked = self.guide.walk(scope, steps, spool, met=partial(self._meet, scope))
        # Only an interrupted walk is gone on with: evidence must not be older than its walk.
        spool.discard()
        return header, walked

    def _meet(self, scope: str, row: Row) -> None:
        if scope == INTEGRATIONS:
            self.listed[row.id] = None

    def _expected(self, scope: str) -> Set[str]:
        """The rows that a walk looks for once more before it says that they are missing: suspects,
        for it would delete them."""
        if self._keyset or scope == INTEGRATIONS:
            return frozenset()  # they can be asked for
        return self.knowledge.brief.suspects.get(scope, frozenset())

    def _header(self, scope: str) -> Header:
        """How the walk is to be made."""
        began_at, round = self.guide.observed.began_at, self.knowledge.brief.round
        header = Header(scope, self.guide.page_size, 1, round, began_at, view=_view(self.source))
        if scope == INTEGRATIONS:
            return header
        if not self._keyset:
            return msgspec.structs.replace(header, parallel=self.knowledge.parallel(scope))
        bounds = tuple(self.knowledge.bounds(scope, header.size))
        return msgspec.structs.replace(header, parallel=len(bounds) + 1, bounds=bounds)

    def _settle_absences(self, scope: str, walked: Walked) -> Walked:
        """Asks the source for what its listing does not show, where it can be asked (DESIGN 8)."""
        if scope == INTEGRATIONS:
            active, deleted = self._unlisted()[:ASKED], []
        elif self._keyset:
            absent = self.knowledge.absent(self.files)
            active = [id for id, state in absent if state == "active"][:ASKED]
            deleted = [id for id, state in absent if state != "active"][:RECHECKED]
        else:
            return walked  # there is no get-one-installation endpoint: two walks decide
        found: list[Row] = []
        spool = self._spool(scope, "absent")
        asked = self.guide.walk(scope, self._asking([*active, *deleted]), spool, met=found.append)
        self.gone |= {*active} - {row.id for row in found}
        return self._with_answers(scope, walked, asked, found)

    def _unlisted(self) -> list[str]:
        """The integrations we hold active, and are to mirror, that the listing did not show."""
        mirrored = self.source.integrations
        return [
            id
            for id in self.knowledge.brief.integrations
            if id not in self.listed and (not mirrored or id in mirrored)
        ]

    def _asking(self, ids: Sequence[str]) -> Steps:
        parallel = self.source.max_concurrency
        return ask_absent(ids, parallel=parallel) if self._keyset else ask_each(ids, parallel)

    def _with_answers(
        self, scope: str, walked: Walked, asked: Walked, found: Sequence[Row]
    ) -> Walked:
        walked = replace(walked, requests=walked.requests + asked.requests)
        active = sum(self._is_active(scope, row) for row in found)
        if active:
            reason = f"{active} active rows exist that the listing did not show"
            return replace(walked, certificate="none", reason=reason)
        if asked.certificate == "none":
            return replace(walked, certificate="none", reason=asked.reason)
        return walked

    def _is_active(self, scope: str, row: Row) -> bool:
        payload, dialect = decoded(row.raw), self.guide.dialect
        if scope == INTEGRATIONS:
            return dialect.integration(payload).deleted_at is None
        return dialect.install(payload, integration_of(scope)).deleted_at is None

    def _spool(self, scope: str, part: str = "") -> Spool:
        spool = Spool(self.folder, scope, kind_of(scope), part)
        self.spools.append(spool)
        return spool


def _view(source: Source) -> str:
    """Of the settings that decide which rows a walk sees and what it keeps of them: pages spooled
    before a path was redacted, or of another account, must not be gone on with."""
    token = source.token.get_secret_value() if source.token else None
    parts = (source.base_url, source.email, token, source.integrations, source.redact)
    return digest(repr(parts).encode())
