"""Fixtures for everything that needs a whole Stocktake."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from statestores import BACKENDS, Server, serving

if TYPE_CHECKING:
    from platforms import Stocktake

# Every commit waits for the disk, and a test's need not outlast it: use memory where there is some.
if Path("/dev/shm").is_dir():  # noqa: S108 - pytest makes a directory of its own in there
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")  # noqa: S108

# Where there is no pandas, DuckDB looks for it on the whole path at every statement.
if find_spec("pandas") is None:
    sys.modules["pandas"] = None  # type: ignore[assignment]


@pytest.fixture
def take(tmp_path: Path) -> "Iterator[Callable[..., Stocktake]]":
    """Points a Stocktake at a world; everything it opened is closed when the test ends."""
    from platforms import stocktaking

    with ExitStack() as stack:
        yield lambda world, data_dir=tmp_path / "data", **fields: stack.enter_context(
            stocktaking(data_dir, world, **fields)
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL of this test process."""
    with serving() as server:
        yield server


@pytest.fixture(params=BACKENDS)
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where there is no state store yet: the same test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state.db"
        return
    with request.getfixturevalue("postgres").store() as url:
        yield url


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the figures that tests have recorded, passed or failed."""
    for report in (each for kind in ("passed", "failed") for each in
                   terminalreporter.getreports(kind) if each.when == "call"):  # fmt: skip
        for name, figures in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid.partition('::')[2]} {name}: {figures}")
