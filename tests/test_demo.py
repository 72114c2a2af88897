"""The demo as a newcomer runs it: from a folder of their own, with next to no environment."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import worker

pytestmark = pytest.mark.slow

CHECKOUT = Path(worker.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command came to; `group` was its process group."""

    group: int
    code: int
    out: str
    err: str

    def line(self, pattern: str) -> re.Match[str]:
        """The line that `pattern` describes."""
        found = re.search(f"^{pattern}$", self.out, re.MULTILINE)
        assert found is not None, self.out
        return found


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody in a folder, who has the program as `bin/stocktake` and nothing else."""

    home: Path

    def run(self, *arguments: str) -> Ended:
        """Runs a command to its end."""
        process = subprocess.Popen(
            [sys.executable, str(self.home / "bin" / "stocktake"), *arguments],
            cwd=self.home / "work",
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            out, err = process.communicate()
        return Ended(process.pid, process.returncode, out, err)

    def _environment(self) -> Mapping[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def files(self) -> set[Path]:
        """Everything in and under the home, but what is in the demo's own folder."""
        found = (path.relative_to(self.home) for path in self.home.rglob("*"))
        own = Path("work/stocktake-demo")
        return {path for path in found if own not in path.parents}


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    for folder in ("bin", "tmp", "work"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin" / "stocktake").write_text("from worker.cli import main\n\nmain()\n")
    return Newcomer(tmp_path)


def is_anybody_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_demo_tells_the_whole_story_and_leaves_nothing_but_its_folder(
    newcomer: Newcomer,
) -> None:
    before = newcomer.files()

    demo = newcomer.run("demo")

    assert (demo.code, demo.err) == (0, "")
    assert not is_anybody_left(demo.group)
    assert newcomer.files() - before == {Path("work/stocktake-demo")}
    verbs = ("created", "upgraded", "updated", "deleted", "restored", "purged")
    counts = [demo.line(rf"install\.{verb} +(\d+) +(\d+)") for verb in verbs]
    assert all(int(farm) + int(voice) for farm, voice in (each.groups() for each in counts))
    arrived, verified = demo.line(r"(\d+) webhooks arrived, (\d+) signatures verified\.").groups()
    assert arrived == verified != "0"


def test_the_file_that_the_demo_names_is_there_and_its_query_works(newcomer: Newcomer) -> None:
    demo = newcomer.run("demo")
    assert Path(demo.line("The DuckDB file: (.+)")[1]).is_file()

    program, *arguments = shlex.split(demo.line("Try: (.+)")[1])
    answer = newcomer.run(*arguments)

    assert Path(program) == newcomer.home / "bin" / "stocktake"
    assert (answer.code, answer.err) == (0, "")
    assert {line.split()[0] for line in answer.out.splitlines()[1:]} == {
        "active",
        "deleted",
        "purged",
    }


def test_the_demo_can_be_run_again_wherever_it_is(newcomer: Newcomer) -> None:
    for _ in range(2):
        demo = newcomer.run("demo", "--dir", "again and again")
        assert (demo.code, demo.err) == (0, "")
    _, *arguments = shlex.split(demo.line("Try: (.+)")[1])
    assert newcomer.run(*arguments).code == 0


def test_the_demo_leaves_a_folder_alone_that_is_not_its_own(newcomer: Newcomer) -> None:
    mine = newcomer.home / "work" / "stocktake-demo"
    mine.mkdir()
    (mine / "thesis.txt").write_text("the only copy")

    demo = newcomer.run("demo")

    assert (demo.code, demo.out) == (2, "")
    assert "exists and is no demo; choose another with --dir" in demo.err
    assert [path.read_text() for path in mine.iterdir()] == ["the only copy"]


def test_a_place_that_cannot_be_written_is_told(newcomer: Newcomer) -> None:
    (newcomer.home / "work" / "file").touch()
    demo = newcomer.run("demo", "--dir", "file/demo")
    assert (demo.code, demo.out) == (2, "")
    assert demo.err.splitlines() == ["file/demo", "  cannot be written: Not a directory"]
