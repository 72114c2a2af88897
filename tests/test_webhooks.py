"""What webhooks say, how they are signed, and what follows from answers."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from receivers import NOON, SECRET, event
from standardwebhooks import Webhook

from worker import webhooks
from worker.outbound import Answer, Claim, Health
from worker.webhooks import Verdict

OTHER_SECRET = "whsec_" + "b" * 42 + "=="
MINUTE = timedelta(minutes=1)

CLAIM = Claim(
    position=1,
    delivery_id="dlv_1",
    event_id="evt_1",
    endpoint="crm",
    type="install.upgraded",
    attempts=0,
    first_attempt_at=NOON,
    is_replay=False,
    lease_token="t",
    body=b'{"a":1}',
)


def said(event, format="standard"):
    return json.loads(webhooks.event_body(event, format))


def headers(claim=CLAIM, secrets=(SECRET,), extra=None, now=NOON):
    return webhooks.headers(claim, secrets, extra or {}, "1.2.3", now)


def settle(answer, attempts=0, health=None, jitter=0.0, now=NOON):
    claim = replace(CLAIM, attempts=attempts)
    return webhooks.settle(claim, answer, health or Health(), now, jitter)


def fare(*statuses, health=None, now=NOON):
    health = health or Health()
    for status in statuses:
        health = webhooks.fare(health, webhooks.outcome(Answer(status=status)), now)
    return health


# Bodies


def test_an_install_event_says_every_column_but_payload_variables_and_row_hash():
    after = {"install_id": "ins_1", "state": "active", "installed_at": NOON}
    hidden = {"payload": {"secret": 1}, "variables": {"key": 2}, "row_hash": "ff"}
    occurred = datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=2)))
    body = said(event(7, after=after | hidden, occurred_at=occurred))
    assert body == {
        "type": "install.upgraded",
        "timestamp": "2026-03-01T12:00:00Z",
        "data": {
            "event_id": "evt_7",
            "sequence": 7,
            "source": "voice",
            "occurred_at": "2026-03-01T11:00:00Z",
            "deletion_inferred": False,
            "revision": 2,
            "changed_fields": ["version_id"],
            "previous_attributes": {"version_id": "1.0"},
            "install": {
                "source": "voice",
                "install_id": "ins_1",
                "state": "active",
                "installed_at": "2026-03-01T12:00:00Z",
            },
            "run_id": "run_1",
        },
    }


def test_an_integration_event_carries_the_integration():
    row = {"integration_id": "int_1", "name": "Barn", "payload": {}}
    data = said(event(install=None, type="integration.updated", after=row))["data"]
    assert data["integration"] == {"source": "voice", "integration_id": "int_1", "name": "Barn"}
    assert "install" not in data


def test_values_of_variables_and_payload_never_travel_but_their_names_do():
    before = {"variables": {"key": "hush"}, "payload": {"x": "hush"}, "site_name": "Old"}
    data = said(event(changed_fields=("payload", "site_name", "variables"), before=before))["data"]
    assert data["changed_fields"] == ["payload", "site_name", "variables"]
    assert data["previous_attributes"] == {"site_name": "Old"}


def test_a_created_install_has_no_previous_attributes():
    created = event(type="install.created", before=None, changed_fields=())
    assert said(created)["data"]["previous_attributes"] == {}


def test_an_install_too_large_to_send_shrinks_to_its_ids():
    large = event(after={"install_id": "ins_1", "account_name": "x" * 30_000})
    body = webhooks.event_body(large, "standard")
    data = json.loads(body)["data"]
    assert len(body) <= webhooks.MAX_BODY
    assert data["truncated"] is True
    assert data["install"] == {
        "source": "voice",
        "integration_id": "int_1",
        "install_id": "ins_1",
    }
    assert data["previous_attributes"] == {"version_id": "1.0"}


def test_a_body_of_exactly_the_limit_is_not_truncated():
    spare = webhooks.MAX_BODY - len(webhooks.event_body(event(after={"n": ""}), "standard"))
    fits, exceeds = event(after={"n": "x" * spare}), event(after={"n": "x" * (spare + 1)})
    assert len(webhooks.event_body(fits, "standard")) == webhooks.MAX_BODY
    assert "truncated" not in said(fits)["data"]
    assert said(exceeds)["data"]["truncated"] is True


def test_previous_values_too_large_to_send_are_left_out_too():
    body = webhooks.event_body(event(before={"version_id": "x" * 30_000}), "standard")
    assert len(body) <= webhooks.MAX_BODY
    assert json.loads(body)["data"]["previous_attributes"] == {}


def test_a_notice_carries_its_id_and_its_facts():
    body = webhooks.notice_body(
        "ntc_1", "sync.held", "voice", {"hold_id": "hold_1", "installs": 12}, NOON, "standard"
    )
    assert json.loads(body) == {
        "type": "sync.held",
        "timestamp": "2026-03-01T12:00:00Z",
        "data": {"notice_id": "ntc_1", "source": "voice", "hold_id": "hold_1", "installs": 12},
    }


def test_a_notice_too_long_to_send_keeps_its_counts_and_the_start_of_its_lists():
    scopes = [f"installs/{number:0>40}" for number in range(2000)]
    facts = {"scopes": scopes, "installs": 9, "reason": "\u0000" * 10_000}
    body = webhooks.notice_body("ntc_1", "sync.baseline", "voice", facts, NOON, "standard")
    assert len(body) <= webhooks.MAX_BODY
    assert json.loads(body)["data"] == {
        "notice_id": "ntc_1",
        "source": "voice",
        "scopes": scopes[:10],
        "installs": 9,
        "reason": "\u0000" * 200,
        "truncated": True,
    }


def test_what_a_snapshot_sends_on_demand_says_so():
    created = event(type="install.created", before=None, changed_fields=(), baseline=True)
    assert said(created)["data"]["baseline"] is True
    assert "baseline" not in said(event())["data"]


# Who gets what


@pytest.mark.parametrize(
    ("events", "sources", "type", "source", "wanted"),
    [
        (["install.*"], ["*"], "install.created", "voice", True),
        (["install.*"], ["*"], "integration.created", "voice", False),
        (["install.*"], ["*"], "sync.held", "voice", False),
        (["install.deleted", "sync.*"], ["*"], "sync.held", "voice", True),
        (["*"], ["farm"], "install.created", "voice", False),
        (["*"], ["f*", "voice"], "install.created", "voice", True),
        (["*"], ["farm"], "endpoint.disabled", None, True),
        (["install.*"], ["farm"], "webhook.test", None, True),
    ],
)
def test_globs_over_types_and_sources_decide_who_gets_a_message(
    events, sources, type, source, wanted
):
    assert webhooks.wants(events, sources, type, source) is wanted


def test_a_notice_about_the_same_facts_has_the_same_id_without_a_dot():
    one, again = (
        webhooks.notice_id("sync.held", "hold_1"),
        webhooks.notice_id("sync.held", "hold_1"),
    )
    assert one == again != webhooks.notice_id("sync.held", "hold_2")
    assert one.startswith("ntc_")
    assert "." not in one


# Headers


def test_while_secrets_rotate_each_of_them_verifies():
    now = datetime.now(UTC)
    sent = headers(secrets=(SECRET, OTHER_SECRET), now=now)
    assert len(sent["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(CLAIM.body, sent) == {"a": 1}


def test_headers_name_the_event_the_attempt_and_the_sender():
    assert headers(replace(CLAIM, attempts=2)) == {
        "content-type": "application/json",
        "user-agent": "stocktake/1.2.3",
        "accept-encoding": "identity",
        "webhook-id": "evt_1",
        "webhook-timestamp": "1772366400",
        "webhook-signature": headers()["webhook-signature"],
        "stocktake-event-type": "install.upgraded",
        "stocktake-attempt": "3",
    }


def test_without_secrets_nothing_is_signed():
    assert "webhook-signature" not in headers(secrets=())


def test_a_replay_says_so():
    assert headers(replace(CLAIM, is_replay=True))["stocktake-replay"] == "1"
    assert "stocktake-replay" not in headers()


def test_extra_headers_are_added_but_override_nothing():
    sent = headers(extra={"X-Team": "crm", "Webhook-Id": "evt_other", "User-Agent": "curl"})
    assert sent["x-team"] == "crm"
    assert sent["webhook-id"] == "evt_1"
    assert sent["user-agent"] == "stocktake/1.2.3"


# What follows from an answer


@pytest.mark.parametrize(
    ("answer", "state", "attempts", "reason", "delay"),
    [
        (Answer(200), "delivered", 1, None, None),
        (Answer(204), "delivered", 1, None, None),
        (Answer(299), "delivered", 1, None, None),
        (Answer(410), "dead", 1, "gone", None),
        (Answer(301), "pending", 1, "redirect", 5),
        (Answer(308), "pending", 1, "redirect", 5),
        (Answer(408), "pending", 1, None, 5),
        (Answer(425), "pending", 1, None, 5),
        (Answer(500), "pending", 1, None, 5),
        (Answer(503), "pending", 1, None, 5),
        (Answer(502), "pending", 1, None, 60),
        (Answer(504), "pending", 1, None, 60),
        (Answer(429), "pending", 0, None, 60),
        (Answer(400), "pending", 1, "receiver_config", 5),
        (Answer(404), "pending", 1, "receiver_config", 5),
        (Answer(101), "pending", 1, None, 5),
        (Answer(999), "pending", 1, None, 5),
        (Answer(fault="dns"), "pending", 1, None, 5),
        (Answer(fault="connect"), "pending", 1, None, 5),
        (Answer(fault="reset"), "pending", 1, None, 5),
        (Answer(fault="protocol"), "pending", 1, None, 5),
        (Answer(fault="deadline"), "pending", 1, None, 60),
        (Answer(fault="tls"), "pending", 1, "tls", 5),
        (Answer(fault="blocked"), "dead", 1, "blocked", None),
    ],
)
def test_every_answer_has_one_consequence(answer, state, attempts, reason, delay):
    settled = settle(answer)
    assert (settled.state, settled.attempts, settled.reason) == (state, attempts, reason)
    assert settled.next_at == (None if delay is None else NOON + timedelta(seconds=delay))


OVERLOAD = {"overload": True}
AT_LEAST_A_MINUTE = {"overload": True, "unhurried": True}


@pytest.mark.parametrize(
    ("statuses", "faults", "verdict"),
    [
        (range(200, 300), (), Verdict("delivered")),
        ((410,), (), Verdict("dead", "gone", gone=True)),
        (range(300, 400), (), Verdict("retry", "redirect")),
        ((408, 425), ("dns", "reset", "protocol"), Verdict("retry")),
        ((500, 501, 503, *range(505, 600)), ("connect",), Verdict("retry", **OVERLOAD)),
        ((502, 504), ("deadline",), Verdict("retry", **AT_LEAST_A_MINUTE)),
        ((429,), (), Verdict("retry", **AT_LEAST_A_MINUTE, uses_attempt=False)),
        (
            set(range(400, 500)) - {408, 410, 425, 429},
            (),
            Verdict("retry", "receiver_config"),
        ),
        ((), ("tls",), Verdict("retry", "tls")),
        ((), ("blocked",), Verdict("dead", "blocked")),
    ],
    ids=[
        "2xx is delivered",
        "410 disables the endpoint",
        "3xx is flagged and retried",
        "408, 425, DNS, reset and protocol are retried",
        "5xx and connect are retried and count towards the breaker",
        "502, 504 and deadline wait for a minute, too",
        "429 waits for a minute and uses up no attempt",
        "another 4xx is flagged as the receiver's configuration and retried",
        "TLS is flagged and retried",
        "a blocked address is dead",
    ],
)
def test_the_table_of_outcomes(statuses, faults, verdict):
    for status in statuses:
        assert webhooks.outcome(Answer(status)) == verdict, status
    for fault in faults:
        assert webhooks.outcome(Answer(fault=fault)) == verdict, fault


@pytest.mark.parametrize("fault", ["tls", "blocked"])
def test_what_a_person_must_mend_is_flagged_at_the_first_failure(fault):
    verdict = webhooks.outcome(Answer(fault=fault))
    assert webhooks.fare(Health(), verdict, NOON).flag == fault


def test_ten_attempts_are_spread_over_75_hours_and_35_minutes():
    at, waits = NOON, []
    for used in range(9):
        settled = settle(Answer(500), attempts=used, now=at)
        waits.append((settled.next_at - at).total_seconds())
        at = settled.next_at
    assert waits == [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert at - NOON == timedelta(hours=75, minutes=35, seconds=5)


def test_the_tenth_failed_attempt_is_the_last():
    assert settle(Answer(500), attempts=9).state == "dead"
    assert settle(Answer(500), attempts=9).reason == "exhausted"
    assert settle(Answer(200), attempts=9).state == "delivered"


def test_jitter_adds_up_to_a_fifth():
    assert settle(Answer(500), attempts=1, jitter=1.0).next_at == NOON + 6 * MINUTE


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("30", 30),
        (" 30 ", 30),
        ("\t30\t", 30),
        ("0030", 30),
        ("\u0663\u0660", 5),
        ("30, 60", 5),
        ("30 seconds", 5),
        ("1e3", 5),
        ("315360000", 86_400),
        ("Sat, 01 Mar 2036 12:00:00 GMT", 86_400),
        (" Sun, 01 Mar 2026 12:02:00 GMT ", 120),
        ("Sunday, 01-Mar-26 12:02:00 GMT", 120),
        ("Sun Mar  1 12:02:00 2026", 120),
        ("Sun, 01 Mar 2026 13:02:00 +0100", 120),
        ("Sat, 01 Mar 2016 12:00:00 GMT", 5),
        ("Sun, 31 Feb 2026 12:00:00 GMT", 5),
        ("<html>", 5),
        ("2", 5),
        ("0", 5),
        ("86401", 86_400),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120),
        ("Sun, 01 Mar 2026 12:02:00 -0000", 120),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 5),
        ("Tue, 03 Mar 2026 12:00:00 GMT", 86_400),
        ("-30", 5),
        ("1.5", 5),
        ("soon", 5),
        ("", 5),
        ("9" * 5000, 5),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", 5),
    ],
)
def test_retry_after_raises_the_delay_up_to_a_day(asked, seconds):
    settled = settle(Answer(503, retry_after=asked))
    assert settled.next_at == NOON + timedelta(seconds=seconds)


def test_without_retry_after_the_schedule_holds():
    assert settle(Answer(503, retry_after=None)).next_at == NOON + timedelta(seconds=5)


@pytest.mark.parametrize("status", [429, 502, 504])
@pytest.mark.parametrize("nonsense", [None, "", "soon", "-1", "1.5"])
def test_nonsense_in_retry_after_is_as_none_so_that_a_minute_is_waited(status, nonsense):
    settled = settle(Answer(status, retry_after=nonsense))
    assert settled.next_at == NOON + timedelta(seconds=60)


@given(
    asked=st.text(max_size=40),
    attempts=st.integers(0, 8),
    jitter=st.floats(0, 1),
    status=st.sampled_from([429, 503, 504]),
)
@settings(max_examples=100, deadline=None)
def test_whatever_retry_after_says_the_next_attempt_is_in_bounds(asked, attempts, jitter, status):
    settled = settle(Answer(status, retry_after=asked), attempts=attempts, jitter=jitter)
    least = webhooks.DELAYS[settled.attempts]
    assert least <= settled.next_at - NOON <= 1.2 * timedelta(hours=24)


def test_retry_after_is_believed_where_a_minute_would_be_waited_otherwise():
    assert settle(Answer(429, retry_after="1")).next_at == NOON + timedelta(seconds=1)


def test_no_delivery_is_tried_before_the_breaker_ends():
    health = Health(breaker_until=NOON + 15 * MINUTE)
    assert settle(Answer(503), health=health).next_at == NOON + 15 * MINUTE


def test_a_rate_limit_uses_up_no_attempt_for_seven_days():
    week = timedelta(days=7)
    assert settle(Answer(429), attempts=9, now=NOON + week - MINUTE).state == "pending"
    assert settle(Answer(429), attempts=9, now=NOON + week).state == "dead"
    assert settle(Answer(429), attempts=9, now=NOON + week).reason == "rate_limited"


def test_what_fails_at_a_halted_endpoint_is_paused():
    settled = settle(Answer(500), health=Health(paused=True))
    assert (settled.state, settled.reason, settled.next_at) == ("paused", "paused", None)
    assert settle(Answer(500), health=Health(disabled_reason="gone")).reason == "gone"


# How an endpoint fares


def test_five_overloads_in_a_row_open_the_breaker_for_a_minute():
    assert fare(500, 429, 503, 500).breaker_until is None
    assert fare(500, 429, 503, 500, 502).breaker_until == NOON + MINUTE


@pytest.mark.parametrize("fault", ["deadline", "connect"])
def test_deadlines_and_refused_connections_open_the_breaker(fault):
    verdict, health = webhooks.outcome(Answer(fault=fault)), Health()
    for _ in range(5):
        health = webhooks.fare(health, verdict, NOON)
    assert health.breaker_until == NOON + MINUTE


def test_an_answer_that_is_no_overload_starts_the_count_again():
    assert fare(500, 500, 500, 500, 404, 500).breaker_until is None
    assert fare(500, 500, 500, 500, 200, 500).breaker_until is None


def test_each_failed_probe_doubles_the_breaker_up_to_a_quarter_of_an_hour():
    health, now, minutes = fare(*[500] * 5), NOON, []
    for _ in range(20):
        now = health.breaker_until
        health = fare(500, health=health, now=now)
        minutes.append((health.breaker_until - now) / MINUTE)
    assert minutes == [2, 4, 8] + [15] * 17


def test_failures_of_what_was_in_flight_when_the_breaker_opened_do_not_double_it():
    assert fare(*[500] * 9).breaker_until == NOON + MINUTE
    assert fare(*[500] * 9).overloads == 5


def test_a_successful_probe_closes_the_breaker():
    assert fare(200, health=fare(*[500] * 5)) == Health(last_success_at=NOON)


def test_a_flag_stays_until_a_success():
    assert fare(302).flag == "redirect"
    assert fare(302, 500).flag == "redirect"
    assert fare(302, 404).flag == "receiver_config"
    assert fare(302, 200).flag is None


def test_gone_disables_an_endpoint_at_once():
    assert fare(410).disabled_reason == "gone"


def test_120_hours_and_ten_attempts_without_success_disable_an_endpoint():
    first, then = fare(*[404] * 9), NOON + timedelta(hours=120)
    assert fare(404, health=first, now=then).disabled_reason == "failing"
    assert fare(404, health=first, now=then - MINUTE).disabled_reason is None
    assert fare(404, health=fare(*[404] * 8), now=then).disabled_reason is None
    assert fare(200, health=first, now=then).disabled_reason is None
    assert fare(429, health=first, now=then).disabled_reason is None


def test_silence_is_no_failure():
    idle = Health(last_success_at=NOON - timedelta(days=30))
    assert fare(*[404] * 10, health=idle).disabled_reason is None


def test_an_endpoint_halted_by_a_person_or_disabled_stays_so_after_a_success():
    assert fare(200, health=Health(paused=True)).paused
    assert fare(200, health=Health(disabled_reason="gone")).disabled_reason == "gone"


@pytest.mark.parametrize(
    ("health", "in_flight", "recent", "per_minute", "free"),
    [
        (Health(), 0, 0, 0, 4),
        (Health(), 3, 0, 0, 1),
        (Health(), 6, 0, 0, 0),
        (Health(paused=True), 0, 0, 0, 0),
        (Health(disabled_reason="gone"), 0, 0, 0, 0),
        (Health(breaker_until=NOON + MINUTE), 0, 0, 0, 0),
        (Health(breaker_until=NOON), 0, 0, 0, 1),
        (Health(breaker_until=NOON), 1, 0, 0, 0),
        (Health(), 0, 8, 10, 2),
        (Health(), 1, 8, 10, 1),
        (Health(), 0, 12, 10, 0),
    ],
)
def test_free_slots_follow_from_health_and_limits(health, in_flight, recent, per_minute, free):
    assert webhooks.slots(health, in_flight, recent, 4, per_minute, NOON) == free
