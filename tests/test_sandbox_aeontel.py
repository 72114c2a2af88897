"""The stand-in of Aeontel behaves as its documents say, and where they are silent as it is told."""

import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from worker.sandbox.aeontel import handle
from worker.sandbox.aeontel_rows import INSTALL_SHORTHANDS, INTEGRATION_SHORTHANDS
from worker.sandbox.aeontel_world import TOKEN, AeontelWorld
from worker.sandbox.calls import Answer, Call
from worker.sandbox.faults import Fault
from worker.sandbox.seeding import aeontel_world
from worker.sandbox.world import Churn, Row, mutate, random_change, stamp

INSTALLS = "/api/integration-installs"
INTEGRATIONS = "/api/integrations"


@dataclass
class Client:
    """A caller with the right token."""

    world: AeontelWorld
    authorization: str = f"Bearer {TOKEN}"

    def ask(self, method: str, path: str, **params: object) -> Answer:
        pairs = tuple((name, str(value)) for name, value in params.items())
        call = Call(method, path, pairs, {"authorization": self.authorization})
        return handle(self.world, call, self.world.clock.now)

    def get(self, path: str, **params: object) -> Any:
        answer = self.ask("GET", path, **params)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def rows(self, **params: object) -> list[Row]:
        return list(self.get(INSTALLS, **params)["data"])

    def filtered(self, expression: Any) -> list[Row]:
        return self.rows(filter=json.dumps(expression))

    def ordered(self, *terms: dict[str, str], **params: object) -> list[Row]:
        return self.rows(orderBy=json.dumps(terms), **params)


@pytest.fixture
def world() -> AeontelWorld:
    return aeontel_world(integrations=2, installs=40)


@pytest.fixture
def client(world: AeontelWorld) -> Client:
    return Client(world)


def ids(rows: list[Row]) -> list[str]:
    return [row["id"] for row in rows]


def pages(client: Client, path: str, limit: int, **params: object) -> list[list[Row]]:
    """A walk from the first page to the last."""
    found: list[list[Row]] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get(path, limit=limit, **params, **cursor)
        found.append(page["data"])
        if not page["pageInfo"]["hasNextPage"]:
            return found
        cursor = {"after": page["pageInfo"]["endCursor"]}


def live_id(world: AeontelWorld) -> str:
    return min(world.live())


def kept(rows: list[Row], field: str, value: Any) -> list[str]:
    return [row["id"] for row in rows if row[field] == value]


# Login and single objects


def test_only_the_token_is_let_in(world: AeontelWorld) -> None:
    assert Client(world, "Bearer guess").ask("GET", INSTALLS).status == 401
    assert Client(world, "").ask("GET", INSTALLS).status == 401
    world.expire_tokens()
    assert Client(world).ask("GET", INSTALLS).status == 401
    world.tokens.add(TOKEN)
    assert Client(world).ask("GET", INSTALLS).status == 200


def test_an_install_has_every_documented_field(client: Client) -> None:
    row = client.rows()[0]
    assert list(row) == [
        "id",
        "integrationId",
        "integrationVersionId",
        "workspaceId",
        "variables",
        "authStateId",
        "memberPolicy",
        "parentInstallId",
        "solutionId",
        "installedBy",
        "installedAt",
        "lastUpgradedAt",
        "deletedAt",
        "retentionTier",
    ]
    assert UUID(row["id"]).version == 7
    assert client.get(f"{INSTALLS}/{row['id']}") == row


def test_an_integration_has_every_documented_field(client: Client) -> None:
    row = client.get(INTEGRATIONS)["data"][0]
    assert set(row) == {
        *("id", "workspaceId", "slug", "name", "description", "iconUrl", "publisher", "trustTier"),
        *("currentVersion", "manifest", "variablesSchema", "authConfig", "visibility"),
        *("createdBy", "deletedAt", "retentionTier", "createdAt", "updatedAt"),
    }
    assert client.get(f"{INTEGRATIONS}/{row['id']}") == row


def test_unknown_ids_and_paths_are_404(client: Client) -> None:
    for path in ("/api/nothing", f"{INSTALLS}/1", f"{INTEGRATIONS}/1", f"{INSTALLS}/1/turn"):
        assert client.ask("GET", path).status == 404
    assert client.ask("DELETE", f"{INSTALLS}/1").status == 404


