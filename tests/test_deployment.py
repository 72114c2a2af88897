"""docker-compose.yml and the systemd unit of README: what is declared, run as it is declared."""

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from killing import server, start, started, wait_for
from ruamel.yaml import YAML

from worker.playground import Playground, playground
from worker.sandbox.world import mutate
from worker.settings import load

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name in SERVICES if name != "redis"]
README = (ROOT / "README.md").read_text("utf-8")
BIN = Path(sys.executable).parent
PASSWORD = "brokers-pass-w0rd"
# What the unit of README may say; a typo would be ignored by systemd with a line in its log.
KEYS = {
    "Service": {
        "Type", "ExecStart", "User", "StateDirectory", "EnvironmentFile", "LoadCredential",
        "Restart", "RestartSec", "KillMode", "TimeoutStopSec", "NoNewPrivileges", "ProtectSystem",
        "ProtectHome", "PrivateTmp", "PrivateDevices", "CapabilityBoundingSet",
    },
    "Install": {"WantedBy"},
}  # fmt: skip


CLIENT = """#!{python}
import os, sys, redis
client = redis.Redis(port={port}, password=os.environ["REDISCLI_AUTH"])
print("PONG" if client.execute_command(*sys.argv[1:]) else "")
"""


# What is declared


def test_there_is_one_container_for_each_process_of_the_daemon() -> None:
    assert list(SERVICES) == ["redis", "sync", "deliver", "beat", "metrics"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_no_more_than_it_needs_and_says_how_it_is(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] not in ("root", "0")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert seconds(service["stop_grace_period"]) == 30  # longer than the deadline of a delivery
    assert service["healthcheck"]["test"]


def test_only_metrics_can_be_reached_and_only_from_this_host() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "metrics": ["127.0.0.1:9464:9464"]
    }


def test_what_redis_and_the_workers_keep_is_on_volumes() -> None:
    assert set(COMPOSE["volumes"]) == {"data", "broker"}
    assert SERVICES["redis"]["volumes"] == ["broker:/data"]
    for name in OURS:
        where = SERVICES[name]["environment"]["STATE_DIRECTORY"]
        assert f"data:{where}" in SERVICES[name]["volumes"]


def test_the_image_is_built_of_all_that_the_wheel_takes_in() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = re.findall(r"^COPY (.+) \S+$", SERVICES["sync"]["build"]["dockerfile_inline"], re.M)
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"],
              *wheel["packages"], *wheel["force-include"]}  # fmt: skip
    assert {name for names in copied for name in names.split()} == needed


@pytest.mark.slow
def test_the_file_is_what_compose_understands() -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


# What it does


