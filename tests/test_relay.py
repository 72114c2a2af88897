"""How events and notices become deliveries."""

import json
import threading

import pytest
from examples import OF_A, Shown, commit, connected, gestal_row, harvest, new_store
from outposts import Outpost
from receivers import NOON, STORE, endpoint, event
from sqlalchemy import text

from worker import relay, warehouse
from worker.errors import CursorMismatch
from worker.outbound import Health
from worker.relay import Log
from worker.replay import Wish, replay
from worker.state import connect, deliveries, transaction

CRM = endpoint("crm")


@pytest.fixture
def engine(state_url):
    engine = connect(state_url)
    yield engine
    engine.dispose()


def register(engine, *endpoints, head=0):
    relay.register(engine, endpoints, STORE, head, NOON)


def relayed(engine, endpoints, *events, store_id=STORE):
    head = events[-1].sequence if events else 0
    return relay.relay(engine, endpoints, Log(store_id, head, events), NOON)


def made(engine, *columns):
    columns = columns or ("endpoint", "event_id")
    with engine.connect() as connection:
        found = connection.execute(
            text(f"select {', '.join(columns)} from deliveries order by position")  # noqa: S608
        )
        return [tuple(row) for row in found]


def test_every_event_becomes_a_delivery_for_each_endpoint_that_wants_it(engine):
    endpoints = [
        CRM,
        endpoint("churn", events=("install.deleted",)),
        endpoint("farm", sources=("farm",)),
        endpoint("all", events=("*",)),
    ]
    register(engine, *endpoints)
    events = [
        event(1),
        event(2, type="install.deleted"),
        event(3, None, type="integration.created", source="farm"),
    ]
    assert relayed(engine, endpoints, *events) == 6
    assert made(engine) == [
        ("crm", "evt_1"),
        ("all", "evt_1"),
        ("crm", "evt_2"),
        ("churn", "evt_2"),
        ("all", "evt_2"),
        ("all", "evt_3"),
    ]


def test_a_delivery_carries_what_is_sent_and_in_which_order(engine):
    register(engine, CRM, head=3)
    relayed(engine, [CRM], event(4, "ins_9"))
    ((body, *columns),) = made(engine, "body", "type", "source", "install_id", "sequence", "lane")
    assert columns == ["install.upgraded", "voice", "ins_9", 4, "voice/install/ins_9"]
    assert json.loads(body)["data"]["sequence"] == 4


def test_each_endpoint_gets_its_own_format(engine):
    chat = endpoint("chat", format="slack", secrets=())
    register(engine, CRM, chat)
    relayed(engine, [CRM, chat], event(1))
    standard, slack = (json.loads(body) for (body,) in made(engine, "body"))
    assert standard["data"]["event_id"] == "evt_1"
    assert {"text", "blocks"} <= set(slack)


def test_one_install_id_at_two_sources_is_two_installs(engine):
    register(engine, CRM)
    relayed(engine, [CRM], event(1, source="voice"), event(2, source="farm"))
    assert made(engine, "lane") == [("voice/install/ins_1",), ("farm/install/ins_1",)]


def test_events_of_an_integration_are_in_order_too(engine):
    everything = endpoint("all", events=("*",))
    register(engine, everything)
    relayed(engine, [everything], event(1, None, type="integration.created"))
    assert made(engine, "lane") == [("voice/integration/int_1",)]


def test_a_baseline_is_not_announced_event_by_event(engine):
    register(engine, CRM)
    assert relayed(engine, [CRM], event(1, baseline=True), event(2)) == 1
    assert made(engine) == [("crm", "evt_2")]
    assert relay.cursor(engine, [CRM]) == 2


def test_relaying_the_same_log_again_makes_nothing_new(engine):
    register(engine, CRM)
    assert relayed(engine, [CRM], event(1), event(2)) == 2
    assert relayed(engine, [CRM], event(1), event(2), event(3)) == 1
    assert made(engine) == [("crm", "evt_1"), ("crm", "evt_2"), ("crm", "evt_3")]


def test_a_log_longer_than_a_batch_is_relayed_whole(engine):
    register(engine, CRM)
    assert relayed(engine, [CRM], *(event(number) for number in range(1, 1202))) == 1201
    assert relay.cursor(engine, [CRM]) == 1201


