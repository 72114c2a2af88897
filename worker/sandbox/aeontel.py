"""The HTTP interface of Aeontel: a pure answer to every documented call, and to wrong ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from worker.sandbox.aeontel_listing import page
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.calls import Answer, Call, refused, said
from worker.sandbox.faults import under
from worker.sandbox.query import QueryInvalid
from worker.sandbox.world import Row


@dataclass(frozen=True, slots=True)
class Act:
    """A write to one install: of which installs it is allowed, and what it does."""

    to_deleted: bool
    do: Callable[[AeontelWorld, str], None]
    tells: bool  # answers with the install instead of `success`


ACTS: Mapping[tuple[str, str], Act] = {
    ("DELETE", ""): Act(False, AeontelWorld.uninstall, tells=False),
    ("DELETE", "purge"): Act(True, AeontelWorld.purge, tells=False),
    ("POST", "restore"): Act(True, AeontelWorld.restore, tells=True),
    ("POST", "upgrade"): Act(False, AeontelWorld.upgrade, tells=True),
}
ALLOWED: Mapping[str, str] = {
    "": "GET, DELETE",
    "purge": "DELETE",
    "restore": "POST",
    "upgrade": "POST",
}


def handle(world: AeontelWorld, call: Call, now: datetime) -> Answer:
    """What Aeontel answers to `call` at `now`."""
    world.clock.advance(now)
    if world.before_request is not None:
        world.before_request(world, call)
    fault = world.faults.take(call)
    return under(fault, call, lambda asked: _answer(world, asked), world.expire_tokens)


def _answer(world: AeontelWorld, call: Call) -> Answer:
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or token not in world.tokens:
        return refused(401, "not authenticated")
    match call.segments:
        case "api", "integrations" | "integration-installs":
            return _listed(world, call)
        case "api", "integrations", integration_id:
            return _got(call, world.seen(world.integrations, integration_id))
        case "api", "integration-installs", install_id:
            return _install(world, call, install_id, "")
        case "api", "integration-installs", install_id, act if act in ALLOWED:
            return _install(world, call, install_id, act)
        case _:
            return refused(404, "not found")


def _listed(world: AeontelWorld, call: Call) -> Answer:
    if call.method != "GET":
        return _not_allowed("GET")
    try:
        return said(200, page(world, call))
    except QueryInvalid as error:
        return refused(400, str(error))


def _got(call: Call, row: Row | None) -> Answer:
    if call.method != "GET":  # the vendor documents no writing of integrations
        return _not_allowed("GET")
    return said(200, row) if row else refused(404, "not found")


def _install(world: AeontelWorld, call: Call, install_id: str, name: str) -> Answer:
    row = world.seen(world.installs, install_id)
    if (call.method, name) == ("GET", ""):
        return _got(call, row)
    act = ACTS.get((call.method, name))
    if act is None:
        return _not_allowed(ALLOWED[name])
    if row is None:
        return refused(404, "not found")
    if act.to_deleted != (row["deletedAt"] is not None):
        return refused(409, f"the install is {'not ' if act.to_deleted else ''}deleted")
    act.do(world, install_id)
    return said(200, world.installs[install_id] if act.tells else {"success": True})


def _not_allowed(allowed: str) -> Answer:
    return refused(405, "method not allowed", {"allow": allowed})
