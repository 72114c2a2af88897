"""What Slack is sent: readable, within its limits, and no word of a customer is mark-up."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from receivers import NOON, event

from worker import webhooks
from worker.settings import EVENT_TYPES, NOTICE_TYPES
from worker.webhooks.slack import cut

NASTY = (
    "<!channel> <@U024BE7LH> <http://evil.example|click> `code` *bold* _it_ ~no~ :tada:\n> quote"
)
HOLD = {
    "hold_id": "hold_0123456789ab",
    "source": "voice",
    "scope": "installs/int_1",
    "opened_at": "2026-03-01T12:00:00Z",
    "installs": 12,
    "share": 0.34,
    "reason": "12 of 35 rows absent at once (34%), more than max_share 10%",
    "status": "open",
}


def message(one) -> Any:
    return json.loads(webhooks.event_body(one, "slack"))


def notice(type: str, source: str | None = "voice", /, **data: Any) -> Any:
    return json.loads(webhooks.notice_body("ntc_1", type, source, data, NOON, "slack"))


def texts(said: Any, type: str) -> list[str]:
    """Every text object of a type, in their order."""
    if isinstance(said, list):
        return [text for item in said for text in texts(item, type)]
    if not isinstance(said, dict):
        return []
    if said.get("type") == type:
        return [said["text"]]
    return [text for item in said.values() for text in texts(item, type)]


def read(said: Any) -> list[str]:
    """The lines that a person reads, from top to bottom."""
    lines: list[str] = []
    for block in said["blocks"]:
        match block:
            case {"type": "header", "text": text}:
                lines.append(text["text"])
            case {"type": "section", "text": text}:
                lines += text["text"].splitlines()
            case {"type": "section", "fields": fields}:
                pairs = zip(fields[::2], fields[1::2], strict=True)
                lines += [f"{label['text']} {value['text']}" for label, value in pairs]
            case {"type": "context", "elements": [text]}:
                lines.append(text["text"])
    return lines


def length(text: str) -> int:
    """As Slack may count: an emoji is two."""
    return len(text.encode("utf-16-le")) // 2


def assert_fits(said: Any) -> None:
    """Slack would take it (docs.slack.dev: blocks, text object)."""
    assert set(said) == {"text", "blocks", "mrkdwn", "unfurl_links", "unfurl_media"}
    assert 1 <= length(said["text"]) <= 40_000
    assert 1 <= len(said["blocks"]) <= 50
    for block in said["blocks"]:
        match block["type"]:
            case "header":
                assert block["text"]["type"] == "plain_text"
                assert length(block["text"]["text"]) <= 150
            case "section":
                assert 1 <= len(block.get("fields", [0])) <= 10
                assert all(length(field["text"]) <= 2000 for field in block.get("fields", ()))
            case "context":
                assert 1 <= len(block["elements"]) <= 10
    every = texts(said, "plain_text") + texts(said, "mrkdwn")
    assert all(1 <= length(text) <= 3000 and text.strip() for text in every)


def test_an_event_says_what_happened_to_whom_and_when():
    said = message(event(occurred_at=NOON))
    assert read(said) == [
        "Install upgraded: Ø &amp; Co",
        "*Account* Ø &amp; Co",
        "*Integration* int_1",
        "*Install* ins_1",
        "*Version* 1.0 → 1.1",
        "*Source* voice",
        "*When* 2026-03-01 12:00:00 UTC",
        "evt_1 · event 1 · run_1 · detected 2026-03-01 12:00:00 UTC",
    ]
    assert said["text"] == (
        "Install upgraded: Ø &amp; Co · Integration: int_1 · Install: ins_1"
        " · Version: 1.0 → 1.1 · Source: voice · When: 2026-03-01 12:00:00 UTC"
    )


def test_names_stand_beside_their_ids_and_changes_beside_what_was():
    after = {
        "account_id": "ws_1", "account_name": "Müller", "site_id": "s_1", "site_name": "Hof",
        "installed_by": "usr_2", "version_id": "1.1",
    }  # fmt: skip
    changed = ("installed_by", "site_name", "variables")
    before = {"installed_by": None, "site_name": "Alt", "variables": {"key": "hush"}}
    said = message(
        event(type="install.updated", after=after, before=before, changed_fields=changed)
    )
    assert read(said)[1:10] == [
        "*Account* Müller (ws_1)",
        "*Site* Hof (s_1)",
        "*Integration* int_1",
        "*Install* ins_1",
        "*Version* 1.1",
        "*Installed by* nothing → usr_2",
        "*Site name* Alt → Hof",
        "*Variables* changed",
        "*Source* voice",
    ]
    assert "hush" not in json.dumps(said)


@pytest.mark.parametrize(
    ("type", "inferred", "headline", "evidence"),
    [
        ("install.deleted", True, "Install deleted (inferred): Ø &amp; Co", "inferred"),
        ("install.deleted", False, "Install deleted: Ø &amp; Co", "the source says so"),
        ("install.restored", True, "Install restored: Ø &amp; Co", "taken back"),
    ],
)
def test_a_deletion_says_how_it_is_known(type, inferred, headline, evidence):
    lines = read(message(event(type=type, deletion_inferred=inferred, changed_fields=())))
    (how,) = (line for line in lines if line.startswith("*How we know*"))
    assert lines[0] == headline
    assert evidence in how
    assert "*When* noticed 2026-03-01 12:00:00 UTC" in lines


def test_an_event_of_an_integration_names_it():
    row = {"integration_id": "int_1", "name": "Post", "current_version": "2.0"}
    made = event(
        type="integration.created", install=None, before=None, after=row, changed_fields=()
    )
    assert read(message(made))[:3] == [
        "Integration created: Post",
        "*Integration* Post (int_1)",
        "*Version* 2.0",
    ]


def test_a_hold_says_how_many_wait_and_what_to_type():
    assert read(notice("sync.held", **HOLD)) == [
        "Held: voice misses 12 installs",
        "They are kept as active until you decide.",
        "`stocktake approve hold_0123456789ab` walks again and deletes what is still missing.",
        "`stocktake reject hold_0123456789ab` keeps them.",
        "`stocktake holds` shows what waits.",
        "*Missing* 12 installs (34% of the listing)",
        "*Listing* installs/int_1",
        "*Why* 12 of 35 rows absent at once (34%), more than max_share 10%",
        "ntc_1 · sync.held · 2026-03-01 12:00:00 UTC",
    ]


@pytest.mark.parametrize(
    ("type", "source", "data", "lines"),
    [
        (
            "sync.baseline",
            "voice",
            {"scopes": [f"installs/{n}" for n in range(12)], "installs": 1, "integrations": 12},
            [
                "Baseline of voice: 1 install of 12 integrations",
                "They are recorded, and not announced one by one. What changes from now on is.",
                "*Found* 1 install of 12 integrations",
                f"*Listings* {', '.join(f'installs/{n}' for n in range(10))} and 2 more",
            ],
        ),
        (
            "sync.baseline",
            None,
            {"reason": "restored", "active_installs": 2, "sources": 1, "sequence": 4711},
            [
                "A backup was restored: 2 installs of 1 source",
                "What happened after that backup is found out and announced again, with new ids.",
                "*Holds* 2 installs of 1 source",
                "*Event log* goes on after event 4711",
            ],
        ),
        (
            "sync.failed",
            "farm",
            {"source": "farm", "failures": 3, "errors": ["farm answered 403", "farm: no answer"]},
            [
                "3 syncs of farm failed in a row",
                "Nothing is deleted meanwhile.",
                "`stocktake runs --source farm` shows what happened.",
                "`stocktake sync farm` tries again at once.",
                "*Errors* farm answered 403, farm: no answer",
            ],
        ),
        (
            "sync.recovered",
            "farm",
            {"source": "farm", "failures": 5, "errors": []},
            ["Syncs of farm work again", "*Failed before* 5 times in a row"],
        ),
        (
            "endpoint.disabled",
            None,
            {"endpoint": "crm", "reason": "failing", "failing_since": "2026-02-24T12:00:00Z"},
            [
                "Endpoint crm is disabled",
                "Its deliveries are kept and wait.",
                "`stocktake endpoints resume crm` sends them, once it works again.",
                "*Why* 120 hours and 10 attempts without success",
                "*Failing since* 2026-02-24 12:00:00 UTC",
            ],
        ),
        ("webhook.test", None, {}, ["A test of Stocktake", "This endpoint works."]),
    ],
)
def test_a_notice_says_what_is_the_matter_and_what_to_type(type, source, data, lines):
    said = notice(type, source, **data)
    assert_fits(said)
    assert read(said) == [*lines, f"ntc_1 · {type} · 2026-03-01 12:00:00 UTC"]


def test_every_type_of_event_and_notice_has_a_message():
    for type in EVENT_TYPES:
        assert_fits(message(event(type=type, changed_fields=())))
    for type in NOTICE_TYPES:
        assert_fits(notice(type, **HOLD))


def test_a_name_is_shown_as_it_is_and_is_never_mark_up():
    row = {"account_name": NASTY, "site_name": NASTY, "version_id": NASTY}
    said = message(event(install=NASTY, after=row, source="voice"))
    assert_fits(said)
    body = json.dumps(said, ensure_ascii=False)
    assert not set("<>") & set(body)
    assert "\\n" not in body
    assert "`" not in said["text"]
    assert said["mrkdwn"] is said["unfurl_links"] is said["unfurl_media"] is False
    assert "".join(texts(said, "mrkdwn")).count(":tada:") == 0
    shown = texts(said, "plain_text")
    assert any("&lt;!channel&gt; &lt;@U024BE7LH&gt;" in text and "*bold*" in text for text in shown)


anything = st.text(max_size=20) | st.text(
    st.sampled_from("<>&`*_~@#\n\r\0\u202e\u200d 🚜|!:"), max_size=20
)
columns = st.fixed_dictionaries(
    {},
    optional={
        name: st.none() | anything
        for name in ("account_id", "account_name", "name", "site_id", "site_name", "version_id")
    },
)


@settings(max_examples=50, deadline=None)
@given(after=columns, before=columns, ids=st.tuples(anything, anything), reason=anything)
def test_mark_up_says_the_same_whatever_customers_are_called(after, before, ids, reason):
    integration, install = ids
    said = message(event(install=install, integration_id=integration, after=after, before=before))
    held = notice("sync.held", **{**HOLD, "reason": reason, "scope": f"installs/{integration}"})
    failed = notice("sync.failed", failures=3, errors=[reason, install])
    plain = {"*Account*", "*Site*", "*Integration*", "*Install*", "*Version*", "*Source*", "*When*"}
    assert set(texts(said, "mrkdwn")) <= plain
    assert texts(held, "mrkdwn")[0] == texts(notice("sync.held", **HOLD), "mrkdwn")[0]
    for each in (said, held, failed):
        assert_fits(each)
        assert not set("<>\n") & set("".join([each["text"], *texts(each, "plain_text")]))
        assert all(text["emoji"] is False for text in objects(each, "plain_text"))


def objects(said: Any, type: str) -> list[Any]:
    """Every text object of a type."""
    inner = said if isinstance(said, list) else said.values() if isinstance(said, dict) else ()
    found = [each for item in inner for each in objects(item, type)]
    return [said, *found] if isinstance(said, dict) and said.get("type") == type else found


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("Ø & Co", 20, "Ø &amp; Co"),
        ("a\n\tb\u202e c\u0000", 20, "a b c"),
        ("12345", 5, "12345"),
        ("123456", 5, "1234…"),
        ("12345 789", 7, "12345…"),
        ("a&b&c", 8, "a&amp;b…"),
        ("🚜🚜🚜", 6, "🚜🚜🚜"),
        ("🚜🚜🚜", 5, "🚜🚜…"),
        ("👩\u200d🌾", 20, "👩\u200d🌾"),
        (" \u200d\u202e ", 20, ""),
        ("", 20, ""),
        ("x" * 10**6, 10, "x" * 9 + "…"),
    ],
)
def test_text_is_cut_to_what_fits_in_one_line(text, limit, shown):
    assert cut(text, limit) == shown
    assert length(shown) <= limit


def test_a_message_stays_short_however_long_names_are():
    row = dict.fromkeys(("account_id", "account_name", "site_id", "site_name"), "&🚜" * 10_000)
    fields = ("account_name", "site_name", "installed_by", "member_policy", "solution_id")
    body = webhooks.event_body(event(after=row, before=row, changed_fields=fields), "slack")
    assert_fits(json.loads(body))
    assert len(body) <= webhooks.MAX_BODY
