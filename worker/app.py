"""The application of `celery -A worker.app`, set up by the configuration file that is found."""

import _thread
import sys
from threading import Event
from typing import Any

from celery.signals import setup_logging, worker_ready, worker_shutting_down  # noqa: TID251 - an entry module

from worker.errors import ConfigInvalid
from worker.logs import configure
from worker.queues import application
from worker.settings import Settings, environment, find, load
from worker.tasks import DELIVER, SYNC, wake


def _settings() -> Settings:
    environ = environment()
    try:
        return load(find(None, environ), environ)
    except ConfigInvalid as error:
        # Celery would show a traceback with the message.
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error


settings = _settings()
# Beat keeps the times of its last ticks there.
settings.private_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

stop = Event()
app = application(settings, stop)


@setup_logging.connect
def log_as_configured(**_: Any) -> None:
    """Celery leaves logging alone where somebody answers this signal."""
    configure(settings.log.format, settings.log.level)


@worker_ready.connect
def look_for_work(**_: Any) -> None:
    """Beat's first tick comes after a whole interval; what waits already should not wait for it."""
    wake(app, SYNC)
    wake(app, DELIVER)


@worker_shutting_down.connect
def end_between_two_steps(**_: Any) -> None:
    """Tell the running task that this process should end."""
    # This runs inside a signal handler of the main thread, which may itself be inside
    # `stop.wait()` and hold the lock that `stop.set()` takes; another thread can wait for it.
    # `threading.Thread` takes such locks too.
    _thread.start_new_thread(stop.set, ())
