"""How the two platforms talk: requests from what is wanted, pages and columns from bodies."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from examples import (
    OF_A,
    aeontel_integration,
    aeontel_row,
    gestal_integration,
    gestal_row,
    row,
)

from worker import dialects
from worker.dialects import Dialect, aeontel, gestal
from worker.errors import UnusableBody
from worker.models import (
    INSTALLS,
    INTEGRATIONS,
    After,
    Among,
    Ask,
    Install,
    Integration,
    One,
    Page,
    PageNumber,
)
from worker.payloads import redacted

FIRST = PageNumber(1, 100)
HEAD = After(None, 100)


def text(value: Any) -> bytes:
    return msgspec.json.encode(value)


def gestal_listing(*rows: Any, **meta: Any) -> bytes:
    said = {"total": len(rows), "per_page": 100, "current_page": 1, "next_page": False, **meta}
    return text({"data": rows, "meta": {k: v for k, v in said.items() if v is not ...}})


def aeontel_listing(*rows: Any, **info: Any) -> bytes:
    return text({"data": rows, "pageInfo": {"hasNextPage": False, "endCursor": None, **info}})


@pytest.mark.parametrize("name", ["gestal", "aeontel"])
def test_a_dialect_is_found_by_its_configured_name(name: str) -> None:
    assert dialects.named(name) is {"gestal": gestal, "aeontel": aeontel}[name]


@pytest.mark.parametrize(
    ("dialect", "scope", "ask", "request_line"),
    [
        (gestal, INTEGRATIONS, PageNumber(2, 50), "GET /integrations?page=2&per_page=50"),
        (gestal, OF_A, FIRST, "GET /integrations/int_a/installations?page=1&per_page=100"),
        (gestal, INTEGRATIONS, One("int_a"), "GET /integrations/int_a"),
        (aeontel, INSTALLS, HEAD, "GET /api/integration-installs?limit=100"),
        (aeontel, INSTALLS, After("c2", 10), "GET /api/integration-installs?limit=10&after=c2"),
        (
            aeontel,
            INSTALLS,
            After(None, 10, lower="b", upper="c"),
            'GET /api/integration-installs?limit=10&filter={"id":{"gte":"b","lt":"c"}}',
        ),
        (
            aeontel,
            INSTALLS,
            After(None, 10, upper="c"),
            'GET /api/integration-installs?limit=10&filter={"id":{"lt":"c"}}',
        ),
        (
            aeontel,
            INSTALLS,
            After(None, 10, newest="lastUpgradedAt desc_nulls_last"),
            'GET /api/integration-installs?limit=10&orderBy=[{"lastUpgradedAt":"desc_nulls_last"}]',
        ),
        (aeontel, INSTALLS, Among(("a", "b")), "GET /api/integration-installs?limit=2&ids=a,b"),
        (aeontel, INSTALLS, One("a"), "GET /api/integration-installs/a"),
        (aeontel, INTEGRATIONS, HEAD, "GET /api/integrations?limit=100&include_deleted=true"),
        (aeontel, INTEGRATIONS, One("int_a"), "GET /api/integrations/int_a"),
    ],
)
def test_what_is_wanted_becomes_the_documented_request(
    dialect: Dialect, scope: str, ask: Ask, request_line: str
) -> None:
    assert str(dialect.request(scope, ask)) == request_line


@pytest.mark.parametrize(
    ("dialect", "scope", "ask"),
    [(gestal, OF_A, One("ins_1")), (gestal, OF_A, HEAD), (aeontel, INSTALLS, FIRST)],
    ids=["Gestal has no installation by id", "Gestal has no cursors", "Aeontel has no numbers"],
)
def test_what_is_not_documented_is_never_asked(dialect: Dialect, scope: str, ask: Ask) -> None:
    with pytest.raises(TypeError, match="has no request for"):
        dialect.request(scope, ask)


def test_only_gestal_logs_in() -> None:
    assert str(gestal.login()) == "POST /auth"
    assert gestal.read_token(b'{"token":"t","session_id":1}') == "t"
    assert dialects.named("aeontel").login() is None


@pytest.mark.parametrize("body", [b"{}", b'{"token":null}', b"", b"<html>secret</html>"])
def test_an_answer_to_a_login_without_a_token_is_not_quoted(body: bytes) -> None:
    with pytest.raises(UnusableBody) as raised:
        gestal.read_token(body)
    assert "the answer to the login" in str(raised.value)
    assert "secret" not in str(raised.value)


class TestAPageOfGestal:
    def test_tells_rows_numbers_and_total(self) -> None:
        body = gestal_listing(gestal_row("b"), gestal_row("a"), total=12, per_page=2, next_page=2)
        page = gestal.read(OF_A, PageNumber(1, 2), body)
        assert page == Page((row(gestal_row("b")), row(gestal_row("a"))), 12, 1, 2, next_page=2)

    @pytest.mark.parametrize("end", [False, None])
    def test_is_the_last_when_nothing_follows(self, end: bool | None) -> None:
        assert gestal.read(OF_A, FIRST, gestal_listing(next_page=end)).next_page is None

    def test_may_spell_its_number_as_an_older_page_of_the_vendor_does(self) -> None:
        body = gestal_listing(current_page=..., current_age=3)
        assert gestal.read(OF_A, FIRST, body).number == 3

    def test_need_not_say_its_number_and_size(self) -> None:
        page = gestal.read(OF_A, FIRST, gestal_listing(current_page=..., per_page=...))
        assert (page.number, page.size) == (None, None)

    def test_of_one_integration_is_that_row(self) -> None:
        page = gestal.read(INTEGRATIONS, One("int_a"), text(gestal_integration()))
        assert page == Page((row(gestal_integration()),))

    @pytest.mark.parametrize(
        "body",
        [
            gestal_listing(total=...),
            gestal_listing(next_page=...),
            gestal_listing(total=-1),
            gestal_listing(next_page=True),
            gestal_listing(total="7"),
            text({"meta": {"total": 0, "next_page": False}}),
            text({"data": {}, "meta": {"total": 0, "next_page": False}}),
        ],
        ids=[
            "no total", "no next_page", "a negative total", "next_page is true", "a total in text",
            "no data", "data is no list",
        ],
    )  # fmt: skip
    def test_that_is_not_as_documented_is_unusable(self, body: bytes) -> None:
        with pytest.raises(UnusableBody):
            gestal.read(OF_A, FIRST, body)


class TestAPageOfAeontel:
    def test_tells_rows_cursor_and_total(self) -> None:
        body = aeontel_listing(aeontel_row("a"), hasNextPage=True, endCursor="c1", total=9)
        page = aeontel.read(INSTALLS, HEAD, body)
        assert page == Page((row(aeontel_row("a")),), 9, next_cursor="c1")

    def test_is_the_last_when_nothing_follows_whatever_its_cursor(self) -> None:
        body = aeontel_listing(aeontel_row("a"), hasNextPage=False, endCursor="c1")
        assert aeontel.read(INSTALLS, HEAD, body).next_cursor is None

    def test_of_one_install_is_that_row(self) -> None:
        page = aeontel.read(INSTALLS, One("a"), text(aeontel_row("a")))
        assert page == Page((row(aeontel_row("a")),))

    @pytest.mark.parametrize(
        "body",
        [
            aeontel_listing(hasNextPage=True),
            aeontel_listing(hasNextPage=True, endCursor=""),
            text({"data": []}),
            text({"data": [], "pageInfo": {}}),
            text([]),
        ],
        ids=["no cursor to go on", "an empty cursor", "no pageInfo", "an empty pageInfo", "a list"],
    )
    def test_that_is_not_as_documented_is_unusable(self, body: bytes) -> None:
        with pytest.raises(UnusableBody):
            aeontel.read(INSTALLS, HEAD, body)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (b"<html>hush</html>", "HTML, not JSON"),
        (b"", "not valid JSON"),
        (b'{"data":[{"cloud_id":"hush"', "not valid JSON"),
        (gestal_listing({"name": "hush"}), "row 1 of the answer"),
        (gestal_listing(gestal_row("a"), {"cloud_id": ""}), "row 2 of the answer has an empty"),
        (gestal_listing({"cloud_id": 7}), "row 1 of the answer"),
        (gestal_listing("hush"), "row 1 of the answer"),
        (gestal_listing(gestal_row("a", created_at="hush")), "row 1 of the answer"),
        (gestal_listing(gestal_row("a", note="hush")).replace(b"hush", b"hu\xffsh"), "not valid"),
        (gestal_listing(gestal_row("a", note="hush")).replace(b"hush", b"\\ud800"), "not valid"),
        (gestal_listing(gestal_row("a", note="hush")).replace(b'"hush"', b"1e400"), "row 1 of the"),
    ],
    ids=[
        "HTML", "nothing", "a cut-off body", "a row without an id", "a row with an empty id",
        "an id that is a number", "a row that is a text", "a time that is none",
        "bytes that are not UTF-8", "half a character", "a number that is none",
    ],
)  # fmt: skip
def test_an_unusable_body_is_told_but_never_quoted(bad: bytes, what: str) -> None:
    with pytest.raises(UnusableBody, match=what) as raised:
        gestal.read(OF_A, FIRST, bad)
    assert "hush" not in str(raised.value)


def test_a_row_is_kept_as_it_was_sent() -> None:
    sent = b'{ "cloud_id": "a",\n  "later": [1.50, null] }'
    body = b'{"data":[' + sent + b'],"meta":{"total":1,"next_page":false}}'
    (found,) = gestal.read(OF_A, FIRST, body).rows
    assert (found.id, found.raw) == ("a", sent)


def test_the_digest_differs_when_the_text_differs() -> None:
    assert row(gestal_row()).digest == row(gestal_row()).digest
    assert row(gestal_row()).digest != row(gestal_row(created_at=None)).digest


def test_the_columns_of_a_gestal_install() -> None:
    payload = gestal_row()
    assert gestal.install(payload, "int_a") == Install(
        install_id="ins_1",
        integration_id="int_a",
        account_id="ten_1",
        account_name="Müller & Söhne",
        site_id="site_1",
        site_name="Kirchhof",
        installed_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        payload=payload,
    )


def test_the_columns_of_a_gestal_integration() -> None:
    payload = gestal_integration()
    assert gestal.integration(payload) == Integration(
        integration_id="int_a",
        name="Post",
        url="https://post.example",
        description="Sends post.",
        created_at=datetime(2025, 1, 1, tzinfo=UTC),
        updated_at=datetime(2025, 6, 1, tzinfo=UTC),
        payload=payload,
    )


def test_the_columns_of_an_aeontel_install() -> None:
    payload = aeontel_row(
        parentInstallId="ins_0", solutionId="sol_1", authStateId="auth_1",
        lastUpgradedAt="2026-02-01T00:00:00Z", deletedAt="2026-02-02T00:00:00Z",
    )  # fmt: skip
    assert aeontel.install(payload, None) == Install(
        install_id="ins_1",
        integration_id="int_a",
        version_id="v1",
        account_id="ws_1",
        installed_by="usr_1",
        member_policy="manual",
        retention_tier="short",
        parent_install_id="ins_0",
        solution_id="sol_1",
        auth_state_id="auth_1",
        installed_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        upgraded_at=datetime(2026, 2, 1, tzinfo=UTC),
        deleted_at=datetime(2026, 2, 2, tzinfo=UTC),
        variables={"language": "de", "api_key": "hush"},
        payload=payload,
    )


def test_the_columns_of_an_aeontel_integration() -> None:
    payload = aeontel_integration(publisher="we", trustTier="high", visibility="public")
    assert aeontel.integration(payload) == Integration(
        integration_id="int_a",
        name="Post",
        slug="post",
        publisher="we",
        current_version="v1",
        visibility="public",
        trust_tier="high",
        workspace_id="ws_0",
        created_at=datetime(2025, 1, 1, tzinfo=UTC),
        updated_at=datetime(2025, 6, 1, tzinfo=UTC),
        payload=payload,
    )


@pytest.mark.parametrize("said", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_at_the_edge_of_the_calendar_is_as_it_is_said(said: str) -> None:
    moment = aeontel.install(aeontel_row(installedAt=said), None).installed_at
    assert moment is not None
    assert moment.isoformat() == said[:19] + "+00:00"


@pytest.mark.parametrize("said", ["2026-01-02T03:04:05", "2026-01-02T04:04:05+01:00"])
def test_times_are_utc_however_they_are_said(said: str) -> None:
    expected = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert gestal.install(gestal_row(created_at=said), "int_a").installed_at == expected


@pytest.mark.parametrize("field", ["site", "tenant", "created_at"])
def test_a_gestal_row_may_lack_what_is_not_its_id(field: str) -> None:
    payload = {name: value for name, value in gestal_row().items() if name != field}
    assert gestal.install(payload, "int_a").install_id == "ins_1"
    assert gestal.install({**payload, field: None}, "int_a").install_id == "ins_1"


def test_a_redacted_text_is_the_value_of_its_column() -> None:
    payload = redacted(gestal_row(), ["tenant.name"])
    assert gestal.install(payload, "int_a").account_name == "[redacted]"
    payload = redacted(aeontel_row(), ["installedBy", "variables"])
    columns = aeontel.install(payload, None)
    assert (columns.installed_by, columns.variables) == ("[redacted]", "[redacted]")


@pytest.mark.parametrize("path", ["tenant", "site", "created_at"])
def test_a_redacted_object_or_time_is_the_value_of_no_column(path: str) -> None:
    payload = redacted(gestal_row(), [path])
    columns = gestal.install(payload, "int_a")
    assert columns.install_id == "ins_1"
    assert None in (columns.account_id, columns.site_id, columns.installed_at)
    assert columns.payload[path] == "[redacted]"
