"""Backups are of one moment; what is restored from one goes on without repeating itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import duckdb
import firsts
import msgspec
import pytest
from examples import Crash, commit, harvest
from outposts import LOGIN
from platforms import Stocktake, Unhurried, source_rows, stocktaking
from pydantic import SecretStr
from receivers import SECRET, endpoint
from sqlalchemy import Engine, select, text
from sqlmodel import SQLModel
from statestores import Server

import worker
from worker import backup, clock, restore, upkeep, warehouse
from worker.backlog import deliver_now
from worker.backup import Manifest
from worker.cli import main
from worker.errors import ConfigInvalid, StoreBusy, StoreNewer, StoreUnusable
from worker.playground import playground
from worker.restore import Restored
from worker.sandbox.receiver import Receiver
from worker.sandbox.seeding import gestal_world
from worker.settings import Settings, Source, load
from worker.state import connect, connect_state, copying, leases, sources, transaction
from worker.state.database import snapshot, unfinished
from worker.state.delivery_tables import Delivery, EndpointRow
from worker.state.engines import engine_at

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
NOTICE = "sync.baseline"


@pytest.fixture
def receiver() -> Receiver:
    return Receiver(SECRET)


@pytest.fixture
def farm(tmp_path: Path, state_url: str, receiver: Receiver) -> Iterator[Stocktake]:
    """Gestal with a receiver, after its baseline."""
    with stocktaking(
        tmp_path / "data",
        gestal_world(installs=12, seed=5, now=clock.now()),
        receiver=receiver,
        state_url=state_url,
        endpoints=lambda sandbox: [endpoint(url=sandbox.at("hooks"), events=("*",))],
    ) as taken:
        taken.sync()
        yield taken


def taken(farm: Stocktake, folder: Path) -> Manifest:
    return backup.backup(farm.settings, farm.engine, folder)


def put_back(farm: Stocktake, folder: Path) -> Restored:
    return restore.restore(farm.settings, folder)


def deliver(farm: Stocktake) -> None:
    done = deliver_now(farm.settings, farm.engine, Unhurried(), wait_s=60)
    assert (done.failed, done.dead, done.pending) == (0, 0, 0)


def received(receiver: Receiver) -> list[dict[str, Any]]:
    return [msgspec.json.decode(each.body) for each in receiver.received]


def open_ones(engine: Engine) -> int:
    with engine.connect() as connection:
        query = "select count(*) from deliveries where next_at is not null"
        return int(connection.execute(text(query)).scalar_one())


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- taking one -------------------------------------------------------------------------------


def test_a_backup_says_what_it_is_of_and_is_nobody_elses_to_read(
    farm: Stocktake, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    manifest = taken(farm, folder)
    assert names_in(folder) == ["manifest.json", "state.db", "store.duckdb"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in folder.iterdir()} == {0o600}
    assert manifest == backup.read(folder)
    assert manifest.warehouse["last_sequence"] == farm.last_sequence()
    assert manifest.warehouse["active_installs"] == len(farm.active())
    assert manifest.state["endpoints"] == 1
    with warehouse.opened(farm.settings.store_path, clock.now()) as store:
        assert manifest.store_id == store.id


def test_a_backup_goes_into_an_empty_directory_and_into_no_other(
    farm: Stocktake, tmp_path: Path
) -> None:
    empty, full, file = (tmp_path / name for name in ("empty", "full", "file"))
    empty.mkdir()
    (full / "mine").mkdir(parents=True)
    file.touch()
    taken(farm, empty)
    for each in (full, file):
        with pytest.raises(ConfigInvalid, match="exists and is not empty") as caught:
            taken(farm, each)
        assert caught.value.exit_code == 2
    with pytest.raises(StoreUnusable, match="cannot write"):
        taken(farm, file / "below")
    assert names_in(full) == ["mine"]


def test_a_backup_that_fails_leaves_nothing(
    farm: Stocktake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Crash

    monkeypatch.setattr(copying, "save", fail)
    before = names_in(tmp_path)
    with pytest.raises(Crash):
        taken(farm, tmp_path / "backup")
    assert names_in(tmp_path) == before


def test_what_is_taken_while_others_work_is_of_one_moment(farm: Stocktake, tmp_path: Path) -> None:
    """The cursor of the endpoint stands at the end of the log that is in the same backup."""
    ended: list[bool] = []

    def work() -> None:
        for _ in range(6):
            farm.change(4)
            farm.sync()
        ended.append(True)

    working, manifests = Thread(target=work), []
    working.start()
    while working.is_alive():
        folder = tmp_path / f"backup_{len(manifests)}"
        manifests.append(taken(farm, folder))
        saved = engine_at(f"sqlite:///{folder}/state.db")
        with closed(saved) as engine, transaction(engine) as session:
            crm = session.get_one(EndpointRow, "crm")
        assert crm.store_id == manifests[-1].store_id
        assert crm.sequence == manifests[-1].warehouse["last_sequence"]
    working.join()
    assert ended
    assert len({each.warehouse["last_sequence"] for each in manifests}) > 1


@contextmanager
def closed(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def test_state_goes_from_one_database_into_the_other_and_back(
    farm: Stocktake, postgres: Server, tmp_path: Path
) -> None:
    farm.change(6)
    farm.sync()
    deliver(farm)
    before = everything(farm.engine)
    with snapshot(farm.engine) as reading:
        copying.save(reading, tmp_path / "first.db")
    with postgres.engine() as other:
        with other.begin() as writing:
            copying.load(writing, tmp_path / "first.db")
        assert everything(other) == before
        with snapshot(other) as reading:
            copying.save(reading, tmp_path / "second.db")
        with transaction(other) as session:
            newest = max(position for (position, *_) in before["deliveries"])
            row = dict.fromkeys(("delivery_id", "event_id", "endpoint", "type", "state"), "new")
            fresh = Delivery(**row, body=b"", created_at=clock.now())
            session.add(fresh)
            session.flush()
            assert fresh.position == newest + 1
    with closed(connect(f"sqlite:///{tmp_path}/back.db")) as back:
        with back.begin() as writing:
            copying.load(writing, tmp_path / "second.db")
        assert everything(back) == before


def everything(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""
    with engine.connect() as connection:
        return {
            table.name: [
                tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))
            ]
            for table in SQLModel.metadata.sorted_tables
        }


# --- putting one back -------------------------------------------------------------------------


def test_what_is_restored_goes_on_from_there_and_repeats_nothing(
    farm: Stocktake, receiver: Receiver, tmp_path: Path
) -> None:
    farm.change(10)
    farm.sync()
    deliver(farm)
    farm.change(6)
    farm.sync()  # whose deliveries are open in the backup
    opened = open_ones(farm.engine)
    then = farm.events()
    manifest = taken(farm, tmp_path / "backup")
    for kind in ("install", "uninstall", "update", "uninstall"):
        farm.change(2, kind)
    farm.sync()
    deliver(farm)
    lost = {event["event_id"]: event for event in farm.events(len(then))}
    assert opened
    assert lost
    spooled = farm.settings.spool_dir / "farm" / "integrations.rows"
    spooled.parent.mkdir(parents=True, exist_ok=True)
    spooled.write_text("of before")

    stores = {manifest.store_id}
    for restores in (1, 2):
        heard = len(receiver.received)
        done = put_back(farm, tmp_path / "backup")
        stores.add(done.store_id)
        assert len(stores) == 1 + restores
        assert (done.dead, done.sequence) == (opened, len(then))
        assert farm.events() == then  # in the published copy
        assert not spooled.exists()
        assert not unfinished(farm.settings).exists()
        assert backup.read(done.copy).warehouse["last_sequence"] > len(then)
        with farm.engine.connect() as connection:
            query = "select count(*) from deliveries where state = 'dead' and reason = 'restored'"
            assert connection.execute(text(query)).scalar_one() == opened

        farm.sync()
        deliver(farm)
        new = farm.events(len(then))
        assert not lost.keys() & {event["event_id"] for event in new}
        lost |= {event["event_id"]: event for event in new}
        live = source_rows(farm.world)
        deleted = {event["install_id"] for event in new if event["type"] == "install.deleted"}
        assert deleted
        assert not deleted & live.keys()
        snapshot = {
            id: row["payload"] for id, row in farm.installs().items() if row["state"] == "active"
        }
        assert snapshot == live
        told = received(receiver)[heard:]
        (notice,) = [each["data"] for each in told if each["type"] == NOTICE]
        said = {name: notice[name] for name in ("reason", "active_installs", "sources", "sequence")}
        assert said == {
            "reason": "restored",
            "active_installs": manifest.warehouse["active_installs"],
            "sources": 1,
            "sequence": len(then),
        }
        assert len(told) == 1 + len(new)
        farm.change(4)
        farm.sync()
        lost |= {event["event_id"]: event for event in farm.events(len(then))}


def test_who_was_syncing_before_a_restore_cannot_commit_over_it(
    farm: Stocktake, tmp_path: Path
) -> None:
    taken(farm, tmp_path / "backup")
    for _ in range(3):
        farm.sync()
    with warehouse.opened(farm.settings.store_path, clock.now()) as store:
        newest = store.fence("farm")
    put_back(farm, tmp_path / "backup")
    with warehouse.opened(farm.settings.store_path, clock.now()) as store:
        late = harvest(store, tmp_path / "spool", fence=newest)
        with pytest.raises(StoreBusy, match=rf"this one \(lease {newest}\) came too late"):
            commit(store, late)
    with leases.lease(farm.engine, "sync farm") as fence:
        assert fence > newest + 1


def test_what_was_absent_when_the_backup_was_made_proves_nothing_now(
    farm: Stocktake, tmp_path: Path
) -> None:
    """It may have been seen since, in what the restore gives up."""
    with closing(connection_to(farm.settings)) as store:
        store.execute("update installs set missing_since = now()")
        store.execute("update private.sightings set suspected_round = 1 where kind = 'install'")
    taken(farm, tmp_path / "backup")
    put_back(farm, tmp_path / "backup")
    with warehouse.opened(farm.settings.store_path, clock.now()) as store:
        assert store.brief("farm").suspects == {}
    with closing(connection_to(farm.settings)) as store:
        query = "select count(*) from private.sightings where suspected_round is not null"
        assert store.execute(query).fetchall() == [(0,)]


def test_it_is_of_today_who_is_paused_or_wants_to_be_left_alone(
    farm: Stocktake, tmp_path: Path
) -> None:
    taken(farm, tmp_path / "backup")
    until = clock.now() + HOUR
    sources.limit(farm.engine, farm.source, until)
    sources.pause(farm.engine, farm.source)
    put_back(farm, tmp_path / "backup")
    known = sources.known(farm.engine, farm.source)
    assert (known.paused, known.rate_limited_until, known.strikes) == (True, until, 1)


def test_a_data_directory_that_was_lost_is_restored_whole(farm: Stocktake, tmp_path: Path) -> None:
    farm.change(5)
    farm.sync()
    before = farm.installs()
    taken(farm, tmp_path / "backup")
    elsewhere = farm.settings.model_copy(
        update={
            "data_dir": tmp_path / "new",
            "state_url": SecretStr(f"sqlite:///{tmp_path}/new/private/state.db"),
        }
    )
    restore.restore(elsewhere, tmp_path / "backup")
    farm.settings = elsewhere
    farm.restart()
    assert farm.installs() == before
    farm.sync()
    assert farm.active() == set(source_rows(farm.world))


def test_a_store_that_cannot_be_read_is_replaced_and_kept_as_it_is(
    farm: Stocktake, tmp_path: Path
) -> None:
    taken(farm, tmp_path / "backup")
    farm.settings.store_path.write_bytes(b"ruined" * 5000)
    done = put_back(farm, tmp_path / "backup")
    assert (done.copy / "store.duckdb").read_bytes() == b"ruined" * 5000
    farm.sync()
    assert farm.active() == set(source_rows(farm.world))


def test_a_backup_of_an_older_schema_is_brought_up_on_the_way(tmp_path: Path) -> None:
    source = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})
    settings = Settings(data_dir=tmp_path / "data", sources=(source,), endpoints=(endpoint(),))
    firsts.store(settings.store_path, "ins_1")
    firsts.state(settings.state_url.get_secret_value(), sequence=1)
    copy = upkeep.migrate(settings).copy
    assert copy is not None
    done = restore.restore(settings, copy)
    assert (done.sequence, done.active_installs) == (1, 1)
    assert upkeep.migrate(settings).copy is None
    with closed(connect_state(settings)) as engine, transaction(engine) as session:
        crm = session.get_one(EndpointRow, "crm")
        assert (crm.store_id, crm.sequence) == (done.store_id, 1)


# --- refusals ---------------------------------------------------------------------------------


def without(key: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda manifest: manifest.pop(key))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def of_schema(**schemas: int) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda manifest: manifest["schemas"].update(schemas))


SPOILT: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (lambda folder: (folder / "manifest.json").unlink(), ConfigInvalid, "is no backup: manifest"),
    (without("store_id"), ConfigInvalid, "is no backup: manifest.json is not one of stocktake"),
    (lambda folder: (folder / "state.db").unlink(), ConfigInvalid, "is no backup: state.db"),
    (lambda folder: os.truncate(folder / "store.duckdb", 9), ConfigInvalid, "duckdb is cut off"),
    (of_schema(state=99), StoreNewer, r"stocktake ≥ .* \(schema 99, this one knows"),
    (of_schema(warehouse=99), StoreNewer, "upgrade stocktake"),
    (lambda folder: rewrite(folder, lambda m: m.update(format=2)), StoreNewer, "upgrade stocktake"),
]


def test_what_is_no_backup_is_refused_and_nothing_is_changed(
    farm: Stocktake, tmp_path: Path
) -> None:
    taken(farm, tmp_path / "backup")
    before = names_in(farm.settings.data_dir), everything(farm.engine)
    for number, (spoil, error, reason) in enumerate(SPOILT):
        folder = Path(shutil.copytree(tmp_path / "backup", tmp_path / f"spoilt_{number}"))
        spoil(folder)
        with pytest.raises(error, match=reason) as caught:
            put_back(farm, folder)
        assert getattr(caught.value, "exit_code", 0) == 2
    assert (names_in(farm.settings.data_dir), everything(farm.engine)) == before


HOLDS_UP = (
    "import sys; from pathlib import Path; from worker.locks import lock\n"
    "with lock(Path(sys.argv[1]), 0.0, ValueError): print(flush=True); sys.stdin.read()"
)
SYNCS = (
    "import sys; from worker.state import connect, leases\n"
    "with leases.lease(connect(sys.argv[1]), 'sync farm'): print(flush=True); sys.stdin.read()"
)


@contextmanager
def elsewhere(code: str, argument: object) -> Iterator[int]:
    """A process that runs `code` up to its first line of output and beyond; its id."""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(argument)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(worker.__file__).parents[1],
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def test_nothing_is_restored_under_who_is_at_work(
    farm: Stocktake, state_url: str, tmp_path: Path
) -> None:
    taken(farm, tmp_path / "backup")
    before = everything(farm.engine)
    with elsewhere(HOLDS_UP, farm.settings.private_dir / "up.lock") as pid:
        with pytest.raises(StoreBusy, match=rf"process {pid} runs `stocktake up`") as caught:
            put_back(farm, tmp_path / "backup")
        assert caught.value.exit_code == 75
    with (
        elsewhere(SYNCS, state_url) as pid,
        pytest.raises(StoreBusy, match=rf"sync farm is under way in process {pid}\b"),
    ):
        put_back(farm, tmp_path / "backup")
    assert {**everything(farm.engine), "leases": []} == {**before, "leases": []}
    put_back(farm, tmp_path / "backup")


def test_until_a_restore_has_ended_nobody_opens_the_stores(
    farm: Stocktake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a backup"
    taken(farm, folder)
    with monkeypatch.context() as patched:
        patched.setattr(warehouse, "put", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            put_back(farm, folder)
    for opens in (connect_state, upkeep.migrate):
        with pytest.raises(StoreUnusable, match=rf"type `stocktake restore '{folder}'` again"):
            opens(farm.settings)
    put_back(farm, folder)
    connect_state(farm.settings).dispose()


# --- killed -----------------------------------------------------------------------------------

RESTORER = Path(__file__).with_name("restorer.py")


@pytest.mark.parametrize(("database", "stride"), [("sqlite", 1), ("postgresql", 6)])
def test_a_restore_that_is_killed_at_any_step_is_completed_by_another(
    database: str, stride: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each goes on from where the one before was killed; every fourth may live."""
    with ExitStack() as stack:
        url = ""
        if database == "postgresql":
            url = stack.enter_context(request.getfixturevalue("postgres").store())
        running = stack.enter_context(playground(installs=20))
        config = tmp_path / "stocktake.toml"
        config.write_text((f'state_url = "{url}"\n' if url else "") + running.config)
        command = ["--config", str(config)]
        said(*command, "sync")
        said(*command, "backup", str(tmp_path / "backup"))
        settings = load(config, {})
        restoring = stack.enter_context(restorer(config, tmp_path / "backup"))
        code, steps = restoring(0)
        assert (code, steps > 30) == (0, True)
        half_done = 0
        for number, step in enumerate(range(1, steps + 1, stride)):
            assert restoring(step)[0] == -signal.SIGKILL
            if unfinished(settings).exists():
                half_done += 1
            else:
                check_whole(settings)
            if number % 4 == 3:
                assert restoring(0)[0] == 0
                check_whole(settings)
        assert half_done > steps / stride / 3
        assert restoring(0)[0] == 0
        said(*command, "sync")
        said(*command, "deliver", "--wait", "60")
        active = warehouse.ask(settings.published_path, "select install_id from active_installs")
        alive = source_rows(running.gestal) | source_rows(running.aeontel)
        live = {id for id, row in alive.items() if not row.get("deletedAt")}
        assert {id for (id,) in active.rows} == live


