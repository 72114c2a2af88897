"""What a person changes about deliveries and looks at, on a real database."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from receivers import NOON, STORE
from sqlalchemy import Engine, text

from worker.outbound import Draft, Health
from worker.settings import EVENT_TYPES
from worker.state import by_hand, connect, deliveries, inspection, replays, transaction
from worker.state.by_hand import Graves
from worker.state.delivery_tables import Replay

MINUTE = timedelta(minutes=1)


@pytest.fixture
def engine(state_url: str) -> Iterator[Engine]:
    """Three deliveries to one endpoint, made a minute apart; each can be found by its event."""
    engine = connect(state_url)
    with transaction(engine) as session:
        deliveries.register(session, ["crm"], STORE, 0, NOON)
        for number, type_ in enumerate(("install.created", "install.updated", "install.updated")):
            draft = Draft(f"evt_{number}", "crm", type_, "farm", b"{}", lane="farm/install/ins_1")
            deliveries.add(session, [draft], {"crm": Health()}, NOON + number * MINUTE)
    yield engine
    engine.dispose()


def states(engine: Engine) -> list[tuple[str, str | None]]:
    with engine.connect() as connection:
        found = connection.execute(text("select state, reason from deliveries order by position"))
        return [(state, reason) for state, reason in found]


def all_die(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("update deliveries set state = 'dead', next_at = null"))


def test_the_dead_are_counted_and_reopened_by_time_type_and_event(engine: Engine) -> None:
    all_die(engine)
    since_noon = Graves("crm", EVENT_TYPES, since=NOON, until=NOON + 2 * MINUTE)
    with transaction(engine) as session:
        tallies = by_hand.count_dead(session, since_noon)
        assert [(each.type, each.count, each.oldest) for each in tallies] == [
            ("install.created", 1, NOON),
            ("install.updated", 1, NOON + MINUTE),
        ]
        by_hand.reopen(session, Graves("crm", ("install.created",)), None, NOON)
        by_hand.reopen(session, Graves("crm", EVENT_TYPES, event_id="evt_2"), "paused", NOON)
    assert states(engine) == [("pending", None), ("dead", None), ("paused", "paused")]


def test_what_is_reopened_is_first_in_its_lane_again_though_a_later_one_is_in_flight(
    engine: Engine,
) -> None:
    with transaction(engine) as session:
        (first,) = deliveries.claim(session, "crm", 9, NOON + MINUTE)
    all_die(engine)
    with transaction(engine) as session:
        by_hand.reopen(session, Graves("crm", EVENT_TYPES, event_id="evt_1"), None, NOON)
        (later,) = deliveries.claim(session, "crm", 9, NOON + MINUTE)
        by_hand.reopen(session, Graves("crm", EVENT_TYPES, event_id="evt_0"), None, NOON)
        by_hand.reopen(session, Graves("crm", EVENT_TYPES, event_id="evt_2"), None, NOON)
        (again,) = deliveries.claim(session, "crm", 9, NOON + MINUTE)
    assert (first.event_id, later.event_id, again.event_id) == ("evt_0", "evt_1", "evt_0")


def test_the_paused_are_released_and_one_is_taken_out_of_its_turn(engine: Engine) -> None:
    with transaction(engine) as session:
        deliveries.pause_pending(session, "crm", "gone")
        assert by_hand.release(session, "crm", NOON) == 3
        assert by_hand.take(session, "crm", "evt_2", NOON).event_id == "evt_2"
    assert states(engine) == [("pending", None), ("pending", None), ("in_flight", None)]


def test_a_replay_is_kept_until_all_of_it_is_made(engine: Engine) -> None:
    asked = Replay(
        replay_id="rpl_1", endpoint="crm", store_id=STORE, asked_at=NOON, snapshot=False,
        fresh_ids=True, types=["install.created"], sources=["farm"], after=0, upto=9,
    )  # fmt: skip
    with transaction(engine) as session:
        replays.ask(session, asked)
    with transaction(engine) as session:
        replays.move(session, "rpl_1", 4)
        (left,) = replays.unfinished(session)
        assert (left.after, left.types, left.asked_at) == (4, ["install.created"], NOON)
        assert replays.is_unfinished(session, "rpl_1")
        replays.end(session, "rpl_1")
        assert not replays.is_unfinished(session, "rpl_1")


def test_deliveries_are_listed_and_found_by_the_beginning_of_an_id(engine: Engine) -> None:
    with transaction(engine) as session:
        newest = inspection.newest(session, "crm", "pending", 2)
        assert [row["event_id"] for row in newest] == ["evt_2", "evt_1"]
        assert len(inspection.newest(session, None, None, None)) == 3
        assert len(inspection.beginning(session, "evt_")) == 3
        assert inspection.beginning(session, "evt%") == []
        (row,) = inspection.beginning(session, newest[0]["delivery_id"])
        assert inspection.body(session, row["delivery_id"]) == b"{}"
        assert inspection.has_deliveries(session, "crm")
        assert not inspection.has_deliveries(session, "erp")
        assert inspection.registered(session) == {"crm"}