def test_what_cannot_be_written_is_not_allowed(world: AeontelWorld, client: Client) -> None:
    integration = f"{INTEGRATIONS}/{next(iter(world.integrations))}"
    refusal = client.ask("POST", INTEGRATIONS)
    assert (refusal.status, refusal.headers["allow"]) == (405, "GET")
    assert client.ask("PATCH", integration).status == 405
    assert client.ask("DELETE", integration).status == 405
    assert client.ask("GET", f"{INSTALLS}/{live_id(world)}/restore").status == 405


def test_an_install_is_uninstalled_restored_and_purged(world: AeontelWorld, client: Client) -> None:
    path = f"{INSTALLS}/{live_id(world)}"
    before = client.get(path)
    success = client.ask("DELETE", path)
    assert (success.status, json.loads(success.body)) == (200, {"success": True})
    assert client.get(path) == before | {"deletedAt": stamp(world.clock.now)}
    assert json.loads(client.ask("POST", f"{path}/restore").body) == before
    client.ask("DELETE", path)
    assert json.loads(client.ask("DELETE", f"{path}/purge").body) == {"success": True}
    assert client.ask("GET", path).status == 404


def test_what_does_not_fit_the_state_of_an_install_is_a_conflict(
    world: AeontelWorld, client: Client
) -> None:
    path = f"{INSTALLS}/{live_id(world)}"
    assert client.ask("DELETE", f"{path}/purge").status == 409
    assert client.ask("POST", f"{path}/restore").status == 409
    client.ask("DELETE", path)
    assert client.ask("DELETE", path).status == 409
    assert client.ask("POST", f"{path}/upgrade").status == 409


def test_an_upgrade_brings_the_current_version(world: AeontelWorld, client: Client) -> None:
    path = f"{INSTALLS}/{live_id(world)}"
    before = client.get(path)
    version = world.publish(before["integrationId"])
    assert client.get(path) == before
    after = json.loads(client.ask("POST", f"{path}/upgrade").body)
    upgrade = {"integrationVersionId": version, "lastUpgradedAt": stamp(world.clock.now)}
    assert after == before | upgrade
    integration = client.get(f"{INTEGRATIONS}/{before['integrationId']}")
    assert integration["currentVersion"] == "1.1.0"


# Pages


def test_a_walk_by_cursor_sees_every_row_once_by_id(world: AeontelWorld, client: Client) -> None:
    walk = pages(client, INSTALLS, limit=7)
    assert [len(page) for page in walk] == [7] * 11 + [3]
    rows = [row for page in walk for row in page]
    assert rows == world.listed()["installs"]
    assert ids(rows) == sorted(ids(rows))


def test_a_page_says_what_lies_before_and_behind_it(client: Client) -> None:
    first = client.get(INSTALLS, limit=30)["pageInfo"]
    second = client.get(INSTALLS, limit=30, after=first["endCursor"])["pageInfo"]
    third = client.get(INSTALLS, limit=30, after=second["endCursor"])["pageInfo"]
    beside = [(page["hasPreviousPage"], page["hasNextPage"]) for page in (first, second, third)]
    assert beside == [(False, True), (True, True), (True, False)]
    assert {page["total"] for page in (first, second, third)} == {80}


def test_before_leads_back_the_same_way(client: Client) -> None:
    walk = [client.get(INSTALLS, limit=30)]
    walk.append(client.get(INSTALLS, limit=30, after=walk[0]["pageInfo"]["endCursor"]))
    walk.append(client.get(INSTALLS, limit=30, after=walk[1]["pageInfo"]["endCursor"]))
    assert client.get(INSTALLS, limit=30, before=walk[2]["pageInfo"]["startCursor"]) == walk[1]
    assert client.get(INSTALLS, limit=30, before=walk[1]["pageInfo"]["startCursor"]) == walk[0]
    nothing = client.get(INSTALLS, before=walk[0]["pageInfo"]["startCursor"])
    assert nothing["data"] == []
    assert nothing["pageInfo"]["startCursor"] is nothing["pageInfo"]["endCursor"] is None


def test_a_cursor_survives_its_row(world: AeontelWorld, client: Client) -> None:
    rows = client.rows()
    cursor = client.get(INSTALLS, limit=5)["pageInfo"]["endCursor"]
    if rows[4]["deletedAt"] is None:
        world.uninstall(rows[4]["id"])
    world.purge(rows[4]["id"])
    assert client.rows(limit=5, after=cursor) == rows[5:10]


