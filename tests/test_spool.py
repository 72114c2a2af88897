"""Pages of a walk on disk: what is loaded from them, and what a crash leaves of them."""

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from worker import spool
from worker.dialects.rows import digest
from worker.errors import StoreUnusable
from worker.models import After, Ask, One, Page, PageNumber, Row
from worker.spool import RESUMABLE_FOR, Header, Spool

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCOPE = "installs/int_1"
HEADER = Header(SCOPE, size=2, parallel=1, round=7, began_at=NOON, view="all")


def row(id: str, **fields: Any) -> Row:
    raw = msgspec.json.encode({"cloud_id": id, **fields})
    return Row(id, digest(raw), raw)


def page(*ids: str, total: int = 6, number: int | None = None) -> Page:
    return Page(tuple(map(row, ids)), total=total, number=number, size=2)


BATCHES: list[tuple[tuple[Ask, ...], tuple[Page | None, ...]]] = [
    ((PageNumber(1, 2),), (page("a", "b", number=1),)),
    ((PageNumber(2, 2), PageNumber(3, 2)), (page("c", "d", number=2), page("e", "f", number=3))),
    ((One("x"), One("g")), (None, page("g"))),
]


def record(into: Spool, batch: int) -> None:
    asks, pages = BATCHES[batch]
    kept = [each.rows if each else () for each in pages]
    into.record(asks, pages, kept, NOON + timedelta(seconds=batch))


def began(folder: Path, header: Header = HEADER, now: datetime = NOON) -> tuple[Spool, Header]:
    opened = Spool(folder, header.scope, "install")
    return opened, opened.begin(header, now)


def lines(opened: Spool) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in opened.path.read_bytes().splitlines()]


def ids(opened: Spool) -> list[str]:
    return [line["id"] for line in lines(opened)]


def replayed(opened: Spool) -> int:
    """How many batches of the interrupted walk are there again, each with what it had."""
    count = 0
    for asks, pages in BATCHES:
        answers = opened.replayed(asks)
        if answers is None:
            break
        count += 1
        for answer, was in zip(answers, pages, strict=True):
            assert (answer is None) == (was is None)
            if answer and was:
                assert [(r.id, r.digest) for r in answer.rows] == [
                    (r.id, r.digest) for r in was.rows
                ]
                assert (answer.total, answer.number, answer.size) == (
                    was.total,
                    was.number,
                    was.size,
                )
    return count


def test_every_row_is_a_line_with_what_the_store_needs(tmp_path: Path) -> None:
    opened, header = began(tmp_path)
    assert header == HEADER
    record(opened, 0)
    first, second = lines(opened)
    assert first == {
        "kind": "install",
        "scope": SCOPE,
        "id": "a",
        "observed_at": "2026-03-01T12:00:00Z",
        "ordinal": 1,
        "digest": row("a").digest,
        "row": {"cloud_id": "a"},
    }
    assert (second["id"], second["ordinal"]) == ("b", 2)


def test_a_404_is_a_line_without_a_row(tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 2)
    gone, found = lines(opened)
    assert (gone["id"], gone["row"], gone["digest"]) == ("x", None, "")
    assert (found["id"], found["row"]) == ("g", {"cloud_id": "g"})


