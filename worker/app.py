"""The application of `celery -A worker.app`, set up by the configuration file that is found."""

import _thread
import logging
import sys
from threading import Event
from typing import Any

from celery.signals import (  # noqa: TID251 - an entry module
    celeryd_after_setup,
    setup_logging,
    worker_ready,
    worker_shutting_down,
)

from worker.errors import ConfigInvalid
from worker.fallback import look_after
from worker.logs import configure
from worker.queues import application
from worker.settings import Settings, environment, find, load
from worker.tasks import DELIVER, SYNC, live, wake

# It is the command line of httpx, and loads 70 modules that no worker needs (6 MB each).
sys.modules["httpx._main"] = None  # type: ignore[assignment]


def _settings() -> Settings:
    environ = environment()
    try:
        return load(find(None, environ), environ)
    except ConfigInvalid as error:
        # Celery would show a traceback with the message.
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error


settings = _settings()
# At once, and not only when Celery asks: what it warns of before is a line of log as well.
configure(settings.log.format, settings.log.level)
# Beat keeps the times of its last ticks there.
settings.private_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

stop = Event()
app = application(settings, stop)


@setup_logging.connect
def log_as_configured(**_: Any) -> None:
    """Celery leaves logging alone where somebody answers this signal."""
    configure(settings.log.format, settings.log.level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_in_one_line)


def _in_one_line(record: logging.LogRecord) -> bool:
    # A broker that is away is no defect: Celery shows tracebacks of it, and a stack at every tick.
    if str(record.msg).startswith("Message Error: %s") and isinstance(record.args, tuple):
        record.msg, record.args, record.exc_info = "tick error=%s", record.args[:1], None
    elif record.exc_info and not record.name.startswith("worker"):
        error = record.exc_info[1]
        if isinstance(error, OSError) or type(error).__module__.startswith(("redis", "kombu")):
            record.exc_info = None
    return True


@celeryd_after_setup.connect
def work_without_a_broker(**_: Any) -> None:
    """A worker is not ready before it has a broker, and what is due cannot wait for that."""
    look_after(app, app.amqp.queues.consume_from, stop)


@worker_ready.connect
def look_for_work(**_: Any) -> None:
    """Beat's first tick comes after a whole interval; what waits already should not wait for it."""
    live(settings, app.amqp.queues.consume_from)
    wake(app, SYNC)
    wake(app, DELIVER)


@worker_shutting_down.connect
def end_between_two_steps(**_: Any) -> None:
    """Tell the running task that this process should end."""
    # This runs inside a signal handler of the main thread, which may itself be inside
    # `stop.wait()` and hold the lock that `stop.set()` takes; another thread can wait for it.
    # `threading.Thread` takes such locks too.
    _thread.start_new_thread(stop.set, ())
