"""The commands as a person or a script meets them: what they print, where, and their exit codes."""

import csv
import io
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook
from terminals import Said, Terminal, logging_as_before, narrowed
from typer.main import get_command

from worker import __version__
from worker.cli import loaded, main, output
from worker.cli.context import COMMANDS
from worker.playground import Playground, playground
from worker.sandbox.faults import Fault
from worker.sandbox.logins import PASSWORD
from worker.settings import EVENT_TYPES, load

# DESIGN, sections 5 and 6: what `--json` gives.
SYNC = [
    "run_id", "source", "scope", "mode", "outcome", "certificate", "requests", "pages", "seen",
    "total", "events", "held", "suspects", "seconds", "error",
]  # fmt: skip
SYNC_RUNS = [
    "run_id", "source", "scope", "mode", "outcome", "certificate", "evidence", "started_at",
    "finished_at", "requests", "pages", "seen", "total", "created", "upgraded", "updated",
    "deleted", "restored", "purged", "held", "suspects", "error",
]  # fmt: skip
EVENTS = [
    "sequence", "event_id", "type", "source", "integration_id", "install_id", "revision",
    "occurred_at", "detected_at", "deletion_inferred", "baseline", "changed_fields", "before",
    "after", "run_id",
]  # fmt: skip
HOLDS = [
    "hold_id", "source", "scope", "opened_at", "installs", "share", "status", "decided_at",
]  # fmt: skip

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-c", "from worker.cli import main; main()")


class Meanwhile(threading.Event):
    """A stop that comes after one wait, in which `deed` happens."""

    def __init__(self, deed: Callable[[], object]) -> None:
        super().__init__()
        self._deed = deed

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._deed()
            self.set()
            return False
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with logging_as_before():
        yield


def make_terminal(folder: Path, running: Playground) -> Terminal:
    folder.mkdir(exist_ok=True)
    terminal = Terminal(folder)
    terminal.config.write_text(running.config)
    return terminal


def change(running: Playground, *kinds: str) -> None:
    with running.server.lock:
        for world in (running.gestal, running.aeontel):
            for kind in (kind for kind in kinds if kind in world.kinds):
                world.change(kind, Random(1))


@pytest.fixture(scope="module")
def running() -> Iterator[Playground]:
    """Platforms that move no more."""
    with playground(installs=5) as running:
        yield running


