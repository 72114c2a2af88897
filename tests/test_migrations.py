"""Stores of an older stocktake are brought up, and those of a newer one are left alone."""

import ast
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import duckdb
import firsts
import pytest
from examples import Crash
from outposts import LOGIN
from platforms import Stocktake, source_rows
from pydantic import SecretStr
from receivers import endpoint
from sqlalchemy import Engine, event, inspect, text
from sqlmodel import SQLModel

import worker
from worker import __version__, backup, due, prune, upkeep, warehouse
from worker.clock import now
from worker.errors import StoreNewer, StoreOlder
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.seeding import gestal_world
from worker.settings import Settings, Source
from worker.state import connect, connect_state, schema, transaction
from worker.state.database import unchecked
from worker.state.delivery_tables import AttemptRow
from worker.state.engines import engine_at

pytestmark = pytest.mark.slow  # each makes stores of another schema

STATE, WAREHOUSE = schema.VERSION, warehouse.SCHEMA_VERSION


@pytest.fixture
def settings(tmp_path: Path, state_url: str) -> Settings:
    source = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})
    url = state_url if state_url.startswith("postgresql") else f"sqlite:///{tmp_path}/private/s.db"
    return Settings(
        data_dir=tmp_path, state_url=SecretStr(url), sources=(source,), endpoints=(endpoint(),)
    )


@pytest.fixture
def old(settings: Settings) -> Settings:
    """Both stores as the first stocktake left them."""
    firsts.store(settings.store_path, "ins_1", "ins_2")
    firsts.state(settings.state_url.get_secret_value(), sequence=2)
    return settings


