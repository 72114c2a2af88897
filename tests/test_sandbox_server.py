"""The HTTP shell carries calls and answers over a socket and leaves nothing behind."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest

from worker.sandbox.aeontel_world import TOKEN, AeontelWorld
from worker.sandbox.calls import Call
from worker.sandbox.faults import Fault
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.logins import EMAIL, PASSWORD
from worker.sandbox.receiver import Receiver
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.server import Sandbox, serve

BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def farm() -> GestalWorld:
    return gestal_world(installs=30)


@pytest.fixture
def voice() -> AeontelWorld:
    return aeontel_world(installs=30)


@pytest.fixture
def sandbox(farm: GestalWorld, voice: AeontelWorld) -> Iterator[Sandbox]:
    with serve(farm, voice, Receiver()) as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as open_client:
        yield open_client


def logged_in(sandbox: Sandbox, client: httpx.Client) -> dict[str, str]:
    token = client.post(f"{sandbox.at('gestal')}/auth", auth=(EMAIL, PASSWORD)).json()["token"]
    return {"authorization": f"Bearer {token}"}


def test_both_platforms_and_the_receiver_share_one_port(
    sandbox: Sandbox, farm: GestalWorld, voice: AeontelWorld, client: httpx.Client
) -> None:
    headers = logged_in(sandbox, client)
    listed = client.get(f"{sandbox.at('gestal')}/integrations", headers=headers).json()
    installs = client.get(f"{sandbox.at('aeontel')}/api/integration-installs", headers=BEARER)
    assert listed["data"] == farm.listed()["integrations"]
    assert installs.json()["data"] == voice.listed()["installs"]
    assert client.post(f"{sandbox.at('hooks')}/crm", content=b"{}").status_code == 204
    assert client.get(f"{sandbox.url}/elsewhere").status_code == 404


def test_parameters_and_bodies_arrive_decoded(sandbox: Sandbox, client: httpx.Client) -> None:
    headers = logged_in(sandbox, client)
    created = client.post(
        f"{sandbox.at('gestal')}/integrations",
        json={"name": "Søren & Fils", "url": "https://acme.example"},
        headers=headers,
    )
    assert created.status_code == 201
    assert created.json()["name"] == "Søren & Fils"
    expression = json.dumps({"integration": {"name": {"contains": "é & ü"}}})
    client.get(
        f"{sandbox.at('aeontel')}/api/integration-installs",
        params={"filter": expression},
        headers=BEARER,
    )
    assert sandbox.requests["aeontel"] == [
        ("GET", f"/api/integration-installs?filter={expression}")
    ]


def test_every_method_is_carried_and_204_has_no_body(
    sandbox: Sandbox, farm: GestalWorld, client: httpx.Client
) -> None:
    headers = logged_in(sandbox, client)
    path = f"{sandbox.at('gestal')}/integrations/{next(iter(farm.integrations))}"
    assert client.patch(path, json={"name": "New"}, headers=headers).json()["name"] == "New"
    deleted = client.delete(path, headers=headers)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert "content-length" not in deleted.headers
    assert client.get(path, headers=headers).status_code == 404


def test_a_connection_is_kept_alive_across_answers(sandbox: Sandbox, client: httpx.Client) -> None:
    before = threading.active_count()
    for _ in range(5):
        client.get(f"{sandbox.at('aeontel')}/api/integrations", headers=BEARER)
    assert threading.active_count() == before + 1


def test_a_reset_and_a_cut_body_fail_as_on_a_bad_line(
    sandbox: Sandbox, voice: AeontelWorld, client: httpx.Client
) -> None:
    url = f"{sandbox.at('aeontel')}/api/integration-installs"
    voice.faults.add(Fault("reset"), Fault("truncated"))
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(url, headers=BEARER)
    assert client.get(url, headers=BEARER).status_code == 200


def test_many_clients_at_once_get_whole_answers(
    sandbox: Sandbox, voice: AeontelWorld, client: httpx.Client
) -> None:
    url = f"{sandbox.at('aeontel')}/api/integration-installs"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get(url, headers=BEARER).json(), range(40)))
    assert all(answer["data"] == voice.listed()["installs"] for answer in answers)
    assert len(sandbox.requests["aeontel"]) == 40


def test_the_clock_is_the_callers(farm: GestalWorld, client: httpx.Client) -> None:
    moments = iter([datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 3, tzinfo=UTC)])
    with serve(farm, now=moments.__next__) as running:
        headers = logged_in(running, client)
        assert client.get(f"{running.at('gestal')}/ping", headers=headers).status_code == 401


def test_nothing_is_left_when_it_closes(voice: AeontelWorld) -> None:
    before = set(threading.enumerate())
    with serve(aeontel_world=voice) as running, httpx.Client() as client:
        url = running.url
        client.get(f"{running.at('aeontel')}/api/integrations", headers=BEARER)
        assert len(set(threading.enumerate()) - before) == 2  # one accepts, one answers
    assert set(threading.enumerate()) == before
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_it_closes_although_clients_keep_connections_open(voice: AeontelWorld) -> None:
    before = set(threading.enumerate())
    with httpx.Client() as client:
        with serve(aeontel_world=voice) as running:
            client.get(f"{running.at('aeontel')}/api/integrations", headers=BEARER)
        assert set(threading.enumerate()) == before


# The controls


def test_a_world_can_be_moved_from_a_terminal(
    sandbox: Sandbox, farm: GestalWorld, client: httpx.Client
) -> None:
    before = farm.listed()
    answer = client.post(f"{sandbox.url}/control/mutate?n=10&dialect=gestal")
    done = answer.json()["done"]
    assert len(done) == 10
    assert {change["kind"] for change in done} <= set(GestalWorld.kinds)
    assert farm.listed() != before


def test_the_kind_of_change_can_be_chosen(
    sandbox: Sandbox, voice: AeontelWorld, client: httpx.Client
) -> None:
    url = f"{sandbox.url}/control/mutate"
    answer = client.post(url, params={"dialect": "aeontel", "kinds": "uninstall", "n": 2})
    gone = [change["id"] for change in answer.json()["done"]]
    assert len(gone) == 2
    assert not set(gone) & voice.live()


def test_a_fault_can_be_planned_from_a_terminal(
    sandbox: Sandbox, voice: AeontelWorld, client: httpx.Client
) -> None:
    fault = {"kind": "server_error", "status": 502, "times": 2}
    answer = client.post(f"{sandbox.url}/control/fault?dialect=aeontel", json=fault)
    assert answer.json()["planned"][0]["kind"] == "server_error"
    assert voice.faults.planned == [Fault("server_error", status=502, times=2)]


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("mutate", b""),
        ("mutate?dialect=github", b""),
        ("mutate?dialect=gestal&n=many", b""),
        ("mutate?dialect=gestal&kinds=purge", b""),
        ("fault?dialect=gestal", b"{"),
        ("fault?dialect=gestal", b'{"kind": "gremlins"}'),
    ],
)
def test_a_control_that_cannot_be_understood_is_refused(
    sandbox: Sandbox, client: httpx.Client, target: str, body: bytes
) -> None:
    answer = client.post(f"{sandbox.url}/control/{target}", content=body)
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_the_dialect_goes_without_saying_where_there_is_one(
    farm: GestalWorld, client: httpx.Client
) -> None:
    with serve(farm) as running:
        done = client.post(f"{running.url}/control/mutate").json()["done"]
    assert len(done) == 1


def test_requests_are_counted_per_path(sandbox: Sandbox, client: httpx.Client) -> None:
    url = f"{sandbox.at('aeontel')}/api/integrations"
    for number in range(3):
        client.get(url, params={"limit": number + 1}, headers=BEARER)
    client.post(f"{sandbox.at('hooks')}/crm")
    assert client.get(f"{sandbox.url}/control/requests").json() == {
        "gestal": {},
        "aeontel": {"GET /api/integrations": 3},
        "hooks": {"POST /crm": 1},
    }


def test_a_target_is_readable() -> None:
    assert Call("GET", "/a", (("q", "ä b"), ("n", "1"))).target == "/a?q=ä b&n=1"
    assert Call("GET", "/a").target == "/a"
