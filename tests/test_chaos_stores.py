"""Stores that cannot be used for a while: a clear word, nothing half-applied, no help needed."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest
from killing import STOCKTAKE, Killer, started, wait_for
from reckoning import check_deliveries, check_snapshot, check_store
from weather import Weather, weather

from worker import clock
from worker.errors import StoreUnusable
from worker.settings import load
from worker.warehouse.store import opened

pytestmark = pytest.mark.slow
ROOMY = 48 * 2**20
ROOM = (0, 50_000, 500_000, 1_000_000, 2_000_000)  # what a full disk has left, in bytes


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Weather]:
    with weather(seed=0, installs=100) as around:
        (tmp_path / "stocktake.toml").write_text(around.config, "utf-8")
        around.flaky.well = True
        yield around


def stocktake(folder: Path, *arguments: str) -> tuple[int, str]:
    """A command as a process: its exit code, and all that it says."""
    command = [*STOCKTAKE, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def recovers(folder: Path, around: Weather) -> None:
    """The next sync goes on as if nothing had been."""
    assert stocktake(folder, "sync")[0] == 0
    settings = load(folder / "stocktake.toml", {})
    check_store(settings)
    check_deliveries(settings)
    for source, world in around.worlds.items():
        check_snapshot(settings, world, source)


@contextmanager
def mounted(folder: Path, size: int = ROOMY) -> Iterator[Path]:
    """A small disk at `folder`; skips where this machine lets nobody mount one."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def test_a_state_store_that_another_process_keeps_to_itself(
    tmp_path: Path, around: Weather
) -> None:
    assert stocktake(tmp_path, "sync")[0] == 0
    around.change(10)
    with closing(sqlite3.connect(tmp_path / "data/private/state.db", isolation_level=None)) as busy:
        busy.execute("begin exclusive")
        code, said = stocktake(tmp_path, "sync")
    assert code == 75
    assert "the state store is in use" in said
    recovers(tmp_path, around)


def test_a_store_that_an_analyst_has_opened_by_mistake(tmp_path: Path, around: Weather) -> None:
    assert stocktake(tmp_path, "sync")[0] == 0
    around.change(10)
    store = tmp_path / "data" / "private" / "store.duckdb"
    opens = f"import duckdb, time; c = duckdb.connect({str(store)!r}); print('open', flush=True); "
    analyst = (sys.executable, "-c", f"{opens}time.sleep(600)")
    log = tmp_path / "analyst.log"
    with started(analyst, tmp_path, log) as process:
        wait_for(lambda: "open" in log.read_text())
        code, said = stocktake(tmp_path, "sync")
    assert code == 75
    assert f"is held open by process {process.pid}" in said
    recovers(tmp_path, around)


def test_a_directory_that_became_read_only(tmp_path: Path, around: Weather) -> None:
    with mounted(tmp_path / "data") as data:
        assert stocktake(tmp_path, "sync")[0] == 0
        around.change(10)
        subprocess.run(["mount", "-o", "remount,ro", str(data)], check=True)  # noqa: S607
        for command in ("sync", "deliver", "up", "status"):
            code, said = stocktake(tmp_path, command)
            assert code == 1
            assert "check data_dir" in said
        subprocess.run(["mount", "-o", "remount,rw", str(data)], check=True)  # noqa: S607
        recovers(tmp_path, around)


def test_a_disk_that_is_full(tmp_path: Path, around: Weather) -> None:
    with mounted(tmp_path / "data") as data:
        settings = load(tmp_path / "stocktake.toml", {})
        assert stocktake(tmp_path, "sync")[0] == 0
        ballast, refused = data / "ballast", 0
        for left in ROOM:
            around.change(10)
            free = os.statvfs(data).f_bavail * os.statvfs(data).f_frsize
            ballast.write_bytes(bytes(max(0, free - left)))
            code, said = stocktake(tmp_path, "sync")
            assert code in (0, 1)
            assert code == 0 or any(word in said for word in ("full", "No space", "disk I/O"))
            refused += code
            ballast.unlink()
            check_store(settings)  # the copy for analysts may be behind
        assert refused >= 3
        recovers(tmp_path, around)


def test_a_disk_that_fills_up_while_a_commit_is_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "data") as data:
        path, count = data / "store.duckdb", "select count(*) from notes"
        with opened(path, clock.now()) as store:
            store._connection.execute("create table notes (note varchar)")
        free = os.statvfs(data).f_bavail * os.statvfs(data).f_frsize
        (data / "ballast").write_bytes(bytes(free - 8_192))
        with (
            pytest.raises(StoreUnusable, match=r"No space left.*; nothing of this sync was kept$"),
            opened(path, clock.now()) as store,
            store.transaction(),
        ):
            store._connection.execute("insert into notes select repeat('x', 99) from range(1500)")
        (data / "ballast").unlink()
        with opened(path, clock.now()) as store:
            assert store._connection.execute(count).fetchone() == (0,)


def test_a_process_that_is_killed_while_it_writes_into_a_full_disk(
    tmp_path: Path, around: Weather
) -> None:
    killer = Killer(Random(0))
    with mounted(tmp_path / "data") as data:
        assert stocktake(tmp_path, "sync")[0] == 0
        free = os.statvfs(data).f_bavail * os.statvfs(data).f_frsize
        (data / "ballast").write_bytes(bytes(free - 1_000_000))
        for _ in range(5):
            around.change(10)
            seen = around.running.server.requests["gestal"]
            with started((*STOCKTAKE, "sync"), tmp_path, tmp_path / "sync.log") as process:
                begun = partial(lambda seen, before: len(seen) > before, seen, len(seen))
                # Or there was no room even to begin.
                wait_for(lambda begun=begun, process=process: begun() or process.poll() is not None)
                killer.pause(1.0)
                killer.kill("sync", process.pid)
        (data / "ballast").unlink()
        recovers(tmp_path, around)
