"""What a person on duty is told: each source, hold and endpoint is ok, warning or critical."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from examples import NOON
from platforms import OPEN
from pydantic import SecretStr
from sqlalchemy import Engine

from worker import clock, relay, warehouse
from worker.findings import Proposal, Run
from worker.health import (
    Facts,
    Level,
    Line,
    duration,
    endpoint_line,
    health,
    source_line,
    worker_line,
    worker_lines,
    worst,
)
from worker.outbound import Health
from worker.playground import SECRET
from worker.settings import Endpoint, Settings, Source
from worker.state import (
    connect_state,
    deliveries,
    heartbeats,
    holds,
    runs,
    sources,
    transaction,
)
from worker.state.heartbeats import HeartbeatRow
from worker.state.tables import SourceState
from worker.state.walks import WalkRow

FARM = Source.model_validate(
    {
        "name": "farm",
        "dialect": "gestal",
        "base_url": "https://api.example.com",
        "email": "me@example.com",
        "password": "secret",
    }
)
CRM = Endpoint(name="crm", url=SecretStr("https://crm.example.com"), secrets=(SecretStr(SECRET),))


@pytest.fixture
def settings(tmp_path: Path, state_url: str) -> Settings:
    return Settings(
        data_dir=tmp_path,
        state_url=SecretStr(state_url),
        sources=(FARM,),
        endpoints=(CRM,),
        deletion_guard=OPEN,
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = connect_state(settings)
    yield engine
    engine.dispose()


def line(settings: Settings, engine: Engine, what: str) -> tuple[Level, str]:
    """The level of one thing, and what is said of it."""
    lines = {line.what: line for line in health(settings, engine)}
    return lines[what].level, lines[what].detail


def of_farm(settings: Settings, engine: Engine, **state: Any) -> tuple[Level, str]:
    """How farm is shown, when this is known of it."""

    def edit(row: SourceState) -> None:
        for name, value in state.items():
            setattr(row, name, value)

    sources.change(engine, FARM, edit)
    return line(settings, engine, "source farm")


def of_crm(settings: Settings, engine: Engine, fares: Health) -> tuple[Level, str]:
    """How crm is shown, when it fares so."""
    relay.register(engine, [CRM], "st_1", 0, clock.now())
    with transaction(engine) as session:
        deliveries.save_health(session, "crm", fares)
    return line(settings, engine, "endpoint crm")


def ago(**parts: float) -> Any:
    return clock.now() - timedelta(**parts)


def test_before_the_first_sync_something_is_missing_and_nothing_is_broken(
    settings: Settings, engine: Engine
) -> None:
    shown = {each.what: each.level for each in health(settings, engine)}
    assert shown == {
        "state store": "ok",
        "published copy": "warning",
        "workers": "warning",
        "source farm": "warning",
        "endpoint crm": "ok",
    }
    assert line(settings, engine, "workers")[1].startswith("no daemon has run here")
    assert line(settings, engine, "source farm")[1] == "never synced"


def test_a_source_is_critical_when_three_full_syncs_were_missed(
    settings: Settings, engine: Engine
) -> None:
    fine = of_farm(settings, engine, last_synced_at=ago(hours=2, minutes=59))
    late = of_farm(settings, engine, last_synced_at=ago(hours=3, minutes=1))
    assert (fine[0], late[0]) == ("ok", "critical")


def test_a_source_that_fails_is_a_warning_until_it_was_without_a_success_for_too_long(
    settings: Settings, engine: Engine
) -> None:
    levels = [
        of_farm(settings, engine, last_synced_at=ago(minutes=1), failures=count)
        for count in (0, 1, 2, 3)
    ]
    assert [level for level, _ in levels] == ["ok", "warning", "warning", "warning"]
    assert levels[2][1].endswith(", failures in a row: 2")
    assert of_farm(settings, engine, last_synced_at=ago(hours=4))[0] == "critical"


def test_what_a_person_or_the_source_has_stopped_wakes_nobody(
    settings: Settings, engine: Engine
) -> None:
    long = {"last_synced_at": ago(days=9), "failures": 9}
    assert of_farm(settings, engine, **long)[0] == "critical"
    limited = of_farm(settings, engine, rate_limited_until=clock.now() + timedelta(hours=1))
    assert limited[0] == "warning"
    assert "rate limited until" in limited[1]
    assert of_farm(settings, engine, rate_limited_until=ago(hours=1))[0] == "critical"
    paused = of_farm(settings, engine, paused=True)
    assert paused[0] == "warning"
    assert paused[1].endswith(", paused")


def test_deletions_that_were_taken_back_are_shown(settings: Settings, engine: Engine) -> None:
    shown = of_farm(settings, engine, retractions=2)
    assert "inferred deletions taken back: 2" in shown[1]


def test_suspects_are_those_of_the_newest_run_of_each_listing(
    settings: Settings, engine: Engine
) -> None:
    counted = [("installs/a", 9, 5), ("installs/a", 2, 4), ("installs/b", 3, 4)]
    runs.record(
        engine,
        [
            Run(
                run_id=f"run_{number}",
                source="farm",
                scope=scope,
                mode="full",
                outcome="ok",
                certificate="pristine",
                started_at=ago(minutes=minutes),
                finished_at=ago(minutes=minutes),
                suspects=suspects,
            )
            for number, (scope, suspects, minutes) in enumerate(counted)
        ],
    )
    assert "suspects: 5" in line(settings, engine, "source farm")[1]


def test_an_open_hold_is_shown_with_its_numbers(settings: Settings, engine: Engine) -> None:
    proposal = Proposal("installs/a", "20 of 30 rows absent at once", ("x", "y"), 0.67)
    with transaction(engine) as session:
        (hold,) = holds.open_in(session, "farm", [proposal], clock.now())
    shown = line(settings, engine, hold.hold_id)
    assert shown == ("warning", "farm installs/a: 20 of 30 rows absent at once")
    holds.decide(engine, hold.hold_id, "rejected", clock.now())
    assert hold.hold_id not in {each.what for each in health(settings, engine)}


def test_what_keeps_an_endpoint_from_its_webhooks_is_a_warning(
    settings: Settings, engine: Engine
) -> None:
    assert of_crm(settings, engine, Health()) == ("ok", "nothing sent yet")
    failing = of_crm(settings, engine, Health(failures=1, failing_since=ago(hours=1)))
    assert failing[0] == "warning"
    assert failing[1].startswith("failing since ")
    assert of_crm(settings, engine, Health(paused=True)) == ("warning", "paused")
    assert of_crm(settings, engine, Health(disabled_reason="gone")) == (
        "warning",
        "disabled (gone)",
    )
    assert endpoint_line("crm", Health(), {"dead": 2, "delivered": 5}) == Line(
        "endpoint crm", "warning", "2 dead, 5 delivered"
    )


def test_a_copy_that_is_not_renewed_is_a_warning(settings: Settings, engine: Engine) -> None:
    for minutes, level in ((44, "ok"), (46, "warning")):
        with warehouse.opened(settings.store_path, ago(minutes=minutes)):
            pass
        warehouse.publish(settings.store_path, settings.published_path, ago(minutes=minutes), {})
        assert line(settings, engine, "published copy")[0] == level


def test_live_asks_for_the_stores_and_the_workers(settings: Settings, engine: Engine) -> None:
    def live() -> list[tuple[str, Level]]:
        return [(each.what, each.level) for each in health(settings, engine, live=True)]

    stores = [("state store", "ok"), ("published copy", "warning")]
    assert live() == [*stores, ("sync worker", "critical"), ("deliver worker", "critical")]
    heartbeats.beat(engine, "sync", clock.now())
    heartbeats.beat(engine, "deliver", ago(seconds=61))
    assert live() == [*stores, ("sync worker", "ok"), ("deliver worker", "critical")]


# --- each line by itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ago_s", "level", "detail"),
    [
        (59, "ok", "alive, process 7 on here"),
        (60, "critical", "not alive since 2026-03-01 11:59:00 UTC, process 7 on here"),
        (-59, "ok", "alive, process 7 on here"),
        # The clock was set back, and nobody has given a sign since.
        (-3600, "critical", "not alive since 2026-03-01 13:00:00 UTC, process 7 on here"),
    ],
)
def test_a_worker_is_alive_for_a_minute_after_its_last_sign(
    ago_s: int, level: Level, detail: str
) -> None:
    beat = HeartbeatRow(
        worker="sync", owner="process 7 on here", beat_at=NOON - timedelta(seconds=ago_s)
    )
    assert worker_line("sync", beat, NOON) == Line("sync worker", level, detail)


def test_a_worker_that_never_ran_is_missed_where_the_other_did() -> None:
    beats = {"sync": HeartbeatRow(worker="sync", owner="process 7 on here", beat_at=NOON)}
    levels = [line.level for line in worker_lines(beats, NOON, live=False)]
    assert levels == ["ok", "critical"]
    assert [line.level for line in worker_lines({}, NOON, live=True)] == ["critical"] * 2
    assert [line.level for line in worker_lines({}, NOON, live=False)] == ["warning"]


LONG, PATIENCE = timedelta(hours=4), timedelta(hours=3)


def walking(ago: timedelta) -> WalkRow:
    return WalkRow(
        source="farm",
        progress_at=NOON - ago,
        listings={"integrations": (2, None), "installs": (1200, 5000)},
    )


@pytest.mark.parametrize(
    ("state", "facts", "level", "told"),
    [
        ({"last_synced_at": NOON - PATIENCE}, {}, "ok", ""),
        ({"last_synced_at": NOON - LONG}, {}, "critical", ""),
        ({"last_synced_at": NOON - LONG, "failures": 9}, {}, "critical", "failures in a row: 9"),
        ({"last_synced_at": NOON, "failures": 9}, {}, "warning", "failures in a row: 9"),
        ({"last_synced_at": NOON - LONG, "paused": True}, {}, "warning", "paused"),
        (
            {"last_synced_at": NOON - LONG, "rate_limited_until": NOON + LONG},
            {},
            "warning",
            "rate limited until 2026-03-01 16:00:00 UTC",
        ),
        ({"last_synced_at": NOON - LONG, "rate_limited_until": NOON}, {}, "critical", ""),
        (
            {"last_synced_at": NOON - LONG},
            {"walk": walking(timedelta(seconds=59))},
            "warning",
            "walking installs, 1,200 of 5,000",
        ),
        ({"last_synced_at": NOON}, {"walk": walking(timedelta())}, "ok", "walking installs"),
        # A walk that gets no further is none.
        ({"last_synced_at": NOON - LONG}, {"walk": walking(timedelta(seconds=60))}, "critical", ""),
        ({}, {}, "warning", "never synced"),
        ({}, {"first_at": NOON - timedelta(minutes=1)}, "warning", "never synced"),
        ({"failures": 3}, {"first_at": NOON - LONG}, "critical", "never synced"),
        ({"last_synced_at": NOON}, {"requests": 2}, "ok", "requests waiting: 2"),
        ({"last_synced_at": NOON}, {"suspects": 3}, "ok", "suspects: 3"),
        # The clock was set back.
        ({"last_synced_at": NOON + LONG}, {}, "ok", ""),
    ],
)
def test_a_source_is_as_what_is_known_of_it(
    state: dict[str, Any], facts: dict[str, Any], level: Level, told: str
) -> None:
    known = SourceState(source="farm", dialect="gestal", **state)
    shown = source_line(Facts(known, PATIENCE, **facts), NOON)
    assert (shown.what, shown.level) == ("source farm", level)
    assert told in shown.detail


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(61, "61 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h")],
)
def test_a_length_of_time_is_said_shortly(seconds: int, said: str) -> None:
    assert duration(timedelta(seconds=seconds)) == said


def test_the_worst_level_counts() -> None:
    assert worst() == "ok"
    assert worst("ok", "critical", "warning") == "critical"
    assert worst("warning", "ok") == "warning"
