"""How logs look: one line a record, in fields, that no data can forge."""

import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from celery.app.log import Logging
from platforms import Stocktake
from receivers import STORE, endpoint, event, receiving, replying
from sqlalchemy import Engine

from worker import clock, logs, relay
from worker.deliver import deliver
from worker.relay import Log
from worker.sandbox.faults import Fault
from worker.sandbox.seeding import gestal_world
from worker.state import connect

Take = Callable[..., Stocktake]
FORGED = 'x\n2026-01-01T00:00:00.000000Z error all is lost\r\x1b[31m\u2028\u202e"\udc80'


class Logged:
    """What is logged, in a format."""

    def __init__(self, stream: StringIO) -> None:
        self.stream = stream

    @property
    def lines(self) -> list[str]:
        """As whoever reads lines splits them, whatever they take for an end."""
        return self.stream.getvalue().splitlines()

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Each line, as JSON."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Logged]]:
    """Logs in a format, to be looked at; afterwards all is as it was."""
    root, own = logging.getLogger(), logging.getLogger("worker")
    handlers, levels = root.handlers[:], (root.level, own.level)

    def begin(format: Any) -> Logged:
        logging.captureWarnings(False)  # a command that ran in this process may have begun it
        stream = StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure(format, "info")
        return Logged(stream)

    yield begin
    logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


log = logging.getLogger("worker.tests")


def test_text_has_its_facts_as_key_and_value(logged: Callable[[Any], Logged]) -> None:
    told = logged("text")
    facts = {"source": "farm", "seen": 3, "seconds": 0.25, "dry_run": True, "error": 'no "luck"'}
    log.info("sync", extra={"facts": facts})
    (line,) = told.lines
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == r'info sync source=farm seen=3 seconds=0.25 dry_run=true error="no \"luck\""'


def test_json_has_its_facts_as_fields(logged: Callable[[Any], Logged]) -> None:
    told = logged("json")
    log.warning("sync", extra={"facts": {"source": "farm", "seen": 3, "seconds": 0.25}})
    (document,) = told.documents
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warning",
        "logger": "worker.tests",
        "message": "sync",
        "source": "farm",
        "seen": 3,
        "seconds": 0.25,
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_a_source_says_makes_no_line_of_its_own(
    logged: Callable[[Any], Logged], format: str
) -> None:
    told = logged(format)
    log.info("said %s", FORGED, extra={"facts": {"error": FORGED, "path": (FORGED,)}})
    (line,) = told.lines
    assert line.isprintable()
    if format == "json":
        assert told.documents[0]["error"] == FORGED
        assert told.documents[0]["message"] == f"said {FORGED}"


def _defect(secret: str) -> None:
    local = f"local {secret}"
    if local:
        raise ValueError(FORGED)


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_error_keeps_its_traceback_without_values(
    logged: Callable[[Any], Logged], format: str
) -> None:
    told = logged(format)
    try:
        _defect("hush" * 2)
    except ValueError:
        log.exception("sync", extra={"facts": {"source": "farm"}})
    assert "hushhush" not in told.stream.getvalue()
    if format == "json":
        (document,) = told.documents
        assert document["source"] == "farm"
        assert document["traceback"].startswith("Traceback (most recent call last):")
        assert "in _defect" in document["traceback"]
        return
    first, *below = told.lines
    assert first.endswith("error sync source=farm")
    assert below[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in below)


def test_a_warning_of_python_is_a_line_like_others(logged: Callable[[Any], Logged]) -> None:
    with warnings.catch_warnings():
        told = logged("json")
        warnings.simplefilter("always")
        warnings.warn("careful\nwith that", stacklevel=1)
    (document,) = told.documents
    assert (document["level"], document["logger"]) == ("warning", "py.warnings")
    assert "careful\nwith that" in document["message"]


def test_what_others_print_is_put_into_a_line_of_json() -> None:
    ours = '{"time": "2026-01-01T00:00:00.000000Z", "level": "info", "message": "sync"}'
    assert logs.enveloped("sync", ours) == ours
    wrapped = json.loads(logs.enveloped("broker", 'Ready to "accept" connections'))
    assert wrapped.pop("time").endswith("Z")
    assert wrapped == {
        "level": "info",
        "logger": "broker",
        "message": 'Ready to "accept" connections',
    }


def test_celery_leaves_the_logs_as_they_are_configured(logged: Callable[[Any], Logged]) -> None:
    from celery import Celery
    from celery.signals import setup_logging

    app, told = Celery("stocktake", set_as_current=False), logged("json")

    def keep(**_: Any) -> None:
        """As worker.app answers."""

    setup_logging.connect(keep)
    try:
        Logging(app).setup(loglevel="INFO", redirect_stdouts=True)
    finally:
        setup_logging.disconnect(keep)
        app.close()
    logging.getLogger("celery.worker.consumer").error("lost %s", "the broker\nTrying again")
    (document,) = told.documents
    assert document["logger"] == "celery.worker.consumer"
    assert document["message"] == "lost the broker\nTrying again"


def facts(caplog: pytest.LogCaptureFixture, name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Level, message and facts of all that a module logged."""
    return [
        (each.levelname, each.getMessage(), getattr(each, "facts", {}))
        for each in caplog.records
        if each.name == name
    ]


@pytest.mark.parametrize(
    ("kind", "outcome", "level"),
    [
        (None, "ok", "INFO"),
        ("server_error", "partial", "WARNING"),
        ("forbidden", "failed", "ERROR"),
    ],
)
def test_a_sync_is_told_in_fields_as_loudly_as_it_went_wrong(
    take: Take, caplog: pytest.LogCaptureFixture, kind: Any, outcome: str, level: str
) -> None:
    taken = take(gestal_world(installs=1))
    if kind:
        taken.world.faults.add(Fault(kind, times=None))
    with caplog.at_level(logging.INFO, "worker"):
        taken.sync(scopes=(f"installs/{next(iter(taken.world.installs))}",))
    ((shown, message, told),) = facts(caplog, "worker.sync")
    assert (shown, message) == (level, "sync")
    assert (told["source"], told["outcome"]) == ("farm", outcome)
    assert told["events"] == (0 if kind else 1)
    assert told["seconds"] > 0
    assert ("error" in told) is bool(kind)


@pytest.fixture
def engine(tmp_path: Any) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/state.db")
    yield engine
    engine.dispose()


@pytest.mark.parametrize(("status", "level", "failed"), [(204, "INFO", 0), (500, "WARNING", 1)])
def test_a_batch_of_deliveries_is_one_line(
    engine: Engine, caplog: pytest.LogCaptureFixture, status: int, level: str, failed: int
) -> None:
    with receiving() as receiver:
        receiver.reply = replying(status)
        crm = endpoint(url=receiver.url)
        relay.register(engine, [crm], STORE, 0, clock.now())
        relay.relay(engine, [crm], Log(STORE, 1, [event(1)]), clock.now())
        with caplog.at_level(logging.INFO, "worker"):
            deliver(engine, [crm], stop=threading.Event())
    ((shown, message, told),) = facts(caplog, "worker.deliver")
    assert (shown, message) == (level, "deliver")
    seconds = told.pop("seconds")
    assert seconds >= 0
    assert told == {"delivered": 1 - failed, "failed": failed, "dead": 0, "pending": failed}