def test_a_new_endpoint_starts_at_the_end_of_the_log(engine):
    late = endpoint("late")
    register(engine, CRM)
    register(engine, CRM, late, head=2)
    assert relay.cursor(engine, [CRM, late]) == 0
    assert relay.cursor(engine, [late]) == 2
    relayed(engine, [CRM, late], event(1), event(2), event(3))
    assert [sent for sent in made(engine) if sent[0] == "late"] == [("late", "evt_3")]


def test_nobody_needs_events_when_there_are_no_endpoints(engine):
    assert relay.cursor(engine, []) is None
    assert relayed(engine, [], event(1)) == 0


def test_an_endpoint_that_is_not_registered_gets_nothing_yet(engine):
    register(engine, CRM)
    assert relayed(engine, [CRM, endpoint("late")], event(1)) == 1


def test_a_halted_endpoint_keeps_its_place_and_its_deliveries_wait(engine):
    register(engine, CRM)
    with transaction(engine) as session:
        deliveries.save_health(session, "crm", Health(disabled_reason="gone"))
    relayed(engine, [CRM], event(1))
    assert made(engine, "state", "reason") == [("paused", "gone")]
    assert relay.cursor(engine, [CRM]) == 1


def test_a_crash_in_the_middle_leaves_cursor_and_deliveries_as_they_were(engine):
    register(engine, CRM)
    unsayable = event(2, after={"install_id": object()})
    with pytest.raises(TypeError):
        relayed(engine, [CRM], event(1), unsayable)
    assert made(engine) == []
    assert relay.cursor(engine, [CRM]) == 0
    assert relayed(engine, [CRM], event(1), event(2)) == 2


def test_another_store_stops_the_relay_and_says_what_to_do(engine):
    register(engine, CRM, head=40)
    with pytest.raises(CursorMismatch, match=r"crm .* store st_1 up to event 40.* st_2") as told:
        relayed(engine, [CRM], event(41), store_id="st_2")
    assert "; no new event is delivered. Put the right store back" in str(told.value)
    assert made(engine) == []


def test_an_older_copy_of_the_store_stops_the_relay(engine):
    register(engine, CRM, head=40)
    with pytest.raises(CursorMismatch, match=r"up to event 40, but its log ends at event 39"):
        relay.relay(engine, [CRM], Log(STORE, 39, ()), NOON)


def test_a_log_that_begins_too_late_stops_the_relay(engine):
    register(engine, CRM, head=4)
    with pytest.raises(CursorMismatch, match="goes on at 6"):
        relayed(engine, [CRM], event(6))


# Notices


def announce(engine, endpoints, notice_id="ntc_1", type="sync.held", **data):
    return relay.announce(engine, endpoints, notice_id, type, "voice", data, NOON)


def test_a_notice_is_announced_once_to_those_whose_globs_match(engine):
    ops = endpoint("ops", events=("sync.*",))
    elsewhere = endpoint("elsewhere", events=("sync.*",), sources=("farm",))
    register(engine, CRM, ops, elsewhere)
    endpoints = [CRM, ops, elsewhere]
    assert announce(engine, endpoints, installs=12)
    assert not announce(engine, endpoints, installs=13)
    assert made(engine, "endpoint", "event_id", "type", "lane") == [
        ("ops", "ntc_1", "sync.held", None)
    ]
    ((body,),) = made(engine, "body")
    assert json.loads(body)["data"] == {"notice_id": "ntc_1", "source": "voice", "installs": 12}


def test_a_notice_nobody_wants_is_recorded_all_the_same(engine):
    register(engine, CRM)
    assert announce(engine, [CRM])
    assert not announce(engine, [CRM])
    assert made(engine) == []


def test_times_in_a_notice_are_said_in_utc(engine):
    ops = endpoint("ops", events=("sync.*",))
    register(engine, ops)
    announce(engine, [ops], since=NOON)
    ((body,),) = made(engine, "body")
    assert json.loads(body)["data"]["since"] == "2026-03-01T12:00:00Z"


def test_a_test_goes_to_an_endpoint_whatever_it_subscribes_to(engine):
    register(engine, CRM)
    announce(engine, [CRM], type="webhook.test")
    assert made(engine) == [("crm", "ntc_1")]


# The life of an endpoint: new, taken out, renamed, back again


ERP = endpoint("erp")