def test_a_page_has_100_rows_unless_asked() -> None:
    client = Client(aeontel_world(integrations=1, installs=120))
    assert len(client.rows()) == 100


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": "ten"},
        {"after": "%%%"},
        {"after": "bm90IGpzb24="},
        {"after": urlsafe_b64encode(b"[1]").decode()},
        {"after": urlsafe_b64encode(b'["2026", "a"]').decode()},
        {"after": "WyJhIl0=", "before": "WyJhIl0="},
        {"filter": "{"},
        {"filter": "[]"},
        {"filter": '{"nothing": {"eq": "x"}}'},
        {"filter": '{"variables": {"eq": "x"}}'},
        {"filter": '{"id": "x"}'},
        {"filter": '{"id": {}}'},
        {"filter": '{"id": {"like": "x"}}'},
        {"filter": '{"id": {"eq": null}}'},
        {"filter": '{"id": {"in": "x"}}'},
        {"filter": '{"id": {"isNull": 1}}'},
        {"filter": '{"AND": {}}'},
        {"filter": '{"installedAt": {"gt": "yesterday"}}'},
        {"filter": '{"installedAt": {"gt": "2026-01-01"}}'},
        {"filter": '{"integration": {"memberPolicy": {"eq": "manual"}}}'},
        {"orderBy": "id"},
        {"orderBy": '{"id": "asc"}'},
        {"orderBy": '[{"id": "up"}]'},
        {"orderBy": '[{"id": []}]'},
        {"orderBy": '[{"nothing": "asc"}]'},
        {"orderBy": '[{"id": "asc", "installedAt": "asc"}]'},
    ],
)
def test_a_query_that_cannot_be_read_is_400(client: Client, params: dict[str, object]) -> None:
    answer = client.ask("GET", INSTALLS, **params)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]


# Narrowing


@pytest.mark.parametrize(("parameter", "field"), INSTALL_SHORTHANDS.items())
def test_each_shorthand_of_installs_compares_its_field(
    client: Client, parameter: str, field: str
) -> None:
    rows = client.rows()
    value = next(row[field] for row in rows if row[field])
    page = client.get(INSTALLS, **{parameter: value})
    assert ids(page["data"]) == kept(rows, field, value)
    assert page["pageInfo"]["total"] == len(page["data"]) < 80


@pytest.mark.parametrize(("parameter", "field"), INTEGRATION_SHORTHANDS.items())
def test_each_shorthand_of_integrations_compares_its_field(
    world: AeontelWorld, client: Client, parameter: str, field: str
) -> None:
    key = next(iter(world.integrations))
    world.update_integration(key, **{field: "special"})
    assert ids(client.get(INTEGRATIONS, **{parameter: "special"})["data"]) == [key]


def test_ids_narrow_within_what_is_listed(world: AeontelWorld, client: Client) -> None:
    rows = client.rows()
    some = [rows[9]["id"], rows[2]["id"], "unknown"]
    assert client.rows(ids=",".join(some)) == [rows[2], rows[9]]
    world.access.lose_workspace(rows[2]["workspaceId"])
    assert rows[2] not in client.rows(ids=",".join(some))


def test_several_conditions_must_all_hold(client: Client) -> None:
    rows = client.rows()
    policy, tier = rows[0]["memberPolicy"], rows[0]["retentionTier"] or "long"
    expression = json.dumps({"retentionTier": {"eq": tier}})
    found = client.rows(member_policy=policy, filter=expression)
    both = set(kept(rows, "memberPolicy", policy)) & set(kept(rows, "retentionTier", tier))
    assert set(ids(found)) == both