@dataclass
class Host:
    """A machine with a directory for the volume, one for /tmp, and nothing else to write in."""

    folder: Path
    port: int  # of redis

    def __post_init__(self) -> None:
        for name in ("data", "tmp", "elsewhere", "home", "bin", "log", "broker"):
            (self.folder / name).mkdir()
        (self.folder / "bin" / "valkey-server").symlink_to(server())

    def environ(self, service: Mapping[str, Any]) -> dict[str, str]:
        """The environment of a container: of its image, `env_file` and `environment`."""
        declared = {name: self.filled(str(value)) for name, value in service["environment"].items()}
        return {
            "PATH": f"{self.folder / 'bin'}:{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            **({"REDIS_PASSWORD": PASSWORD} if "env_file" in service else {}),
            **declared,
            "STATE_DIRECTORY": str(self.folder / "data"),  # where the volume is mounted
            "STOCKTAKE_CONFIG": str(self.folder / "stocktake.toml"),  # and the configuration
        }

    def filled(self, text: str) -> str:
        """`text` as compose fills it in from .env."""
        return re.sub(r"\$\{REDIS_PASSWORD(:\?[^}]*)?\}", PASSWORD, text)

    def command(self, service: Mapping[str, Any]) -> list[str]:
        """What a container runs."""
        given = service["command"]
        words = shlex.split(given) if isinstance(given, str) else given
        return [self.filled(word) for word in words]

    def write_config(self, running: Playground) -> None:
        """What the head of docker-compose.yml asks for; the names of containers are loopback."""
        head = (ROOT / "docker-compose.yml").read_text("utf-8").partition("\nx-stocktake")[0]
        (broker_url,) = re.findall(r'^#   (broker_url = ".+")$', head, re.MULTILINE)
        (listen,) = re.findall(r'^#   (listen = ".+")$', head, re.MULTILINE)
        (self.folder / "stocktake.toml").write_text(
            f"{broker_url.replace('@redis:6379', f'@127.0.0.1:{self.port}')}\n"
            f'schedule = {{ incremental = "1s", deliver = "1s" }}\n'
            f"[metrics]\n{listen.replace('0.0.0.0:9464', f'127.0.0.1:{free_port()}')}\n"
            f"{running.config}",
            "utf-8",
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server_:
        return int(server_.getsockname()[1])


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def read_only(host: Host) -> list[str]:
    """What runs a command on a machine whose root is read-only but for the volume and /tmp, as in
    the containers; nothing where this machine lets nobody make one."""
    binds = "".join(f"mount --bind {host.folder / name} {host.folder / name}; "
                    for name in ("data", "tmp"))  # fmt: skip
    script = f'set -e; mount --make-rprivate /; {binds}mount -o remount,ro,bind /; exec "$@"'
    wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if shutil.which("unshare") is None:
        return []
    tried = subprocess.run([*wrapper, "true"], capture_output=True, check=False)
    return wrapper if tried.returncode == 0 else []


@contextmanager
def containers(host: Host) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The command of every service, running as declared."""
    elsewhere, log = host.folder / "elsewhere", host.folder / "log"
    wrapper = read_only(host)
    with ExitStack() as stack:
        running = {}
        for name, service in SERVICES.items():
            command, environ = host.command(service), host.environ(service)
            if name == "redis":
                command += ["--port", str(host.port), "--bind", "127.0.0.1"]
            else:
                command = [*wrapper, *command]
            folder = host.folder / "broker" if name == "redis" else elsewhere
            running[name] = start(command, folder, log / name, environ)
            stack.callback(running[name].wait)
            stack.callback(running[name].kill)
        yield running


def healthy(host: Host, name: str) -> Callable[[], bool]:
    """Whether the health check of a service says that it is well."""
    service = SERVICES[name]

    def look() -> bool:
        done = subprocess.run(
            ["sh", "-c", service["healthcheck"]["test"]],  # noqa: S607 - as in a container
            env=host.environ(service), cwd=host.folder / "elsewhere", capture_output=True,
            check=False,
        )  # fmt: skip
        return done.returncode == 0

    return look


def files(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, free_port())


@pytest.mark.slow
def test_every_service_runs_as_declared_is_healthy_and_stops_in_time(host: Host) -> None:
    with playground(installs=5) as running:
        host.write_config(running)
        settings = load(host.folder / "stocktake.toml", host.environ(SERVICES["sync"]))
        with containers(host) as services:
            wait_for(lambda: len(running.receiver.received) == 2, what="a baseline for each source")
            assert mutate(running.gestal, 1, ("install",))
            wait_for(lambda: len(running.receiver.received) == 3, what="the change")
            for name in OURS:
                wait_for(healthy(host, name), what=f"{name} is healthy", every_s=1)
            answer = httpx.get(f"http://{settings.metrics.listen}/metrics")
            assert "stocktake_build_info" in answer.text

            for name in reversed(SERVICES):
                services[name].send_signal(signal.SIGTERM)
                grace_s = seconds(SERVICES[name]["stop_grace_period"])
                assert services[name].wait(grace_s) == 0, (host.folder / "log" / name).read_text()
    assert [files(host.folder / name) for name in ("elsewhere", "home", "tmp")] == [[], [], []]
    assert (host.folder / "broker" / "appendonlydir").is_dir()
    assert PASSWORD not in "".join(log.read_text() for log in (host.folder / "log").iterdir())


@pytest.mark.slow
def test_the_health_check_of_redis_asks_with_the_password(host: Host) -> None:
    # There is no valkey-cli in the wheel: it is played by one that asks as that does.
    client = host.folder / "bin" / "valkey-cli"
    client.write_text(CLIENT.format(python=sys.executable, port=host.port), "utf-8")
    client.chmod(0o755)
    command = [*host.command(SERVICES["redis"]), "--port", str(host.port), "--bind", "127.0.0.1"]
    folder, environ = host.folder / "broker", host.environ(SERVICES["redis"])
    assert healthy(host, "redis")() is False
    with started(command, folder, host.folder / "log" / "redis", environ):
        wait_for(healthy(host, "redis"))


# systemd


def unit() -> str:
    """The unit that README gives."""
    (text,) = re.findall(r"```ini\n(.*?)```", README, re.DOTALL)
    return str(text)


def test_the_unit_of_readme_says_only_what_systemd_knows() -> None:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit())
    assert {section: set(parser[section]) - KEYS[section] for section in parser.sections()} == {
        "Service": set(), "Install": set()
    }  # fmt: skip
    service = parser["Service"]
    assert service["ExecStart"].split()[-1] == "up"
    assert service["StateDirectory"] == "stocktake"
    assert service["KillMode"] == "mixed"  # `up` ends its processes in good order


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "stocktake.service"
    # It must be there; and root, because nobody made the user on this machine.
    text = re.sub(r"(?<=ExecStart=)\S+", str(BIN / "stocktake"), unit())
    file.write_text(text.replace("User=stocktake", "User=root"), "utf-8")
    command = ["systemd-analyze", "verify", str(file)]
    done = subprocess.run(command, capture_output=True, check=False)
    said = [line for line in done.stderr.decode().splitlines() if "stocktake.service" in line]
    assert said == []
