"""The Celery application: its queues, its ticks, and every setting with its reason (DAEMON)."""

from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, Final

from celery import Celery  # noqa: TID251 - an entry module
from kombu import Queue

from worker.schedule import next_after, tick
from worker.settings import Cron, Every, Settings
from worker.settings.defaults import entries
from worker.tasks import HEARTBEAT, register
from worker.ticks import CronTicks

QUEUES: Final = ("sync", "deliver")
_HEARTBEAT: Final = timedelta(seconds=15)


def application(settings: Settings, stop: Event) -> Celery:
    """The Celery application that works with `settings`, until `stop` is set."""
    app = Celery("stocktake", set_as_current=False)
    app.conf.update(_CONSTANT, **_of(settings))
    register(app, settings, stop)
    return app


_CONSTANT: dict[str, Any] = {
    # A wake-up may be lost; late acknowledgements bring poison loops and visibility-time-out
    # doubles.
    "task_acks_late": False,
    # State is in the stores, so there is no result backend either.
    "task_ignore_result": True,
    # Pickle from a Redis that somebody else can reach is code execution.
    "task_serializer": "json",
    "accept_content": ["json"],
    # No task is held hostage behind a long one.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # A typo in the name of a queue fails instead of making a queue that nobody reads.
    "task_create_missing_queues": False,
    "task_queues": [Queue(name) for name in QUEUES],
    "task_default_queue": "sync",
    # A forked child that inherits an open DuckDB file or TLS context crashes or loses rows.
    # `solo` ignores task_time_limit, so none is set: deadlines live in the shell.
    "worker_pool": "solo",
    # The defaults give up: at start-up at once, later after 100 attempts.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        # A publish must not block for ever on a dead link.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        # The Redis may serve others as well.
        "global_keyprefix": "stocktake:",
    },
    # Fewer reconnect paths; workers are started --without-gossip --without-mingle as well.
    "worker_send_task_events": False,
    "timezone": "UTC",
}


def _of(settings: Settings) -> dict[str, Any]:
    broker = settings.broker_url
    return {
        "broker_url": broker.get_secret_value() if broker else _embedded(settings),
        "task_routes": {entry.task: {"queue": entry.queue} for entry in entries().values()},
        "beat_schedule": _beat(settings),
        "beat_schedule_filename": str(settings.private_dir / "celerybeat-schedule"),
        "beat_scheduler": "worker.beat:Scheduler",
    }


def _embedded(settings: Settings) -> str:
    return f"redis+socket://{settings.broker_socket.absolute()}"


def _beat(settings: Settings) -> dict[str, Any]:
    own = [settings.schedule_for(source) for source in settings.sources]
    syncs = [timing for schedule in own for timing in (schedule.incremental, schedule.full)]
    return {
        # `full` and `incremental` share a tick: the task asks each source what is due.
        "sync": _entry("incremental", Every(tick(syncs))),
        "deliver": _entry("deliver", settings.schedule.deliver),
        "prune": _entry("prune", settings.schedule.prune),
        **{f"heartbeat-{queue}": _heartbeat(queue) for queue in QUEUES},
    }


def _entry(name: str, when: Every | Cron) -> dict[str, Any]:
    default = entries()[name]
    interval = _interval(when)
    return {
        "task": default.task,
        "schedule": interval if isinstance(when, Every) else CronTicks(when.expression),
        # A worker that was away does not wake to a pile of ticks.
        "options": {"queue": default.queue, "expires": interval.total_seconds()},
    }


def _heartbeat(queue: str) -> dict[str, Any]:
    # It goes the way of every wake-up, so that it tells of the broker and the queue as well.
    options = {"queue": queue, "expires": _HEARTBEAT.total_seconds()}
    return {"task": HEARTBEAT, "schedule": _HEARTBEAT, "options": options}


def _interval(when: Every | Cron) -> timedelta:
    first = next_after(when, datetime(2024, 1, 1, tzinfo=UTC))
    return next_after(when, first) - first
