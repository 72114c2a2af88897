"""The HTTP interface of Gestal Cloud: a pure answer to every documented call, and to wrong ones."""

from datetime import datetime
from typing import Any

import msgspec

from worker.sandbox.calls import Answer, Call, refused, said
from worker.sandbox.faults import under
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.world import Row, stamp

PER_PAGE = 100
REQUIRED = ("name", "url")
ATTRIBUTES = (*REQUIRED, "description")


def handle(world: GestalWorld, call: Call, now: datetime) -> Answer:
    """What Gestal answers to `call` at `now`."""
    world.clock.advance(now)
    if world.before_request is not None:
        world.before_request(world, call)
    fault = world.faults.take(call)
    return under(fault, call, lambda asked: _answer(world, asked), world.expire_tokens)


def _answer(world: GestalWorld, call: Call) -> Answer:
    authorization = call.headers.get("authorization", "")
    if (call.method, call.path) == ("POST", "/auth"):
        token = world.logins.log_in(authorization, world.clock.now)
        return said(200, {"token": token}) if token else refused(401, "wrong email or password")
    if world.logins.is_integrator(authorization, world.clock.now):
        return _to_integrator(world, call)
    key = world.logins.access_key(authorization)
    install = _install_of(world, key)
    if key is None or install is None:
        return refused(401, "not authenticated")
    world.logins.last_active[key] = world.clock.now
    return _to_installation(world, call, key, install)


def _to_installation(world: GestalWorld, call: Call, key: str, install: Row) -> Answer:
    match call.method, call.segments:
        case "GET", ("ping",):
            return said(200, {"ping": "pong"})
        case "GET", ("integration",):
            return said(200, _current_installation(world, key, install))
        case _, ("integrations" | "auth", *_):
            return refused(403, "only integrators may do this")
        case _:
            return refused(404, "not found")


def _to_integrator(world: GestalWorld, call: Call) -> Answer:
    match call.method, call.segments:
        case "GET", ("ping",):
            return said(200, {"ping": "pong"})
        case "GET", ("integration",):
            return refused(403, "only installations may do this")
        case "GET", ("integrations",):
            return _page(world, call, world.shown_integrations())
        case "POST", ("integrations",):
            return _create(world, call)
        case method, ("integrations", integration_id, *rest) if world.sees(integration_id):
            return _to_owner(world, call, method, integration_id, rest)
        case _:
            return refused(404, "not found")


def _to_owner(
    world: GestalWorld, call: Call, method: str, integration_id: str, rest: list[str]
) -> Answer:
    match method, rest:
        case "GET", []:
            return said(200, world.integrations[integration_id])
        case "PATCH", []:
            return _update(world, call, integration_id)
        case "DELETE", []:
            world.delete_integration(integration_id)
            return Answer(204)
        case "GET", ["installations"]:
            return _page(world, call, world.shown_installs(integration_id))
        case _:
            return refused(404, "not found")


def _install_of(world: GestalWorld, key: str | None) -> Row | None:
    install_id = world.logins.access_keys.get(key or "", "")
    return world.installs.get(world.homes.get(install_id, ""), {}).get(install_id)


def _current_installation(world: GestalWorld, key: str, install: Row) -> dict[str, Any]:
    integration = world.integrations[world.homes[install["cloud_id"]]]
    return {
        "cloud_id": install["cloud_id"],
        "name": integration["name"],
        "url": integration["url"],
        "type": "third_party",
        "signed": False,
        "description": integration["description"],
        "access_key": {"last_active_at": stamp(world.logins.last_active[key])},
        "site": install["site"],
    }


# Writing


def _create(world: GestalWorld, call: Call) -> Answer:
    given = _attributes(call)
    if isinstance(given, Answer):
        return given
    if missing := [name for name in REQUIRED if not given.get(name)]:
        return refused(422, f"{' and '.join(missing)} can't be blank")
    return said(201, world.integrations[world.create_integration(**given)])


def _update(world: GestalWorld, call: Call, integration_id: str) -> Answer:
    given = _attributes(call)
    if isinstance(given, Answer):
        return given
    if blank := [name for name in REQUIRED if name in given and not given[name]]:
        return refused(422, f"{' and '.join(blank)} can't be blank")
    world.update_integration(integration_id, **given)
    return said(200, world.integrations[integration_id])


def _attributes(call: Call) -> dict[str, str] | Answer:
    """The attributes that were sent and mean something; 400 or 422 if they cannot be read."""
    try:
        sent = msgspec.json.decode(call.body, type=dict[str, Any])
    except msgspec.DecodeError:
        return refused(400, "the body is no JSON object")
    given = {name: sent[name] for name in ATTRIBUTES if name in sent}
    if wrong := [name for name, value in given.items() if not isinstance(value, str)]:
        return refused(422, f"{' and '.join(wrong)} must be a string")
    return given


# Paging


def _page(world: GestalWorld, call: Call, rows: list[Row]) -> Answer:
    try:
        number = int(call.param("page") or 1)
        asked = int(call.param("per_page") or PER_PAGE)
    except ValueError:
        return refused(400, "page and per_page must be numbers")
    if number < 1 or asked < 1:
        return refused(400, "page and per_page start at 1")
    size = min(asked, world.max_per_page)  # more than the most is cut down, not refused
    start = (number - 1) * size
    return said(200, {"data": rows[start : start + size], "meta": _meta(len(rows), number, size)})


def _meta(total: int, number: int, size: int) -> dict[str, Any]:
    pages = -(-total // size)
    last = max(1, pages)
    return {
        "total": total,
        "pages": pages,
        "per_page": size,
        "current_page": number,
        "next_page": number + 1 if number < last else False,
        "previous_page": number - 1 if 1 < number <= last else False,
        "first_page": number == 1,
        "last_page": number == last,
        "out_of_range": number > last,
    }
