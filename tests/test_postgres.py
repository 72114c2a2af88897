"""PostgreSQL as the state store: what one writer at a time would hide, and servers that fail."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest
from examples import NOON, OF_A, walk
from outposts import LOGIN
from platforms import Unhurried, stocktaking
from receivers import STORE, endpoint, event
from sqlalchemy import Engine, text
from statestores import HANG_S, Server, serving, stop

from worker import clock, outcomes, relay
from worker.backlog import deliver_now
from worker.errors import ConfigInvalid, StocktakeError, StoreBusy, StoreDown, StoreUnusable
from worker.findings import Plan, Proposal
from worker.relay import Log
from worker.sandbox.receiver import Receiver
from worker.sandbox.seeding import gestal_world
from worker.settings import Source
from worker.state import connect, deliveries, holds, leases, runs, sources, transaction

AT_ONCE = 6
FARM = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})


@pytest.fixture
def engine(state_url: str) -> Iterator[Engine]:
    opened = connect(state_url)
    yield opened
    opened.dispose()


def at_once(work: Callable[[int], object], times: int = AT_ONCE) -> list[object]:
    """What comes of it when several threads begin `work` at the same moment."""
    start = Barrier(times, timeout=HANG_S)

    def begin(number: int) -> object:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(begin, range(times)))


def counted(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        query = f"select count(*) from {table}"  # noqa: S608
        return int(connection.execute(text(query)).scalar_one())


# --- several at once --------------------------------------------------------------------------


def test_a_store_is_made_once_by_many_who_come_first(state_url: str) -> None:
    def begin(_: int) -> None:
        connect(state_url).dispose()

    at_once(begin)
    engine = connect(state_url)
    assert counted(engine, "schema_version") == 1
    engine.dispose()


def test_a_source_is_made_once_by_many_who_ask_for_it(engine: Engine) -> None:
    for round in range(5):
        source = FARM.model_copy(update={"name": f"farm_{round}"})
        found = at_once(lambda _, source=source: sources.known(engine, source).source)
        assert found == [source.name] * AT_ONCE
    assert counted(engine, "sources") == 5


def test_no_change_of_a_source_is_lost(engine: Engine) -> None:
    at_once(lambda n: sources.limit(engine, FARM, NOON + timedelta(minutes=n)))
    known = sources.known(engine, FARM)
    assert known.strikes == AT_ONCE
    assert known.rate_limited_until == NOON + timedelta(minutes=AT_ONCE - 1)


def test_a_lease_has_one_holder_and_its_fences_never_repeat(engine: Engine) -> None:
    holding = Barrier(AT_ONCE, timeout=HANG_S)  # one that fails keeps the others from going on

    def hold(_: int) -> int:
        try:
            with leases.lease(engine, "sync farm") as fence:
                holding.wait()
                return fence
        except StoreBusy:
            holding.wait()
            return 0

    for round in range(1, 4):
        assert sorted(map(int, map(str, at_once(hold)))) == [0] * (AT_ONCE - 1) + [round]


def test_a_notice_is_said_once_whoever_says_it(engine: Engine) -> None:
    crm = endpoint(events=("sync.*",))
    relay.register(engine, [crm], STORE, 0, NOON)
    said = at_once(lambda _: relay.announce(engine, [crm], "ntc_1", "sync.held", None, {}, NOON))
    assert sorted(map(bool, said)) == [False] * (AT_ONCE - 1) + [True]
    assert counted(engine, "deliveries") == 1


def test_endpoints_are_registered_once_and_removed_while_others_relay(engine: Engine) -> None:
    both = [endpoint("crm"), endpoint("erp")]
    at_once(lambda _: relay.register(engine, both, STORE, 0, NOON))
    assert counted(engine, "endpoints") == 2
    events = [event(number, f"ins_{number}") for number in range(1, 40)]

    def work(number: int) -> None:
        if number == 0:
            relay.register(engine, both[:1], STORE, 0, NOON)
        elif number % 2:
            relay.relay(engine, both, Log(STORE, len(events), events), NOON)
        else:
            with transaction(engine) as session:
                deliveries.healths(session, ["crm", "erp"])
                deliveries.claim(session, "erp", 5, NOON)

    at_once(work)
    with transaction(engine) as session:
        assert deliveries.cursors(session, ["crm", "erp"]).keys() == {"crm"}
        assert deliveries.counts(session, ["crm"]) == {"crm": {"pending": len(events)}}
        assert deliveries.open_deliveries(session, ["erp"]) == 0


def test_a_run_is_kept_as_it_ended_last(engine: Engine) -> None:
    run = outcomes.run_of("farm", walk(OF_A), None, Plan(), {}, NOON, NOON)
    at_once(lambda _: runs.record(engine, [run]))
    assert counted(engine, "runs") == 1
    kept = runs.named(engine, run.run_id)
    at_once(lambda n: runs.record(engine, [replace(run, requests=n)]))
    again = runs.named(engine, run.run_id)
    assert (kept.evidence, kept.started_at) == (again.evidence, NOON)
    assert again.requests in range(AT_ONCE)


def test_of_two_decisions_about_a_hold_the_first_counts(engine: Engine) -> None:
    with transaction(engine) as session:
        (hold,) = holds.open_in(session, "farm", [Proposal(OF_A, "why", ("a",), 0.5)], NOON)

    def decide(number: int) -> str:
        try:
            holds.decide(engine, hold.hold_id, f"decision {number}", NOON)
        except ConfigInvalid:
            return ""
        return f"decision {number}"

    (told,) = filter(None, at_once(decide))
    assert [each.status for each in holds.every(engine)] == [told]


# --- a server of its own ----------------------------------------------------------------------


@pytest.mark.slow
def test_times_are_utc_whatever_the_zone_of_the_server(postgres: Server) -> None:
    with postgres.engine() as engine, transaction(engine) as session:
        session.connection().exec_driver_sql("set time zone 'Asia/Kolkata'")
        deliveries.register(session, ["crm"], STORE, 0, NOON)
        deliveries.save_health(session, "crm", deliveries.Health(breaker_until=NOON))
        until = deliveries.healths(session, ["crm"])["crm"].breaker_until
    assert until is not None
    assert (until, until.utcoffset()) == (NOON, timedelta())


@pytest.mark.slow
def test_the_plain_scheme_means_the_same_driver(postgres: Server) -> None:
    with postgres.store() as url:
        engine = connect(url.replace("postgresql+psycopg://", "postgresql://"))
        assert counted(engine, "deliveries") == 0
        engine.dispose()


@pytest.mark.slow
def test_a_wrong_password_is_refused_without_being_told(postgres: Server) -> None:
    with closing(postgres.connect()) as owner:
        owner.execute("create role picky login password 'sesame'")
    refused(postgres.url("picky:open-barley"), "password authentication failed")
    refused(postgres.url("picky"), "no password supplied")
    refused(postgres.url("picky", password="open-barley"), "password authentication failed")
    refused(postgres.url("nobody:open-barley"), "does not exist")


def refused(url: str, reason: str, error: type[StocktakeError] = StoreUnusable) -> None:
    with pytest.raises(error, match=reason) as caught:
        connect(url)
    assert caught.value.exit_code == (75 if error is StoreDown else 1)
    assert "barley" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://me:open-barley@127.0.0.1:1/x", "Connection refused"),
        ("postgresql+psycopg://me:open-barley@/x?host=/nowhere", "No such file"),
    ],
)
def test_a_server_that_is_down_is_a_matter_of_time(url: str, reason: str) -> None:
    refused(url, reason, StoreDown)


@pytest.mark.parametrize(
    "url", ["postgresql+nodriver://me:open-barley@h/x", "postgresql://me:open-barley@[::1/x"]
)
def test_an_address_that_is_none_is_a_mistake_and_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="expected sqlite:///FILE or postgresql") as caught:
        connect(url)
    assert "barley" not in str(caught.value)


@pytest.mark.slow
def test_a_server_that_was_restarted_costs_nothing(postgres: Server) -> None:
    with postgres.engine() as engine:
        with transaction(engine) as session:
            pid = session.connection().exec_driver_sql("select pg_backend_pid()").scalar_one()
        with closing(postgres.connect()) as owner:
            owner.execute("select pg_terminate_backend(%s)", [pid])
        with transaction(engine) as session:
            again = session.connection().exec_driver_sql("select pg_backend_pid()").scalar_one()
        assert again != pid


@pytest.mark.slow
def test_a_server_that_dies_amid_a_transaction_is_one_clear_message() -> None:
    with serving() as server:
        engine = connect(server.url())

        def register_and_stop() -> None:
            with transaction(engine) as session:
                deliveries.register(session, ["crm"], STORE, 0, NOON)
                stop(server.process)

        with pytest.raises(StoreDown, match="does not answer") as caught:
            register_and_stop()
        assert len(str(caught.value).splitlines()) == 1
        with pytest.raises(StoreDown), transaction(engine) as session:
            deliveries.healths(session, ["crm"])
        engine.dispose()


@pytest.mark.slow
def test_the_whole_way_from_a_platform_to_a_receiver(postgres: Server, tmp_path: Path) -> None:
    receiver = Receiver("whsec_" + "a" * 43 + "=")
    with (
        postgres.store() as url,
        stocktaking(
            tmp_path,
            gestal_world(installs=30, seed=3, now=clock.now()),
            receiver=receiver,
            state_url=url,
            endpoints=lambda sandbox: [endpoint(url=sandbox.at("hooks"), events=("*",))],
        ) as farm,
    ):
        farm.sync()
        farm.change(10)
        farm.sync()
        done = deliver_now(farm.settings, farm.engine, Unhurried(), wait_s=60)
        told = [event for event in farm.events() if not event["baseline"]]
        assert told
        assert (done.delivered, done.pending, done.dead) == (len(told) + 1, 0, 0)
        assert all(each.verified for each in receiver.received)
