"""The store: commits that are all or nothing, what is remembered of them, and who may open it."""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from examples import (
    MINUTE,
    NOON,
    OF_A,
    Crash,
    Failing,
    Handle,
    Shown,
    aeontel_row,
    commit,
    connected,
    event_log,
    gestal_integration,
    gestal_row,
    harvest,
    new_store,
    policy,
)

import worker
from worker import warehouse
from worker.errors import ConfigInvalid, StoreBusy, StoreNewer, StoreUnusable
from worker.findings import Plan
from worker.models import INSTALLS, INTEGRATIONS, Event, Install, Integration, installs_of
from worker.resources import directory
from worker.warehouse import Store, connection, rows, sql

OF_B = installs_of("int_b")
VOICE = policy("aeontel")
DELETED = {"deletedAt": "2026-02-01T00:00:00Z"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of an empty store."""
    return new_store(tmp_path / "private" / "store.duckdb")


@pytest.fixture
def handle(path: Path) -> Iterator[Handle]:
    """DuckDB's connection to an empty store."""
    with connected(path) as opened:
        yield opened


@pytest.fixture
def store(handle: Handle, path: Path) -> Store:
    return Store(handle, path.parent)


@pytest.fixture
def sync(store: Store, tmp_path: Path) -> Callable[..., Plan]:
    return syncing(store, tmp_path / "spool")


def syncing(store: Store, folder: Path) -> Callable[..., Plan]:
    """Commits what walks of Gestal have shown, each sync a minute after the one before."""
    times = iter(NOON + n * MINUTE for n in range(100))

    def run(*shown: Shown, at: datetime | None = None, fence: int = 1, **fields: Any) -> Plan:
        brought = harvest(store, folder, *shown, at=at or next(times), fence=fence)
        return commit(store, brought, **fields)

    return run


def listed(*ids: str, scope: str = OF_A, **fields: Any) -> Shown:
    """A certified walk of Gestal that saw these installs."""
    return Shown(scope, [gestal_row(id) for id in ids], **fields)


def everything(opened: Handle) -> dict[str, list[str]]:
    """All rows of all tables of a store."""
    names = opened.execute(
        "select schema_name || '.' || table_name from duckdb_tables() where not temporary"
    ).fetchall()
    return {name: sorted(map(repr, opened.table(name).fetchall())) for (name,) in names}


def document(opened: Handle, id: str, revision: int) -> Any:
    """A revision as its history tells it, in the form of an event's `before`."""
    query = "from install_revisions where install_id = $id and revision = $revision"
    (found,) = rows.dicts(opened.execute(query, {"id": id, "revision": revision}))
    return {name: value for name, value in msgspec.to_builtins(found).items() if name != "valid_to"}


def column(opened: Handle, query: str) -> list[Any]:
    return [row[0] for row in opened.execute(query).fetchall()]


def states(opened: Handle) -> dict[str, str]:
    return dict(opened.execute("select install_id, state from installs").fetchall())


def suspects(opened: Handle) -> list[Any]:
    return column(
        opened, "select install_id from installs where missing_since is not null order by all"
    )


class TestACommit:
    def test_numbers_events_without_a_gap(self, sync: Callable[..., Plan], store: Store) -> None:
        sync(Shown(INTEGRATIONS, [gestal_integration()]), listed("b", "a"))
        sync(listed("c", "b", "a"))
        sync(listed("c", certificate="none"))
        sync(listed("d", "c", "b", "a"))
        events = store.events(after=0)
        assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
        assert [event.install_id for event in events] == [None, "a", "b", "c", "d"]
        assert store.last_sequence == 5
        assert [event.sequence for event in store.events(after=2, limit=2)] == [3, 4]

    def test_keeps_events_as_they_were_planned(
        self, sync: Callable[..., Plan], store: Store, handle: Handle
    ) -> None:
        plans = [sync(listed("a")), sync(Shown(OF_A, [gestal_row("b"), gestal_row("a", note=1)]))]
        assert event_log(handle) == [event for plan in plans for event in plan.events]

    def test_hands_out_its_events_but_not_the_rows_of_a_baseline(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        first, second = sync(listed("a")), sync(listed("b", "a"))
        (baseline, told) = store.events(after=0)
        assert baseline == dataclasses.replace(first.events[0], after=None)
        assert (told,) == second.events

    def test_keeps_payloads_as_they_came(self, sync: Callable[..., Plan], handle: Handle) -> None:
        odd = {"n": 2**70, "x": 1.5, "text": 'Müller 😀 " \\ \x00 \u2028', "deep": [{"": [None]}]}
        sync(Shown(OF_A, [gestal_row("a", odd=odd, tenant={"cloud_id": "t", "name": "a\x00b"})]))
        plan = sync(Shown(OF_A, [gestal_row("a", odd=odd, tenant={"name": "x", "cloud_id": "t"})]))
        (event,) = plan.events
        assert event.changed_fields == ("account_name",)
        assert event.before is not None
        assert (event.before["payload"]["odd"], event.before["account_name"]) == (odd, "a\x00b")

    def test_has_one_time(self, sync: Callable[..., Plan], store: Store, handle: Handle) -> None:
        sync(Shown(INTEGRATIONS, [gestal_integration()]), listed("a", "b"))
        times = column(
            handle,
            "select detected_at from events union select last_changed_at from installs "
            "union select valid_from from install_history union select first_seen_at from installs "
            "union select committed_at from private.store union select last_changed_at "
            "from integrations",
        )
        assert times == [store.brief("farm").committed_at] == [NOON]

    def test_is_later_than_the_one_before_when_the_clock_goes_back(
        self, sync: Callable[..., Plan], store: Store, handle: Handle
    ) -> None:
        sync(listed("a"), at=NOON)
        sync(Shown(OF_A, [gestal_row("a", note=1)]), at=NOON, now=NOON - 60 * MINUTE)
        sync(Shown(OF_A, [gestal_row("a", note=2)]), at=NOON, now=NOON - 60 * MINUTE)
        times = column(handle, "select detected_at from events order by sequence")
        assert times == sorted(set(times))
        assert times[-1] == store.brief("farm").committed_at
        assert (times[2] - times[0]).total_seconds() == 2e-6

    def test_is_no_earlier_than_what_it_records(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(listed("a"), at=NOON, now=NOON - MINUTE)
        assert store.brief("farm").committed_at == NOON

    def test_says_whether_analysts_see_a_difference(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        numbers = []
        for shown in (listed("b", "a"), listed("b", "a"), listed("b"), listed("b"), listed("b")):
            sync(shown)
            numbers.append(store.brief("farm").commit_number)
        assert numbers == [1, 1, 2, 3, 3]
        assert store.brief("farm").round == 5

    def test_may_find_nothing_at_all(self, sync: Callable[..., Plan], store: Store) -> None:
        assert sync(Shown(OF_A)).changes == ()
        assert (store.brief("farm").round, store.brief("farm").commit_number) == (1, 0)

    def test_of_one_source_leaves_the_others_alone(
        self, sync: Callable[..., Plan], store: Store, tmp_path: Path, handle: Handle
    ) -> None:
        sync(listed("a", "b"))
        brought = harvest(store, tmp_path / "spool", listed("a"), at=NOON + MINUTE)
        commit(
            store,
            dataclasses.replace(brought, source="barn"),
            policy=dataclasses.replace(policy("gestal"), source="barn"),
        )
        rows = handle.execute("select source, install_id, revision from installs order by all")
        assert rows.fetchall() == [("barn", "a", 1), ("farm", "a", 1), ("farm", "b", 1)]
        assert suspects(handle) == []
        assert (
            store.brief("farm").round,
            store.brief("barn").round,
            store.brief("none").round,
        ) == (1, 1, 0)
        assert len({event.event_id for event in store.events(after=0)}) == 3


class TestAnObservation:
    def test_that_is_older_than_what_is_kept_is_dropped(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        sync(Shown(OF_A, [gestal_row("a", note="new")]), at=NOON)
        plan = sync(
            Shown(OF_A, [gestal_row("a", note="old")], certificate="none"), at=NOON - MINUTE
        )
        assert plan.changes == ()
        assert column(handle, "select payload->>'note' from installs") == ["new"]

    def test_of_an_absence_that_is_older_than_a_sighting_is_dropped(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        sync(Shown(INSTALLS, [aeontel_row("a"), aeontel_row("b")]), policy=VOICE, at=NOON)
        late = Shown(INSTALLS, [aeontel_row("b")], missing=["a"], certificate="keyset")
        assert sync(late, policy=VOICE, at=NOON - MINUTE).changes == ()
        assert states(handle) == {"a": "active", "b": "active"}

    def test_that_is_the_latest_of_its_walk_wins(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        moved = [gestal_row("a", note=1), gestal_row("b"), gestal_row("a", note=2)]
        sync(Shown(OF_A, moved))
        assert column(handle, "select payload->>'note' from installs order by install_id") == [
            "2", None,
        ]  # fmt: skip

    def test_anywhere_in_the_source_means_it_is_absent_nowhere(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        sync(listed("a", "b"), listed("c", scope=OF_B))
        plan = sync(listed("b"), listed("a", "c", scope=OF_B))
        assert [event.type for event in plan.events] == ["install.updated"]
        assert (plan.suspects, suspects(handle)) == ((), [])

    def test_made_after_a_walk_began_disproves_its_absence(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        sync(listed("a", "b"), at=NOON)
        sync(listed("a", certificate="none"), at=NOON + 3 * MINUTE)
        sync(listed("b"), at=NOON + 2 * MINUTE)
        assert suspects(handle) == []

    def test_of_a_404_of_something_unknown_leaves_no_trace(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        sync(Shown(INSTALLS, missing=["never"], certificate="keyset"), policy=VOICE)
        assert everything(handle)["private.sightings"] == []

    @pytest.mark.parametrize("size", [None, 0, 20])
    def test_that_is_not_in_its_file_any_more_is_no_absence(
        self, size: int | None, sync: Callable[..., Plan], store: Store, tmp_path: Path
    ) -> None:
        sync(listed("a", "b"))
        brought = harvest(store, tmp_path / "spool", listed("a", "b"))
        (path,) = brought.spools
        path.unlink() if size is None else os.truncate(path, size)
        with pytest.raises(StoreBusy, match=r"not as this sync left them"):
            commit(store, brought)
        with pytest.raises(StoreBusy):
            store.absent("farm", brought.spools, ())


class TestASuspect:
    def test_is_an_active_install_that_a_certified_walk_misses(
        self, sync: Callable[..., Plan], store: Store, handle: Handle
    ) -> None:
        sync(listed("a", "b"))
        sync(listed("a", certificate="none"))
        assert suspects(handle) == []
        sync(listed("a"))
        assert (suspects(handle), states(handle)["b"]) == (["b"], "active")
        assert store.brief("farm").suspects == {OF_A: {"b"}}

    def test_is_deleted_since_its_absence_was_first_seen(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        for ids in ("ab", "a", "a"):
            sync(listed(*ids))
        (row,) = handle.execute(
            "select deleted_at, deletion_inferred, missing_since, last_changed_at from installs "
            "where state = 'deleted'"
        ).fetchall()
        assert row == (NOON + MINUTE, True, None, NOON + 2 * MINUTE)

    def test_that_was_deleted_is_restored_even_when_it_comes_back_unchanged(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        for ids in ("ab", "a", "a"):
            sync(listed(*ids))
        plan = sync(listed("a", "b", certificate="none"))
        assert [(e.type, e.deletion_inferred) for e in plan.events] == [("install.restored", True)]
        assert states(handle) == {"a": "active", "b": "active"}

    @pytest.mark.parametrize("certificate", ["pristine", "none"])
    def test_is_cleared_by_any_sighting(
        self, certificate: Any, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        sync(listed("a", "b"))
        sync(listed("a"))
        plan = sync(listed("b", certificate=certificate))
        assert plan.changes == ()
        assert "b" not in suspects(handle)
        sync(listed("a"))
        assert states(handle)["b"] == "active"

    def test_may_be_seen_again_with_a_change(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        sync(listed("a", "b"))
        sync(listed("a"))
        sync(Shown(OF_A, [gestal_row("b", note=1), gestal_row("a")]))
        assert suspects(handle) == []
        assert column(handle, "select revision from installs order by install_id") == [1, 2]
        assert event_log(handle)[-1].before == document(handle, "b", revision=1)

    def test_is_a_suspect_in_the_history_of_what_it_was(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        for ids in ("ab", "a", "a"):
            sync(listed(*ids))
        event = event_log(handle)[-1]
        assert event.type == "install.deleted"
        assert event.before is not None
        assert event.before["missing_since"] == "2026-03-01T12:01:00Z"
        assert event.before == document(handle, "b", revision=1)

    def test_of_a_404_waits_for_a_person(
        self, sync: Callable[..., Plan], store: Store, handle: Handle
    ) -> None:
        rows = [aeontel_row(id) for id in "abc"]
        sync(Shown(INSTALLS, rows, certificate="keyset"), policy=VOICE)
        plan = sync(Shown(INSTALLS, [aeontel_row("d")], missing=list("abc"), certificate="keyset"),
                    policy=VOICE)  # fmt: skip
        assert plan.held == {INSTALLS: 3}
        assert suspects(handle) == ["a", "b", "c"]
        assert store.brief("farm").suspects == {INSTALLS: {"a", "b", "c"}}
        sync(Shown(INSTALLS, [aeontel_row("a")], certificate="none"), policy=VOICE)
        assert suspects(handle) == ["b", "c"]


class TestADelayedSync:
    def test_cannot_commit_over_a_newer_one(
        self, sync: Callable[..., Plan], store: Store, handle: Handle
    ) -> None:
        sync(listed("a"), fence=2)
        before = everything(handle)
        with pytest.raises(StoreBusy, match=r"farm: a newer sync \(lease 2\) .* \(lease 1\)"):
            sync(listed("a", "b"), fence=1)
        assert everything(handle) == before
        assert store.fence("farm") == 2

    def test_may_commit_twice_itself(self, sync: Callable[..., Plan], store: Store) -> None:
        sync(listed("a"), fence=2)
        assert len(sync(listed("b", "a"), fence=2).events) == 1


def dies(doing: Callable[[], object], handle: Handle) -> bool:
    """Whether it does; its process and with it what was not committed are then gone."""
    try:
        doing()
    except Crash as crash:
        if crash.args == ("commit",):
            handle.rollback()
        return True
    return False


@pytest.mark.slow
def test_a_commit_that_fails_at_any_statement_leaves_the_store_as_it_was(
    path: Path, tmp_path: Path
) -> None:
    def shown() -> list[Shown]:
        """One install more, one that is no suspect any more, one that changed, one unchanged; of
        the others one becomes a suspect, and one is deleted."""
        rows = [gestal_row("new"), gestal_row("back"), gestal_row("a", note=1), gestal_row("b")]
        return [Shown(INTEGRATIONS, [gestal_integration(name="Briefe")]), Shown(OF_A, rows)]

    spool, n, crashed = tmp_path / "spool", 0, True
    with connected(path) as handle:
        store = Store(handle, path.parent)
        first = Shown(INTEGRATIONS, [gestal_integration()])
        commit(store, harvest(store, spool, first, listed("back", "a", "b", "c", "d"), at=NOON))
        commit(store, harvest(store, spool, listed("a", "b", "c"), at=NOON + MINUTE))
        before = everything(handle)
        while crashed:
            n += 1
            brought = harvest(store, spool, *shown(), at=NOON + 2 * MINUTE)
            failing = Failing(handle, n)
            crashed = dies(partial(commit, Store(failing, path.parent), brought), handle)  # type: ignore[arg-type]
            assert crashed == (everything(handle) == before), f"after a crash at statement {n}"
        assert failing.left == 1  # all statements were tried, and the last time one more
        alive = dict.fromkeys(["a", "b", "c", "new", "back"], "active")
        assert states(handle) == alive | {"d": "deleted"}
        assert suspects(handle) == ["c"]
    assert not list(path.parent.glob("*.ndjson"))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    """A life: created at noon, changed a minute later, a suspect, deleted, restored and changed."""
    folder, other = tmp_path_factory.mktemp("lived"), gestal_row("other")
    with connected(new_store(folder / "store.duckdb")) as opened:
        sync = syncing(Store(opened, folder), folder / "spool")
        for shown in ([gestal_row("a")], [gestal_row("a", note=1)], [], []):
            sync(Shown(OF_A, [other, *shown]))
        sync(Shown(OF_A, [other, gestal_row("a", note=2)]))
        yield opened


class TestTheHistoryOfAnInstall:
    def test_has_one_interval_per_revision_and_no_gap(self, lived: Handle) -> None:
        rows = lived.execute(
            "select revision, state, valid_from, valid_to, is_current from install_history "
            "where install_id = 'a' order by revision"
        ).fetchall()
        at = [NOON + n * MINUTE for n in range(5)]
        assert rows == [
            (1, "active", at[0], at[1], False),
            (2, "active", at[1], at[3], False),
            (3, "deleted", at[3], at[4], False),
            (4, "active", at[4], None, True),
        ]

    def test_tells_what_was_known_at_a_moment(self, lived: Handle) -> None:
        revisions = {
            -1: [], 0: [1], 59: [1], 60: [2], 61: [2], 179: [2], 180: [3], 239: [3], 240: [4],
            10**6: [4],
        }  # fmt: skip
        for seconds, expected in revisions.items():
            found = lived.execute(
                "select revision from installs_as_of($moment) where install_id = 'a'",
                {"moment": NOON + timedelta(seconds=seconds)},
            ).fetchall()
            assert [revision for (revision,) in found] == expected, f"{seconds} s after noon"

    def test_is_the_installs_themselves_now(self, lived: Handle) -> None:
        now = lived.execute("from installs_as_of($now) order by all", {"now": NOON + 9 * MINUTE})
        assert now.fetchall() == lived.execute("from installs order by all").fetchall()

    def test_matches_the_documents_of_its_events(self, lived: Handle) -> None:
        for event in event_log(lived):
            hashes = dict(
                lived.execute(
                    "select revision, row_hash from install_history where install_id = $id",
                    {"id": event.install_id},
                ).fetchall()
            )
            assert event.after is not None
            assert hashes[event.revision] == event.after["row_hash"]
            if event.before is not None:
                assert hashes[event.revision - 1] == event.before["row_hash"]


class TestWhatIsRememberedOfAListing:
    def remembered(self, store: Store, scope: str = OF_A, **fields: Any) -> Any:
        return store.remembered("farm", scope, fields.get("decided", ()),
                                deleted=fields.get("deleted", False))  # fmt: skip

    def test_is_nothing_before_the_first_walk(self, store: Store) -> None:
        found = self.remembered(store)
        assert (found.full_at, found.active, found.order, found.digests) == (None, 0, (), {})

    def test_is_the_order_of_the_newest_certified_walk(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(listed("c", "b", "a"))
        sync(listed("a", "c", "b"))
        found = self.remembered(store)
        assert (found.full_at, found.active, found.order) == (NOON + MINUTE, 3, ("a", "c", "b"))
        assert set(found.digests) == {"a", "b", "c"}

    def test_keeps_the_old_order_after_an_uncertified_walk(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(listed("c", "b", "a"))
        sync(listed("d", "a", "b", certificate="none"))
        found = self.remembered(store)
        assert (found.full_at, found.order) == (NOON, ("c", "b", "a"))
        assert set(found.digests) == {"a", "b", "c", "d"}

    def test_puts_what_a_walk_did_not_see_behind(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(listed("c", "b", "a"))
        sync(listed("d", "b"))
        found = self.remembered(store, decided=["c", "else"])
        assert found.order == ("d", "b", "c", "a")
        assert (found.active, found.suspects, found.decided) == (4, 2, 1)

    def test_has_no_deleted_rows_unless_the_listing_shows_them(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        rows = [aeontel_row("b"), aeontel_row("a", **DELETED)]
        sync(Shown(INSTALLS, rows, certificate="keyset"), policy=VOICE)
        assert set(self.remembered(store, INSTALLS).digests) == {"b"}
        assert set(self.remembered(store, INSTALLS, deleted=True).digests) == {"a", "b"}

    def test_forgets_the_place_of_an_install_that_moved_away(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(listed("b", "a"), listed("d", "c", scope=OF_B))
        sync(listed("b"), listed("a", scope=OF_B, certificate="none"))
        assert self.remembered(store).order == ("b",)
        found = self.remembered(store, OF_B)
        assert found.order == ("d", "c")
        assert set(found.digests) == {"a", "c", "d"}

    def test_is_counted_per_listing(self, sync: Callable[..., Plan], store: Store) -> None:
        sync(Shown(INTEGRATIONS, [gestal_integration()]), listed("b", "a"), listed("c", scope=OF_B))
        assert store.brief("farm").active == {INTEGRATIONS: 1, OF_A: 2, OF_B: 1}
        assert store.brief("farm").integrations == ("int_a",)
        assert store.brief("barn").integrations == ()


class TestWhatASourceIsAskedFor:
    def absent(self, store: Store, folder: Path, *shown: Shown, **fields: Any) -> Any:
        spools = harvest(store, folder, *shown).spools
        return store.absent("farm", spools, fields.get("listed", ()))

    def test_is_what_the_walk_did_not_bring_active_ones_first(
        self, sync: Callable[..., Plan], store: Store, tmp_path: Path
    ) -> None:
        rows = [aeontel_row("d", **DELETED), aeontel_row("c"), aeontel_row("b"), aeontel_row("a")]
        sync(Shown(INSTALLS, rows, certificate="keyset"), policy=VOICE)
        found = self.absent(store, tmp_path, Shown(INSTALLS, [aeontel_row("b")]))
        assert found == [("a", "active"), ("c", "active"), ("d", "deleted")]

    def test_is_what_was_asked_for_longest_ago_first(
        self, sync: Callable[..., Plan], store: Store, tmp_path: Path
    ) -> None:
        rows = [aeontel_row(id, **DELETED) for id in "abc"]
        sync(Shown(INSTALLS, rows, certificate="keyset"), policy=VOICE)
        sync(Shown(INSTALLS, rows[:1], certificate="none"), policy=VOICE)
        assert [id for id, _ in self.absent(store, tmp_path)] == ["b", "c", "a"]

    def test_is_nothing_that_is_purged_or_was_asked_for_in_this_walk(
        self, sync: Callable[..., Plan], store: Store, tmp_path: Path
    ) -> None:
        rows = [aeontel_row("a", **DELETED), aeontel_row("b"), aeontel_row("c")]
        sync(Shown(INSTALLS, rows, certificate="keyset"), policy=VOICE)
        sync(Shown(INSTALLS, rows[1:], missing=["a"], certificate="keyset"), policy=VOICE)
        found = self.absent(store, tmp_path, Shown(INSTALLS, missing=["b"]))
        assert found == [("c", "active")]

    def test_is_of_the_configured_integrations_only(
        self, sync: Callable[..., Plan], store: Store, tmp_path: Path
    ) -> None:
        rows = [aeontel_row("a"), aeontel_row("b", integrationId="int_b")]
        sync(Shown(INSTALLS, rows, certificate="keyset"), policy=VOICE)
        assert self.absent(store, tmp_path, listed=("int_b", "int_c")) == [("b", "active")]

    def test_is_cut_into_ranges_of_like_length(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(listed(*"abcdefgh"))
        assert store.bounds("farm", 4) == ["c", "e", "g"]
        assert store.bounds("farm", 1) == []
        assert store.bounds("none", 4) == []


class TestARejectedHold:
    def test_holds_on_until_the_install_was_seen(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(Shown(INSTALLS, [aeontel_row("a"), aeontel_row("b")]), policy=VOICE, at=NOON)
        decided_at = NOON + MINUTE
        assert sorted(store.unseen_since("farm", ["a", "b"], decided_at)) == ["a", "b"]
        sync(Shown(INSTALLS, [aeontel_row("b")]), policy=VOICE, at=NOON + 2 * MINUTE)
        assert store.unseen_since("farm", ["a", "b"], decided_at) == ["a"]

    def test_is_not_lifted_by_another_404(self, sync: Callable[..., Plan], store: Store) -> None:
        sync(Shown(INSTALLS, [aeontel_row("a")]), policy=VOICE, at=NOON)
        again = Shown(INSTALLS, missing=["a"], certificate="none")
        sync(again, policy=VOICE, at=NOON + 2 * MINUTE)
        assert store.unseen_since("farm", ["a"], NOON + MINUTE) == ["a"]


class TestTheEndOfABaseline:
    def test_is_counted_per_commit_that_ended_one(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(Shown(INTEGRATIONS, [gestal_integration()], certificate="none"),
             listed("a", certificate="none"))  # fmt: skip
        assert store.baselines() == []
        sync(Shown(INTEGRATIONS, [gestal_integration()]), listed("b", "a"))
        sync(listed("c", "b", "a"), listed("z", scope=OF_B))
        first, second = (store.baseline(*ended) for ended in store.baselines())
        assert (first["scopes"], first["integrations"], first["installs"]) == (
            [OF_A, INTEGRATIONS], 1, 2,
        )  # fmt: skip
        assert (second["scopes"], second["integrations"], second["installs"]) == ([OF_B], 0, 1)
        assert (first["source"], second["announced_from"]) == ("farm", NOON + 2 * MINUTE)

    def test_is_remembered(self, sync: Callable[..., Plan], store: Store) -> None:
        sync(listed("a"))
        plan = sync(listed("b", "a"))
        assert [event.baseline for event in plan.events] == [False]
        assert store.announced("farm") == {OF_A: NOON}

    def test_is_not_needed_where_an_integration_appears(
        self, sync: Callable[..., Plan], store: Store
    ) -> None:
        sync(Shown(INTEGRATIONS, [gestal_integration()]))
        both = [gestal_integration("int_b"), gestal_integration()]
        sync(Shown(INTEGRATIONS, both), listed("z", scope=OF_B, certificate="none"))
        assert [event.baseline for event in store.events(after=1)] == [False, False]
        (ended,) = store.baselines()
        assert store.baseline(*ended)["scopes"] == [INTEGRATIONS]
        assert set(store.announced("farm")) == {INTEGRATIONS, OF_B}


class TestAnIntegrationThatIsGone:
    def test_takes_along_its_installs_but_for_those_seen_elsewhere(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        both = [gestal_integration("int_b"), gestal_integration()]
        sync(Shown(INTEGRATIONS, both), listed("a", "moves"), listed("b", scope=OF_B))
        plan = sync(
            Shown(INTEGRATIONS, both[:1], missing=["int_a"]), listed("moves", "b", scope=OF_B)
        )
        assert [event.type for event in plan.events] == [
            "integration.deleted", "install.updated", "install.deleted",
        ]  # fmt: skip
        assert states(handle) == {"a": "deleted", "moves": "active", "b": "active"}

    def test_takes_along_nothing_that_was_still_seen_in_it(
        self, sync: Callable[..., Plan], handle: Handle
    ) -> None:
        both = [gestal_integration("int_b"), gestal_integration()]
        sync(Shown(INTEGRATIONS, both), listed("a", "b"))
        sync(Shown(INTEGRATIONS, both[:1], missing=["int_a"]), listed("a", certificate="none"))
        assert states(handle) == {"a": "active", "b": "deleted"}


class TestOpeningTheStore:
    def test_makes_it_once_in_a_private_directory(self, tmp_path: Path) -> None:
        path = tmp_path / "data" / "private" / "store.duckdb"
        with warehouse.opened(path, NOON) as store:
            first = store.id
        with warehouse.opened(path, NOON + MINUTE) as store:
            assert store.id == first
            assert (store.brief("farm").commit_number, store.last_sequence) == (0, 0)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        with warehouse.opened(tmp_path / "other" / "store.duckdb", NOON) as store:
            assert store.id != first

    def test_is_refused_when_a_newer_stocktake_wrote_it(self, path: Path) -> None:
        with connection.connect(path, NOON) as handle:
            handle.execute("update private.store set schema_version = 999")
        with pytest.raises(StoreNewer, match=r"by stocktake ≥ .* \(schema 999, this") as raised:
            connection.connect(path, NOON)
        assert raised.value.exit_code == 2

    def test_leaves_nothing_behind_when_a_migration_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "store.duckdb"
        with monkeypatch.context() as patched:
            patched.setattr(sql, "views", lambda: iter(["this is no SQL"]))
            with pytest.raises(duckdb.Error):
                connection.connect(path, NOON)
        with connection.connect(path, NOON) as handle:
            assert Store(handle, tmp_path).brief("farm").commit_number == 0

    def test_is_refused_where_nothing_can_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            pytest.raises(StoreUnusable, match=r"cannot write in .*check data_dir"),
            warehouse.opened(tmp_path / "file" / "private" / "store.duckdb", NOON),
        ):
            pass

    def test_is_refused_when_the_file_is_no_store(self, tmp_path: Path) -> None:
        path = tmp_path / "store.duckdb"
        path.write_text("not a database" * 1000)
        with pytest.raises(StoreUnusable, match="cannot open"):
            connection.connect(path, NOON, patience_s=0)

    def test_waits_for_another_opener_and_tells_who_it_is(self, path: Path) -> None:
        hold = (
            "import sys; from pathlib import Path; from worker.warehouse import locked\n"
            "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
        )
        with (
            elsewhere(hold, path.parent) as pid,
            pytest.raises(StoreBusy, match=f"in use by process {pid};"),
            warehouse.opened(path, NOON, patience_s=0),
        ):
            pass
        with warehouse.opened(path, NOON, patience_s=0):
            pass

    def test_tells_which_process_has_the_file_itself_open(self, path: Path) -> None:
        hold = (
            "import sys, duckdb; kept = duckdb.connect(sys.argv[1]); print(flush=True); "
            "sys.stdin.read()"
        )
        with (
            elsewhere(hold, path) as pid,
            pytest.raises(StoreBusy, match=f"held open by process {pid};"),
        ):
            connection.connect(path, NOON, patience_s=0)

    def test_excludes_other_threads_of_the_same_process(self, path: Path) -> None:
        with (
            warehouse.opened(path, NOON),
            pytest.raises(StoreBusy),
            warehouse.opened(path, NOON, patience_s=0),
        ):
            pass


@contextmanager
def elsewhere(code: str, *args: Path) -> Iterator[int]:
    """A process that runs `code` up to its first line of output and beyond; its id."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(worker.__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


class TestADryRun:
    def test_works_on_a_copy_that_its_steps_share(self, path: Path, tmp_path: Path) -> None:
        with connection.connect(path, NOON) as handle:
            before = everything(handle)
        for ids in ("a", "ab"):
            with warehouse.rehearsed(path, NOON, tmp_path / "scratch") as store:
                commit(store, harvest(store, tmp_path / "spool", listed(*ids)))
                last = store.last_sequence
        assert last == 2
        with connection.connect(path, NOON) as handle:
            assert everything(handle) == before

    def test_before_the_first_sync_makes_no_store(self, tmp_path: Path) -> None:
        path = tmp_path / "private" / "store.duckdb"
        with warehouse.rehearsed(path, NOON, tmp_path / "scratch") as store:
            assert store.last_sequence == 0
        assert not path.exists()


class TestAskingTheCopy:
    def test_gives_columns_and_rows(self, path: Path) -> None:
        answer = warehouse.ask(path, "select 1 as one, 'x' as two")
        assert (answer.columns, answer.rows) == (("one", "two"), ((1, "x"),))

    def test_refuses_a_query_that_duckdb_refuses(self, path: Path) -> None:
        with pytest.raises(ConfigInvalid, match="no_such_table"):
            warehouse.ask(path, "from no_such_table")

    def test_cannot_write(self, path: Path) -> None:
        with pytest.raises(ConfigInvalid, match="read-only"):
            warehouse.ask(path, "delete from installs")

    def test_says_when_there_is_no_copy_yet(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnusable, match="nothing is published yet"):
            warehouse.ask(tmp_path / "warehouse.duckdb", "select 1")

    def test_gives_times_in_utc(self, path: Path) -> None:
        answer = warehouse.ask(path, "select current_setting('TimeZone')")
        assert answer.rows == (("UTC",),)


class TestTheSqlFiles:
    files = tuple(directory("sql").rglob("*.sql"))

    @pytest.mark.parametrize("file", files, ids=lambda file: file.stem)
    def test_say_what_they_are_for_in_their_first_line(self, file: Path) -> None:
        assert re.match(r"-- [A-Z].*\S", file.read_text(encoding="utf-8"))

    def test_of_queries_hold_one_statement_each(self) -> None:
        for file in self.files:
            if file.parent.name == "queries":
                text = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
                assert len(duckdb.extract_statements(text)) == 1, file.stem

    def test_of_queries_are_all_used_and_all_there(self) -> None:
        names = {file.stem for file in self.files if file.parent.name == "queries"}
        calls = r"(?:statement|_run|_rows|_first|_load|_installs|warehouse\.read)"
        told = re.findall(calls + r'\(\s*(?:\w[\w.]*,\s*)?f?"(.+?)"', source())
        # What is filled in is the kind of a row, or the name of a table.
        patterns = [re.compile(re.sub(r"\{\w+\}", r"[a-z]\\w*", name)) for name in set(told)]
        assert {name for name in names if not any(p.fullmatch(name) for p in patterns)} == set()
        assert [p for p in patterns if not any(p.fullmatch(name) for name in names)] == []


def source() -> str:
    """The text of the modules that name queries."""
    folder = Path(worker.__file__).parent
    paths = (*(folder / "warehouse").glob("*.py"), *(folder / "cli").glob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


class TestTheSchema:
    @pytest.mark.parametrize(
        ("table", "type_"), [("installs", Install), ("integrations", Integration)]
    )
    def test_has_the_columns_of_the_values(self, table: str, type_: Any, handle: Handle) -> None:
        names = column(handle, f"select column_name from (describe {table})")  # noqa: S608
        assert names == ["source", *type_.__struct_fields__]

    def test_has_the_columns_of_an_event(self, handle: Handle) -> None:
        names = column(handle, "select column_name from (describe events)")
        assert names == list(Event.__slots__)

    def test_has_the_columns_of_an_install_in_every_revision(self, handle: Handle) -> None:
        names = column(handle, "select column_name from (describe install_revisions)")
        assert names == ["source", *Install.__struct_fields__, "valid_to"]
        names = column(handle, "select column_name from (describe install_history)")
        validity = ["valid_from", "valid_to", "is_current"]
        assert sorted(names) == sorted(["source", *Install.__struct_fields__, *validity])

    def test_has_a_comment_on_every_table_view_and_macro(self, handle: Handle) -> None:
        without = column(
            handle,
            "select table_name from duckdb_tables() where not temporary and comment is null "
            "union all select view_name from duckdb_views() where not internal and comment is null "
            "union all select function_name from duckdb_functions() where not internal "
            "and comment is null",
        )
        assert without == []

    def test_has_a_comment_on_every_column_that_analysts_see(self, handle: Handle) -> None:
        # A view and the revisions have the columns of tables, which are explained there.
        explained = (
            "select column_name from duckdb_columns() where not internal and comment is not null"
        )
        without = column(
            handle,
            "select table_name || '.' || column_name from duckdb_columns() "  # noqa: S608
            f"where schema_name = 'main' and not internal and column_name not in ({explained})",
        )
        assert without == []

    def test_has_a_comment_on_every_column_of_its_tables(self, handle: Handle) -> None:
        without = column(
            handle,
            "select table_name || '.' || column_name from duckdb_columns() as each "
            "semi join duckdb_tables() as known using (schema_name, table_name) "
            "where schema_name = 'main' and table_name <> 'install_revisions' "
            "and each.comment is null",
        )
        assert without == []
