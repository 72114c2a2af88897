"""The published copy: whole at every moment, with nothing beside it, made when it is due."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from examples import (
    MINUTE,
    NOON,
    OF_A,
    Shown,
    commit,
    connected,
    gestal_row,
    harvest,
    new_store,
    walk,
)
from sqlalchemy import Engine

import worker
from worker import outcomes, publishing, warehouse
from worker.errors import StoreBusy, StoreUnusable
from worker.findings import Brief, Plan, Proposal
from worker.models import installs_of
from worker.settings import Settings, Source
from worker.settings.values import Publish
from worker.state import connect_state, holds, runs, sources, transaction
from worker.state.tables import SourceState
from worker.warehouse import Publication

OF_B = installs_of("int_b")
CHECKOUT = Path(worker.__file__).parents[1]
NUMBERS = (
    "select (select count(*) from installs), (select max(sequence) from events), "
    "(select commit_number from publication)"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    login = {"email": "a@b.example", "password": "hush", "base_url": "https://gestal.example"}
    source = Source.model_validate({"name": "farm", "dialect": "gestal", **login})
    return Settings(data_dir=tmp_path / "data", sources=(source,))


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    opened = connect_state(settings)
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one install, to be copied."""
    path = new_store(tmp_path_factory.mktemp("grown") / "store.duckdb")
    grow(path, 1)
    return path


@pytest.fixture
def store(settings: Settings, grown: Path) -> Path:
    """A store with one install."""
    settings.private_dir.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(grown, settings.store_path))


@pytest.fixture
def copy(settings: Settings, store: Path) -> Path:
    """A published copy of that store."""
    warehouse.publish(store, settings.published_path, NOON, {})
    return settings.published_path


def grow(path: Path, installs: int) -> None:
    """Commits the install that makes so many of them: so many events and commits too."""
    with warehouse.opened(path, NOON) as store:
        shown = Shown(OF_A, [gestal_row(f"ins_{installs}")], certificate="none")
        commit(store, harvest(store, path.parent / "spool", shown, at=NOON))


def asked(path: Path, query: str) -> tuple[Any, ...]:
    return warehouse.ask(path, query).rows


def state_of(path: Path) -> Any:
    """The three numbers of a copy that `grow` made; in a whole state they are equal."""
    return asked(path, NUMBERS)[0]