def files(folder: Path) -> dict[str, str]:
    """Everything in a folder by its digest, but for locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def shape(engine: Engine) -> dict[str, object]:
    """Tables, columns and indexes of a state store."""
    there = inspect(engine)
    return {
        table: (
            {column["name"] for column in there.get_columns(table)},
            {
                index["name"]
                for index in there.get_indexes(table)
                if str(index["name"]).startswith("ix_")  # PostgreSQL names those of keys as well
            },
        )
        for table in there.get_table_names()
    }


def versions(settings: Settings) -> tuple[int, int]:
    with unchecked(settings) as engine, engine.connect() as connection:
        state = schema.version_of(connection)
    with duckdb.connect(str(settings.store_path), read_only=True) as store:
        (stored,) = store.execute("select schema_version from private.store").fetchall()[0]
    return state, stored


def backups(settings: Settings) -> list[Path]:
    return sorted((settings.private_dir / "backups").glob("*"))


# --- from older ones --------------------------------------------------------------------------


def test_a_migrated_state_store_is_like_a_new_one_and_keeps_its_rows(
    state_url: str, tmp_path: Path
) -> None:
    firsts.state(state_url)
    engine = engine_at(state_url)
    assert schema.migrate(engine) == 1
    new = connect(f"sqlite:///{tmp_path}/new.db")
    assert shape(engine).keys() == shape(new).keys()
    assert shape(engine) == shape(new)
    with transaction(engine) as session:
        attempt = session.get_one(AttemptRow, 1)
        assert (attempt.seconds, attempt.answer, attempt.phases) == (0.5, b"later", {})
        assert attempt.started_at == firsts.NOON
        steps = session.connection().execute(
            text("select version, written_by from schema_version order by version")
        )
        assert steps.all() == [(STATE, __version__)]
    assert schema.migrate(engine) == STATE
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            assert connection.execute(text("pragma journal_mode")).scalar() == "wal"
    for each in (engine, new):
        each.dispose()


def test_both_stores_are_brought_up_after_a_copy_of_both(old: Settings) -> None:
    done = upkeep.migrate(old)
    assert (done.state, done.warehouse) == (upkeep.Step(1, STATE), upkeep.Step(1, WAREHOUSE))
    assert versions(old) == (STATE, WAREHOUSE)
    assert backups(old) == [done.copy]
    assert done.copy is not None
    assert done.copy.name.endswith("Z-schema-1")
    kept = backup.read(done.copy)
    assert kept.schemas == {"state": 1, "warehouse": 1}
    assert (kept.warehouse["installs"], kept.state["attempts"]) == (2, 2)
    assert done.copy.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in done.copy.iterdir()} == {0o600}
    with warehouse.opened(old.store_path, now()) as store:
        assert (store.id, store.fence("farm"), store.last_sequence) == ("st_1", 7, 2)
        assert [event.event_id for event in store.events(0)] == ["evt_1", "evt_2"]
    again = upkeep.migrate(old)
    assert (again.copy, again.state.found, again.warehouse.found) == (None, STATE, WAREHOUSE)
    assert len(backups(old)) == 1


def test_the_history_of_an_older_store_survives(old: Settings) -> None:
    upkeep.migrate(old)
    with duckdb.connect(str(old.store_path), read_only=True) as store:
        query = "select install_id, revision, is_current from install_history order by all"
        assert store.execute(query).fetchall() == [
            ("ins_1", 1, False), ("ins_1", 2, True), ("ins_2", 1, False), ("ins_2", 2, True)
        ]  # fmt: skip
        written_by = "select written_by from private.store"
        assert store.execute(written_by).fetchall() == [(__version__,)]


def test_the_next_sync_of_a_migrated_store_goes_on(
    take: Callable[..., Stocktake], tmp_path: Path
) -> None:
    """Rows, events and numbers of before are there; what the source has is added to them."""
    world = gestal_world(installs=3, seed=1, now=now())
    firsts.store(tmp_path / "data" / "private" / "store.duckdb", "ins_1", "ins_2")
    firsts.state(f"sqlite:///{tmp_path}/data/private/state.db", sequence=2)
    with pytest.raises(StoreOlder):
        take(world)
    farm = migrated(take, world, tmp_path)
    farm.sync()
    assert farm.active() == {"ins_1", "ins_2", *source_rows(world)}
    assert len(farm.events()) == 2 + 2 + 6  # of before, of integrations and of their installs
    assert [event["sequence"] for event in farm.events()] == list(range(1, 11))
    assert [event["event_id"] for event in farm.events()[:2]] == ["evt_1", "evt_2"]


def migrated(take: Callable[..., Stocktake], world: GestalWorld, folder: Path) -> Stocktake:
    source = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})
    upkeep.migrate(Settings(data_dir=folder / "data", sources=(source,)))
    return take(world)


def test_a_tick_brings_the_stores_up(old: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due._Shift, "look", lambda _: False)
    due.sync_due(old, Event())
    assert versions(old) == (STATE, WAREHOUSE)


def test_so_does_who_only_delivers(old: Settings) -> None:
    prune.prune_due(old)
    assert versions(old) == (STATE, WAREHOUSE)


def test_two_who_migrate_at_once_do_it_once(old: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from worker import upkeep\n"
        "from worker.settings import load\n"
        "print(upkeep.migrate(load(Path(sys.argv[1]), {})).copy)"
    )
    config = old.data_dir / "stocktake.toml"
    config.write_text(
        f'data_dir = "."\nstate_url = "{old.state_url.get_secret_value()}"\n[[sources]]\n'
        'name = "farm"\ndialect = "gestal"\n'
        + "".join(f'{key} = "{value}"\n' for key, value in LOGIN.items())
    )
    command = [sys.executable, "-c", code, str(config)]
    both = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(worker.__file__).parents[1]
        )
        for _ in range(2)
    ]
    said = sorted(each.communicate()[0].strip() for each in both)
    assert [each.returncode for each in both] == [0, 0]
    assert said == sorted(["None", str(backups(old)[0])])
    assert versions(old) == (STATE, WAREHOUSE)


def test_a_crash_at_any_statement_leaves_what_the_next_one_brings_up(state_url: str) -> None:
    firsts.state(state_url)
    engine = engine_at(state_url)
    before, crashes = shape(engine), 0
    while dies(engine, crashes + 1):
        crashes += 1
        assert shape(engine) == before
    assert crashes > 5
    with engine.connect() as connection:
        assert schema.version_of(connection) == STATE
    engine.dispose()


def dies(engine: Engine, at: int) -> bool:
    """Whether a migration comes to its statement number `at`, which is not executed."""
    left = iter(range(at - 1, -1, -1))

    def count(*_about: object) -> None:
        if next(left, 1) == 0:
            raise Crash

    event.listen(engine, "before_cursor_execute", count)
    try:
        schema.migrate(engine)
    except Crash:
        return True
    finally:
        event.remove(engine, "before_cursor_execute", count)
    return False


def test_a_crash_between_the_stores_leaves_what_the_next_one_brings_up(
    old: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(schema, "migrate", lambda _: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            upkeep.migrate(old)
    assert versions(old) == (1, WAREHOUSE)
    upkeep.migrate(old)
    assert versions(old) == (STATE, WAREHOUSE)
    assert [backup.read(each).schemas["warehouse"] for each in backups(old)] == [1, WAREHOUSE]


# --- refusals ---------------------------------------------------------------------------------


def test_other_commands_refuse_an_older_store_and_change_nothing(old: Settings) -> None:
    before = files(old.data_dir)
    with pytest.raises(StoreOlder, match="`stocktake migrate`") as caught:
        connect_state(old)
    assert caught.value.exit_code == 1
    with pytest.raises(StoreOlder, match=r"store.duckdb has schema 1.*`stocktake migrate`"):
        warehouse.publish(old.store_path, old.published_path, now(), {})
    with (
        pytest.raises(StoreOlder),
        warehouse.rehearsed(old.store_path, now(), old.data_dir / "scratch"),
    ):
        pass
    (old.data_dir / "scratch" / "store" / "store.duckdb").unlink()
    assert files(old.data_dir) == before


@pytest.fixture
def newer(settings: Settings) -> Iterator[Settings]:
    """Both stores as a stocktake of next year leaves them."""
    with warehouse.opened(settings.store_path, now()):
        pass
    with duckdb.connect(str(settings.store_path)) as store:
        store.execute("update private.store set schema_version = 99, written_by = '9.8.7'")
    engine = connect_state(settings)
    with engine.begin() as connection:
        query = "insert into schema_version values (99, '9.8.7', '2027-01-01 00:00:00')"
        connection.execute(text(query))
    engine.dispose()
    return settings


def test_stores_of_a_newer_stocktake_are_refused_and_not_touched(newer: Settings) -> None:
    before = files(newer.data_dir)
    attempts: list[Callable[[], object]] = [
        lambda: connect_state(newer),
        lambda: upkeep.migrate(newer),
        lambda: due.sync_due(newer, Event()),
        lambda: warehouse.publish(newer.store_path, newer.published_path, now(), {}),
    ]
    for attempt in attempts:
        with pytest.raises(StoreNewer, match=r"stocktake ≥ 9\.8\.7 \(schema 99") as caught:
            attempt()
        assert caught.value.exit_code == 2
        assert str(caught.value).endswith("upgrade stocktake")
    assert files(newer.data_dir) == before


# --- whole stores -----------------------------------------------------------------------------


def test_whoever_opens_a_store_knows_all_of_its_tables() -> None:
    """A process that made a store without some of them would leave it so for ever."""
    code = "import worker.state, sqlmodel; print(*sqlmodel.SQLModel.metadata.tables)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    package = Path(worker.__file__).parent / "state"
    named = {
        node.value.value
        for module in package.glob("*.py")
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and any(getattr(target, "id", "") == "__tablename__" for target in node.targets)
    }
    assert named
    assert set(told.stdout.split()) == named
    assert named == set(SQLModel.metadata.tables)
