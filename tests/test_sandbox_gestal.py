"""The stand-in of Gestal behaves as its documents say."""

import json
from base64 import b64encode
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from worker.sandbox.calls import Answer, Call
from worker.sandbox.faults import Fault
from worker.sandbox.gestal import handle
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.logins import EMAIL, PASSWORD
from worker.sandbox.seeding import gestal_world
from worker.sandbox.world import START, Change, Churn, mutate, random_change


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Client:
    """An integrator who is logged in."""

    world: GestalWorld
    authorization: str = ""

    def ask(self, method: str, path: str, body: Any = None, **params: object) -> Answer:
        pairs = tuple((name, str(value)) for name, value in params.items())
        sent = b"" if body is None else json.dumps(body).encode()
        call = Call(method, path, pairs, {"authorization": self.authorization}, sent)
        return handle(self.world, call, self.world.clock.now)

    def get(self, path: str, **params: object) -> Any:
        answer = self.ask("GET", path, **params)
        assert answer.status == 200
        return json.loads(answer.body)

    def log_in(self) -> "Client":
        answer = Client(self.world, basic(EMAIL, PASSWORD)).ask("POST", "/auth")
        self.authorization = f"Bearer {json.loads(answer.body)['token']}"
        return self


@pytest.fixture
def world() -> GestalWorld:
    return gestal_world(integrations=2, installs=25)


@pytest.fixture
def client(world: GestalWorld) -> Client:
    return Client(world).log_in()


def first_integration(world: GestalWorld) -> str:
    return next(iter(world.integrations))


def installs_path(world: GestalWorld) -> str:
    return f"/integrations/{first_integration(world)}/installations"


def ids(page: Any) -> list[str]:
    return [row["cloud_id"] for row in page["data"]]


def walked(client: Client, path: str, per_page: int) -> list[str]:
    seen, number = [], 1
    while number:
        page = client.get(path, page=number, per_page=per_page)
        seen += ids(page)
        number = page["meta"]["next_page"]
    return seen


# Login


def test_the_wrong_password_gives_no_token(world: GestalWorld) -> None:
    assert Client(world, basic(EMAIL, "guess")).ask("POST", "/auth").status == 401
    assert Client(world, "Basic %%%").ask("POST", "/auth").status == 401


def test_nothing_is_answered_without_a_login(world: GestalWorld) -> None:
    assert Client(world).ask("GET", "/integrations").status == 401


def test_the_password_is_no_login_outside_auth(world: GestalWorld) -> None:
    assert Client(world, basic(EMAIL, PASSWORD)).ask("GET", "/integrations").status == 401


def test_a_token_has_three_parts_and_dies_after_its_life(world: GestalWorld) -> None:
    client = Client(world).log_in()
    assert client.authorization.count(".") == 2
    world.clock.advance(world.clock.now + timedelta(days=1) - timedelta(seconds=1))
    assert client.ask("GET", "/ping").status == 200
    world.clock.advance(world.clock.now + timedelta(seconds=1))
    assert client.ask("GET", "/ping").status == 401
    assert client.log_in().ask("GET", "/ping").status == 200


def test_tokens_can_be_expired_at_any_time(world: GestalWorld, client: Client) -> None:
    world.expire_tokens()
    assert client.ask("GET", "/integrations").status == 401


def test_an_access_key_reads_its_own_installation_and_nothing_else(world: GestalWorld) -> None:
    row = world.listed()[f"installs/{first_integration(world)}"][0]
    key = world.create_access_key(row["cloud_id"])
    client = Client(world, basic(key, ""))
    integration = world.integrations[first_integration(world)]
    assert key.startswith("ak_")
    assert client.ask("GET", "/ping").status == 200
    assert client.get("/integration") == {
        "cloud_id": row["cloud_id"],
        "name": integration["name"],
        "url": integration["url"],
        "type": "third_party",
        "signed": False,
        "description": integration["description"],
        "access_key": {"last_active_at": "2026-01-01T00:00:00.000Z"},
        "site": row["site"],
    }
    assert client.ask("GET", "/integrations").status == 403
    world.uninstall(row["cloud_id"])
    assert client.ask("GET", "/integration").status == 401


def test_the_integrator_has_no_current_installation(client: Client) -> None:
    assert client.ask("GET", "/integration").status == 403


# Integrations


def test_integrations_are_listed_newest_created_first(world: GestalWorld, client: Client) -> None:
    key = world.create_integration("Newest")
    world.update_integration(first_integration(world), name="Renamed")
    assert ids(client.get("/integrations")) == [key, *reversed(list(world.integrations)[:2])]