@pytest.fixture(scope="module")
def kept(running: Playground, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who has synced twice; to be copied."""
    terminal = make_terminal(tmp_path_factory.mktemp("kept"), running)
    assert terminal("sync").code == 0
    change(running, "install", "upgrade", "uninstall")
    assert terminal("sync").code == 0
    return terminal.folder


@pytest.fixture
def terminal(kept: Path, tmp_path: Path, running: Playground) -> Iterator[Terminal]:
    """A Stocktake that has synced before."""
    yield Terminal(Path(shutil.copytree(kept, tmp_path / "folder")))
    running.gestal.faults.clear()
    running.aeontel.faults.clear()


@pytest.fixture
def fresh(tmp_path: Path, running: Playground) -> Terminal:
    """A Stocktake that has a configuration and nothing else."""
    return make_terminal(tmp_path / "fresh", running)


# --- what each command gives ----------------------------------------------------------------------


def test_the_version_and_the_help_need_no_configuration(tmp_path: Path) -> None:
    nowhere = Terminal(tmp_path / "nowhere")
    assert nowhere("--version") == Said(0, f"stocktake {__version__}\n", "")
    assert nowhere("sync", "--help").code == 0


def test_every_command_has_its_place_in_the_help(tmp_path: Path) -> None:
    names = [name for names in COMMANDS.values() for name in names]
    assert sorted(names) == sorted(get_command(loaded()).commands)  # type: ignore[attr-defined]
    shown = Terminal(tmp_path)("--help").out
    places = [shown.index(f"─ {name} ─") for name in COMMANDS]
    assert places == sorted(places)


def test_init_writes_a_configuration_that_loads(tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    said = Terminal(tmp_path)("init", str(file))
    assert (said.code, said.err) == (0, "")
    assert str(file) in said.out
    login = {"GESTAL_EMAIL": "me@example.com", "GESTAL_PASSWORD": "secret"}
    assert [source.name for source in load(file, login).sources] == ["farm"]


def test_a_sync_tells_a_run_for_each_listing(terminal: Terminal) -> None:
    said = terminal("sync", "--json")
    runs = said.document["runs"]
    assert said.code == 0
    assert list(said.document) == ["runs"]
    assert all(list(run) == SYNC for run in runs)
    assert sorted({(run["source"], run["certificate"]) for run in runs}) == [
        ("farm", "pristine"),
        ("voice", "keyset"),
    ]
    assert {run["outcome"] for run in runs} == {"unchanged"}


def test_a_sync_can_be_of_one_integration(terminal: Terminal, running: Playground) -> None:
    key = next(iter(running.gestal.integrations))
    (run,) = terminal("sync", "farm", "--integration", key, "--json").document["runs"]
    assert run["scope"] == f"installs/{key}"


def test_an_incremental_sync_of_what_did_not_move_asks_once_a_listing(terminal: Terminal) -> None:
    runs = terminal("sync", "farm", "--incremental", "--json").document["runs"]
    asked = [(run["source"], run["mode"], run["requests"]) for run in runs]
    assert asked == [("farm", "incremental", 1)] * 2


def test_a_dry_run_says_what_would_be_recorded_and_records_nothing(fresh: Terminal) -> None:
    said = fresh("sync", "--dry-run", "--json")
    counted: dict[str, int] = {}
    for run in said.document["runs"]:
        for type_, count in run["events"].items():
            counted[type_] = counted.get(type_, 0) + count
    would = [event["type"] for event in said.document["events"]]
    assert counted == {type_: would.count(type_) for type_ in set(would)}
    assert counted["install.created"] > 10
    assert fresh("runs", "--json").document == {"runs": []}
    assert fresh("events", "--json").document == {"events": []}


def test_what_is_due_is_delivered_and_verified(terminal: Terminal, running: Playground) -> None:
    before = len(running.receiver.received)
    said = terminal("deliver", "--wait", "20", "--json")
    fresh = running.receiver.received[before:]
    assert said.document == {"delivered": len(fresh), "failed": 0, "dead": 0, "pending": 0}
    assert fresh
    assert all(each.verified for each in fresh)


def test_runs_have_the_columns_of_their_table(terminal: Terminal) -> None:
    runs = terminal("runs", "--json").document["runs"]
    assert all(list(run) == SYNC_RUNS for run in runs)
    assert runs == sorted(runs, key=lambda run: run["started_at"], reverse=True)
    of_farm = terminal("runs", "--source", "farm", "--limit", "2", "--json").document["runs"]
    assert [run["source"] for run in of_farm] == ["farm", "farm"]


def test_one_run_is_shown_with_its_evidence(terminal: Terminal) -> None:
    run = terminal("runs", "--json").document["runs"][0]
    assert terminal("runs", "show", run["run_id"], "--json").document == run
    said = terminal("runs", "show", run["run_id"])
    assert all(column in said.out for column in SYNC_RUNS)


def test_events_have_the_columns_of_their_table(terminal: Terminal) -> None:
    events = terminal("events", "--json").document["events"]
    assert all(list(event) == EVENTS for event in events)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert {event["type"] for event in events} <= set(EVENT_TYPES)


def test_events_are_narrowed_by_source_type_time_and_number(terminal: Terminal) -> None:
    def found(*options: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = terminal("events", *options, "--json").document["events"]
        return events

    everything = found()
    deleted = found("--type", "*.deleted")
    assert deleted == [event for event in everything if event["type"].endswith(".deleted")]
    assert len(deleted) == 2
    assert {event["source"] for event in found("--source", "voice")} == {"voice"}
    assert found("--since", "1h") == everything
    assert found("--since", "2999-01-01") == []
    assert found("--limit", "3") == everything[-3:]


def test_an_event_is_a_line_with_its_whole_id_in_a_pipe(terminal: Terminal) -> None:
    (event,) = terminal("events", "--source", "voice", "--type", "*.deleted", "--json").document[
        "events"
    ]
    with narrowed(output._UNBROKEN):  # a pipe's; the test runner may have set COLUMNS
        shown = terminal("events", "--source", "voice", "--type", "*.deleted").out
    heading, line = shown.splitlines()
    assert heading.split()[:2] == ["sequence", "detected"]
    assert event["install_id"] in line.split()


def test_a_narrow_terminal_shows_an_event_in_one_line(terminal: Terminal) -> None:
    events = terminal("events", "--type", "install.*", "--json").document["events"]
    with narrowed(80):
        out = terminal("events", "--type", "install.*").out
    assert len([line for line in out.splitlines() if "install." in line]) == len(events)
    assert all(len(line) <= 80 for line in out.splitlines())


def test_rows_too_wide_for_the_terminal_are_shown_value_by_value(terminal: Terminal) -> None:
    with narrowed(80):
        out = terminal("query", "from installs limit 2").out
    names = [line.split()[0] for line in out.splitlines() if line[:1].strip()]
    assert names.count("install_id") == 2
    assert all(len(line) <= 80 for line in out.splitlines())


def test_before_the_first_sync_there_are_no_events_and_that_is_said(fresh: Terminal) -> None:
    said = fresh("events")
    assert (said.code, said.err) == (0, "")
    assert "nothing is published yet; run `stocktake sync`" in said.out
    assert fresh("events", "--json").document == {"events": []}


def test_events_are_followed_as_they_come(fresh: Terminal) -> None:
    before = threading.Event()
    before.set()
    assert fresh("events", "--follow", "--json", stop=before).out == ""
    said = fresh("events", "--follow", "--json", stop=Meanwhile(lambda: fresh("sync", "farm")))
    lines = [msgspec.json.decode(line) for line in said.out.splitlines()]
    assert lines == fresh("events", "--json").document["events"]
    assert lines


def test_followed_events_without_json_are_a_line_each(terminal: Terminal) -> None:
    stop = threading.Event()
    stop.set()
    said = terminal("events", "--type", "install.deleted", "--follow", stop=stop)
    assert len(said.out.splitlines()) == 2


def test_a_query_is_answered_as_table_csv_or_json(terminal: Terminal) -> None:
    query = "select source, count(*) as n from installs group by all order by all"
    rows = terminal("query", query, "--json").document["rows"]
    assert [list(row) for row in rows] == [["source", "n"]] * 2
    lines = list(csv.reader(io.StringIO(terminal("query", query, "--csv").out)))
    assert lines == [["source", "n"], *([row["source"], str(row["n"])] for row in rows)]
    table = [line.split() for line in terminal("query", query).out.splitlines()]
    assert table == lines
    assert terminal("query", "from installs where false").out == "no rows\n"
    assert "\r" not in terminal("query", query, "--csv").out


def test_what_a_customer_wrote_cannot_steer_the_terminal(terminal: Terminal) -> None:
    assert "\\x1b[2J" in terminal("query", "select chr(27) || '[2J' as name").out


def test_the_copy_can_be_published_by_hand(terminal: Terminal) -> None:
    terminal("sync", "farm", "--incremental")
    copy = terminal.folder / "data" / "published" / "warehouse.duckdb"
    copy.unlink()
    said = terminal("publish")
    assert said.code == 0
    assert str(copy) in said.out
    assert copy.exists()


def test_check_tries_everything_and_sends_a_test_when_asked(
    terminal: Terminal, running: Playground
) -> None:
    before = len(running.receiver.received)
    said = terminal("check", "--send-test", "--json")
    checks = said.document["checks"]
    assert said.code == 0
    assert [(each["what"], each["level"]) for each in checks] == [
        ("store", "ok"),
        ("source farm", "ok"),
        ("source voice", "ok"),
        ("endpoint crm", "ok"),
    ]
    bodies = [each.body for each in running.receiver.received[before:]]
    assert [msgspec.json.decode(body)["type"] for body in bodies].count("webhook.test") == 1
    assert "source voice" in terminal("check").out


def test_status_is_a_level_and_its_reasons(terminal: Terminal) -> None:
    said = terminal("status", "--json")
    assert (said.code, said.document["level"]) == (0, "warning")
    levels = {line["what"]: line["level"] for line in said.document["lines"]}
    assert levels == {
        "state store": "ok",
        "published copy": "ok",
        "workers": "warning",  # all that was done here was done by hand
        "source farm": "ok",
        "source voice": "ok",
        "endpoint crm": "ok",
    }
    live = terminal("status", "--live", "--json")
    assert (live.code, live.document["level"]) == (1, "critical")
    assert [line["what"] for line in live.document["lines"]] == [
        "state store",
        "published copy",
        "sync worker",
        "deliver worker",
    ]
    assert "last synced" in terminal("status").out


def test_status_fits_a_narrow_terminal(terminal: Terminal) -> None:
    with narrowed(80):
        out = terminal("status").out
    assert "no daemon has run here" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_paused_source_is_not_synced_until_it_is_resumed(terminal: Terminal) -> None:
    assert terminal("pause", "farm").code == 0
    said = terminal("sync", "farm", "--json")
    assert said.code == 1
    assert "farm is paused" in said.document["runs"][0]["error"]
    said = terminal("sync", "--json")
    assert (said.code, {run["source"] for run in said.document["runs"]}) == (0, {"voice"})
    assert "farm is paused" in said.err
    assert "paused" in terminal("status").out
    assert terminal("resume", "farm").code == 0
    assert terminal("sync", "farm").code == 0


def test_the_sandbox_says_how_to_reach_it_and_ends_when_asked(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main(["sandbox", "--port", "0", "--installs", "1"], stop)
    assert ended.value.code == 0
    config = tmp_path / "stocktake.toml"
    config.write_text(out.getvalue().partition("\n\n")[2].rpartition("Change something")[0])
    assert [source.name for source in load(config, {}).sources] == ["farm", "voice"]


# --- holds: exit code 3 ---------------------------------------------------------------------------


@contextmanager
def holding(folder: Path) -> Iterator[tuple[Terminal, str]]:
    """A Stocktake that holds 4 of 5 installs of an integration, and the id of its hold."""
    with playground(installs=5) as running:
        terminal = make_terminal(folder / "holding", running)
        with terminal.config.open("a") as config:
            config.write("\n[deletion_guard]\nmin_rows = 1\n")
        assert terminal("sync", "farm").code == 0
        key = next(iter(running.gestal.integrations))
        with running.server.lock:
            for id in list(running.gestal.installs[key])[:4]:
                running.gestal.uninstall(id)
        said = terminal("sync", "farm")
        assert said.code == 3
        assert "4 absences" in said.out
        (hold,) = terminal("holds", "--json").document["holds"]
        assert list(hold) == HOLDS
        assert (hold["installs"], hold["status"]) == (4, "open")
        yield terminal, hold["hold_id"]


def test_what_looks_like_an_accident_waits_until_it_is_approved(tmp_path: Path) -> None:
    with holding(tmp_path) as (terminal, hold):
        shown = terminal("holds")
        assert "4 of 5" in shown.out
        assert "stocktake approve" in shown.out
        assert hold in terminal("status").out
        said = terminal("approve", hold, "--json")
        assert said.code == 0
        assert said.document["runs"][0]["events"] == {"install.deleted": 4}
        again = terminal("approve", hold)
        assert (again.code, again.out) == (2, "")
        assert "approved already" in again.err


def test_what_is_rejected_stays(tmp_path: Path) -> None:
    with holding(tmp_path) as (terminal, hold):
        before = terminal.installed()
        assert terminal("reject", hold).code == 0
        assert terminal("sync", "farm").code in (0, 3)
        assert terminal.installed() == before


# --- a user's mistake: exit code 2, a message, and nothing changed --------------------------------

MISTAKES: Sequence[tuple[tuple[str, ...], str]] = [
    (("sync", "--full", "--incremental"), "--full and --incremental exclude each other"),
    (("sync", "fram"), "there is no source 'fram'; did you mean farm?"),
    (("pause", "fram"), "there is no source 'fram'; did you mean farm?"),
    (("resume", "phone"), "configured: farm, voice"),
    (("runs", "--source", "fram"), "did you mean farm?"),
    (("events", "--source", "fram"), "did you mean farm?"),
    (("events", "--type", "instal.*"), "matches none of install.created"),
    (("events", "--since", "yesterday"), "--since\n  expected a time such as"),
    (("events", "--limit", "0"), "greater than or equal to 1"),
    (("approve", "hold_nope"), "no hold 'hold_nope'"),
    (("reject", "hold_nope"), "no hold 'hold_nope'"),
    (("runs", "show", "run_nope"), "no run 'run_nope'"),
    (("query", "selec 1"), "syntax error"),
    (("query", " "), "it asks for nothing"),
    (("query", "; /* nothing */"), "it asks for nothing"),
    (("query", "from read_csv('/etc/hostname')"), "disabled"),
    (("query", "copy installs to 'x.csv'"), "disabled"),
    (("sync", "farm", "--integration", "int_1\r"), "is no id"),
    (("query", "delete from installs"), "read-only"),
    (("query", "select 1", "--csv", "--json"), "--csv and --json exclude each other"),
    (("deliver", "--wait", "-1"), "greater than or equal to 0"),
    (("sandbox", "--port", "99999"), "less than or equal to 65535"),
    (("synchronise",), "No such command 'synchronise'"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES]
)
def test_a_slip_on_the_command_line_is_told_and_changes_nothing(
    terminal: Terminal, arguments: tuple[str, ...], message: str
) -> None:
    before = terminal.files()
    said = terminal(*arguments)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert terminal.files() == before


WRONG: Sequence[tuple[str, str, str]] = [
    ("requests_per_secnd = 1", "[[sources]] farm: requests_per_secnd", "requests_per_second?"),
    ('requests_per_second = "fast"', "farm: requests_per_second", "expected a valid number"),
    ("page_size = 1001", "farm: page_size = 1001", "expected 1 to 1000"),
    ("page_size = 0", "farm: page_size = 0", "expected 1 to 1000"),
    ("integrations = 5", "farm: integrations", "expected a list"),
    ('redact = ["${NO_SUCH_VARIABLE}"]', "farm: redact[0]", "NO_SUCH_VARIABLE is not set"),
    ("page_size = ", "is not TOML", "at line"),
]


@pytest.mark.parametrize(("line", "where", "what"), WRONG, ids=[line for line, _, _ in WRONG])
def test_a_wrong_configuration_is_told_with_its_key_and_changes_nothing(
    terminal: Terminal, line: str, where: str, what: str
) -> None:
    terminal.configure('dialect = "gestal"\n', f'dialect = "gestal"\n{line}\n')
    if line.startswith("requests_per_second"):
        text = terminal.config.read_text()
        terminal.config.write_text(text.replace("requests_per_second = 0\n", "", 1))
    before = terminal.files()
    for command in ("sync", "check", "status"):
        said = terminal(command)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"{terminal.config}\n  ")
        assert where in said.err
        assert what in said.err
        assert len(said.err.splitlines()) == 2
    assert terminal.files() == before


def test_a_missing_configuration_says_where_it_was_looked_for(tmp_path: Path) -> None:
    said = Terminal(tmp_path)("sync")
    assert (said.code, said.out) == (2, "")
    assert f"looked at {tmp_path / 'stocktake.toml'}" in said.err
    assert "`stocktake init` writes one" in said.err
    assert list(tmp_path.iterdir()) == []


def test_init_does_not_write_over_a_file(terminal: Terminal) -> None:
    before = terminal.files()
    said = terminal("init", str(terminal.config))
    assert (said.code, said.out) == (2, "")
    assert "exists already; nothing was written" in said.err
    missing = terminal("init", str(terminal.folder / "no" / "stocktake.toml"))
    assert (missing.code, missing.out) == (2, "")
    assert "No such file or directory" in missing.err
    assert terminal.files() == before


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = Terminal(tmp_path)("sandbox", "--port", str(port))
    assert (said.code, said.out) == (2, "")
    assert f"port {port} of 127.0.0.1 cannot be used" in said.err


# --- what goes wrong elsewhere: exit codes 1 and 75 -----------------------------------------------


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def check_failed_sync(terminal: Terminal, code: int, message: str) -> None:
    """A sync of farm ends with `code` and tells why; the mirror is as it was."""
    before = terminal.installed()
    said = terminal("sync", "farm", "--json")
    runs = said.document["runs"]
    assert said.code == code
    assert any(message in run["error"] for run in runs if run["error"])
    assert all(not run["events"] for run in runs)
    assert terminal.installed() == before


def check_failed_check(terminal: Terminal, code: int, message: str) -> None:
    said = terminal("check", "--json")
    details = {each["what"]: each["detail"] for each in said.document["checks"]}
    assert said.code == code
    assert message in details["source farm"]


def test_a_wrong_password_is_told(terminal: Terminal) -> None:
    terminal.configure(PASSWORD, "wrong-one")
    check_failed_sync(terminal, 1, "the login is wrong; check email and password")
    check_failed_check(terminal, 1, "the login is wrong; check email and password")
    said = terminal("sync", "farm")
    assert "the login is wrong" in said.out
    assert "wrong-one" not in said.out + said.err


def test_a_wrong_address_is_told(terminal: Terminal) -> None:
    terminal.configure('/gestal"', '/elsewhere"')
    check_failed_sync(terminal, 1, "the source answered 404: is base_url right?")


def test_a_host_that_is_not_there_is_told(terminal: Terminal, running: Playground) -> None:
    port = closed_port()
    terminal.configure(running.server.at("gestal"), f"http://127.0.0.1:{port}")
    check_failed_sync(terminal, 75, f"no answer from 127.0.0.1:{port}")
    check_failed_check(terminal, 75, f"no answer from 127.0.0.1:{port}")


FAULTS = [
    pytest.param(Fault("html", times=None), 75, "HTML, not JSON", id="html"),
    pytest.param(Fault("no_meta", times=None), 75, "missing required field `meta`", id="no meta"),
    pytest.param(Fault("wrong_types", times=None), 75, "Expected `array`, got", id="types"),
    pytest.param(Fault("server_error", times=None), 75, "answered 503", id="503"),
    pytest.param(Fault("forbidden", times=None), 1, "has no access", id="403"),
]


@pytest.mark.parametrize(("fault", "code", "message"), FAULTS)
def test_a_source_that_does_not_answer_as_documented_is_told(
    terminal: Terminal, running: Playground, fault: Fault, code: int, message: str
) -> None:
    running.gestal.faults.add(fault)
    check_failed_sync(terminal, code, message)


def test_a_rate_limit_stops_the_source_until_it_is_lifted(
    terminal: Terminal, running: Playground
) -> None:
    running.gestal.faults.add(Fault("rate_limited", retry_after="600"))
    first = terminal("sync", "farm", "--json")
    assert (first.code, first.document["runs"][0]["outcome"]) == (75, "rate_limited")
    asked = len(running.server.requests["gestal"])
    assert terminal("sync", "farm").code == 75
    assert len(running.server.requests["gestal"]) == asked
    assert "rate limited until" in terminal("status").out
    assert terminal("resume", "farm").code == 0
    assert terminal("sync", "farm").code == 0


def test_one_source_that_fails_does_not_keep_the_others(terminal: Terminal) -> None:
    terminal.configure(PASSWORD, "wrong-one")
    said = terminal("sync", "--json")
    outcomes = {(run["source"], run["outcome"]) for run in said.document["runs"]}
    assert said.code == 1
    assert outcomes == {("farm", "failed"), ("voice", "unchanged")}


def test_an_unpublished_copy_cannot_be_queried(fresh: Terminal) -> None:
    said = fresh("query", "select 1")
    assert (said.code, said.out) == (1, "")
    assert "nothing is published yet; run `stocktake sync` first" in said.err


@pytest.mark.parametrize("command", ["sync", "status", "check", "deliver", "publish", "holds"])
def test_a_data_directory_that_cannot_be_made_is_told(fresh: Terminal, command: str) -> None:
    (fresh.folder / "file").touch()
    fresh.config.write_text('data_dir = "file/data"\n' + fresh.config.read_text())
    before = fresh.files()
    said = fresh(command)
    assert (said.code, said.out) == (1, "")
    assert f"cannot use the state store in {fresh.folder}/file/data/private" in said.err
    assert "check data_dir" in said.err
    assert len(said.err.splitlines()) == 1
    assert fresh.files() == before


# --- real processes -------------------------------------------------------------------------------


def subprocess_of(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_new_secret_is_one_that_signs(tmp_path: Path) -> None:
    made = [Terminal(tmp_path)("endpoints", "secret").out.strip() for _ in range(2)]
    assert made[0] != made[1]
    for secret in made:
        signed = Webhook(secret).sign("msg_1", datetime.now(UTC), "{}")
        assert signed.startswith("v1,")


def test_a_pipe_gets_one_document_and_neither_bars_nor_colours(terminal: Terminal) -> None:
    with subprocess_of("-c", str(terminal.config), "sync", "farm", "--json") as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert len(msgspec.json.decode(out)["runs"]) == 3
    assert all(" info sync source=" in line for line in err.splitlines())
    assert "\x1b" not in out + err


def test_a_mistake_is_a_message_and_an_exit_code_to_a_script(tmp_path: Path) -> None:
    with subprocess_of("-c", str(tmp_path / "none.toml"), "sync") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err.startswith("there is no configuration file\n")


def test_a_signal_ends_the_sandbox_in_good_order() -> None:
    with subprocess_of("sandbox", "--port", "0", "--installs", "1") as process:
        assert process.stdout is not None
        while "Ctrl-C ends the sandbox" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert (process.returncode, err) == (0, "")


HOLD_OPEN = """
import duckdb, sys
with duckdb.connect(sys.argv[1]) as store:
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_store_that_another_process_has_open_is_told_with_its_pid(terminal: Terminal) -> None:
    # A command waits 30 seconds for it.
    store = terminal.folder / "data" / "private" / "store.duckdb"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_OPEN, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        before = terminal.installed()
        said = terminal("sync", "farm", "--json")
        assert terminal.installed() == before
        holder.communicate()
    (run,) = said.document["runs"]
    assert (said.code, run["outcome"]) == (75, "partial")
    assert f"held open by process {holder.pid};" in run["error"]