def test_operators_compare_as_their_names_say(client: Client) -> None:
    rows = client.rows()
    middle, policy = rows[40]["id"], "manual"
    manual = kept(rows, "memberPolicy", policy)
    others = [key for key in ids(rows) if key not in manual]
    expected: list[tuple[Any, list[str]]] = [
        ({"id": {"eq": middle}}, [middle]),
        ({"id": {"lt": middle}}, ids(rows[:40])),
        ({"id": {"lte": middle}}, ids(rows[:41])),
        ({"id": {"gt": middle}}, ids(rows[41:])),
        ({"id": {"gte": middle}}, ids(rows[40:])),
        ({"id": {"gte": rows[3]["id"], "lt": rows[6]["id"]}}, ids(rows[3:6])),
        ({"memberPolicy": {"ne": policy}}, others),
        ({"memberPolicy": {"in": [policy]}}, manual),
        ({"memberPolicy": {"notIn": [policy]}}, others),
        ({"memberPolicy": {"contains": "anu"}}, manual),
        ({"lastUpgradedAt": {"isNull": True}}, kept(rows, "lastUpgradedAt", None)),
        ({"AND": [{"id": {"gt": middle}}, {"id": {"lt": rows[43]["id"]}}]}, ids(rows[41:43])),
        ({"OR": [{"id": {"eq": middle}}, {"id": {"eq": rows[0]["id"]}}]}, [ids(rows)[0], middle]),
        ({"NOT": {"memberPolicy": {"eq": policy}}}, others),
        ({}, ids(rows)),
    ]
    for expression, found in expected:
        assert ids(client.filtered(expression)) == found, expression


def test_times_are_compared_as_times(client: Client) -> None:
    rows = client.rows()
    at = rows[10]["installedAt"].replace("Z", "+00:00")
    later = [row for row in rows if row["installedAt"] > rows[10]["installedAt"]]
    assert client.filtered({"installedAt": {"gt": at}}) == later
    assert client.filtered({"installedAt": {"gte": at}}) == [rows[10], *later]


def test_null_is_neither_equal_nor_unequal_to_anything(client: Client) -> None:
    rows = client.rows()
    known = [row for row in rows if row["solutionId"] is not None]
    one = known[0]["solutionId"]
    assert client.filtered({"solutionId": {"ne": one}}) == known[1:]
    assert client.filtered({"NOT": {"solutionId": {"eq": one}}}) == known[1:]
    either = {"OR": [{"solutionId": {"ne": one}}, {"solutionId": {"isNull": True}}]}
    assert len(client.filtered(either)) == len(rows) - 1


def test_a_filter_follows_the_integration(world: AeontelWorld, client: Client) -> None:
    key = next(iter(world.integrations))
    name = world.integrations[key]["name"]
    found = client.filtered({"integration": {"name": {"eq": name}}})
    assert ids(found) == kept(client.rows(), "integrationId", key)


# Order


def test_a_walk_in_any_order_sees_every_row_once(client: Client) -> None:
    rows = client.rows()
    for direction in ("asc", "desc", "desc_nulls_last"):
        for field in ("lastUpgradedAt", "memberPolicy", "installedAt"):
            order = json.dumps([{field: direction}])
            walk = pages(client, INSTALLS, limit=9, orderBy=order)
            seen = [row for page in walk for row in page]
            assert sorted(ids(seen)) == ids(rows)
            values = [row[field] for row in seen if row[field] is not None]
            assert values == sorted(values, reverse=direction != "asc")


@pytest.mark.parametrize(
    ("direction", "nulls_first"),
    [
        ("asc", False),
        ("desc", True),
        ("asc_nulls_first", True),
        ("asc_nulls_last", False),
        ("desc_nulls_first", True),
        ("desc_nulls_last", False),
    ],
)
def test_nulls_stand_where_postgresql_puts_them(
    client: Client, direction: str, nulls_first: bool
) -> None:
    rows = client.ordered({"lastUpgradedAt": direction})
    nulls = [row["lastUpgradedAt"] is None for row in rows]
    assert nulls == sorted(nulls, reverse=nulls_first)


def test_later_keys_break_ties_of_earlier_ones(client: Client) -> None:
    rows = client.ordered({"memberPolicy": "desc"}, {"id": "desc"})
    places = [(row["memberPolicy"], row["id"]) for row in rows]
    assert places == sorted(places, reverse=True)


# What the documents leave open


def test_the_plain_listing_may_hide_the_deleted() -> None:
    world = aeontel_world(installs=40, lists_deleted=False)
    client = Client(world)
    key = live_id(world)
    world.uninstall(key)
    assert all(row["deletedAt"] is None for row in client.rows())
    assert client.rows(ids=key) == []
    assert client.get(f"{INSTALLS}/{key}")["deletedAt"] is not None
    world.lists_deleted = True
    assert client.rows(ids=key) == [world.installs[key]]


def test_filter_and_order_may_be_unknown() -> None:
    client = Client(aeontel_world(installs=3, accepts_filter=False, accepts_order_by=False))
    assert client.ask("GET", INSTALLS, filter="{}").status == 400
    assert client.ask("GET", INSTALLS, orderBy="[]").status == 400
    assert len(client.rows()) == 6


