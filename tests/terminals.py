"""The command line in a test: what a command prints, where, and its exit code."""

import hashlib
import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from platforms import Unhurried

from worker.cli import main
from worker.cli.output import console
from worker.playground import SECRET
from worker.sandbox.aeontel_world import TOKEN
from worker.sandbox.logins import PASSWORD

INSTALLED = "select source, install_id, state, revision from installs order by all"


@dataclass(frozen=True, slots=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return msgspec.json.decode(self.out)


@dataclass(frozen=True, slots=True)
class Terminal:
    """A folder with a configuration, and the command line in it."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "stocktake.toml"

    def __call__(self, *arguments: str, stop: threading.Event | None = None) -> Said:
        """Runs a command in this process. None may show a traceback or a secret."""
        code, out, err = 0, io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main(["--config", str(self.config), *arguments], stop or Unhurried())
            except SystemExit as ended:
                code = int(ended.code or 0)
        said = Said(code, out.getvalue(), err.getvalue())
        for kept in ("Traceback", PASSWORD, TOKEN, SECRET):
            assert kept not in said.out + said.err
        return said

    def configure(self, old: str, new: str) -> None:
        """Changes a text that is in the configuration once."""
        text = self.config.read_text()
        assert text.count(old) == 1
        self.config.write_text(text.replace(old, new))

    def installed(self) -> str:
        """All that is mirrored."""
        return self("query", INSTALLED, "--csv").out

    def files(self) -> dict[str, str]:
        """Everything in the folder, by its digest."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


@contextmanager
def narrowed(width: int) -> Iterator[None]:
    """The terminal is so many columns wide."""
    wide = console.width
    console.width = width
    try:
        yield
    finally:
        console.width = wide


@contextmanager
def logging_as_before() -> Iterator[None]:
    """A command sets up logging; at the end it is as it was."""
    root, own = logging.getLogger(), logging.getLogger("worker")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
