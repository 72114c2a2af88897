"""A page of an Aeontel listing: which rows match, in which order, on which side of a cursor."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from worker.sandbox.aeontel_rows import (
    INSTALL_FIELDS,
    INSTALL_SHORTHANDS,
    INTEGRATION_FIELDS,
    INTEGRATION_SHORTHANDS,
)
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.calls import Call
from worker.sandbox.order import Order, ordered
from worker.sandbox.query import QueryInvalid, Schema, compiled, read_json
from worker.sandbox.world import Row

MOST = 100
PAGING = ("limit", "after", "before")


@dataclass(frozen=True, slots=True)
class Listing:
    """One of the two listings: everything it may show, and what it can be narrowed by."""

    rows: Callable[[], list[Row]]
    schema: Schema
    shorthands: Mapping[str, str]


def page(world: AeontelWorld, call: Call) -> dict[str, Any]:
    """The answer to a listing call; raises QueryInvalid for what cannot be answered."""
    limit = _limit(call)
    listing = _installs(world) if call.path.endswith("installs") else _integrations(world, call)
    order = _order(world, call, listing.schema)
    rows = _found(world, call, listing, order)
    start, stop = _bounds(call, rows, order, limit)
    shown = rows[start:stop]
    info = {
        "total": len(listing.rows()) if world.total_mode == "unfiltered" else len(rows),
        "hasNextPage": stop < len(rows),
        "hasPreviousPage": start > 0,
        "startCursor": order.cursor(shown[0]) if shown else None,
        "endCursor": order.cursor(shown[-1]) if shown else None,
    }
    if world.total_mode == "missing":
        del info["total"]
    return {"data": shown, "pageInfo": info}


def _limit(call: Call) -> int:
    given = call.param("limit") or str(MOST)
    if not given.isdecimal() or not 1 <= int(given) <= MOST:
        raise QueryInvalid(f"limit must be 1 to {MOST}")
    return int(given)


def _bounds(call: Call, rows: list[Row], order: Order, limit: int) -> tuple[int, int]:
    """From where to where the page reaches in all rows that match."""
    after, before = call.param("after"), call.param("before")
    if after and before:
        raise QueryInvalid("after and before exclude each other")
    if before:
        stop = bisect_left(rows, order.place(before), key=order.key)
        return max(0, stop - limit), stop
    start = bisect_right(rows, order.place(after), key=order.key) if after else 0
    return start, min(start + limit, len(rows))


def _installs(world: AeontelWorld) -> Listing:
    integration = (
        Schema(INTEGRATION_FIELDS),
        lambda row: world.integrations.get(row["integrationId"]),
    )
    schema = Schema(INSTALL_FIELDS, {"integration": integration})
    return Listing(
        lambda: world.shown(world.installs, world.lists_deleted), schema, INSTALL_SHORTHANDS
    )


def _integrations(world: AeontelWorld, call: Call) -> Listing:
    deleted = call.param("include_deleted") == "true"
    return Listing(
        lambda: world.shown(world.integrations, deleted),
        Schema(INTEGRATION_FIELDS),
        INTEGRATION_SHORTHANDS,
    )


def _order(world: AeontelWorld, call: Call, schema: Schema) -> Order:
    given = call.param("orderBy")
    if given and not world.accepts_order_by:
        raise QueryInvalid("unknown parameter orderBy")
    return ordered(read_json("orderBy", given) if given else [], schema)


def _found(world: AeontelWorld, call: Call, listing: Listing, order: Order) -> list[Row]:
    """All rows that match, in order: found once for all pages of a walk if nothing changes."""
    condition = _condition(world, call, listing)
    asked = tuple(pair for pair in call.params if pair[0] not in PAGING)

    def find() -> list[Row]:
        rows = _among(call.param("ids"), listing.rows())
        if condition:
            test = compiled(condition, listing.schema)
            rows = [row for row in rows if test(row)]
        return sorted(rows, key=order.key) if order.terms[1:] else rows  # they stand by id

    return world.remember((call.path, world.lists_deleted, asked), find)


def _condition(world: AeontelWorld, call: Call, listing: Listing) -> dict[str, Any]:
    """The shorthand parameters and `filter` as one filter; empty if neither is given."""
    given = call.param("filter")
    if given and not world.accepts_filter:
        raise QueryInvalid("unknown parameter filter")
    asked = {field: call.param(name) for name, field in listing.shorthands.items()}
    parts = [{field: {"eq": value}} for field, value in asked.items() if value]
    parts += [read_json("filter", given)] if given else []
    return {"AND": parts} if parts else {}


def _among(ids: str | None, rows: list[Row]) -> list[Row]:
    if not ids:
        return rows
    wanted = set(ids.split(","))
    return [row for row in rows if row["id"] in wanted]