def test_the_total_may_be_missing_or_ignore_the_query(world: AeontelWorld, client: Client) -> None:
    world.total_mode = "unfiltered"
    assert client.get(INSTALLS, ids="unknown")["pageInfo"]["total"] == 80
    world.total_mode = "missing"
    assert "total" not in client.get(INSTALLS)["pageInfo"]


def test_deleted_integrations_are_listed_on_demand(world: AeontelWorld, client: Client) -> None:
    key, other = world.integrations
    world.delete_integration(key)
    assert ids(client.get(INTEGRATIONS)["data"]) == [other]
    assert len(client.get(INTEGRATIONS, include_deleted="true")["data"]) == 2
    assert len(kept(client.rows(), "integrationId", key)) == 40


# Access, chance and seeds


def test_a_lost_workspace_is_404_until_it_is_back(world: AeontelWorld, client: Client) -> None:
    before = client.rows()
    lost = before[0]["workspaceId"]
    world.access.lose_workspace(lost)
    assert client.ask("GET", f"{INSTALLS}/{before[0]['id']}").status == 404
    assert client.rows() == [row for row in before if row["workspaceId"] != lost]
    world.access.regain_workspace(lost)
    assert client.rows() == before


def test_another_account_has_nothing(world: AeontelWorld, client: Client) -> None:
    key = live_id(world)
    world.access.other_account()
    assert client.rows() == []
    assert client.get(INSTALLS)["pageInfo"]["total"] == 0
    assert client.ask("GET", f"{INSTALLS}/{key}").status == 404
    world.access.own_account()
    assert len(client.rows()) == 80


def test_the_same_seed_makes_the_same_world_and_the_same_changes() -> None:
    one, other = aeontel_world(installs=9, seed=4), aeontel_world(installs=9, seed=4)
    assert one.listed() == other.listed()
    assert mutate(one, 30) == mutate(other, 30)
    assert one.listed() == other.listed()


def test_every_kind_of_change_can_happen_and_is_listed(world: AeontelWorld, client: Client) -> None:
    kinds = [*AeontelWorld.kinds, "create_integration", "rename_integration", "delete_integration"]
    for kind in kinds:
        before = world.listed()
        change = random_change(world, kinds=[kind])
        assert change is not None
        assert change.kind == kind
        assert world.listed() != before
        assert client.rows() == world.listed()["installs"]


def test_new_ids_sort_behind_old_ones_whatever_the_callers_clock_says(
    world: AeontelWorld,
) -> None:
    home = next(iter(world.integrations))
    world.clock.advance(world.clock.now - timedelta(days=9))
    made = [world.install(home) for _ in range(4)]
    assert list(world.installs)[-4:] == made == sorted(made)
    assert list(world.installs) == sorted(world.installs)


def test_a_walk_under_churn_sees_every_row_that_stays(world: AeontelWorld, client: Client) -> None:
    before = set(world.installs)
    world.before_request = Churn(Random(2), rate=4)
    walk = pages(client, INSTALLS, limit=5)
    seen = [row["id"] for page in walk for row in page]
    assert len(seen) == len(set(seen))
    assert before & set(world.installs) <= set(seen)


def test_distorted_pages_are_wrong_in_exactly_one_way(client: Client) -> None:
    first = client.get(INSTALLS, limit=10)
    cursor = first["pageInfo"]["endCursor"]

    def page(fault: Fault | None) -> Any:
        client.world.faults.add(*([fault] if fault else []))
        return client.get(INSTALLS, limit=10, after=cursor)

    true = page(None)
    rows, info = true["data"], true["pageInfo"]
    assert page(Fault("empty_page")) == {"data": [], "pageInfo": info}
    assert page(Fault("duplicated_page")) == {"data": first["data"], "pageInfo": info}
    assert page(Fault("page_ignored")) == first
    assert page(Fault("short_page"))["data"] == rows[:5] + rows[6:]
    assert page(Fault("wrong_total"))["pageInfo"] == info | {"total": 81}
    assert "total" not in page(Fault("no_total"))["pageInfo"]
    assert page(Fault("no_meta")) == {"data": rows}
    assert page(Fault("wrong_types", where="id"))["data"][0]["id"] == 4711
    client.world.faults.add(Fault("duplicated_page"))
    assert client.get(INSTALLS, limit=10) == first