def in_a_process(code: str, *args: Path) -> int:
    """How a process that runs `code` ends."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=CHECKOUT, check=False)
    return done.returncode


class TestTheCopy:
    def test_shows_the_newest_commit(self, store: Path, copy: Path) -> None:
        assert state_of(copy) == (1, 1, 1)
        with warehouse.opened(store, NOON) as opened:
            expected = warehouse.Publication(opened.id, 1, NOON)
        assert warehouse.publication(copy) == expected

    def test_cannot_be_written_and_is_alone_in_its_directory(self, copy: Path) -> None:
        assert copy.stat().st_mode & 0o777 == 0o444
        assert os.listdir(copy.parent) == [copy.name]

    def test_leaves_nothing_beside_the_store(self, store: Path, copy: Path) -> None:
        assert sorted(os.listdir(store.parent)) == ["store.duckdb", "warehouse.lock"]

    def test_has_nothing_private_and_all_that_explains_it(self, copy: Path) -> None:
        schemas = asked(copy, "select distinct schema_name from duckdb_tables()")
        assert schemas == (("main",),)
        commented = asked(
            copy,
            "select count(*) = count(comment) from duckdb_tables() union all "
            "select count(*) = count(comment) from duckdb_views() where not internal",
        )
        assert commented == ((True,), (True,))
        assert asked(copy, "select install_id from active_installs") == (("ins_1",),)
        assert asked(copy, "select count(*) from installs_as_of(now())") == ((1,),)

    def test_is_replaced_by_the_next_one(self, store: Path, copy: Path) -> None:
        grow(store, 2)
        warehouse.publish(store, copy, NOON + MINUTE, {})
        assert state_of(copy) == (2, 2, 2)
        assert copy.stat().st_mode & 0o777 == 0o444

    def test_has_the_commits_of_a_process_that_died(self, store: Path, copy: Path) -> None:
        died = (
            "import os, sys, duckdb\n"
            "kept = duckdb.connect(sys.argv[1])\n"
            "kept.execute('update private.store set commit_number = 7')\n"
            "os._exit(9)"
        )
        assert in_a_process(died, store) == 9
        assert store.with_name("store.duckdb.wal").exists()
        warehouse.publish(store, copy, NOON, {})
        assert state_of(copy) == (1, 1, 7)

    def test_waits_for_who_has_the_store_itself_open(self, store: Path, copy: Path) -> None:
        holding = "import duckdb, sys; kept = duckdb.connect(sys.argv[1]); print(); input()"
        with subprocess.Popen([sys.executable, "-c", holding, str(store)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as holder:  # fmt: skip
            assert holder.stdout is not None
            holder.stdout.readline()
            with pytest.raises(StoreBusy, match=rf"process {holder.pid}\b"):
                warehouse.publish(store, copy, NOON + MINUTE, {}, patience_s=0.1)
            holder.communicate(b"\n")
        assert state_of(copy) == (1, 1, 1)

    def test_has_the_views_of_this_version(self, store: Path, copy: Path) -> None:
        with connected(store) as handle:
            handle.execute("create or replace view active_installs as select 1 as of_old")
        warehouse.publish(store, copy, NOON, {})
        assert asked(copy, "select count(install_id) from active_installs") == ((1,),)

    def test_does_not_take_over_what_somebody_wrote_into_the_old_one(
        self, store: Path, copy: Path
    ) -> None:
        vandal = (
            "import os, sys, duckdb\n"
            "os.chmod(sys.argv[1], 0o644)\n"
            "kept = duckdb.connect(sys.argv[1])\n"
            "kept.execute('delete from events')\n"
            "os._exit(9)"
        )
        assert in_a_process(vandal, copy) == 9
        assert copy.with_name("warehouse.duckdb.wal").exists()
        warehouse.publish(store, copy, NOON, {})
        assert os.listdir(copy.parent) == [copy.name]
        assert state_of(copy) == (1, 1, 1)

    def test_that_cannot_be_read_is_none(self, copy: Path) -> None:
        copy.chmod(0o644)
        copy.write_bytes(b"no database")
        assert warehouse.publication(copy) is None
        copy.unlink()
        assert warehouse.publication(copy) is None

    def test_is_refused_where_it_cannot_be_written(self, store: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreUnusable, match="cannot publish"):
            warehouse.publish(store, tmp_path / "file" / "warehouse.duckdb", NOON, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name"),
    [(shutil, "copyfile"), (os, "fsync"), (os, "replace"), (duckdb, "connect")],
    ids=["while the store is copied", "before the copy is on the disk", "before it is in its place",
         "before it is complete"],
)  # fmt: skip
def test_a_publish_that_fails_leaves_the_old_copy(
    owner: Any, name: str, store: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    grow(store, 2)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fail)
        with pytest.raises(StoreUnusable, match="no space left"):
            warehouse.publish(store, copy, NOON, {})
    assert state_of(copy) == (1, 1, 1)
    assert os.listdir(copy.parent) == [copy.name]
    assert sorted(os.listdir(store.parent)) == ["spool", "store.duckdb", "warehouse.lock"]


@pytest.mark.slow
def test_a_process_that_dies_while_it_publishes_leaves_the_old_copy(
    store: Path, copy: Path
) -> None:
    dies = (
        "import os, sys\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from worker import warehouse\n"
        "os.replace = lambda *args: os._exit(9)\n"
        "store, copy = map(Path, sys.argv[1:])\n"
        "warehouse.publish(store, copy, datetime.now(UTC), {})"
    )
    grow(store, 2)
    assert in_a_process(dies, store, copy) == 9
    assert state_of(copy) == (1, 1, 1)
    warehouse.publish(store, copy, NOON, {})
    assert state_of(copy) == (2, 2, 2)
    assert sorted(os.listdir(store.parent)) == ["spool", "store.duckdb", "warehouse.lock"]


# Reads until there is something to read from standard input.
READER = """
import select, sys, duckdb
query = sys.argv[2]
while not select.select([sys.stdin], [], [], 0)[0]:
    with duckdb.connect(sys.argv[1], read_only=True) as copy:
        print(*copy.execute(query).fetchone(), flush=True)
"""


@contextmanager
def reader(copy: Path) -> Iterator[Iterator[str]]:
    """What a process sees that reads the copy again and again, until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(copy), NUMBERS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield map(str.strip, process.stdout)
        process.communicate(input="enough\n")
    assert process.returncode == 0


