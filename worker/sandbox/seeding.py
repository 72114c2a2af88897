"""Worlds with a past: the same seed makes the same world."""

from datetime import datetime, timedelta
from random import Random
from typing import Any

from worker.sandbox.aeontel_rows import made_install
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.gestal_world import GestalWorld, made_site, made_tenant
from worker.sandbox.names import PRODUCTS, made_id, made_uuid
from worker.sandbox.world import HISTORY, START, Row, past, stamp

SHARE_DELETED = 0.05
SHARE_UPGRADED = 0.3
SHARE_CHILDREN = 0.05


def gestal_world(
    integrations: int = 2,
    installs: int = 500,
    seed: int = 0,
    now: datetime = START,
    **options: Any,
) -> GestalWorld:
    """A Gestal account with `installs` installs of each integration; `options` as GestalWorld."""
    world = GestalWorld(now, seed, **options)
    tenants = [made_tenant(world.rng) for _ in range(max(1, integrations * installs // 3))]
    for number in range(integrations):
        world.clock.now = now - HISTORY + timedelta(minutes=number)
        name = f"Acme {PRODUCTS[number % len(PRODUCTS)]}"
        key = world.create_integration(name, description=f"Integrates {name}.")
        for row in _gestal_installs(world.rng, tenants, installs, now):
            world.put(key, row)
    world.clock.now = now
    return world


def _gestal_installs(rng: Random, tenants: list[Row], count: int, now: datetime) -> list[Row]:
    """Rows in the order of their hidden time of update, which the listing turns around."""
    updated: list[tuple[datetime, Row]] = []
    for _ in range(count):
        created = past(rng, now)
        row = {
            "cloud_id": made_id(rng, "inst"),
            "created_at": stamp(created),
            "tenant": rng.choice(tenants),
            "site": made_site(rng),
        }
        updated.append((created + (now - created) * rng.random(), row))
    return [row for _, row in sorted(updated, key=lambda pair: pair[0])]


def aeontel_world(
    integrations: int = 2,
    installs: int = 500,
    seed: int = 0,
    now: datetime = START,
    **options: Any,
) -> AeontelWorld:
    """An Aeontel account with `installs` installs of each integration, 5 % of them soft-deleted;
    `options` as AeontelWorld."""
    world = AeontelWorld(now, seed, **options)
    for number in range(integrations):
        world.clock.now = now - HISTORY - timedelta(minutes=integrations - number)
        world.create_integration(PRODUCTS[number % len(PRODUCTS)])
    world.clock.now = now
    total = integrations * installs
    workspaces = [made_uuid(world.rng, now - HISTORY) for _ in range(max(1, total // 8))]
    keys = list(world.integrations)
    for number, at in enumerate(sorted(past(world.rng, now) for _ in range(total))):
        row = made_install(world.rng, at) | _aeontel_past(world, at, now)
        key = keys[number % integrations]
        owner = {"integrationId": key, "integrationVersionId": world.versions[key]}
        world.put(row | owner | {"workspaceId": world.rng.choice(workspaces)})
    world.installs = dict(sorted(world.installs.items()))  # some share a millisecond
    return world


def _aeontel_past(world: AeontelWorld, at: datetime, now: datetime) -> Row:
    """What has happened to an install since `at`: to most of them nothing."""
    rng, row = world.rng, {}
    if rng.random() < SHARE_UPGRADED:
        row["lastUpgradedAt"] = stamp(at + (now - at) * rng.random())
    if rng.random() < SHARE_DELETED:
        row["deletedAt"] = stamp(at + (now - at) * rng.random())
    if rng.random() < SHARE_CHILDREN and world.installs:
        row["parentInstallId"] = next(reversed(world.installs))
    return row
