"""No secret reaches a log, an error, a repr, a store, the broker or what a monitor is told."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from leaks import Leaks, compact
from parrots import Parrot, parroting
from pydantic import SecretStr, ValidationError
from receivers import endpoint, receiving

from worker import broker
from worker.sandbox.receiver import Receiver
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.server import serve
from worker.settings import Settings, Source
from worker.state import connect

HANG_S = 120.0  # how long a broken program may block a test
PYTHON = (sys.executable, "-c", "from worker.cli import main; main()")
CELERY = (sys.executable, "-m", "celery", "-A", "worker.app")
KEY = b64encode(b"planted-signing-key-of-crm-91c7b5d3").decode()
PLANTED = {
    "password of a source": "planted-password-4f1c9a77e2",
    "token of a source": "planted-token-b03d5e61aa9",
    "webhook secret": f"whsec_{KEY}",
    "key of the webhook secret": KEY,
    "path of an endpoint": "planted-path-77ab0e21cd",
    "query of an endpoint": "planted-query-5d20c98be4",
    "header of an endpoint": "planted-header-e9a34b18f0",
    "password of the broker": "planted-broker-1b8ef3c7d5",
}
SOURCES = (
    "html", "cut", "types", "unauthorized", "forbidden", "missing", "limited", "broken", "moved",
    "noise", "header", "closed",
)  # fmt: skip
ENDPOINTS = (
    "fine",
    "broken",
    "gone",
    "limited",
    "moved",
    "unauthorized",
    "noise",
    "header",
    "slow",
)
PROBE = """
import worker.due
from worker.app import app, settings

def boom(*_, **__):
    kept = settings.sources[0].password.get_secret_value()
    raise ZeroDivisionError(len(kept))

@app.task(name="probe", shared=False)
def probe():
    boom()