def test_an_integration_can_be_created_read_changed_and_deleted(client: Client) -> None:
    answer = client.ask("POST", "/integrations", {"name": "Acme Plus", "url": "https://acme.com"})
    created = json.loads(answer.body)
    path = f"/integrations/{created['cloud_id']}"
    assert answer.status == 201
    assert list(created) == ["cloud_id", "name", "url", "description", "created_at", "updated_at"]
    assert client.get(path) == created
    changed = json.loads(client.ask("PATCH", path, {"url": "https://acme.com/2"}).body)
    assert changed["name"] == "Acme Plus"
    assert changed["url"] == "https://acme.com/2"
    assert changed["updated_at"] > changed["created_at"]
    assert client.ask("DELETE", path) == Answer(204)
    assert client.ask("GET", path).status == 404
    assert client.ask("DELETE", path).status == 404


@pytest.mark.parametrize("body", [{}, {"name": "x"}, {"url": "x"}, {"name": "", "url": "x"}])
def test_an_integration_needs_a_name_and_a_url(client: Client, body: Any) -> None:
    assert client.ask("POST", "/integrations", body).status == 422


def test_what_is_no_text_is_refused(world: GestalWorld, client: Client) -> None:
    path = f"/integrations/{first_integration(world)}"
    assert client.ask("PATCH", path, {"name": 1}).status == 422
    assert client.ask("PATCH", path, {"name": ""}).status == 422
    assert client.ask("PATCH", path, ["name"]).status == 400


def test_deleting_an_integration_removes_its_installs(world: GestalWorld, client: Client) -> None:
    path = installs_path(world)
    client.ask("DELETE", f"/integrations/{first_integration(world)}")
    assert client.ask("GET", path).status == 404
    assert len(world.live()) == 25


def test_unknown_paths_and_methods_are_404(world: GestalWorld, client: Client) -> None:
    assert client.ask("GET", "/installations").status == 404
    assert client.ask("PUT", "/integrations").status == 404
    assert client.ask("GET", "/integrations/int_unknown").status == 404
    assert client.ask("GET", f"{installs_path(world)}/inst_1").status == 404


# The listing of installs


def test_a_row_has_the_documented_fields_and_no_others(world: GestalWorld, client: Client) -> None:
    row = client.get(installs_path(world))["data"][0]
    assert list(row) == ["cloud_id", "created_at", "tenant", "site"]
    assert list(row["tenant"]) == list(row["site"]) == ["cloud_id", "name"]
    assert row["cloud_id"].startswith("inst_")
    assert len(row["cloud_id"]) == len("inst_") + 32


def test_every_page_says_where_it_stands(world: GestalWorld, client: Client) -> None:
    def meta(number: int) -> Any:
        return client.get(installs_path(world), page=number, per_page=10)["meta"]

    middle = {
        "total": 25,
        "pages": 3,
        "per_page": 10,
        "current_page": 2,
        "next_page": 3,
        "previous_page": 1,
        "first_page": False,
        "last_page": False,
        "out_of_range": False,
    }
    first = {"current_page": 1, "next_page": 2, "previous_page": False, "first_page": True}
    last = {"current_page": 3, "next_page": False, "previous_page": 2, "last_page": True}
    beyond = {"current_page": 4, "next_page": False, "previous_page": False, "out_of_range": True}
    assert meta(2) == middle
    assert meta(1) == middle | first
    assert meta(3) == middle | last
    assert meta(4) == middle | beyond


def test_an_empty_listing_is_one_page_in_range(world: GestalWorld, client: Client) -> None:
    key = world.create_integration("Lonely")
    page = client.get(f"/integrations/{key}/installations")
    assert page["data"] == []
    assert page["meta"]["total"] == page["meta"]["pages"] == 0
    assert page["meta"]["first_page"]
    assert page["meta"]["last_page"]
    assert not page["meta"]["out_of_range"]


def test_a_page_has_100_rows_unless_asked_and_never_more_than_the_most() -> None:
    world = gestal_world(integrations=1, installs=130, max_per_page=120)
    client = Client(world).log_in()
    assert len(client.get(installs_path(world))["data"]) == 100
    page = client.get(installs_path(world), per_page=5000)
    assert (len(page["data"]), page["meta"]["per_page"]) == (120, 120)


