"""Pages of a walk on disk: rows to load in one read, and a journal from which a walk goes on."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from worker.errors import StoreUnusable
from worker.models import Ask, Kind, One, Page, Row

RESUMABLE_FOR: Final = timedelta(hours=6)  # longer than Gestal's two hours of rate limit


class Header(msgspec.Struct, frozen=True):
    """How a walk is made. An interrupted one goes on as it began."""

    scope: str
    size: int
    parallel: int
    round: int
    began_at: datetime
    bounds: tuple[str, ...] = ()
    view: str = ""  # differs when other rows would be seen, or other parts of them be kept


class _Answered(msgspec.Struct, frozen=True):
    """A page as the journal keeps it: everything the walk looks at, but not the rows' text."""

    rows: list[tuple[str, str]]
    total: int | None
    number: int | None
    size: int | None
    next_page: int | None
    next_cursor: str | None


class _Entry(msgspec.Struct, frozen=True):
    asks: list[str]
    pages: list[_Answered | None]
    spooled: int  # how long the file of rows was when these pages were in it


class Spool:
    """One walk's files. A line that a crash cut off is dropped, with the page it belonged to."""

    def __init__(self, folder: Path, scope: str, kind: Kind, part: str = "") -> None:
        name = hashlib.sha256(f"{scope}?{part}".encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path, self._journal = folder / f"{name}.rows", folder / f"{name}.journal"
        self._scope, self._kind = scope, kind
        self._journaled = False
        self.length = 0  # of the file, in bytes: what this walk has put there, or goes on with
        self._ordinal = 0
        self._replay: list[_Entry] = []
        if part:
            self._empty()

    def _empty(self) -> None:
        try:
            self.path.write_bytes(b"")
        except OSError as error:
            raise self._unusable(error) from error

    def begin(self, header: Header, now: datetime) -> Header:
        """Starts anew, or goes on with an interrupted walk: then its own header comes back."""
        self._journaled = True
        kept = self._resumable(header, now)
        if kept is not None:
            return kept
        self._replay, self.length = [], 0
        self._empty()
        try:
            self._journal.write_bytes(msgspec.json.encode(header) + b"\n")
        except OSError as error:
            raise self._unusable(error) from error
        return header

    def discard(self) -> None:
        """The walk has ended: nothing goes on from here."""
        self._journal.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes rows that are committed, unless an interrupted walk goes on with them."""
        if not self._journal.exists():
            self.path.unlink(missing_ok=True)

    def replayed(self, asks: Sequence[Ask]) -> tuple[Page | None, ...] | None:
        """The pages that the interrupted walk got for the same asks, while there are some."""
        if not self._replay:
            return None
        entry = self._replay.pop(0)
        if entry.asks != [str(ask) for ask in asks]:
            self._replay = []
            return None
        return tuple(None if page is None else _page(page) for page in entry.pages)

    def record(
        self,
        asks: Sequence[Ask],
        pages: Sequence[Page | None],
        kept: Sequence[Sequence[Row]],
        observed_at: datetime,
    ) -> None:
        """Keeps the answers to one batch: of each page the rows in `kept`, then the journal.

        StoreUnusable when the disk does not take them.
        """
        lines = [
            line
            for ask, page, rows in zip(asks, pages, kept, strict=True)
            for line in self._lines(ask, page, rows, observed_at)
        ]
        text = b"".join(lines)
        try:
            with self.path.open("ab") as file:
                file.write(text)
            if self._journaled:
                answers = [None if page is None else _answered(page) for page in pages]
                entry = _Entry([str(ask) for ask in asks], answers, self.length + len(text))
                with self._journal.open("ab") as journal:
                    journal.write(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            with suppress(OSError):  # a line that is cut off could not be loaded
                os.truncate(self.path, self.length)
            raise self._unusable(error) from error
        self.length += len(text)

    def _unusable(self, error: OSError) -> StoreUnusable:
        return StoreUnusable(f"cannot spool pages in {self.path}: {error.strerror}")

    def _lines(
        self, ask: Ask, page: Page | None, rows: Sequence[Row], observed_at: datetime
    ) -> Iterator[bytes]:
        if page is None and isinstance(ask, One):
            yield self._line(ask.id, observed_at, "", b"null")
        for row in rows:
            yield self._line(row.id, observed_at, row.digest, row.raw)

    def _line(self, id: str, observed_at: datetime, digest: str, raw: bytes) -> bytes:
        self._ordinal += 1
        head = msgspec.json.encode({
            "kind": self._kind, "scope": self._scope, "id": id,
            "observed_at": observed_at.astimezone(UTC), "ordinal": self._ordinal, "digest": digest,
        })  # fmt: skip
        return head[:-1] + b',"row":' + _on_one_line(raw) + b"}\n"

    def _resumable(self, header: Header, now: datetime) -> Header | None:
        try:
            lines = self._journal.read_bytes().split(b"\n")
            kept = msgspec.json.decode(lines[0], type=Header)
            entries = list(_whole(lines[1:]))
        except (OSError, msgspec.DecodeError):
            return None
        alike = (kept.scope, kept.size, kept.view) == (header.scope, header.size, header.view)
        young = timedelta() <= now - kept.began_at <= RESUMABLE_FOR
        if not (alike and young and entries and self._cut(entries[-1].spooled)):
            return None
        head = [lines[0], *(msgspec.json.encode(entry) for entry in entries)]
        self._journal.write_bytes(b"\n".join(head) + b"\n")
        self._replay = entries
        self._ordinal = sum(len(page.rows) for entry in entries for page in entry.pages if page)
        return kept

    def _cut(self, length: int) -> bool:
        """Takes off what was written after the newest whole entry of the journal."""
        if not self.path.exists() or self.path.stat().st_size < length:
            return False
        os.truncate(self.path, length)
        self.length = length
        return True


def clear(folder: Path, older_than: datetime) -> int:
    """Removes the files of syncs that nobody goes on with; returns how many."""
    count = 0
    for child in folder.glob("*"):
        with suppress(FileNotFoundError):  # its sync has just ended
            if datetime.fromtimestamp(child.stat().st_mtime, UTC) < older_than:
                child.unlink()
                count += 1
    return count


def _whole(lines: Sequence[bytes]) -> Sequence[_Entry]:
    entries = []
    for line in lines:
        try:
            entries.append(msgspec.json.decode(line, type=_Entry))
        except msgspec.DecodeError:
            break
    return entries


def _answered(page: Page) -> _Answered:
    rows = [(row.id, row.digest) for row in page.rows]
    return _Answered(rows, page.total, page.number, page.size, page.next_page, page.next_cursor)


def _page(kept: _Answered) -> Page:
    rows = tuple(Row(id, digest, b"") for id, digest in kept.rows)
    return Page(rows, kept.total, kept.number, kept.size, kept.next_page, kept.next_cursor)


def _on_one_line(raw: bytes) -> bytes:
    # The file has one object a line; the platform may send them indented.
    return msgspec.json.format(raw, indent=-1) if b"\n" in raw or b"\r" in raw else raw
