"""`sync --enqueue`: what a person who asks the daemon for a sync sees, and with which exit code."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from test_cli import (  # noqa: F401 - fixtures are found by their names
    SYNC,
    Meanwhile,
    Terminal,
    _logging_as_before,
    fresh,
    running,
)

from worker import clock
from worker.due import sync_due
from worker.playground import Playground
from worker.sandbox.logins import PASSWORD
from worker.settings import load
from worker.state import heartbeats, opened, requests, walks

pytestmark = pytest.mark.slow


def daemon(terminal: Terminal) -> None:
    """What a tick does in the daemon."""
    sync_due(load(terminal.config, {}), threading.Event(), lambda: None)


def alive(terminal: Terminal, **ago: float) -> None:
    with opened(load(terminal.config, {})) as engine:
        heartbeats.beat(engine, "sync", clock.now() - timedelta(**ago))


def waiting(terminal: Terminal) -> list[tuple[str, str, str | None]]:
    with opened(load(terminal.config, {})) as engine:
        return [(row.source, row.mode, row.scope) for row in requests.waiting(engine)]


def meant(runs: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What two syncs of the same have in common."""
    names = ("source", "scope", "mode", "outcome", "certificate", "seen", "error")
    return sorted(tuple(str(run[name]) for name in names) for run in runs)


def test_a_request_is_kept_although_no_broker_answers(fresh: Terminal) -> None:  # noqa: F811
    said = fresh("sync", "--enqueue", "--json")
    (farm, voice) = said.document["requests"]
    assert (said.code, farm["source"], voice["source"]) == (0, "farm", "voice")
    assert said.err.startswith("the broker does not answer: ")
    assert sorted(waiting(fresh)) == [("farm", "full", None), ("voice", "full", None)]
    assert fresh("runs", "--json").document == {"runs": []}  # nothing was synced here

    again = fresh("sync", "farm", "farm", "--enqueue", "--incremental")
    assert again.code == 0
    assert again.out.split()[4:] == [again.out.split()[4], "farm", "-", "incremental"]
    assert len(waiting(fresh)) == 3
    shown = {line["what"]: line for line in fresh("status", "--json").document["lines"]}
    assert "requests waiting: 2" in shown["source farm"]["detail"]


def test_one_who_waits_is_shown_what_a_sync_here_would_show(
    fresh: Terminal,  # noqa: F811
    running: Playground,  # noqa: F811
) -> None:
    stop = Meanwhile(lambda: daemon(fresh))
    said = fresh("sync", "--enqueue", "--wait", "--json", stop=stop)
    assert said.code == 0
    assert list(said.document) == ["runs"]
    assert all(list(run) == SYNC for run in said.document["runs"])
    assert {run["outcome"] for run in said.document["runs"]} == {"ok"}
    assert waiting(fresh) == []

    key = next(iter(running.gestal.integrations))
    for options in (("farm",), ("voice",), ("farm", "--integration", key), ("--incremental",)):
        here = fresh("sync", *options, "--json")
        stop = Meanwhile(lambda: daemon(fresh))
        there = fresh("sync", *options, "--enqueue", "--wait", "--json", stop=stop)
        assert meant(there.document["runs"]) == meant(here.document["runs"])
        assert there.code == here.code == 0

    table = fresh("sync", "farm", "--enqueue", "--wait", stop=Meanwhile(lambda: daemon(fresh)))
    assert table.out == fresh("sync", "farm").out


def test_what_fails_in_the_daemon_fails_here(fresh: Terminal) -> None:  # noqa: F811
    fresh.configure(PASSWORD, "wrong")
    here = fresh("sync", "farm", "--json")
    stop = Meanwhile(lambda: daemon(fresh))
    there = fresh("sync", "farm", "--enqueue", "--wait", "--json", stop=stop)
    assert there.code == here.code == 1
    assert meant(there.document["runs"]) == meant(here.document["runs"])


def test_one_who_no_longer_waits_leaves_the_request(fresh: Terminal) -> None:  # noqa: F811
    alive(fresh, seconds=1)
    said = fresh("sync", "farm", "--enqueue", "--wait", stop=Meanwhile(lambda: None))
    assert said.code == 75
    _broker, left = said.err.splitlines()
    assert left.startswith("no longer waited for, but still asked of the daemon: req_")
    assert waiting(fresh) == [("farm", "full", None)]


class Polls(threading.Event):
    """A stop that comes after three looks."""

    looks = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.looks += 1
        return self.looks > 3


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda terminal: None, "no sync worker has been alive yet"),
        (lambda terminal: alive(terminal, minutes=5), "no sync worker has been alive for 5 min"),
        (
            lambda terminal: (alive(terminal), terminal("pause", "farm")),
            "the request waits: farm is paused; `stocktake resume farm` goes on with it",
        ),
    ],
)
def test_what_a_request_waits_for_is_said_once(
    prepare: Callable[[Terminal], object],
    why: str,
    fresh: Terminal,  # noqa: F811
) -> None:
    prepare(fresh)
    said = fresh("sync", "farm", "--enqueue", "--wait", "--json", stop=Polls())
    assert said.code == 75
    assert [line.startswith(why) for line in said.err.splitlines()] == [False, True, False]
    assert said.out == ""


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--enqueue", "--dry-run"), "--dry-run works in this process"),
        (("--wait",), "--wait goes with --enqueue"),
        (("--enqueue", "--full", "--incremental"), "--full and --incremental exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: tuple[str, ...],
    problem: str,
    fresh: Terminal,  # noqa: F811
) -> None:
    said = fresh("sync", "farm", *options)
    assert (said.code, said.out) == (2, "")
    assert problem in said.err
    assert not Path(fresh.folder / "data").exists()


def test_how_far_a_walk_is_can_be_seen_from_elsewhere(
    fresh: Terminal,  # noqa: F811
    running: Playground,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walks, "_EVERY_S", 0.0)
    shown: list[str] = []
    answer = running.server.requests["gestal"]
    before = len(answer)

    def look(*_: object) -> None:
        lines = fresh("status", "--json").document["lines"]
        shown.extend(line["detail"] for line in lines if line["what"] == "source farm")

    keep = walks._Shown._keep

    def keep_and_look(self: Any) -> None:
        keep(self)
        look()

    monkeypatch.setattr(walks._Shown, "_keep", keep_and_look)
    assert fresh("sync", "farm").code == 0
    assert len(answer) > before
    assert "walking integrations, 2 of 2" in shown[0]
    assert "walking installs/" in shown[-1]
    look()
    assert "walking" not in shown[-1]


def test_two_who_ask_get_one_sync(
    fresh: Terminal,  # noqa: F811
    running: Playground,  # noqa: F811
) -> None:
    keys = [*running.gestal.integrations]
    for key in keys:
        fresh("sync", "farm", "--enqueue", "--integration", key)
    asked = len(running.server.requests["gestal"])
    with running.server.lock:
        running.gestal.change("install", Random(3))
    daemon(fresh)  # what was asked for, and then the whole source, which was never synced
    runs = fresh("runs", "--source", "farm", "--json").document["runs"]
    assert sorted(run["scope"] for run in runs) == sorted(
        [*(f"installs/{key}" for key in keys), "integrations", *(f"installs/{key}" for key in keys)]
    )
    assert len(running.server.requests["gestal"]) > asked