@pytest.mark.parametrize("params", [{"page": 0}, {"page": "x"}, {"per_page": -1}])
def test_a_page_that_cannot_be_is_refused(
    world: GestalWorld, client: Client, params: dict[str, object]
) -> None:
    assert client.ask("GET", installs_path(world), **params).status == 400


def test_a_walk_over_a_quiet_listing_sees_it_as_it_is(world: GestalWorld, client: Client) -> None:
    for scope, rows in world.listed().items():
        path = f"/integrations/{scope.partition('/')[2]}/installations"
        path = path if "/" in scope else "/integrations"
        assert walked(client, path, per_page=7) == [row["cloud_id"] for row in rows]


def test_whatever_is_updated_touched_or_restored_comes_first(world: GestalWorld) -> None:
    home = first_integration(world)
    deep = [row["cloud_id"] for row in world.shown_installs(home)][-3:]
    world.uninstall(deep[2])
    world.update(deep[0], site_name="Barn")
    world.touch(deep[1])
    world.restore(deep[2])
    new = world.install(home)
    shown = [row["cloud_id"] for row in world.shown_installs(home)]
    assert shown[:4] == [new, deep[2], deep[1], deep[0]]
    assert len(shown) == len(set(shown)) == 26


def test_a_touch_changes_nothing_but_the_order(world: GestalWorld) -> None:
    before = world.shown_installs(first_integration(world))
    world.touch(before[9]["cloud_id"])
    after = world.shown_installs(first_integration(world))
    assert after == [before[9], *before[:9], *before[10:]]


def test_an_update_renames_site_or_tenant_of_one_install(world: GestalWorld) -> None:
    before = world.shown_installs(first_integration(world))[3]
    world.update(before["cloud_id"], account_name="Nouveau", site_name="Barn")
    after = world.shown_installs(first_integration(world))[0]
    assert (after["tenant"]["name"], after["site"]["name"]) == ("Nouveau", "Barn")
    assert after["tenant"]["cloud_id"] == before["tenant"]["cloud_id"]
    assert before["site"]["name"] != "Barn"  # rows are replaced, never edited


def test_renaming_a_tenant_moves_no_row(world: GestalWorld) -> None:
    home = first_integration(world)
    before = world.shown_installs(home)
    account = before[5]["tenant"]["cloud_id"]
    world.rename_account(account, "Renamed")
    after = world.shown_installs(home)
    assert [row["cloud_id"] for row in after] == [row["cloud_id"] for row in before]
    assert after[5]["tenant"]["name"] == "Renamed"


# Access, chance and seeds


def test_a_lost_tenant_vanishes_and_comes_back_in_place(world: GestalWorld, client: Client) -> None:
    before = client.get(installs_path(world))
    account = before["data"][4]["tenant"]["cloud_id"]
    world.access.lose_workspace(account)
    lost = client.get(installs_path(world))
    assert account not in [row["tenant"]["cloud_id"] for row in lost["data"]]
    assert lost["meta"]["total"] < 25
    world.access.regain_workspace(account)
    assert client.get(installs_path(world)) == before


def test_another_account_has_nothing(world: GestalWorld, client: Client) -> None:
    path = installs_path(world)
    world.access.other_account()
    assert client.get("/integrations")["data"] == []
    assert client.ask("GET", path).status == 404
    world.access.own_account()
    assert client.get(path)["meta"]["total"] == 25


def test_the_same_seed_makes_the_same_world_and_the_same_changes() -> None:
    one, other = gestal_world(installs=9, seed=4), gestal_world(installs=9, seed=4)
    assert one.listed() == other.listed()
    assert mutate(one, 20) == mutate(other, 20)
    assert one.listed() == other.listed()
    assert one.listed() != gestal_world(installs=9, seed=5).listed()


def test_every_kind_of_change_can_happen(world: GestalWorld) -> None:
    kinds = [*GestalWorld.kinds, "create_integration", "rename_integration", "delete_integration"]
    world.uninstall(next(iter(world.live())))
    for kind in kinds:
        before = world.listed()
        change = random_change(world, kinds=[kind])
        assert change is not None
        assert change.kind == kind
        assert world.listed() != before


def test_what_is_impossible_is_not_done() -> None:
    world = GestalWorld()
    assert random_change(world) is None
    assert mutate(world, 3, ["restore", "create_integration"])[0].kind == "create_integration"
    with pytest.raises(ValueError, match="upgrade"):
        random_change(world, kinds=["upgrade"])


def test_changes_follow_each_other_in_time(world: GestalWorld) -> None:
    home = first_integration(world)
    rows = world.installs[home]
    times = [rows[world.install(home)]["created_at"] for _ in range(5)]
    assert times == sorted(set(times))
    assert times[0] > START.isoformat()