@pytest.fixture
def outpost(tmp_path):
    outpost = Outpost(tmp_path)
    with connected(new_store(outpost.settings.store_path)):  # so that opening it takes no time
        yield outpost
    outpost.engine.dispose()


def configure(outpost, *endpoints):
    outpost.settings = outpost.settings.model_copy(update={"endpoints": endpoints})


def committed(outpost, *installs):
    """A certified walk of another listing, whose installs are announced; nothing is relayed."""
    with warehouse.opened(outpost.settings.store_path, NOON) as store:
        fence = store.fence("farm") + 1
        shown = Shown(OF_A, [gestal_row(id) for id in installs])
        commit(store, harvest(store, outpost.folder, shown, at=NOON, fence=fence))
        return store.last_sequence


def introduce(outpost, *endpoints):
    configure(outpost, *endpoints)
    relay.introduce(outpost.settings, outpost.engine)


def relayed_to(outpost, *endpoints):
    """What each endpoint is sent once a command has the store open."""
    configure(outpost, *endpoints)
    with warehouse.opened(outpost.settings.store_path, NOON) as store:
        outpost.relay(store)
    return made(outpost.engine, "endpoint", "install_id", "state")


def cursors(outpost):
    with outpost.engine.connect() as connection:
        found = connection.execute(text("select name, sequence from endpoints order by name"))
        return dict(tuple(row) for row in found)


def test_a_new_endpoint_starts_where_the_log_ends_when_a_command_first_sees_it(outpost):
    head = committed(outpost, "ins_1")
    introduce(outpost, CRM)
    assert cursors(outpost) == {"crm": head}
    committed(outpost, "ins_2", "ins_1")
    assert relayed_to(outpost, CRM) == [("crm", "ins_2", "pending")]


def test_no_store_is_opened_for_endpoints_that_are_known(tmp_path):
    outpost = Outpost(tmp_path)
    register(outpost.engine, CRM, ERP)
    introduce(outpost, ERP, CRM)
    assert not outpost.settings.store_path.exists()
    outpost.engine.dispose()


def test_a_renamed_endpoint_is_one_taken_out_and_a_new_one(outpost):
    introduce(outpost, CRM)
    committed(outpost, "ins_1")
    committed(outpost, "ins_2", "ins_1")
    assert relayed_to(outpost, CRM) == [("crm", "ins_2", "pending")]
    head = committed(outpost, "ins_3", "ins_2", "ins_1")
    introduce(outpost, ERP)
    assert cursors(outpost) == {"erp": head}
    assert relayed_to(outpost, ERP) == [("crm", "ins_2", "dead")]


def test_an_endpoint_that_comes_back_starts_at_the_end_again(outpost):
    committed(outpost, "ins_1")
    introduce(outpost, CRM)
    introduce(outpost)
    assert cursors(outpost) == {}
    head = committed(outpost, "ins_2", "ins_1")
    introduce(outpost, CRM)
    assert cursors(outpost) == {"crm": head}
    assert relayed_to(outpost, CRM) == []


def test_what_died_with_an_endpoint_is_sent_when_it_is_back_and_that_is_wished(outpost):
    introduce(outpost, CRM)
    committed(outpost, "ins_1")
    committed(outpost, "ins_2", "ins_1")
    relayed_to(outpost, CRM)
    introduce(outpost)
    introduce(outpost, CRM)
    wish = Wish(CRM, "dead", ("install.created",))
    assert replay(outpost.settings, outpost.engine, wish, threading.Event()).deliveries == 1
    assert made(outpost.engine, "install_id", "state", "reason") == [("ins_2", "pending", None)]


def test_a_crash_while_endpoints_change_leaves_all_as_it_was_or_all_changed(outpost):
    introduce(outpost, CRM)
    committed(outpost, "ins_1")
    committed(outpost, "ins_2", "ins_1")
    before = relayed_to(outpost, CRM)
    head = committed(outpost, "ins_3", "ins_2", "ins_1")
    outcomes = []
    for statement in range(1, 12):
        with outpost._dying(statement):
            introduce(outpost, ERP)
        outcomes.append((cursors(outpost), made(outpost.engine, "endpoint", "install_id", "state")))
    old, new = ({"crm": head - 1}, before), ({"erp": head}, [("crm", "ins_2", "dead")])
    assert outcomes[0] == old
    assert outcomes[-1] == new
    assert all(outcome in (old, new) for outcome in outcomes)