def check_whole(settings: Settings) -> None:
    """Both stores open, belong together, and nothing is left of a restore."""
    with closed(connect_state(settings)) as engine, transaction(engine) as session:
        crm = session.get_one(EndpointRow, "crm")
    with warehouse.opened(settings.store_path, clock.now()) as store:
        assert (crm.store_id, crm.sequence) == (store.id, store.last_sequence)
    assert not (settings.private_dir / "restoring").exists() or unfinished(settings).exists()


def said(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, Unhurried())
    assert not ended.value.code


@contextmanager
def restorer(config: Path, folder: Path) -> Iterator[Callable[[int], tuple[int, int]]]:
    """Runs a restore that is killed at a step; its exit code, and its steps if it lived."""
    with subprocess.Popen(
        [sys.executable, str(RESTORER), str(config), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        orders, answers = process.stdin, process.stdout

        def run(step: int) -> tuple[int, int]:
            orders.write(f"{step}\n")
            orders.flush()
            code, steps = json.loads(answers.readline())
            return code, steps

        yield run
        orders.close()


# --- commands ---------------------------------------------------------------------------------


def test_the_commands_say_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with playground(installs=3) as running:
        config = tmp_path / "stocktake.toml"
        config.write_text(running.config)

        def told(*arguments: str) -> tuple[int, str, str]:
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(["--config", str(config), *arguments], Unhurried())
            return int(ended.value.code or 0), *capsys.readouterr()

        assert told("sync")[0] == 0
        assert told("migrate")[:2] == (0, "both stores are at schema 2 (state) and 2 (warehouse)\n")
        code, out, _ = told("backup", str(tmp_path / "backup"), "--json")
        assert code == 0
        assert json.loads(out)["warehouse"]["active_installs"] == 12
        code, out, err = told("backup", str(tmp_path / "backup"))
        assert (code, out) == (2, "")
        assert "exists and is not empty" in err
        code, out, _ = told("restore", str(tmp_path / "backup"), "--json")
        assert code == 0
        assert json.loads(out)["active_installs"] == 12
        assert told("restore", str(tmp_path / "nothing"))[0] == 2
        code, out, _ = told("restore", str(tmp_path / "backup"))
        assert code == 0
        assert "restored as store st_" in out
        assert told("status")[0] == 0
        with closing(connection_to(load(config, {}))) as store:
            store.execute("update private.store set schema_version = 1")
            store.execute("alter table private.store drop column written_by")
        code, _, err = told("publish")
        assert code == 1
        assert "`stocktake migrate`" in err
        code, out, _ = told("migrate", "--json")
        assert json.loads(out)["warehouse"] == {"found": 1, "now": 2}


def connection_to(settings: Settings) -> Any:
    return duckdb.connect(str(settings.store_path))