def test_churn_moves_the_listing_before_each_of_its_pages(
    world: GestalWorld, client: Client
) -> None:
    churn = Churn(Random(1), rate=3)
    world.before_request = churn
    client.get("/ping")
    assert churn.done == []
    client.get(installs_path(world))
    assert churn.done
    assert all(isinstance(change, Change) for change in churn.done)


# Faults


def faulty(client: Client, fault: Fault, **params: object) -> Answer:
    client.world.faults.add(fault)
    return client.ask("GET", installs_path(client.world), **params)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_the_server_can_fail(client: Client, status: int) -> None:
    assert faulty(client, Fault("server_error", status=status)).status == status
    assert client.ask("GET", "/ping").status == 200


def test_flood_protection_may_or_may_not_say_how_long(client: Client) -> None:
    assert "retry-after" not in faulty(client, Fault("rate_limited")).headers
    answer = faulty(client, Fault("rate_limited", retry_after="Wed, 21 Oct 2026 07:28:00 GMT"))
    assert answer.status == 429
    assert answer.headers["retry-after"] == "Wed, 21 Oct 2026 07:28:00 GMT"


def test_an_unauthorized_answer_leaves_the_token_alive(client: Client) -> None:
    assert faulty(client, Fault("unauthorized")).status == 401
    assert client.ask("GET", "/ping").status == 200


def test_an_expired_token_stays_dead(client: Client) -> None:
    assert faulty(client, Fault("expire_token")).status == 401
    assert client.ask("GET", "/ping").status == 401


def test_an_answer_can_be_forbidden_lost_or_for_people(client: Client) -> None:
    assert faulty(client, Fault("forbidden")).status == 403
    assert faulty(client, Fault("reset")).reset
    page = faulty(client, Fault("html"))
    assert (page.status, page.headers["content-type"]) == (200, "text/html")


def test_a_truncated_answer_claims_its_full_length(client: Client) -> None:
    answer = faulty(client, Fault("truncated"))
    whole = client.ask("GET", installs_path(client.world))
    assert answer.headers["content-length"] == str(len(whole.body))
    assert whole.body.startswith(answer.body)
    assert len(answer.body) < len(whole.body)


def test_distorted_pages_are_wrong_in_exactly_one_way(client: Client) -> None:
    def page(fault: Fault | None, number: int = 2) -> Any:
        client.world.faults.add(*([fault] if fault else []))
        return client.get(installs_path(client.world), page=number, per_page=10)

    first, true = page(None, 1), page(None)
    rows, meta = true["data"], true["meta"]
    assert page(Fault("empty_page")) == {"data": [], "meta": meta}
    assert page(Fault("duplicated_page")) == {"data": first["data"], "meta": meta}
    assert page(Fault("page_ignored")) == first
    assert page(Fault("short_page")) == {"data": rows[:5] + rows[6:], "meta": meta}
    assert page(Fault("wrong_total", amount=-2)) == {"data": rows, "meta": meta | {"total": 23}}
    without_total = {name: value for name, value in meta.items() if name != "total"}
    assert page(Fault("no_total")) == {"data": rows, "meta": without_total}
    assert page(Fault("no_meta")) == {"data": rows}
    assert isinstance(page(Fault("wrong_types"))["data"], dict)
    assert page(Fault("wrong_types", where="id"))["data"][0]["cloud_id"] == 4711
    assert page(None) == true


def test_a_fault_strikes_the_calls_it_was_planned_for(client: Client) -> None:
    def statuses(n: int) -> list[int]:
        return [client.ask("GET", "/integrations", page=i + 1).status for i in range(n)]

    client.world.faults.add(Fault("server_error", times=2, after=1))
    assert statuses(5) == [200, 503, 503, 200, 200]
    client.world.faults.add(Fault("server_error", match="page=3"))
    assert statuses(4) == [200, 200, 503, 200]
    client.world.faults.add(Fault("forbidden"), Fault("server_error"))
    assert statuses(3) == [403, 503, 200]
    client.world.faults.add(Fault("server_error", times=None))
    assert statuses(3) == [503, 503, 503]
    client.world.faults.clear()
    assert statuses(1) == [200]


def test_a_distortion_waits_for_a_page_to_distort(client: Client) -> None:
    client.world.faults.add(Fault("empty_page"))
    assert client.get("/ping")
    assert client.get(installs_path(client.world))["data"] == []