@pytest.mark.slow
def test_readers_see_whole_states_only(store: Path, copy: Path) -> None:
    publishes = 100
    whole = [f"{n} {n} {n}" for n in range(1, publishes + 2)]
    with reader(copy) as lines:
        seen = [next(lines)]
        for count in range(2, publishes + 2):
            grow(store, count)
            warehouse.publish(store, copy, NOON, {})
        while seen[-1] != whole[-1]:
            seen.append(next(lines))
            assert seen[-1] in whole
    assert [*dict.fromkeys(seen)] == [state for state in whole if state in seen]


HOURLY = Publish(min_interval=60 * MINUTE, max_age=120 * MINUTE)


@pytest.mark.parametrize(
    ("store_id", "commit_number", "age", "due"),
    [
        pytest.param("st_1", 7, 119 * MINUTE, False, id="of the newest commit"),
        pytest.param("st_1", 7, 120 * MINUTE, True, id="too old to show freshness"),
        pytest.param("st_1", 6, 59 * MINUTE, False, id="behind for less than min_interval"),
        pytest.param("st_1", 6, 60 * MINUTE, True, id="behind for min_interval"),
        pytest.param("st_1", 7, -MINUTE, True, id="of the future: the clock was set back"),
        pytest.param("st_2", 7, MINUTE, True, id="of another store"),
    ],
)
def test_a_copy_is_due(store_id: str, commit_number: int, age: timedelta, due: bool) -> None:
    shown = Publication(store_id, commit_number, NOON - age)
    newest = Brief("st_1", 7, NOON, round=1, integrations=(), active={}, suspects={})
    assert publishing.is_due(HOURLY, shown, newest, NOON) is due


def test_a_copy_is_made_once_where_there_is_none(
    settings: Settings, engine: Engine, store: Path
) -> None:
    settings = settings.model_copy(update={"publish": HOURLY})
    with warehouse.opened(store, NOON) as opened:
        newest = opened.brief("farm")
    made = [publishing.publish_if_due(settings, engine, newest) for _ in range(2)]
    assert made == [True, False]
    settings.published_path.chmod(0o600)
    settings.published_path.write_bytes(b"no database")
    assert publishing.publish_if_due(settings, engine, newest)
    shown = warehouse.publication(settings.published_path)
    assert shown is not None
    assert (shown.store_id, shown.commit_number) == (newest.store_id, newest.commit_number)


def test_a_copy_can_be_made_before_the_first_sync(settings: Settings, engine: Engine) -> None:
    publishing.publish(settings, engine)
    assert asked(settings.published_path, "select count(*) from installs") == ((0,),)


def test_the_copy_has_what_the_state_store_adds(
    settings: Settings, engine: Engine, store: Path
) -> None:
    for number, over in enumerate((walk(OF_A, total=7), walk(OF_B, "none"))):
        span = NOON + number * MINUTE, NOON + (number + 1) * MINUTE
        runs.record(engine, [outcomes.run_of("farm", over, None, Plan(), {}, *span)])
    with transaction(engine) as session:
        (hold,) = holds.open_in(session, "farm", [Proposal(OF_A, "why", ("a", "b"), 0.5)], NOON)
    holds.decide(engine, hold.hold_id, "rejected", NOON + MINUTE)

    def synced(row: SourceState) -> None:
        row.last_synced_at = NOON

    sources.change(engine, settings.sources[0], synced)
    publishing.publish(settings, engine)
    copy = settings.published_path

    kept = "select scope, outcome, certificate, started_at, total from sync_runs order by run_id"
    assert asked(copy, kept) == (
        (OF_A, "unchanged", "pristine", NOON, 7),
        (OF_B, "partial", "none", NOON + MINUTE, None),
    )
    kept = "select source, scope, installs, share, status, opened_at, decided_at from holds"
    assert asked(copy, kept) == (("farm", OF_A, 2, 0.5, "rejected", NOON, NOON + MINUTE),)
    kept = "select source, dialect, last_synced_at, last_full_at, active_installs from sources"
    assert asked(copy, kept) == (("farm", "gestal", NOON, None, 1),)
    times = "select published_at from sources union select published_at from publication"
    assert len(asked(copy, times)) == 1
