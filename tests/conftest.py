"""Fixtures for everything that needs a whole Stocktake."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from platforms import Stocktake, stocktaking

# Every commit waits for the disk, and a test's need not outlast it: use memory where there is some.
if Path("/dev/shm").is_dir():  # noqa: S108 - pytest makes a directory of its own in there
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")  # noqa: S108


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Callable[..., Stocktake]]:
    """Points a Stocktake at a world; everything it opened is closed when the test ends."""
    with ExitStack() as stack:
        yield lambda world, data_dir=tmp_path / "data", **fields: stack.enter_context(
            stocktaking(data_dir, world, **fields)
        )