worker.due.sync = boom
"""


# Values


def settings(folder: Path) -> Settings:
    """Every kind of secret, in one value."""
    farm = Source.model_validate(
        {
            "name": "farm",
            "dialect": "gestal",
            "base_url": "https://gestal.example",
            "email": "a@b.example",
            "password": PLANTED["password of a source"],
        }
    )
    voice = Source.model_validate(
        {
            "name": "voice",
            "dialect": "aeontel",
            "base_url": "https://aeontel.example",
            "token": PLANTED["token of a source"],
        }
    )
    return Settings(
        data_dir=folder,
        sources=(farm, voice),
        broker_url=SecretStr(f"redis://:{PLANTED['password of the broker']}@broker.example:1/0"),
        endpoints=(
            endpoint(
                url="https://crm.example/{path of an endpoint}?key={query of an endpoint}".format(
                    **PLANTED
                ),
                secrets=(PLANTED["webhook secret"],),
                headers={"authorization-x": PLANTED["header of an endpoint"]},
            ),
        ),
    )


def test_the_repr_and_the_text_of_a_configuration_show_no_secret(tmp_path: Path) -> None:
    loaded = settings(tmp_path)
    leaks = Leaks(PLANTED)
    for each in (loaded, *loaded.sources, *loaded.endpoints):
        leaks.look(type(each).__name__, f"{each!r} {each} {[*each]}")
    assert leaks.found == set()


def test_what_pydantic_says_of_a_wrong_value_does_not_quote_it(tmp_path: Path) -> None:
    leaks = Leaks(PLANTED)
    wrong = {
        "data_dir": tmp_path,
        "state_url": PLANTED["password of the broker"],
        "sources": [{"name": PLANTED["token of a source"], "password": {"a": 1}}],
        "endpoints": [{"name": "crm", "secrets": [PLANTED["key of the webhook secret"]]}],
        PLANTED["path of an endpoint"]: 1,
    }
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate(wrong)
    leaks.look("ValidationError", f"{raised.value} {raised.value!r}")
    # A key is what a person mistyped: it is shown.
    assert leaks.found == {("ValidationError", "path of an endpoint")}


def test_what_the_state_store_says_of_a_statement_does_not_quote_its_values(
    tmp_path: Path,
) -> None:
    engine = connect(f"sqlite:///{tmp_path}/state.db")
    leaks = Leaks(PLANTED)
    with pytest.raises(Exception, match="no such column") as raised, engine.begin() as connection:
        connection.exec_driver_sql(
            "select missing from runs where ? = 1", (PLANTED["token of a source"],)
        )
    engine.dispose()
    leaks.look("SQLAlchemy", f"{raised.value} {raised.value!r}")
    assert leaks.found == set()


def test_what_an_endpoint_answers_is_kept_without_its_secrets() -> None:
    crm = settings(Path()).endpoints[0]
    echo = f"POST {crm.url.get_secret_value()} {[*PLANTED.values()]}".encode()
    leaks = Leaks({name: text for name, text in PLANTED.items() if "endpoint" in name})
    leaks.look("as it came", echo)
    assert {name for _, name in leaks.found} == set(leaks.secrets)
    leaks.found.clear()
    leaks.look("as it is kept", crm.concealed(echo))
    assert leaks.found == set()
    assert crm.concealed(b"busy, come back at /later") == b"busy, come back at /later"


# The scan itself


def test_a_leak_is_found_wherever_it_is(tmp_path: Path) -> None:
    token = PLANTED["token of a source"]
    (tmp_path / "a.log").write_text(f"x{token}x")
    (tmp_path / "b.log").write_bytes(b64encode(f"me@example.com:{token}".encode()))
    engine = connect(f"sqlite:///{tmp_path}/c.db")
    with engine.begin() as state:
        state.exec_driver_sql("create table t (v blob)")
        state.exec_driver_sql("insert into t values (?)", (token.encode(),))
    engine.dispose()
    with duckdb.connect(str(tmp_path / "d.duckdb")) as store:
        store.execute("create table t as select {'deep': [?]}::json as v from range(5000)", [token])
    leaks = Leaks({"token": token, "other": PLANTED["password of a source"]})
    looked = leaks.look_through(tmp_path, "stocktake.toml")
    assert {"a.log", "b.log", "c.db", "d.duckdb"} <= set(looked)
    places = {where.removesuffix(" (values)").removesuffix("-wal") for where, _ in leaks.found}
    assert places == {"a.log", "b.log", "c.db", "d.duckdb"}
    assert {name for _, name in leaks.found} == {"token"}


# The daemon


@dataclass
class Scene:
    """A folder in which everything happens, and all that was said in it."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, codes: Sequence[int] = (0, 1, 3, 75)) -> str:
        """Runs a command to its end; keeps what it says."""
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, check=False, text=True,
            timeout=HANG_S, env=self.environ,
        )  # fmt: skip
        self.said[" ".join(command[2:])] = text = done.stdout + done.stderr
        assert done.returncode in codes, text
        return text

    def stocktake(self, *arguments: str) -> str:
        return self.run(*PYTHON, *arguments)

    @property
    def environ(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder), *filter(None, sys.path)])
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": path,
            "STOCKTAKE_CONFIG": str(self.folder / "stocktake.toml"),
        }

    @contextmanager
    def running(self, log: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process whose output is kept in a file of the folder."""
        with (self.folder / log).open("ab") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=file, stderr=file, env=self.environ
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def logged(self, log: str) -> str:
        return (self.folder / log).read_text("utf-8")


def wait_for(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_S
    while not look():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def guarded_broker(scene: Scene, port: int, password: str) -> Iterator[None]:
    """A real broker that asks for a password, which stands in no command line."""
    directory = scene.folder / "broker"
    directory.mkdir(exist_ok=True)
    options = f"port {port}\nbind 127.0.0.1\nrequirepass {password}\ndir {directory}\n"
    (scene.folder / "valkey.conf").write_text(f"{options}appendonly yes\nappendfsync always\n")
    with scene.running("broker.log", broker._server(), str(scene.folder / "valkey.conf")):
        wait_for(lambda: _accepts(port))
        yield


def _accepts(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def tls_context(folder: Path) -> ssl.SSLContext:
    """Of a certificate that nobody trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    files = folder / "certificate.pem", folder / "key.pem"
    made = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subprocess.run(
        [*made.split(), "-subj", "/CN=crm", "-keyout", files[1], "-out", files[0]],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    return context


def written(
    gestal: str,
    aeontel: str,
    hooks: str,
    tls: str,
    parrot: Parrot,
    ports: dict[str, int],
    manners: Sequence[str] = SOURCES,
) -> str:
    """A configuration of good and bad sources and endpoints, all with secrets."""
    token, password = PLANTED["token of a source"], PLANTED["password of a source"]
    tail = "{path of an endpoint}?key={query of an endpoint}".format(**PLANTED)
    broker_url = f"redis://:{PLANTED['password of the broker']}@127.0.0.1:{ports['broker']}/0"
    bearer, basic = f'token = "{token}"', f'password = "{password}"\nemail = '
    sources = [
        ("farm", "gestal", gestal, f'{basic}"me@example.com"'),
        ("guest", "gestal", gestal, f'{basic}"you@example.com"'),
        ("login", "gestal", f"{parrot.url}/html", f'{basic}"a@b.example"'),
        ("voice", "aeontel", aeontel, f'{bearer}\nredact = ["variables.api_key"]'),
        ("nobody", "aeontel", f"http://127.0.0.1:{ports['nobody']}", bearer),
        *((f"p-{name}", "aeontel", f"{parrot.url}/{name}", bearer) for name in manners),
    ]
    endpoints = [
        ("crm", f"{hooks}/{tail}"),
        ("refused", f"http://127.0.0.1:{ports['nobody']}/{tail}"),
        ("bad-certificate", f"{tls}/{tail}"),
        *((f"e-{name}", f"{parrot.url}/{name}/{tail}") for name in ENDPOINTS),
    ]
    return "\n".join(
        [
            f'broker_url = "{broker_url}"',
            f'[metrics]\nlisten = "127.0.0.1:{ports["metrics"]}"',
            '[log]\nlevel = "debug"\nformat = "text"',
            '[schedule]\nincremental = "1h"\nfull = "2h"\ndeliver = "1s"',
            *(
                f'[[sources]]\nname = "{name}"\ndialect = "{dialect}"\nbase_url = "{url}"\n'
                f"{login}\nrequests_per_second = 0"
                for name, dialect, url, login in sources
            ),
            *(
                f'[[endpoints]]\nname = "{name}"\nurl = "{url}"\nevents = ["*"]\n'
                f'secrets = ["{PLANTED["webhook secret"]}"]\n'
                f'headers = {{ x-key = "{PLANTED["header of an endpoint"]}" }}\n'
                "allow_http = true\nallow_private_networks = true"
                for name, url in endpoints
            ),
        ]
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="secrets") as folder:
        yield Path(folder)


def metrics_at(port: int) -> str:
    texts = []
    for path in ("/metrics", "/livez", "/readyz"):
        with closing(HTTPConnection("127.0.0.1", port, timeout=HANG_S)) as connection:
            connection.request("GET", path)
            texts.append(connection.getresponse().read().decode())
    return "\n".join(texts)


@pytest.mark.slow
def test_whatever_goes_wrong_no_secret_is_left_anywhere(folder: Path) -> None:
    scene = Scene(folder)
    (folder / "probe.py").write_text(PROBE)
    gestal, aeontel = gestal_world(installs=3), aeontel_world(installs=3)
    gestal.logins.email, gestal.logins.password = "me@example.com", PLANTED["password of a source"]
    aeontel.tokens = {PLANTED["token of a source"]}
    receiver = Receiver(PLANTED["webhook secret"])
    ports = {"broker": free_port(), "metrics": free_port(), "nobody": free_port()}
    password = PLANTED["password of the broker"]
    with ExitStack() as stack:
        sandbox = stack.enter_context(serve(gestal, aeontel, receiver))
        parrot = stack.enter_context(parroting())
        tls = stack.enter_context(receiving(tls_context(folder))).url
        places = (sandbox.at("gestal"), sandbox.at("aeontel"), sandbox.at("hooks"), tls, parrot)
        config = written(*places, ports)
        (folder / "stocktake.toml").write_text(config)
        # Each that is asked again and again before it is given up takes its time.
        (folder / "few.toml").write_text(written(*places, ports, ("html", "noise", "forbidden")))
        with guarded_broker(scene, ports["broker"], password):
            _live(scene, "up.text.log", parrot, ports["metrics"])
        # The broker is away, then back with another password, then as it was.
        (folder / "stocktake.toml").write_text(config.replace('"text"', '"json"'))
        with scene.running("up.json.log", *PYTHON, "up") as up:
            wait_for(lambda: "refused" in scene.logged("up.json.log"))
            with guarded_broker(scene, ports["broker"], "another-one"):
                wait_for(lambda: "username-password" in scene.logged("up.json.log"))
            with guarded_broker(scene, ports["broker"], password):
                _ask(scene)
                up.terminate()
                assert up.wait(HANG_S) == 0
                _fail(scene)
        _look(scene, [*gestal.logins.tokens], aeontel)


def _live(scene: Scene, log: str, parrot: Parrot, metrics: int) -> None:
    """The daemon works, and a person tries everything meanwhile."""
    with scene.running(log, *PYTHON, "up") as up:
        scene.stocktake("--config", "few.toml", "check", "--json", "--send-test")
        wait_for(lambda: {*SOURCES, *ENDPOINTS} <= parrot.asked)
        wait_for(lambda: "source=farm" in scene.logged(log))
        wait_for(lambda: 'endpoint="crm",outcome="delivered"} 0' not in metrics_at(metrics))
        scene.said["metrics"] = metrics_at(metrics)
        up.terminate()
        assert up.wait(HANG_S) == 0


def _ask(scene: Scene) -> None:
    """Everything that shows something, as a person and as a program would ask."""
    scene.stocktake("sync", "farm", "guest", "voice", "p-moved", "p-forbidden")
    for command in ("deliver", "publish", "status", "runs", "events"):
        scene.stocktake(command)
    for command in ("status", "runs", "events"):
        scene.stocktake(command, "--json")
    for (run,) in _rows(scene, "select run_id from sync_runs where error is not null limit 2"):
        scene.stocktake("runs", "show", run)
    for what in ("active", "conf", "registered", "stats", "report"):
        assert "online" in scene.run(*CELERY, "inspect", what, "--timeout", "10"), what
    scene.run(*CELERY, "report")


def _rows(scene: Scene, query: str) -> list[tuple[Any, ...]]:
    copy = scene.folder / "data" / "published" / "warehouse.duckdb"
    with duckdb.connect(str(copy), read_only=True) as published:
        return published.execute(query).fetchall()


def _fail(scene: Scene) -> None:
    """Defects of ours, in a task and in a thread of one."""
    config = scene.folder / "stocktake.toml"
    config.write_text(config.read_text().replace('incremental = "1h"', 'incremental = "1s"'))
    probe = (sys.executable, "-m", "celery", "-A", "probe")
    scene.run(sys.executable, "-c", "from probe import app; app.send_task('probe')")
    with scene.running("probe.log", *probe, "worker", "-Q", "sync"):
        # The worker itself wakes the sync, as it does when it is ready.
        wait_for(lambda: {"celery.app.trace", "worker.due"} <= _defects(scene))


def _defects(scene: Scene) -> set[str]:
    """Who logged one."""
    lines = scene.logged("probe.log").splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    return {each["logger"] for each in logged if "ZeroDivisionError" in each.get("traceback", "")}


def _look(scene: Scene, tokens: list[str], aeontel: Any) -> None:
    """Looks for everything everywhere."""
    keys = {row["variables"]["api_key"] for row in aeontel.installs.values()}
    secrets = {
        **PLANTED,
        **{f"login token {number}": token for number, token in enumerate(tokens)},
        **{f"redacted value {number}": key for number, key in enumerate(sorted(keys))},
    }
    assert tokens
    assert keys
    leaks = Leaks(secrets)
    looked = leaks.look_through(
        scene.folder, "stocktake.toml", "few.toml", "valkey.conf", "key.pem", "certificate.pem"
    )
    kept = {"up.text.log", "up.json.log", "probe.log", "data/private/state.db"}
    stores = {"data/private/store.duckdb", "data/published/warehouse.duckdb"}
    assert kept | stores <= set(looked)
    assert any("appendonly" in each for each in looked)
    # `up` itself says in its first line, to a person, that it is there.
    for line in scene.logged("up.json.log").splitlines()[1:]:
        assert line.startswith("{"), line
    for command, text in scene.said.items():
        leaks.look(command, text)
        leaks.look(f"{command} (unfolded)", compact(text))
    assert leaks.found == set()
