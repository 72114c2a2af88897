"""The objects of Aeontel: the fields that the vendor documents, and new rows that have them."""

from collections.abc import Mapping
from datetime import datetime
from random import Random

from worker.sandbox.names import made_uuid
from worker.sandbox.query import FieldKind
from worker.sandbox.world import Row, stamp

POLICIES = ("auto_all", "auto_defaults", "manual")
TIERS = ("short", "medium", "long", "none", None)
REGIONS = ("eu-north", "eu-west", "us-east", "ap-south")

# What can be filtered and sorted by: every field that is not an object.
INSTALL_FIELDS: Mapping[str, FieldKind] = {
    "id": "text",
    "integrationId": "text",
    "integrationVersionId": "text",
    "workspaceId": "text",
    "authStateId": "text",
    "memberPolicy": "text",
    "parentInstallId": "text",
    "solutionId": "text",
    "installedBy": "text",
    "installedAt": "time",
    "lastUpgradedAt": "time",
    "deletedAt": "time",
    "retentionTier": "text",
}
INTEGRATION_FIELDS: Mapping[str, FieldKind] = {
    "id": "text",
    "workspaceId": "text",
    "slug": "text",
    "name": "text",
    "description": "text",
    "iconUrl": "text",
    "publisher": "text",
    "trustTier": "text",
    "currentVersion": "text",
    "visibility": "text",
    "createdBy": "text",
    "deletedAt": "time",
    "retentionTier": "text",
    "createdAt": "time",
    "updatedAt": "time",
}

# The parameters that stand for `field = value`.
INSTALL_SHORTHANDS: Mapping[str, str] = {
    "integration_id": "integrationId",
    "workspace_id": "workspaceId",
    "integration_version_id": "integrationVersionId",
    "member_policy": "memberPolicy",
    "parent_install_id": "parentInstallId",
    "solution_id": "solutionId",
    "installed_by": "installedBy",
    "retention_tier": "retentionTier",
}
INTEGRATION_SHORTHANDS: Mapping[str, str] = {
    "workspace_id": "workspaceId",
    "publisher": "publisher",
    "visibility": "visibility",
    "name": "name",
    "trust_tier": "trustTier",
}


def made_install(rng: Random, at: datetime) -> Row:
    """An install of nothing by nobody, as the listing words it; the caller fills that in."""
    region, key = rng.choice(REGIONS), f"sk_{rng.getrandbits(64):016x}"
    return {
        "id": made_uuid(rng, at),
        "integrationId": None,
        "integrationVersionId": None,
        "workspaceId": None,
        "variables": {"region": region, "limit": rng.randrange(100), "api_key": key},
        "authStateId": made_uuid(rng, at) if rng.random() < 0.7 else None,
        "memberPolicy": rng.choice(POLICIES),
        "parentInstallId": None,
        "solutionId": made_uuid(rng, at) if rng.random() < 0.2 else None,
        "installedBy": made_uuid(rng, at),
        "installedAt": stamp(at),
        "lastUpgradedAt": None,
        "deletedAt": None,
        "retentionTier": rng.choice(TIERS),
    }


def made_integration(rng: Random, at: datetime, name: str) -> Row:
    """An integration in version 1.0.0, with the fields of the vendor's page on integrations."""
    slug = name.lower().replace(" ", "-")
    return {
        "id": made_uuid(rng, at),
        "workspaceId": made_uuid(rng, at),
        "slug": slug,
        "name": name,
        "description": f"{name} for voice agents.",
        "iconUrl": f"https://cdn.example/{slug}.svg",
        "publisher": "acme",
        "trustTier": "verified_partner",
        "currentVersion": "1.0.0",
        "manifest": {"actions": ["lookup", "notify"]},
        "variablesSchema": {"type": "object", "properties": {"region": {"type": "string"}}},
        "authConfig": {"type": "api_key"},
        "visibility": "public",
        "createdBy": made_uuid(rng, at),
        "deletedAt": None,
        "retentionTier": None,
        "createdAt": stamp(at),
        "updatedAt": stamp(at),
    }
