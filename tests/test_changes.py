"""The truth table of DESIGN 7: one test row per outcome of a pair (as kept, as answered)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from examples import (
    NOON,
    OF_A,
    aeontel_integration,
    aeontel_row,
    gestal_integration,
    gestal_row,
    install,
    integration,
    pair,
    reading,
)
from msgspec.structs import replace

from worker.changes import classify, gone
from worker.findings import Announcement, Change, Known
from worker.models import INSTALLS, INTEGRATIONS, Install, installs_of
from worker.payloads import redacted

EARLIER = NOON - timedelta(days=1)
DELETED = {"deletedAt": "2026-02-01T00:00:00Z"}
DELETED_AT = datetime(2026, 2, 1, tzinfo=UTC)
UPGRADED = {"integrationVersionId": "v2", "lastUpgradedAt": "2026-02-02T00:00:00Z"}
UPGRADED_AT = datetime(2026, 2, 2, tzinfo=UTC)
INSTALLED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

Payload = dict[str, Any]


def answered(
    payload: Payload, before: Known | None = None, scope: str = INSTALLS, *ignore: str
) -> Change | None:
    """What the truth table says at noon."""
    dialect = "aeontel" if "id" in payload else "gestal"
    return classify(pair(payload, before, scope), reading(dialect, *ignore), NOON)


def kept(payload: Payload, scope: str = INSTALLS, **fields: Any) -> Known:
    """`payload` as it was recorded yesterday, and what became of it since."""
    change = answered(payload, None, scope)
    assert change is not None
    return replace(change.after, first_seen_at=EARLIER, last_changed_at=EARLIER, **fields)


def inferred(payload: Payload, scope: str = INSTALLS) -> Known:
    """`payload` as it is kept after its absence was recorded as a deletion."""
    change = gone(pair(None, kept(payload, scope), scope), EARLIER)
    assert change is not None
    return change.after


def purged(payload: Payload) -> Known:
    change = gone(pair(None, kept(payload)), EARLIER)
    assert change is not None
    return change.after


def told(verb: str, *fields: str, at: datetime | None = None) -> Announcement:
    return Announcement(f"install.{verb}", fields, at)


@pytest.mark.parametrize(
    ("before", "answer", "state", "announced"),
    [
        (None, {}, "active", [told("created", at=INSTALLED_AT)]),
        (None, DELETED, "deleted", []),
        (
            kept(aeontel_row()),
            UPGRADED,
            "active",
            [told("upgraded", "upgraded_at", "version_id", at=UPGRADED_AT)],
        ),
        (
            kept(aeontel_row()),
            {"integrationVersionId": "v2"},
            "active",
            [told("upgraded", "version_id")],
        ),
        (
            kept(aeontel_row()),
            {"retentionTier": "long", "workspaceId": "ws_2"},
            "active",
            [told("updated", "account_id", "retention_tier")],
        ),
        (kept(aeontel_row()), {"variables": {}}, "active", [told("updated", "variables")]),
        (kept(aeontel_row()), {"colour": "red"}, "active", [told("updated", "payload")]),
        (
            kept(aeontel_row()),
            {**UPGRADED, "memberPolicy": "auto_all"},
            "active",
            [
                told("upgraded", "upgraded_at", "version_id", at=UPGRADED_AT),
                told("updated", "member_policy"),
            ],
        ),
        (kept(aeontel_row()), DELETED, "deleted", [told("deleted", at=DELETED_AT)]),
        (
            kept(aeontel_row()),
            {**DELETED, **UPGRADED, "retentionTier": "long"},
            "deleted",
            [told("deleted", at=DELETED_AT)],
        ),
        (kept(aeontel_row(**DELETED)), {**DELETED, "retentionTier": "none"}, "deleted", []),
        (kept(aeontel_row(**DELETED)), {"deletedAt": "2026-02-02T00:00:00Z"}, "deleted", []),
        (inferred(aeontel_row()), DELETED, "deleted", []),
        (kept(aeontel_row(**DELETED)), {}, "active", [told("restored")]),
        (
            kept(aeontel_row(**DELETED)),
            {**UPGRADED, "retentionTier": "long"},
            "active",
            [
                told("restored"),
                told("upgraded", "upgraded_at", "version_id", at=UPGRADED_AT),
                told("updated", "retention_tier"),
            ],
        ),
        (purged(aeontel_row(**DELETED)), {}, "active", [told("restored")]),
        (
            purged(aeontel_row(**DELETED)),
            {"installedBy": "usr_2"},
            "active",
            [told("restored"), told("updated", "installed_by")],
        ),
        (purged(aeontel_row(**DELETED)), DELETED, "deleted", []),
    ],
    ids=[
        "never seen, active: created",
        "never seen, deleted: only kept",
        "another version and upgrade time: upgraded",
        "another version alone: upgraded, at no known time",
        "other columns: updated",
        "other variables: updated",
        "an unknown field: updated, as `payload`",
        "version and other columns: upgraded, then updated",
        "deletedAt was read: deleted, at that time",
        "deleted with all else changed: only deleted",
        "deleted and changed: a new revision without an event",
        "deleted at another time: a new revision without an event",
        "deleted by inference, now by its source: a new revision without an event",
        "deleted, active: restored",
        "deleted, active and changed: restored, upgraded, updated",
        "purged, active: restored",
        "purged, active and changed: restored, updated",
        "purged, deleted again: a new revision without an event",
    ],
)
def test_the_truth_table(
    before: Known | None, answer: Payload, state: str, announced: list[Announcement]
) -> None:
    change = answered(aeontel_row(**answer), before)
    assert change is not None
    assert list(change.announcements) == announced
    assert change.after.state == state
    assert change.before is before
    assert (change.after.deleted_at is None) == (state == "active")
    assert not change.after.deletion_inferred
    assert change.after.revision == (before.revision + 1 if before else 1)
    assert change.after.first_seen_at == (EARLIER if before else NOON)
    assert change.after.last_changed_at == NOON


@pytest.mark.parametrize(
    "before",
    [
        kept(aeontel_row()),
        kept(aeontel_row(**DELETED)),
        kept(aeontel_row(), missing_since=EARLIER),
    ],
    ids=["active", "deleted", "a suspect that is seen again"],
)
def test_the_same_answer_is_no_change(before: Known) -> None:
    assert answered(before.payload, before) is None


def test_another_order_of_keys_is_no_change() -> None:
    payload = aeontel_row()
    shuffled = dict(reversed(payload.items()))
    shuffled["variables"] = dict(reversed(payload["variables"].items()))
    assert list(shuffled) != list(payload)
    assert answered(shuffled, kept(payload)) is None


def test_another_spelling_of_the_same_time_is_an_update_of_the_payload_alone() -> None:
    change = answered(aeontel_row(installedAt="2026-01-02T04:04:05+01:00"), kept(aeontel_row()))
    assert change is not None
    assert change.announcements == (told("updated", "payload"),)


@pytest.mark.parametrize(
    ("ignored", "answer"),
    [
        ("retentionTier", {"retentionTier": "long"}),
        ("variables.language", {"variables": {"language": "fr", "api_key": "hush"}}),
        ("colour", {"colour": "red"}),
        ("integrationVersionId", {"integrationVersionId": "v2"}),
    ],
)
def test_a_change_of_an_ignored_path_is_no_change(ignored: str, answer: Payload) -> None:
    before = kept(aeontel_row())
    assert answered(aeontel_row(**answer), before, INSTALLS, ignored) is None
    assert answered(aeontel_row(**answer), before) is not None


def test_an_ignored_path_is_kept_and_told_with_the_next_change() -> None:
    answer = aeontel_row(retentionTier="long", installedBy="usr_2")
    change = answered(answer, kept(aeontel_row()), INSTALLS, "retentionTier")
    assert change is not None
    assert change.announcements == (told("updated", "installed_by"),)
    assert isinstance(change.after, Install)
    assert (change.after.retention_tier, change.after.payload) == ("long", answer)


def test_an_ignored_path_does_not_move_the_hash() -> None:
    one = answered(aeontel_row(), None, INSTALLS, "variables.language")
    other_variables = {"language": "fr", "api_key": "hush"}
    other = answered(aeontel_row(variables=other_variables), None, INSTALLS, "variables.language")
    assert one is not None
    assert other is not None
    assert one.after.row_hash == other.after.row_hash != ""


def test_a_redacted_value_can_change_unnoticed() -> None:
    def answer(key: str) -> Payload:
        variables = {"language": "de", "api_key": key}
        blotted: Payload = redacted(aeontel_row(variables=variables), ["variables.api_key"])
        return blotted

    before = kept(answer("old"))
    assert isinstance(before, Install)
    assert before.variables == {"language": "de", "api_key": "[redacted]"}
    assert answered(answer("new"), before) is None


class TestWhatIsProvenAbsent:
    @pytest.mark.parametrize(
        ("before", "state", "event"),
        [
            (install(), "deleted", "install.deleted"),
            (install(state="deleted", deleted_at=EARLIER), "purged", "install.purged"),
            (integration(), "deleted", "integration.deleted"),
        ],
        ids=["an active install", "a deleted install", "an active integration"],
    )
    def test_ends_once(self, before: Known, state: str, event: str) -> None:
        change = gone(pair(None, before), NOON)
        assert change is not None
        assert change.after.state == state
        assert change.announcements == (Announcement(event),)
        assert (change.after.revision, change.after.last_changed_at) == (2, NOON)
        assert change.after.payload == before.payload
        assert change.after.deletion_inferred == (state == "deleted")

    @pytest.mark.parametrize(
        "before",
        [None, install(state="purged"), integration(state="deleted")],
        ids=["something never seen", "a purged install", "a deleted integration"],
    )
    def test_is_nothing_where_nothing_is_left_to_end(self, before: Known | None) -> None:
        assert gone(pair(None, before), NOON) is None

    def test_was_deleted_when_its_absence_was_first_seen(self) -> None:
        change = gone(pair(None, install(missing_since=EARLIER)), NOON)
        assert change is not None
        assert isinstance(change.after, Install)
        assert (change.after.deleted_at, change.after.missing_since) == (EARLIER, None)

    def test_was_deleted_now_when_it_was_no_suspect(self) -> None:
        change = gone(pair(None, install()), NOON)
        assert change is not None
        assert change.after.deleted_at == NOON

    def test_keeps_the_time_of_its_deletion_when_it_is_purged(self) -> None:
        change = gone(pair(None, install(state="deleted", deleted_at=EARLIER)), NOON)
        assert change is not None
        assert isinstance(change.after, Install)
        assert (change.after.deleted_at, change.after.purged_at) == (EARLIER, NOON)

    def test_takes_its_deletion_back_when_it_comes_back_unchanged(self) -> None:
        change = answered(aeontel_row(), inferred(aeontel_row()))
        assert change is not None
        assert change.retraction
        assert change.announcements == (told("restored"),)
        assert not change.after.deletion_inferred

    def test_takes_nothing_back_when_it_comes_back_changed(self) -> None:
        change = answered(aeontel_row(installedBy="usr_2"), inferred(aeontel_row()))
        assert change is not None
        assert not change.retraction

    def test_takes_nothing_back_when_its_source_had_said_it_was_deleted(self) -> None:
        change = answered(aeontel_row(), kept(aeontel_row(**DELETED)))
        assert change is not None
        assert not change.retraction

    def test_is_a_suspect_no_more_once_it_is_seen_changed(self) -> None:
        change = answered(
            aeontel_row(installedBy="usr_2"), kept(aeontel_row(), missing_since=EARLIER)
        )
        assert change is not None
        assert isinstance(change.after, Install)
        assert change.after.missing_since is None


class TestGestal:
    def test_an_install_is_created_under_the_integration_that_lists_it(self) -> None:
        change = answered(gestal_row(), None, OF_A)
        assert change is not None
        assert change.after.integration_id == "int_a"
        assert change.announcements == (told("created", at=INSTALLED_AT),)

    def test_an_install_that_moves_to_another_integration_is_updated(self) -> None:
        change = answered(gestal_row(), kept(gestal_row(), OF_A), installs_of("int_b"))
        assert change is not None
        assert change.announcements == (told("updated", "integration_id"),)
        assert change.after.integration_id == "int_b"

    def test_an_install_is_never_upgraded(self) -> None:
        answer = gestal_row(version_id="v2", upgraded_at="2026-02-02T00:00:00Z")
        change = answered(answer, kept(gestal_row(), OF_A), OF_A)
        assert change is not None
        assert change.announcements == (told("updated", "payload"),)

    def test_a_site_and_a_tenant_are_told_by_column(self) -> None:
        party = {"cloud_id": "ten_2", "name": "Maier"}
        change = answered(gestal_row(tenant=party, site=None), kept(gestal_row(), OF_A), OF_A)
        assert change is not None
        fields = ("account_id", "account_name", "site_id", "site_name")
        assert change.announcements == (told("updated", *fields),)

    def test_a_reactivated_install_is_restored(self) -> None:
        change = answered(gestal_row(), inferred(gestal_row(), OF_A), OF_A)
        assert change is not None
        assert change.announcements == (told("restored"),)
        assert change.retraction


@pytest.mark.parametrize(
    ("before", "answer", "announced"),
    [
        (
            None,
            gestal_integration(),
            [Announcement("integration.created", (), datetime(2025, 1, 1, tzinfo=UTC))],
        ),
        (None, aeontel_integration(**DELETED), []),
        (
            kept(gestal_integration(), INTEGRATIONS),
            gestal_integration(name="Briefe", updated_at="2026-02-02T00:00:00Z"),
            [Announcement("integration.updated", ("name", "updated_at"), UPGRADED_AT)],
        ),
        (
            kept(aeontel_integration(), INTEGRATIONS),
            aeontel_integration(currentVersion="v2"),
            [Announcement("integration.updated", ("current_version",))],
        ),
        (
            kept(aeontel_integration(), INTEGRATIONS),
            aeontel_integration(**DELETED),
            [Announcement("integration.deleted", (), DELETED_AT)],
        ),
        (
            kept(aeontel_integration(**DELETED), INTEGRATIONS),
            aeontel_integration(),
            [Announcement("integration.restored")],
        ),
    ],
    ids=[
        "never seen: created",
        "never seen, deleted: only kept",
        "other columns: updated, at the time its source says",
        "another current version: updated, never upgraded",
        "deletedAt was read: deleted",
        "deleted, active: restored",
    ],
)
def test_the_truth_table_of_integrations(
    before: Known | None, answer: Payload, announced: list[Announcement]
) -> None:
    change = answered(answer, before, INTEGRATIONS)
    assert change is not None
    assert list(change.announcements) == announced
