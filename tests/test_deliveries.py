"""Deliveries in the state store, on a real database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from receivers import NOON, STORE
from sqlalchemy import event, text
from statestores import HANG_S

from worker.outbound import Answer, Attempt, Draft, Health, Settled
from worker.state import deliveries, processes
from worker.state.database import connect, transaction
from worker.state.delivery_tables import Notice

SECOND = timedelta(seconds=1)


@pytest.fixture
def engine(state_url):
    engine = connect(state_url)
    with transaction(engine) as session:
        deliveries.register(session, ["crm", "erp"], STORE, 0, NOON)
    yield engine
    engine.dispose()


def draft(event_id="evt_1", endpoint="crm", lane=None):
    return Draft(
        event_id=event_id,
        endpoint=endpoint,
        type="install.updated",
        source="voice",
        body=b"{}",
        lane=lane,
    )


def add(engine, *drafts, now=NOON):
    with transaction(engine) as session:
        healths = deliveries.healths(session, ["crm", "erp"])
        return deliveries.add(session, drafts, healths, now)


def claim(engine, limit=10, now=NOON, endpoint="crm"):
    with transaction(engine) as session:
        return deliveries.claim(session, endpoint, limit, now)


def finish(engine, claim, settled, now=NOON, answer=Answer(200)):  # noqa: B008 - frozen
    with transaction(engine) as session:
        attempt = Attempt(claim, answer, started_at=now, seconds=0.25)
        deliveries.finish(session, [(attempt, settled)], now)


def ids(claims):
    return [claim.event_id for claim in claims]


def rows(engine, table="deliveries"):
    with engine.connect() as connection:
        found = connection.execute(text(f"select * from {table} order by 1"))  # noqa: S608
        return [dict(row) for row in found.mappings()]


DONE = Settled("delivered", 1)
AGAIN = Settled("pending", 1, None, NOON + 5 * SECOND)
DEAD = Settled("dead", 1, "exhausted")


def test_an_event_is_delivered_once_to_each_endpoint(engine):
    assert add(engine, draft(), draft(endpoint="erp")) == 2
    assert add(engine, draft(), draft("evt_2")) == 1
    assert len(rows(engine)) == 3
    assert len({row["delivery_id"] for row in rows(engine)}) == 3


def test_what_is_claimed_carries_everything_that_is_sent(engine):
    add(engine, draft())
    (claimed,) = claim(engine)
    assert (claimed.event_id, claimed.endpoint, claimed.type) == ("evt_1", "crm", "install.updated")
    assert (claimed.attempts, claimed.first_attempt_at, claimed.body) == (0, NOON, b"{}")
    assert rows(engine)[0]["state"] == "in_flight"


def test_no_more_is_claimed_than_asked_for_and_nothing_twice(engine):
    add(engine, *(draft(f"evt_{number}") for number in range(5)))
    assert ids(claim(engine, limit=2)) == ["evt_0", "evt_1"]
    assert ids(claim(engine, limit=2)) == ["evt_2", "evt_3"]
    assert ids(claim(engine, limit=2)) == ["evt_4"]


def test_claims_of_one_endpoint_leave_the_others_alone(engine):
    add(engine, draft(), draft(endpoint="erp"))
    assert len(claim(engine)) == 1
    assert len(claim(engine, endpoint="erp")) == 1


def test_a_delivery_is_not_claimed_before_its_time(engine):
    add(engine, draft())
    finish(engine, claim(engine)[0], AGAIN)
    assert claim(engine, now=NOON + 4 * SECOND) == []
    (again,) = claim(engine, now=NOON + 5 * SECOND)
    assert (again.attempts, again.first_attempt_at) == (1, NOON)


def test_what_is_longest_due_is_claimed_first(engine):
    add(engine, draft("evt_1"), now=NOON + SECOND)
    add(engine, draft("evt_2"), now=NOON)
    assert ids(claim(engine, limit=1, now=NOON + SECOND)) == ["evt_2"]


def test_after_a_crash_a_delivery_is_claimed_again_when_its_lease_ends(engine):
    add(engine, draft())
    claim(engine)
    assert claim(engine, now=NOON + deliveries.LEASE - SECOND) == []
    (again,) = claim(engine, now=NOON + deliveries.LEASE)
    assert again.event_id == "evt_1"


def test_who_lost_the_lease_changes_nothing(engine):
    add(engine, draft())
    (lost,) = claim(engine)
    (holder,) = claim(engine, now=NOON + deliveries.LEASE)
    finish(engine, lost, DEAD)
    assert rows(engine)[0]["state"] == "in_flight"
    finish(engine, holder, DONE)
    assert rows(engine)[0]["state"] == "delivered"
    assert len(rows(engine, "attempts")) == 2


@pytest.mark.parametrize(
    ("settled", "claimable"),
    [(DONE, ["evt_2"]), (DEAD, ["evt_2"]), (AGAIN, [])],
)
def test_a_later_event_of_an_install_waits_until_the_earlier_one_has_ended(
    engine, settled, claimable
):
    add(engine, draft("evt_1", lane="voice/install/1"), draft("evt_2", lane="voice/install/1"))
    (first,) = claim(engine)
    assert claim(engine) == []
    finish(engine, first, settled)
    assert ids(claim(engine)) == claimable


def test_other_installs_other_endpoints_and_notices_do_not_wait(engine):
    add(engine, draft("evt_1", lane="voice/install/1"))
    claim(engine)
    add(engine, draft("evt_2", lane="voice/install/2"), draft("ntc_1"), draft("ntc_2"))
    add(engine, draft("evt_1", "erp", lane="voice/install/1"))
    assert ids(claim(engine)) == ["evt_2", "ntc_1", "ntc_2"]
    assert ids(claim(engine, endpoint="erp")) == ["evt_1"]


def test_a_finished_delivery_shows_what_came_of_it(engine):
    add(engine, draft())
    (claimed,) = claim(engine)
    finish(engine, claimed, AGAIN, answer=Answer(503, None, "busy", None, b"later"))
    (row,) = rows(engine)
    assert (row["state"], row["attempts"], row["last_status"], row["last_error"]) == (
        *("pending", 1, 503, "busy"),
    )
    finish(engine, *claim(engine, now=NOON + 5 * SECOND), Settled("delivered", 2))
    (row,) = rows(engine)
    assert (row["state"], row["attempts"], row["last_status"], row["last_error"]) == (
        *("delivered", 2, 200, None),
    )
    assert row["delivered_at"] is not None
    assert row["next_at"] is None
    first, second = rows(engine, "attempts")
    assert (first["status"], first["error"], first["answer"]) == (503, "busy", b"later")
    assert (second["status"], second["seconds"]) == (200, 0.25)


def test_in_flight_counts_live_leases_only(engine, monkeypatch):
    add(engine, draft("evt_1"), draft("evt_2"))
    finish(engine, claim(engine, limit=1)[0], AGAIN)
    claim(engine, limit=1)
    with transaction(engine) as session:
        assert deliveries.in_flight(session, NOON) == {"crm": 1}
        later = processes.monotonic() + deliveries.LEASE.total_seconds()
        monkeypatch.setattr(processes, "monotonic", lambda: later)
        assert deliveries.in_flight(session, NOON + deliveries.LEASE) == {}


def test_attempts_are_counted_since_a_moment(engine):
    add(engine, draft())
    finish(engine, claim(engine)[0], DONE)
    with transaction(engine) as session:
        assert deliveries.attempts_since(session, "crm", NOON - SECOND) == 1
        assert deliveries.attempts_since(session, "crm", NOON) == 0
        assert deliveries.attempts_since(session, "erp", NOON - SECOND) == 0


def test_pausing_halts_what_waits_and_not_what_is_in_flight(engine):
    add(engine, draft("evt_1"), draft("evt_2"), draft("evt_2", "erp"))
    claim(engine, limit=1)
    with transaction(engine) as session:
        deliveries.pause_pending(session, "crm", "gone")
        assert deliveries.open_deliveries(session, ["crm"]) == 1
    states = [(row["endpoint"], row["state"], row["reason"]) for row in rows(engine)]
    assert states == [
        ("crm", "in_flight", None),
        ("crm", "paused", "gone"),
        ("erp", "pending", None),
    ]


def test_deliveries_made_for_a_halted_endpoint_are_paused(engine):
    with transaction(engine) as session:
        deliveries.save_health(session, "crm", Health(paused=True))
    add(engine, draft(), draft(endpoint="erp"))
    assert [row["state"] for row in rows(engine)] == ["paused", "pending"]
    assert claim(engine) == []


def test_health_is_kept_as_it_was_saved(engine):
    health = Health(3, NOON, 4, NOON - SECOND, NOON - 9 * SECOND, "tls", "failing", True)
    with transaction(engine) as session:
        deliveries.save_health(session, "crm", health)
    with transaction(engine) as session:
        assert deliveries.healths(session, ["crm", "erp"]) == {"crm": health, "erp": Health()}


def test_a_notice_is_recorded_once(engine):
    with transaction(engine) as session:
        facts = ("sync.held", "voice", {"installs": 12}, NOON)
        assert deliveries.add_notice(session, "ntc_1", *facts)
        assert not deliveries.add_notice(session, "ntc_1", *facts)
        assert session.get_one(Notice, "ntc_1").data == {"installs": 12}
    assert len(rows(engine, "notices")) == 1


def test_registering_again_moves_no_cursor(engine):
    with transaction(engine) as session:
        deliveries.advance(session, ["crm"], 7)
        deliveries.register(session, ["crm", "erp", "new"], "st_2", 9, NOON)
        assert deliveries.cursors(session, ["crm", "erp", "new"]) == {
            "crm": deliveries.Cursor(STORE, 7),
            "erp": deliveries.Cursor(STORE, 0),
            "new": deliveries.Cursor("st_2", 9),
        }


def test_a_cursor_never_moves_back(engine):
    with transaction(engine) as session:
        deliveries.advance(session, ["crm"], 7)
        deliveries.advance(session, ["crm"], 5)
        assert deliveries.cursors(session, ["crm"])["crm"].sequence == 7


def test_what_was_open_for_a_removed_endpoint_is_dead(engine):
    add(engine, draft("evt_1"), draft("evt_2"), draft("evt_3"), draft("evt_3", "erp"))
    done, lost = claim(engine, limit=2)
    finish(engine, done, DONE)
    with transaction(engine) as session:
        deliveries.register(session, ["erp"], STORE, 9, NOON)
        assert deliveries.cursors(session, ["crm"]) == {}
    finish(engine, lost, AGAIN)
    states = [(row["event_id"], row["state"], row["reason"]) for row in rows(engine)]
    assert states == [
        ("evt_1", "delivered", None),
        ("evt_2", "dead", "endpoint_removed"),
        ("evt_3", "dead", "endpoint_removed"),
        ("evt_3", "pending", None),
    ]


def test_without_any_endpoint_everything_open_is_dead(engine):
    add(engine, draft())
    with transaction(engine) as session:
        deliveries.register(session, [], STORE, 0, NOON)
    assert rows(engine)[0]["state"] == "dead"


def test_counting_deliveries_reads_none_of_them(tmp_path):
    engine = connect(f"sqlite:///{tmp_path}/state.db")
    asked = []
    event.listen(engine, "before_cursor_execute", lambda *about: asked.append(about[2:4]))
    with transaction(engine) as session:
        deliveries.counts(session, ["crm", "erp"])
    query, values = asked[-1]
    with engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"explain query plan {query}", values)]
    engine.dispose()
    assert plan == ["SEARCH deliveries USING COVERING INDEX ix_deliveries_state (endpoint=?)"]


def test_finding_due_work_reads_no_finished_deliveries(engine):
    explain = "explain query plan" if engine.dialect.name == "sqlite" else "explain"
    with engine.connect() as connection:
        if explain == "explain":
            connection.execute(text("set enable_seqscan = off"))  # there is not a row to read
        plan = connection.execute(
            text(
                f"{explain} select position from deliveries where endpoint = 'crm' and"  # noqa: S608
                " next_at <= '2026-01-01' order by next_at, position limit 4"
            )
        )
        assert "ix_deliveries_due" in str(plan.all())


def test_two_who_claim_at_once_share_what_is_due_and_keep_its_order(engine):
    """Each of the installs has three events: whoever takes the first, nobody takes the next."""
    lanes = [f"voice/install/{number}" for number in range(12)]
    events = [draft(f"evt_{n}_{lane}", lane=lane) for n in range(3) for lane in lanes]
    add(engine, *events)
    claims = []
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            start = Barrier(4, timeout=HANG_S)

            def work(start=start):
                start.wait()
                return [found for _ in range(4) for found in claim(engine, limit=2)]

            taken = [
                each for done in [pool.submit(work) for _ in range(4)] for each in done.result()
            ]
            taken += claim(engine, limit=99)  # what nobody took who met another at it
            assert sorted(lane_of(each) for each in taken) == sorted(lanes)
            claims += taken
            for each in taken:
                finish(engine, each, DONE)
    assert len(set(ids(claims))) == len(events)
    for lane in lanes:
        mine = [each.event_id for each in claims if lane_of(each) == lane]
        assert mine == [f"evt_{n}_{lane}" for n in range(3)]


def lane_of(claim):
    return claim.event_id.split("_", 2)[2]


@pytest.mark.slow
def test_what_another_claims_at_this_moment_is_not_waited_for(postgres):
    with postgres.engine() as engine:
        with transaction(engine) as session:
            deliveries.register(session, ["crm"], STORE, 0, NOON)
        add(engine, draft("evt_1", lane="a"), draft("evt_2", lane="a"), draft("evt_3", lane="b"))
        with transaction(engine) as session:
            first = deliveries.claim(session, "crm", 1, NOON)
            assert ids(first) == ["evt_1"]
            assert ids(claim(engine)) == ["evt_3"]
        assert claim(engine) == []
