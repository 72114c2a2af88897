"""What a person at a terminal can do to a running sandbox: move it, break it, look at it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from urllib.parse import urlsplit

import msgspec

from worker.sandbox.calls import Answer, Call, refused, said
from worker.sandbox.faults import Fault
from worker.sandbox.world import World, mutate

Log = Mapping[str, list[tuple[str, str]]]  # per mount: method, and path with query


def control(worlds: Mapping[str, World], log: Log, call: Call) -> Answer:
    """`POST /mutate?n=10&dialect=gestal`, `POST /fault?dialect=gestal` with the fields of a Fault,
    `GET /requests`; `dialect` may be left out where there is only one."""
    match call.method, call.path:
        case "GET", "/requests":
            return said(200, {mount: _counted(requests) for mount, requests in log.items()})
        case "POST", "/mutate" | "/fault":
            name = call.param("dialect") or (next(iter(worlds)) if len(worlds) == 1 else "")
            if name not in worlds:
                return refused(422, f"dialect must be one of {', '.join(worlds)}")
            act = _mutate if call.path == "/mutate" else _plan
            return act(worlds[name], call)
        case _:
            return refused(404, "not found")


def _counted(requests: list[tuple[str, str]]) -> dict[str, int]:
    return dict(Counter(f"{method} {urlsplit(target).path}" for method, target in requests))


def _mutate(world: World, call: Call) -> Answer:
    n = call.param("n") or "1"
    kinds = (call.param("kinds") or "").split(",") if call.param("kinds") else ()
    try:
        done = mutate(world, int(n), kinds)
    except ValueError as error:
        return refused(422, str(error))
    return said(200, {"done": [asdict(change) for change in done]})


def _plan(world: World, call: Call) -> Answer:
    try:
        fault = msgspec.json.decode(call.body, type=Fault)
    except msgspec.DecodeError as error:
        return refused(422, str(error))
    world.faults.add(fault)
    return said(200, {"planned": [asdict(fault) for fault in world.faults.planned]})
