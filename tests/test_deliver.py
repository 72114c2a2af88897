"""The way of a delivery from the state store to a receiver and back."""

import threading
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from time import monotonic

import pytest
from receivers import NOON, SECRET, STORE, endpoint, event, receiving, replying
from sqlalchemy import text
from standardwebhooks import Webhook

from worker import clock, relay, warehouse
from worker.deliver import Delivered, deliver, deliver_due
from worker.outbound import Health
from worker.relay import Log
from worker.sender import Sender
from worker.settings import Settings
from worker.state import connect, connect_state, deliveries, processes, transaction

SECOND = timedelta(seconds=1)
HANG_S = 30.0  # how long a broken program may block a test


@pytest.fixture
def engine(state_url):
    engine = connect(state_url)
    yield engine
    engine.dispose()


@pytest.fixture
def open_receiver():
    """Receivers that run until the test ends."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(receiving())


class Time(threading.Event):
    """The time of a test, and its stop: waiting for a stop that does not come takes time."""

    def __init__(self, now=NOON):
        super().__init__()
        self.now = now

    def wait(self, timeout=None):
        self.now += timedelta(seconds=timeout)
        return self.is_set()


def due(engine, endpoints, *events, now=NOON):
    """Register the endpoints and make deliveries of the events."""
    relay.register(engine, endpoints, STORE, 0, now)
    relay.relay(engine, endpoints, Log(STORE, len(events), events), now)


def send(engine, endpoints, now=NOON, time=None, **options):
    time = time or Time(now)
    return deliver(
        engine, endpoints, **{"stop": time, "now": lambda: time.now, "jitter": float, **options}
    )


def rows(engine, *columns, table="deliveries"):
    with engine.connect() as connection:
        query = text(f"select {', '.join(columns)} from {table} order by 1")  # noqa: S608
        return [tuple(row) for row in connection.execute(query)]


def sent(receiver):
    return [received.headers["webhook-id"] for received in receiver.received]


def test_what_is_due_arrives_signed_and_is_recorded(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url, headers={"x-team": "crm"})
    due(engine, [crm], event(1))
    assert send(engine, [crm], now=clock.now()) == Delivered(1, 0, 0, 0)
    (received,) = receiver.received
    assert Webhook(SECRET).verify(received.body, dict(received.headers))["type"] == event(1).type
    assert received.headers["x-team"] == "crm"
    assert received.headers["stocktake-event-type"] == "install.upgraded"
    assert rows(engine, "state", "attempts", "last_status") == [("delivered", 1, 204)]
    assert rows(engine, "endpoint", "status", table="attempts") == [("crm", 204)]


def test_without_deliveries_nothing_happens(engine):
    crm = endpoint()
    assert send(engine, [crm]) == Delivered(0, 0, 0, 0)
    due(engine, [crm])
    assert send(engine, [crm]) == Delivered(0, 0, 0, 0)


def test_nothing_goes_to_an_endpoint_that_is_paused(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    with transaction(engine) as session:
        deliveries.save_health(session, "crm", Health(paused=True))
    send(engine, [crm])
    assert receiver.received == []


def test_a_failed_delivery_keeps_its_id_and_body_when_it_is_tried_again(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    receiver.reply = replying(503)
    assert send(engine, [crm]) == Delivered(0, 1, 0, 1)
    assert send(engine, [crm], now=NOON + 4 * SECOND) == Delivered(0, 0, 0, 1)
    receiver.reply = replying(200)
    assert send(engine, [crm], now=NOON + 5 * SECOND) == Delivered(1, 0, 0, 0)
    first, second = receiver.received
    assert sent(receiver) == ["evt_1", "evt_1"]
    assert first.body == second.body
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert [each.headers["stocktake-attempt"] for each in (first, second)] == ["1", "2"]


def test_after_ten_attempts_a_delivery_is_dead(engine, open_receiver):
    receiver = open_receiver()
    receiver.reply = replying(404)
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    now = NOON
    for _ in range(10):
        send(engine, [crm], now=now)
        now += 24 * 60 * 60 * SECOND
    assert rows(engine, "state", "reason", "attempts") == [("dead", "exhausted", 10)]
    assert len(receiver.received) == 10


def test_waiting_goes_on_until_nothing_is_open(engine, open_receiver):
    receiver = open_receiver()
    replies = iter([replying(503), replying(200)])
    receiver.reply = lambda handler, received: next(replies)(handler, received)
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    time = Time()
    done = send(engine, [crm], wait_s=60, time=time)
    assert done == Delivered(1, 1, 0, 0)
    assert time.now == NOON + 5 * SECOND


def test_waiting_ends_when_its_time_is_over(engine, open_receiver):
    receiver = open_receiver()
    receiver.reply = replying(503)
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    time = Time()
    done = send(engine, [crm], wait_s=20, time=time)
    assert done == Delivered(0, 2, 0, 1)
    assert time.now == NOON + 20 * SECOND


def test_after_a_stop_nothing_more_is_claimed_and_what_is_in_flight_ends(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url, max_in_flight=1)
    due(engine, [crm], event(1, "ins_1"), event(2, "ins_2"))
    stop = threading.Event()

    def reply(handler, received):
        stop.set()
        replying(204)(handler, received)

    receiver.reply = reply
    assert send(engine, [crm], stop=stop, wait_s=60) == Delivered(1, 0, 0, 1)
    assert sent(receiver) == ["evt_1"]
    assert [state for _, state in rows(engine, "event_id", "state")] == ["delivered", "pending"]


def test_what_outlasts_a_stop_is_broken_off_and_due_again(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1, "ins_1"), event(2, "ins_2"))
    stop = threading.Event()

    def reply(handler, received):
        if received.headers["webhook-id"] == "evt_1":
            while rows(engine, "event_id", "state")[1] != ("evt_2", "delivered"):
                assert not receiver.released.wait(0.005)
            stop.set()
            receiver.hang(handler, received)
        replying(204)(handler, received)

    receiver.reply = reply
    assert send(engine, [crm], stop=stop, grace_s=0.0) == Delivered(1, 0, 0, 1)
    assert rows(engine, "event_id", "state", "attempts", "lease_token") == [
        ("evt_1", "pending", 0, None),
        ("evt_2", "delivered", 1, None),
    ]
    receiver.reply = replying(204)
    assert send(engine, [crm]) == Delivered(1, 0, 0, 0)
    assert [each.headers["stocktake-attempt"] for each in receiver.received] == ["1"] * 3


def test_what_is_broken_off_waits_if_its_endpoint_was_paused_meanwhile(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    stop = threading.Event()

    def reply(handler, received):
        pause(engine, "crm")
        stop.set()
        receiver.hang(handler, received)

    receiver.reply = reply
    assert send(engine, [crm], stop=stop, grace_s=0.0) == Delivered(0, 0, 0, 0)
    assert rows(engine, "state", "reason", "next_at") == [("paused", "paused", None)]


def test_what_a_dead_process_had_in_flight_waits_if_its_endpoint_is_paused(engine):
    crm = endpoint()
    due(engine, [crm], event(1))
    lose_claim(engine)
    pause(engine, "crm")
    assert send(engine, [crm], wait_s=60) == Delivered(0, 0, 0, 0)
    assert rows(engine, "state", "reason", "next_at") == [("paused", "paused", None)]


def pause(engine, name):
    """What `endpoints pause` does."""
    with transaction(engine) as session:
        deliveries.save_health(session, name, Health(paused=True))
        deliveries.pause_pending(session, name, "paused")


def lose_claim(engine):
    """A process claims the first delivery and dies."""
    dead = processes.owner().rpartition("/")[0] + "/1"  # this number, started at boot
    with transaction(engine) as session:
        deliveries.claim(session, "crm", 1, NOON)
    hold(engine, f"{dead}/{monotonic() + 45}/1")


def hold(engine, token):
    """Another process has what is in flight."""
    with transaction(engine) as session:
        held = text("update deliveries set lease_token = :token where state = 'in_flight'")
        session.connection().execute(held, {"token": token})


def test_what_a_dead_process_had_in_flight_is_sent_at_once(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1), event(2))
    lose_claim(engine)
    assert send(engine, [crm]) == Delivered(2, 0, 0, 0)
    assert sent(receiver) == ["evt_1", "evt_2"]


def test_what_a_live_process_has_in_flight_is_left_to_it(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1, "ins_1"), event(2, "ins_2"))
    with transaction(engine) as session:
        deliveries.claim(session, "crm", 1, NOON)
    assert send(engine, [crm]) == Delivered(1, 0, 0, 1)
    assert sent(receiver) == ["evt_2"]


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_clock_that_is_set_makes_nothing_due_that_is_in_flight(jump, engine, open_receiver):
    """By whose clock ever: that of the process that sends, or of a second one beside it."""
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    jumping, second, turn = Time(), [], threading.Event()

    def jumps(handler, received):
        if len(receiver.received) == 1:
            jumping.now += jump
            second.append(send(engine, [crm], now=NOON + jump))
            for _ in range(2):  # a whole turn of the first
                turn.clear()
                assert turn.wait(HANG_S)
        replying(204)(handler, received)

    receiver.reply = jumps
    assert send(engine, [crm], time=jumping, on_turn=turn.set) == Delivered(1, 0, 0, 0)
    assert second == [Delivered(0, 0, 0, 1)]
    assert sent(receiver) == ["evt_1"]


def test_what_a_live_process_does_not_end_within_its_lease_is_sent_again(
    engine, open_receiver, monkeypatch
):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    with transaction(engine) as session:
        deliveries.claim(session, "crm", 1, NOON)
    later = monotonic() + deliveries.LEASE.total_seconds() + 1
    monkeypatch.setattr(processes, "monotonic", lambda: later)
    assert send(engine, [crm], now=NOON + deliveries.LEASE) == Delivered(1, 0, 0, 0)


def test_a_crash_between_claim_and_record_sends_again_when_the_lease_ends(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))

    class Crash(BaseException):
        pass

    class Crashing(Sender):
        async def send(self, headers, body):
            await super().send(headers, body)
            raise Crash

    with pytest.raises(Crash):
        send(engine, [crm], make_sender=Crashing)
    assert rows(engine, "state") == [("in_flight",)]
    hold(engine, "another.example/process 1/1/0/1")  # one whose clock only the calendar tells
    assert send(engine, [crm], now=NOON + 44 * SECOND) == Delivered(0, 0, 0, 1)
    assert send(engine, [crm], now=NOON + 45 * SECOND) == Delivered(1, 0, 0, 0)
    assert sent(receiver) == ["evt_1", "evt_1"]


def test_events_of_one_install_arrive_in_order_and_one_at_a_time(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url, max_in_flight=4)
    events = [event(number, f"ins_{number % 3}") for number in range(1, 31)]
    due(engine, [crm], *events)
    replies = iter([replying(503)] + [replying(204)] * 40)
    receiver.reply = lambda handler, received: next(replies)(handler, received)
    time = Time()
    send(engine, [crm], wait_s=60, time=time)
    delivered = list(dict.fromkeys(sent(receiver)))
    for install in range(3):
        mine = [each.event_id for each in events if each.install_id == f"ins_{install}"]
        assert [event_id for event_id in delivered if event_id in mine] == mine
    assert len(sent(receiver)) == 31


def test_an_endpoint_that_does_not_answer_does_not_delay_the_others(engine, open_receiver):
    silent, healthy = open_receiver(), open_receiver()
    silent.reply = silent.hang

    def reply(handler, received):
        replying(204)(handler, received)
        if len(healthy.received) == 20:
            silent.released.set()  # only now does the silent one break off

    healthy.reply = reply
    endpoints = [endpoint("silent", silent.url), endpoint("healthy", healthy.url)]
    due(engine, endpoints, *(event(number, f"ins_{number}") for number in range(1, 21)))
    assert send(engine, endpoints).delivered == 20
    faults = {fault for _, fault in rows(engine, "endpoint", "fault", table="attempts")}
    assert "deadline" not in faults


def test_new_work_is_noticed_while_an_endpoint_does_not_answer(engine, open_receiver):
    silent, healthy = open_receiver(), open_receiver()
    silent.reply = silent.hang
    endpoints = [endpoint("silent", silent.url), endpoint("healthy", healthy.url)]

    def reply(handler, received):
        replying(204)(handler, received)
        if len(healthy.received) == 3:
            silent.released.set()  # only now does the silent one break off
        else:
            number = len(healthy.received) + 1
            log = Log(STORE, number, [event(number, f"ins_{number}")])
            relay.relay(engine, endpoints, log, NOON)

    healthy.reply = reply
    due(engine, endpoints, event(1))
    assert send(engine, endpoints).delivered == 3
    faults = {fault for _, fault in rows(engine, "endpoint", "fault", table="attempts")}
    assert "deadline" not in faults


def test_the_worker_sends_while_the_store_is_busy(tmp_path, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url)
    source = {"name": "voice", "dialect": "aeontel", "base_url": "http://127.0.0.1:1", "token": "t"}
    settings = Settings.model_validate(
        {"data_dir": tmp_path, "sources": [source], "endpoints": [crm]}
    )
    engine = connect_state(settings)
    due(engine, [crm], event(1), now=clock.now())
    with warehouse.opened(settings.store_path, NOON):
        deliver_due(settings, threading.Event())
    assert sent(receiver) == ["evt_1"]
    engine.dispose()


def test_never_more_are_in_flight_than_the_endpoint_may_have(engine, open_receiver):
    receiver = open_receiver()
    most = []

    def reply(handler, received):
        states = rows(engine, "event_id", "state")
        most.append(sum(state == "in_flight" for _, state in states))
        replying(204)(handler, received)

    receiver.reply = reply
    crm = endpoint(url=receiver.url, max_in_flight=2)
    due(engine, [crm], *(event(number, f"ins_{number}") for number in range(1, 11)))
    assert send(engine, [crm]).delivered == 10
    assert max(most) == 2


def test_no_more_than_so_many_are_sent_in_a_minute(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url, max_per_minute=3)
    due(engine, [crm], *(event(number, f"ins_{number}") for number in range(1, 6)))
    assert send(engine, [crm]) == Delivered(3, 0, 0, 2)
    assert send(engine, [crm], now=NOON + 59 * SECOND).delivered == 0
    assert send(engine, [crm], now=NOON + 60 * SECOND) == Delivered(2, 0, 0, 0)


def test_behind_the_breaker_nothing_is_sent_and_then_one_probe(engine, open_receiver):
    receiver = open_receiver()
    receiver.reply = replying(503)
    crm = endpoint(url=receiver.url, max_in_flight=1)
    due(engine, [crm], *(event(number, f"ins_{number}") for number in range(1, 9)))
    assert send(engine, [crm]).failed == 5
    assert send(engine, [crm], now=NOON + 59 * SECOND).failed == 0
    assert send(engine, [crm], now=NOON + 60 * SECOND).failed == 1
    receiver.reply = replying(204)
    assert send(engine, [crm], now=NOON + 179 * SECOND).delivered == 0
    assert send(engine, [crm], now=NOON + 180 * SECOND).delivered == 8


def test_gone_disables_the_endpoint_pauses_the_rest_and_tells_the_others(engine, open_receiver):
    receiver, watcher = open_receiver(), open_receiver()
    receiver.reply = replying(410)
    crm = endpoint("crm", receiver.url, events=("*",), max_in_flight=1)
    ops = endpoint("ops", watcher.url, events=("endpoint.*",))
    due(engine, [crm, ops], event(1, "ins_1"), event(2, "ins_2"))
    assert send(engine, [crm, ops]) == Delivered(1, 0, 1, 0)
    assert sent(receiver) == ["evt_1"]
    assert rows(engine, "event_id", "state", "reason")[:2] == [
        ("evt_1", "dead", "gone"),
        ("evt_2", "paused", "gone"),
    ]
    (told,) = watcher.received
    assert told.headers["stocktake-event-type"] == "endpoint.disabled"
    assert b'"endpoint":"crm","reason":"gone"' in told.body


def in_four_flights(engine, open_receiver, meanwhile=lambda: None, halted=lambda: True):
    """The states of an endpoint's deliveries after `meanwhile` happens with four in flight: one
    is answered with gone, and once it is `halted` the others: busy, taken and too slow."""
    receiver = open_receiver()
    crm = endpoint(url=receiver.url, events=("*",))
    due(engine, [crm], *(event(number, f"ins_{number}") for number in range(1, 7)))
    together = threading.Barrier(4, action=meanwhile)
    statuses = {"evt_1": 410, "evt_2": 503, "evt_3": 204, "evt_4": 408}

    def reply(handler, received):
        together.wait(HANG_S)
        id = received.headers["webhook-id"]
        while id != "evt_1" and not halted():
            assert not receiver.released.wait(0.005)
        replying(statuses[id])(handler, received)

    receiver.reply = reply
    send(engine, [crm])
    assert sorted(sent(receiver)) == list(statuses)
    return rows(engine, "event_id", "state", "attempts")


HALTED = [
    ("evt_1", "dead", 1),
    ("evt_2", "paused", 1),
    ("evt_3", "delivered", 1),
    ("evt_4", "paused", 1),
    ("evt_5", "paused", 0),
    ("evt_6", "paused", 0),
]


def test_what_is_in_flight_when_an_endpoint_is_gone_ends_by_itself(engine, open_receiver):
    def gone():
        return rows(engine, "disabled_reason", table="endpoints") == [("gone",)]

    assert in_four_flights(engine, open_receiver, halted=gone) == HALTED
    assert gone()


def test_an_endpoint_paused_while_four_are_in_flight_keeps_what_came_of_them(engine, open_receiver):
    def pause():
        with transaction(engine) as session:
            deliveries.save_health(session, "crm", Health(paused=True))
            deliveries.pause_pending(session, "crm", "paused")

    assert in_four_flights(engine, open_receiver, pause) == HALTED


def test_an_endpoint_removed_while_four_are_in_flight_leaves_nothing_open(engine, open_receiver):
    states = in_four_flights(
        engine, open_receiver, lambda: relay.register(engine, [], STORE, 0, NOON)
    )
    assert [state for _, state, _ in states] == ["dead"] * 6


def test_a_blocked_address_ends_the_delivery_and_flags_the_endpoint(engine, open_receiver):
    receiver = open_receiver()
    crm = endpoint(url=receiver.url, allow_private_networks=False)
    due(engine, [crm], event(1))
    assert send(engine, [crm]) == Delivered(0, 0, 1, 0)
    assert rows(engine, "state", "reason") == [("dead", "blocked")]
    assert rows(engine, "name", "flag", table="endpoints") == [("crm", "blocked")]
    assert receiver.received == []


def test_an_endpoint_removed_while_it_is_sent_to_is_let_go(engine, open_receiver):
    receiver = open_receiver()

    def reply(handler, received):
        relay.register(engine, [], STORE, 0, NOON)
        replying(204)(handler, received)

    receiver.reply = reply
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    assert send(engine, [crm]) == Delivered(0, 0, 0, 0)
    assert rows(engine, "state", "reason") == [("dead", "endpoint_removed")]


def test_no_transaction_is_open_while_a_request_is_under_way(engine, open_receiver):
    receiver = open_receiver()

    def reply(handler, received):
        with transaction(engine) as session:  # would wait for an open one
            deliveries.advance(session, ["crm"], 99)
        replying(204)(handler, received)

    receiver.reply = reply
    crm = endpoint(url=receiver.url)
    due(engine, [crm], event(1))
    deadline = partial(Sender, deadline_s=5.0)
    assert send(engine, [crm], make_sender=deadline).delivered == 1


def test_neither_log_nor_state_quotes_the_path_of_an_endpoint(engine, open_receiver, caplog):
    receiver = open_receiver()
    receiver.reply = replying(500)
    chat = endpoint("chat", receiver.url + "/T0/hush", format="slack", secrets=())
    due(engine, [chat], event(1))
    with caplog.at_level("DEBUG"):
        send(engine, [chat])
    assert receiver.received[0].path.endswith("/T0/hush")
    ((error,),) = rows(engine, "last_error")
    assert error == f"{receiver.url.removesuffix('/hook')} answered 500"
    assert "hush" not in caplog.text