def test_only_rows_to_keep_are_spooled_but_the_walk_sees_all_again(tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    asks, pages = BATCHES[0]
    opened.record(asks, pages, [()], NOON)
    assert lines(opened) == []
    again, _ = began(tmp_path)
    assert replayed(again) == 1


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_an_indented_row_is_one_line_all_the_same(newline: str, tmp_path: Path) -> None:
    raw = b'{"cloud_id": "a", "site": {"name": "two\\nlines"}}'
    indented = msgspec.json.format(raw, indent=2).replace(b"\n", newline.encode())
    opened, _ = began(tmp_path)
    answer = Page((Row("a", digest(indented), indented),))
    opened.record((PageNumber(1, 2),), (answer,), [answer.rows], NOON)
    (line,) = opened.path.read_bytes().split(b"\n")[:-1]
    assert msgspec.json.decode(line)["row"] == msgspec.json.decode(raw)


def test_an_interrupted_walk_goes_on_with_its_own_header(tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    record(opened, 1)
    later = msgspec.structs.replace(
        HEADER, round=9, began_at=NOON + timedelta(hours=1), parallel=3, bounds=("b", "d")
    )
    again, header = began(tmp_path, later, later.began_at)
    assert header == HEADER
    assert replayed(again) == 2
    record(again, 2)
    assert ids(again) == ["a", "b", "c", "d", "e", "f", "x", "g"]
    ordinals = [line["ordinal"] for line in lines(again)]
    assert ordinals == sorted(set(ordinals))
    third, _ = began(tmp_path)
    assert replayed(third) == 3


def test_other_asks_than_before_end_the_replay(tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    record(opened, 1)
    again, _ = began(tmp_path)
    assert again.replayed((After(None, 2),)) is None
    assert again.replayed(BATCHES[1][0]) is None


@pytest.mark.parametrize("torn", ["rows", "journal"])
def test_wherever_a_crash_cuts_the_last_batch_rows_and_journal_agree(
    torn: str, tmp_path: Path
) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    record(opened, 1)
    journal = next(tmp_path.glob("*.journal"))
    files = {"rows": opened.path, "journal": journal}
    before = {name: path.read_bytes() for name, path in files.items()}
    record(opened, 2)
    after = {name: path.read_bytes() for name, path in files.items()}
    for length in range(len(before[torn]), len(after[torn])):
        # The rows are written first: the journal tells of them when they are there.
        opened.path.write_bytes(after["rows"][:length] if torn == "rows" else after["rows"])
        journal.write_bytes(before["journal"] if torn == "rows" else after["journal"][:length])
        again, header = began(tmp_path)
        assert header == HEADER
        # Only the newline may be missing of a batch that is there.
        whole = torn == "journal" and length == len(after["journal"]) - 1
        assert again.path.read_bytes() == (after if whole else before)["rows"]
        assert replayed(again) == (3 if whole else 2)


def test_rows_that_a_power_cut_took_begin_the_walk_anew(tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    os.truncate(opened.path, 5)
    later = msgspec.structs.replace(HEADER, round=8)
    again, header = began(tmp_path, later)
    assert header == later
    assert replayed(again) == 0
    assert again.path.read_bytes() == b""


@pytest.mark.parametrize("length", range(3))
def test_a_journal_without_a_whole_header_begins_anew(length: int, tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    os.truncate(next(tmp_path.glob("*.journal")), length)
    again, _ = began(tmp_path)
    assert replayed(again) == 0
    assert ids(again) == []


@pytest.mark.parametrize("fields", [{"size": 3}, {"view": "less"}])
def test_a_walk_that_would_start_otherwise_begins_anew(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    other = msgspec.structs.replace(HEADER, **fields)
    again, header = began(tmp_path, other)
    assert header == other
    assert replayed(again) == 0
    assert ids(again) == []


@pytest.mark.parametrize(
    ("age", "goes_on"),
    [
        (timedelta(), True),
        (RESUMABLE_FOR, True),
        (RESUMABLE_FOR + timedelta(seconds=1), False),
        (-timedelta(seconds=1), False),  # the clock was set back: its age is unknown
    ],
)
def test_only_a_young_walk_is_gone_on_with(age: timedelta, goes_on: bool, tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    again, _ = began(tmp_path, now=NOON + age)
    assert replayed(again) == int(goes_on)
    assert bool(ids(again)) == goes_on


def test_a_walk_that_ended_is_not_gone_on_with_but_its_rows_stay(tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    opened.discard()
    assert ids(opened) == ["a", "b"]
    again, _ = began(tmp_path)
    assert replayed(again) == 0


def test_rows_are_swept_away_unless_an_interrupted_walk_goes_on_with_them(tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    opened.sweep()
    assert ids(opened) == ["a", "b"]
    opened.discard()
    opened.sweep()
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_walk_have_files_of_their_own_and_begin_empty(tmp_path: Path) -> None:
    opened, _ = began(tmp_path)
    record(opened, 0)
    part = Spool(tmp_path, SCOPE, "install", "absent")
    record(part, 2)
    assert (ids(opened), ids(part)) == (["a", "b"], ["x", "g"])
    assert ids(Spool(tmp_path, SCOPE, "install", "absent")) == []


def test_scopes_have_files_of_their_own(tmp_path: Path) -> None:
    for scope in (SCOPE, "installs/int_2"):
        opened, _ = began(tmp_path, msgspec.structs.replace(HEADER, scope=scope))
        record(opened, 0)
    assert len(list(tmp_path.glob("*.rows"))) == 2


def test_what_is_spooled_is_private(tmp_path: Path) -> None:
    Spool(tmp_path / "spool", SCOPE, "install", "absent")
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_a_line_that_a_full_disk_cut_off_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Spool(tmp_path, SCOPE, "install", "absent")
    record(opened, 0)
    before, whole = opened.path.read_bytes(), Path.open

    class Full:
        def __init__(self, path: Path, mode: str) -> None:
            self.file = whole(path, mode)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, text: bytes) -> None:
            self.file.write(text[: len(text) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda path, mode: Full(path, mode))
        with pytest.raises(StoreUnusable, match="No space left on device"):
            record(opened, 1)
    assert opened.path.read_bytes() == before
    assert opened.length == len(before)


def test_old_spools_are_cleared(tmp_path: Path) -> None:
    old, young = (Spool(tmp_path, SCOPE, "install", part) for part in ("old", "young"))
    record(old, 0)
    record(young, 0)
    os.utime(old.path, (0, 0))
    assert spool.clear(tmp_path, NOON - timedelta(days=365 * 20)) == 1
    assert list(tmp_path.glob("*.rows")) == [young.path]
