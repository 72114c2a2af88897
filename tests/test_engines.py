"""How engines are lent: one for all of a process, and nothing open once nobody uses it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text

from worker.errors import ConfigInvalid
from worker.state import engines
from worker.state.engines import lent


def url_of(folder: Path, name: str = "state") -> str:
    return f"sqlite:///{folder / name}.db"


def use(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("select 1"))


def open_files(folder: Path) -> list[str]:
    """What this process has open there."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [str(link.readlink()) for link in links if str(link.readlink()).startswith(str(folder))]


def test_who_comes_later_has_the_engine_of_who_came_before(tmp_path: Path) -> None:
    """And what it knows of its statements."""
    url = url_of(tmp_path)
    with lent(url) as first:
        use(first)
    with lent(url) as second:
        assert second is first


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux says so")
def test_nothing_is_open_once_nobody_uses_it(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    with lent(url) as engine:
        with lent(url) as same:
            use(same)
        assert open_files(tmp_path)
        use(engine)
    assert not open_files(tmp_path)


def test_one_that_is_used_is_not_taken_away_by_one_who_ends(tmp_path: Path) -> None:
    made: list[object] = []
    with lent(url_of(tmp_path)) as engine:
        event.listen(engine, "connect", lambda *connection: made.append(connection))
        use(engine)
        with lent(url_of(tmp_path)), lent(url_of(tmp_path, "other")) as other:
            assert other is not engine
        use(engine)
        assert len(made) == 1
        with lent(url_of(tmp_path)) as same:
            assert same is engine


def test_one_who_opens_a_new_file_waits_for_who_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of several processes at their first start; SQLite itself does not wait there."""
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("create table made (id)")
        other.execute("begin immediate")
        waited: list[float] = []
        monkeypatch.setattr(engines, "sleep", lambda s: (waited.append(s), other.rollback()))
        with lent(url_of(tmp_path)) as engine, engine.connect() as connection:
            assert connection.execute(text("pragma journal_mode")).scalar_one() == "wal"
        assert len(waited) == 1


def test_an_address_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigInvalid, match="state_url"), lent("nonsense"):
            pass
