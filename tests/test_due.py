"""What a tick of the sync worker does: every source that is due, whatever becomes of the others."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from outposts import LOGIN
from pydantic import SecretStr
from sqlalchemy import Engine

from worker import clock, due
from worker.errors import SourceDown
from worker.findings import Plan
from worker.settings import Settings, Source
from worker.state import connect_state, sources
from worker.state.tables import SourceState
from worker.sync import Synced, Wish

NAMES = ("farm", "barn", "mill")


@pytest.fixture
def settings(tmp_path: Path, state_url: str) -> Settings:
    values = ({"name": name, "dialect": "gestal", **LOGIN} for name in NAMES)
    return Settings(
        data_dir=tmp_path,
        state_url=SecretStr(state_url),
        sources=tuple(map(Source.model_validate, values)),
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    opened = connect_state(settings)
    yield opened
    opened.dispose()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The mode of each source that is synced; an exception that a test puts in is raised."""
    done: dict[str, Any] = {}

    def sync(_settings: Settings, _engine: Engine, source: Source, wish: Wish, _: Event) -> Synced:
        if isinstance(error := done.get(source.name), Exception):
            raise error
        done[source.name] = wish.mode
        return Synced((), (Plan(),))

    monkeypatch.setattr(due, "sync", sync)
    return done


def tried(engine: Engine, settings: Settings, name: str, ago: timedelta, full: timedelta) -> None:
    def edit(row: SourceState) -> None:
        row.last_tried_at, row.last_full_at = clock.now() - ago, clock.now() - full

    sources.change(engine, settings.source(name), edit)


def test_what_was_never_synced_is_walked_in_full(settings: Settings, synced: Any) -> None:
    assert due.sync_due(settings, Event()) is False  # nothing to deliver
    assert synced == dict.fromkeys(NAMES, "full")


def test_each_source_gets_what_it_is_due(
    settings: Settings, engine: Engine, synced: dict[str, Any]
) -> None:
    tried(engine, settings, "farm", timedelta(minutes=2), full=timedelta(minutes=30))
    tried(engine, settings, "barn", timedelta(minutes=2), full=timedelta(minutes=90))
    tried(engine, settings, "mill", timedelta(seconds=2), full=timedelta(minutes=90))
    due.sync_due(settings, Event())
    assert synced == {"farm": "incremental", "barn": "full"}


def test_a_source_that_is_paused_or_limited_is_left_alone(
    settings: Settings, engine: Engine, synced: dict[str, Any]
) -> None:
    sources.pause(engine, settings.source("farm"))
    sources.limit(engine, settings.source("barn"), clock.now() + timedelta(hours=1))
    due.sync_due(settings, Event())
    assert synced == {"mill": "full"}


@pytest.mark.parametrize("error", [SourceDown("farm: no answer"), OverflowError("a defect")])
def test_a_source_that_fails_keeps_no_other_from_its_tick(
    error: Exception, settings: Settings, synced: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    synced["farm"] = error
    due.sync_due(settings, Event())
    assert synced == {"farm": error, "barn": "full", "mill": "full"}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "sync source=farm" in caplog.text
