"""What `[retention]` gives up, and what is kept for ever."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from examples import NOON, OF_A, walk
from outposts import LOGIN
from pydantic import SecretStr
from receivers import STORE, endpoint, event
from sqlalchemy import Engine, text

from worker import clock, outcomes, prune, relay
from worker.findings import Plan, Proposal
from worker.outbound import Answer, Attempt, Settled
from worker.prune import Pruned
from worker.relay import Log
from worker.settings import Settings, Source
from worker.settings.values import Retention
from worker.state import connect_state, deliveries, holds, requests, runs, transaction
from worker.state.requests import Asked, Ended

DAY = timedelta(days=1)
KEPT = Retention(attempts=30 * DAY, deliveries=90 * DAY, runs=365 * DAY, spool=DAY)


@pytest.fixture
def settings(tmp_path: Path, state_url: str) -> Settings:
    source = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})
    return Settings(
        data_dir=tmp_path,
        state_url=SecretStr(state_url),
        sources=(source,),
        retention=KEPT,
        endpoints=(endpoint(),),
    )


@pytest.fixture
def engine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A state store in which everything happened at noon."""
    engine = connect_state(settings)
    log = Log(STORE, 3, [event(number, install=f"ins_{number}") for number in (1, 2, 3)])
    relay.register(engine, settings.endpoints, STORE, 0, NOON)
    relay.relay(engine, settings.endpoints, log, NOON)
    with transaction(engine) as session:
        sent, failed = deliveries.claim(session, "crm", 2, NOON)
        attempts = [Attempt(claim, Answer(204), NOON, 0.1) for claim in (sent, failed)]
        ended = Settled("delivered", 1), Settled("pending", 1, next_at=NOON + DAY)
        deliveries.finish(session, list(zip(attempts, ended, strict=True)), NOON)
        holds.open_in(session, "farm", [Proposal(OF_A, "why", ("a",), 0.5)], NOON)
    served, _waiting = requests.add(engine, [Asked("farm", "full")] * 2, NOON)
    requests.end(engine, served, Ended("ok", 0, ("run_1",)), NOON)
    runs.record(engine, [outcomes.run_of("farm", walk(OF_A), None, Plan(), {}, NOON, NOON)])
    yield engine
    engine.dispose()


def counted(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        query = f"select count(*) from {table}"  # noqa: S608
        return int(connection.execute(text(query)).scalar_one())


@pytest.mark.parametrize(
    ("age", "removed"),
    [
        pytest.param(30, Pruned(0, 0, 0, 0, 0), id="nothing is old"),
        pytest.param(31, Pruned(0, 0, 2, 0, 0), id="attempts"),
        pytest.param(91, Pruned(0, 1, 2, 0, 0), id="deliveries that ended, not those that wait"),
        pytest.param(366, Pruned(1, 1, 2, 0, 1), id="runs, and requests that ended"),
    ],
)
def test_what_is_older_than_it_is_kept_is_removed(
    age: int, removed: Pruned, settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOON + age * DAY)
    assert prune.prune(settings, engine) == removed
    assert counted(engine, "runs") == 1 - removed.runs
    assert counted(engine, "deliveries") == 3 - removed.deliveries
    assert counted(engine, "attempts") == 2 - removed.attempts
    assert counted(engine, "holds") == 1
    assert counted(engine, "requests") == 2 - removed.requests
    assert prune.prune(settings, engine) == Pruned(0, 0, 0, 0, 0)


def test_files_of_a_sync_that_nobody_goes_on_with_are_removed(
    settings: Settings, engine: Engine
) -> None:
    folder = settings.spool_dir / "farm"
    folder.mkdir(parents=True)
    left, young = folder / "left.rows", folder / "young.rows"
    for each in (left, young):
        each.write_text("")
    old = (clock.now() - 2 * DAY).timestamp()
    os.utime(left, (old, old))
    assert prune.prune(settings, engine).spools == 1
    assert [each.name for each in folder.iterdir()] == ["young.rows"]
