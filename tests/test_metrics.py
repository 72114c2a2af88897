"""What a monitor is told: every metric by its name, counted where it is recorded."""

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from outposts import LOGIN
from platforms import Stocktake, counts
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from receivers import NOON
from sqlalchemy import event, text

from worker import __version__, clock, metrics, prune
from worker.deliver import Delivered, deliver
from worker.exporter import Server, answer, serve
from worker.findings import Proposal
from worker.playground import SECRET, playground
from worker.sandbox.faults import Fault
from worker.sandbox.receiver import Receiver
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.server import Sandbox
from worker.settings import Endpoint, Settings, Source
from worker.settings.values import Metrics, Retention
from worker.state import (
    connect,
    deliveries,
    heartbeats,
    holds,
    looking,
    sources,
    tallies,
    transaction,
)
from worker.state.tables import SourceState

pytestmark = pytest.mark.slow  # each has a history behind it

FARM = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})
Take = Callable[..., Stocktake]
Labels = frozenset[tuple[str, str]]

# DAEMON, "Health": name (without what its type adds), type, labels.
KNOWN = {
    "stocktake_sync_runs": ("counter", {"source", "mode", "outcome"}),
    "stocktake_sync_duration_seconds": ("histogram", set()),
    "stocktake_last_success_timestamp_seconds": ("gauge", {"source"}),
    "stocktake_rate_limited_until_timestamp_seconds": ("gauge", {"source"}),
    "stocktake_source_requests": ("counter", {"source"}),
    "stocktake_active_installs": ("gauge", {"source"}),
    "stocktake_suspects": ("gauge", {"source"}),
    "stocktake_holds": ("gauge", {"source"}),
    "stocktake_events": ("counter", {"source", "type"}),
    "stocktake_deliveries": ("counter", {"endpoint", "outcome"}),
    "stocktake_delivery_duration_seconds": ("histogram", set()),
    "stocktake_deliveries_pending": ("gauge", {"endpoint"}),
    "stocktake_oldest_pending_timestamp_seconds": ("gauge", {"endpoint"}),
    "stocktake_build_info": ("gauge", {"version"}),
}
AT_ONCE = timedelta()
HANG_S = 60.0  # how long a broken program may block a test
COMMAND = (sys.executable, "-c", "from worker.cli import main; main()")
OFTEN = '[schedule]\nincremental = "1s"\nfull = "1h"\ndeliver = "1s"\n'


class Told:
    """One scrape, read as Prometheus reads it."""

    def __init__(self, exposition: str) -> None:
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(exposition)
        }
        self.samples: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        """One value; None if there is none."""
        return self.samples.get((f"stocktake_{name}", frozenset(labels.items())))

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a counter that are not zero, by the values of its labels in their order."""
        return {
            tuple(value for _, value in sorted(labels)): value
            for (known, labels), value in self.samples.items()
            if known == f"stocktake_{name}" and value
        }

    @property
    def growing(self) -> dict[tuple[str, Labels], float]:
        """All that must never go down."""
        ends = ("_total", "_bucket", "_sum", "_count")
        return {key: value for key, value in self.samples.items() if key[0].endswith(ends)}


def scraped(taken: Stocktake) -> Told:
    """What a monitor would be told now."""
    said = answer(taken.settings, "/metrics", "")
    assert said.status == 200
    return Told(said.body.decode())


def crm(sandbox: Sandbox) -> list[Endpoint]:
    return [
        Endpoint(
            name="crm",
            url=SecretStr(sandbox.at("hooks")),
            secrets=(SecretStr(SECRET),),
            events=("*",),
            allow_http=True,
            allow_private_networks=True,
        )
    ]


def sent(taken: Stocktake, later: timedelta = AT_ONCE) -> Delivered:
    """Sends what is due, at once or `later`."""
    return deliver(
        taken.engine,
        taken.settings.endpoints,
        stop=threading.Event(),
        now=lambda: clock.now() + later,
        jitter=float,
    )


@pytest.fixture
def receiver() -> Receiver:
    return Receiver(SECRET, tolerance=timedelta(days=9))


@pytest.fixture
def taken(take: Take, receiver: Receiver) -> Stocktake:
    """A source that lists three installs of two integrations each, and an endpoint."""
    return take(gestal_world(installs=3), receiver=receiver, endpoints=crm)


# What is counted


def test_every_metric_has_its_name_type_help_and_labels(take: Take) -> None:
    taken = take(gestal_world(installs=1), receiver=Receiver(SECRET), endpoints=crm)
    taken.sync()
    soon = clock.now() + timedelta(hours=1)
    sources.limit(taken.engine, taken.source, soon)
    told = scraped(taken)
    shown = {
        name: (family.type, {label for each in family.samples for label in each.labels} - {"le"})
        for name, family in told.families.items()
    }
    assert shown == KNOWN
    assert all(family.documentation for family in told.families.values())
    assert told("build_info", version=__version__) == 1
    assert told("rate_limited_until_timestamp_seconds", source="farm") == pytest.approx(
        soon.timestamp()
    )


def test_before_anything_happened_counters_are_zero_and_moments_are_not_told(
    taken: Stocktake,
) -> None:
    told = scraped(taken)
    assert told.families.keys() == KNOWN.keys()
    assert set(told.growing.values()) == {0.0}
    assert told("deliveries_total", endpoint="crm", outcome="dead") == 0
    assert told("sync_runs_total", source="farm", mode="full", outcome="failed") == 0
    assert told("deliveries_pending", endpoint="crm") == 0
    assert told("last_success_timestamp_seconds", source="farm") is None
    assert told("oldest_pending_timestamp_seconds", endpoint="crm") is None


def test_a_history_is_told_value_by_value(taken: Stocktake, receiver: Receiver) -> None:
    began = clock.now().timestamp()
    first = taken.sync()
    taken.change(2, "install")
    second = taken.sync(mode="incremental")
    taken.world.faults.add(Fault("server_error", times=None))
    broken = taken.sync()
    taken.world.faults.clear()
    told = scraped(taken)

    runs: dict[tuple[str, ...], float] = {}
    for run in (*first.runs, *second.runs, *broken.runs):
        key = (run.mode, run.outcome, "farm")
        runs[key] = runs.get(key, 0) + 1
    assert {outcome for _, outcome, _ in runs} == {"ok", "unchanged", "partial"}
    assert told.counted("sync_runs_total") == runs
    events = {
        ("farm", type_): counts(first).get(type_, 0) + counts(second).get(type_, 0)
        for type_ in counts(first) | counts(second)
    }
    assert told.counted("events_total") == events
    assert events["farm", "install.created"] == 8
    assert told("source_requests_total", source="farm") == len(taken.requests)
    assert told("sync_duration_seconds_count") == 3
    assert told("active_installs", source="farm") == len(taken.active()) == 8
    succeeded = told("last_success_timestamp_seconds", source="farm")
    assert succeeded is not None
    assert began < succeeded < clock.now().timestamp()

    waiting = told("deliveries_pending", endpoint="crm")
    oldest = told("oldest_pending_timestamp_seconds", endpoint="crm")
    assert waiting == 3  # the baseline and two installs
    assert oldest is not None
    assert began < oldest <= succeeded
    receiver.then(500)
    done = [sent(taken), sent(taken), sent(taken, later=timedelta(minutes=1))]
    assert [(each.delivered, each.failed, each.dead) for each in done] == [
        (2, 1, 0), (0, 0, 0), (1, 0, 0),
    ]  # fmt: skip
    told = scraped(taken)
    assert told.counted("deliveries_total") == {("crm", "delivered"): 3, ("crm", "failed"): 1}
    assert told("delivery_duration_seconds_count") == len(receiver.received) == 4
    assert told("deliveries_pending", endpoint="crm") == 0
    assert told("oldest_pending_timestamp_seconds", endpoint="crm") is None


def test_what_is_given_up_is_counted_as_dead(taken: Stocktake, receiver: Receiver) -> None:
    taken.sync()
    receiver.then(410)
    assert sent(taken).dead == 1
    assert scraped(taken).counted("deliveries_total") == {("crm", "dead"): 1}


def test_suspects_and_holds_are_told_while_they_last(take: Take) -> None:
    taken = take(gestal_world(installs=6))
    taken.sync()
    taken.world.faults.add(Fault("short_page", match="/installs", times=1))
    taken.sync(scopes=(f"installs/{next(iter(taken.world.installs))}",))
    with transaction(taken.engine) as session:
        (hold,) = holds.open_in(session, "farm", [Proposal("installs/a", "why", ("x",), 1.0)], NOON)
    told = scraped(taken)
    with_suspects = told("suspects", source="farm")
    missing = taken.rows("select count(*) as n from installs where missing_since is not null")
    assert with_suspects == missing[0]["n"]
    assert told("holds", source="farm") == 1
    holds.decide(taken.engine, hold.hold_id, "rejected", NOON)
    assert scraped(taken)("holds", source="farm") == 0


def test_an_aeontel_source_counts_its_installs_once(take: Take) -> None:
    taken = take(aeontel_world(installs=3))
    taken.sync()
    assert scraped(taken)("active_installs", source="voice") == len(taken.active())


def test_a_dry_run_counts_nothing(taken: Stocktake) -> None:
    taken.sync(dry_run=True)
    assert set(scraped(taken).growing.values()) == {0.0}


def test_no_counter_goes_down_when_what_it_counted_is_removed(taken: Stocktake) -> None:
    taken.sync()
    sent(taken)
    before = scraped(taken).growing
    nothing = Retention(
        runs=-timedelta(days=1), attempts=-timedelta(days=1), deliveries=-timedelta(days=1)
    )
    everything = taken.settings.model_copy(update={"retention": nothing})
    removed = prune.prune(everything, taken.engine)
    assert min(removed.runs, removed.attempts, removed.deliveries) > 0
    assert scraped(taken).growing == before


def test_buckets_hold_what_is_not_above_them(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/state.db")
    with transaction(engine) as session:
        tallies._add(
            session, tallies._observed(tallies.DELIVERY_SECONDS, [-1.0, 0.01, 0.011, 15.0, 99.0])
        )
        tallied = metrics._by_metric(tallies.every(session))
    engine.dispose()
    family = metrics._histogram(tallies.DELIVERY_SECONDS, "help", tallied)
    shown = {sample.labels.get("le", sample.name): sample.value for sample in family.samples}
    bounds = [str(bound) for bound in tallies.BOUNDS[tallies.DELIVERY_SECONDS]]
    assert [shown[bound] for bound in (*bounds, "+Inf")] == [2, *[3] * (len(bounds) - 2), 4, 5]
    assert shown["stocktake_delivery_duration_seconds_sum"] == pytest.approx(114.021)


def test_who_counts_at_the_same_time_loses_nothing(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/state.db")

    def count() -> None:
        for _ in range(25):
            with transaction(engine) as session:
                tallies._add(session, {("a", "{}"): 1.0, ("b", "{}"): 2.0})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with transaction(engine) as session:
        found = {metric: value for metric, _, value in tallies.every(session)}
    engine.dispose()
    assert found == {"a": 100, "b": 200}


def test_a_batch_is_counted_in_one_statement(taken: Stocktake) -> None:
    taken.sync()
    said: list[str] = []
    event.listen(taken.engine, "before_cursor_execute", lambda *about: said.append(about[2]))
    sent(taken)
    counting = [each for each in said if "tallies" in each]
    settling = [each for each in said if each.startswith("INSERT INTO attempts")]
    assert len(counting) == len(settling) > 0


def test_label_values_are_escaped(taken: Stocktake) -> None:
    odd = 'a "quoted" \\ name\nof two lines'
    with transaction(taken.engine) as session:
        tallies._add(session, {tallies._key(tallies.REQUESTS, source=odd): 7.0})
    assert scraped(taken)("source_requests_total", source=odd) == 7


def test_a_scrape_reads_no_deliveries_that_have_ended(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/state.db")
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *about: asked.append(about[2]))
    with transaction(engine) as session:
        looking.open_deliveries(session)
    (query,) = [each for each in asked if "deliveries" in each]
    with engine.connect() as connection:
        steps = [row.detail for row in connection.execute(text(f"explain query plan {query}"))]
    engine.dispose()
    assert any("ix_deliveries_" in step and "COVERING" in step for step in steps)
    assert any("INTEGER PRIMARY KEY" in step for step in steps)
    assert [
        step for step in steps if step.startswith("SCAN deliveries") and "INDEX" not in step
    ] == []


# Who asks


@contextmanager
def served(taken: Stocktake) -> Iterator[Server]:
    """A server of a Stocktake on a free port, until the end of the block."""
    with Server(taken.settings, "127.0.0.1", 0) as server:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                server.handle_request()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            thread.join()


def asked(server: Server, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    with closing(HTTPConnection("127.0.0.1", server.server_port, timeout=60)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()


def test_it_answers_what_there_is_and_refuses_the_rest(taken: Stocktake) -> None:
    with served(taken) as server:
        response, body = asked(server, "/metrics?name=all")
        assert (response.status, response.getheader("content-type")) == (
            200, "text/plain; version=0.0.4; charset=utf-8",
        )  # fmt: skip
        head, nothing = asked(server, "/metrics", "HEAD")
        assert (head.status, nothing) == (200, b"")
        assert head.getheader("content-length") == str(len(body))
        missing, said = asked(server, "/metric")
        assert (missing.status, said) == (404, b"here are /metrics, /livez and /readyz\n")
        refused, _ = asked(server, "/metrics", "DELETE")
        assert (refused.status, refused.getheader("allow")) == (405, "GET, HEAD")


def test_who_says_nothing_keeps_nobody_from_an_answer(taken: Stocktake) -> None:
    with served(taken) as server:
        silent = [socket.create_connection(server.server_address) for _ in range(20)]
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\n")
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(asked(server, "/metrics")[0].status)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 8
        for each in silent:
            each.close()


def test_a_state_store_that_is_away_is_503_and_one_line_until_it_is_back(
    taken: Stocktake, caplog: pytest.LogCaptureFixture
) -> None:
    taken.sync()
    taken.engine.dispose()
    private = taken.settings.private_dir
    away = private.rename(private.with_name("away"))
    with caplog.at_level(logging.WARNING, "worker.exporter"):
        for path in ("/metrics", "/livez", "/readyz"):
            said = answer(taken.settings, path, "")
            assert said.status == 503
            (line,) = msgspec.json.decode(said.body)["lines"]
            assert line["what"] == "state store"
    assert [record.exc_info for record in caplog.records] == [None] * 3
    assert not private.exists()
    away.rename(private)
    assert answer(taken.settings, "/metrics", "").status == 200


def test_it_serves_although_the_server_of_the_state_store_is_away_when_it_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = SecretStr(f"postgresql://postgres@/postgres?host={tmp_path}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = Metrics(listen=f"127.0.0.1:{free.getsockname()[1]}")
    away = Settings(data_dir=tmp_path, state_url=url, metrics=listen, sources=(FARM,))
    stop = threading.Event()
    stop.set()  # it begins, and ends
    serve(away, stop)
    assert "the state store does not answer" in str(caplog.records[0].__dict__["facts"])


def test_a_state_store_that_is_damaged_is_503(
    taken: Stocktake, caplog: pytest.LogCaptureFixture
) -> None:
    taken.engine.dispose()
    with (taken.settings.private_dir / "state.db").open("r+b") as file:
        file.write(b"no database any more")
    said = answer(taken.settings, "/metrics", "")
    assert said.status == 503
    assert [record.exc_info for record in caplog.records] == [None]


def lines(taken: Stocktake, path: str) -> tuple[int, Mapping[str, str]]:
    said = answer(taken.settings, path, "")
    document: dict[str, Any] = msgspec.json.decode(said.body)
    return said.status, {line["what"]: line["level"] for line in document["lines"]}


def test_ready_is_the_business_view_and_alive_is_not(taken: Stocktake) -> None:
    taken.sync()
    assert lines(taken, "/livez")[0] == 503  # nobody works here
    for worker in ("sync", "deliver"):
        heartbeats.beat(taken.engine, worker, clock.now())
    assert lines(taken, "/livez")[0] == 200
    assert lines(taken, "/readyz") == (
        200,
        {
            "state store": "ok",
            "published copy": "ok",
            "sync worker": "ok",
            "deliver worker": "ok",
            "source farm": "ok",
            "endpoint crm": "ok",
        },
    )
    fares = deliveries.Health(disabled_reason="gone")
    with transaction(taken.engine) as session:
        deliveries.save_health(session, "crm", fares)
    status, shown = lines(taken, "/readyz")
    assert (status, shown["endpoint crm"]) == (200, "warning")

    def long_ago(row: SourceState) -> None:
        row.last_synced_at = clock.now() - timedelta(hours=4)

    sources.change(taken.engine, taken.source, long_ago)
    status, shown = lines(taken, "/readyz")
    assert (status, shown["source farm"]) == (503, "critical")
    assert lines(taken, "/livez")[0] == 200


def test_the_metrics_are_in_the_format_that_is_asked_for(taken: Stocktake) -> None:
    accept = "application/openmetrics-text; version=1.0.0, text/plain; q=0.5"
    said = answer(taken.settings, "/metrics", accept)
    assert said.type.startswith("application/openmetrics-text; version=1.0.0")
    assert said.body.endswith(b"# EOF\n")
    plain = generate_latest(metrics.registry(taken.settings, taken.engine))
    assert plain.count(b"# TYPE ") == len(KNOWN)


# Processes


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name: the path of a socket has about 100 bytes."""
    with TemporaryDirectory(prefix="metrics") as folder:
        yield Path(folder)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(folder: Path, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of `stocktake` in a folder, ended at the end of the block if it is left over."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*COMMAND, command], cwd=folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def told_at(port: int) -> Told | None:
    """What a monitor is told at a port; None while nobody answers there."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=HANG_S)) as connection:
        try:
            connection.request("GET", "/metrics")
        except ConnectionRefusedError:
            return None
        response = connection.getresponse()
        assert response.status == 200
        return Told(response.read().decode())


def wait_for(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_S
    while not look():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def test_up_serves_what_its_workers_do(folder: Path) -> None:
    port = free_port()
    with playground(installs=2) as sandbox:
        listen = f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
        (folder / "stocktake.toml").write_text(sandbox.config + OFTEN + listen, "utf-8")
        with running(folder, "up") as up:

            def all_is_counted() -> bool:
                if (told := told_at(port)) is None:
                    return False
                synced = told("sync_runs_total", source="farm", mode="full", outcome="ok") == 3
                sent = told("deliveries_total", endpoint="crm", outcome="delivered") == 2
                return synced and sent

            wait_for(all_is_counted)
            up.terminate()
            assert up.wait(HANG_S) == 0
    assert told_at(port) is None
    assert b"Traceback" not in (folder / "log").read_bytes()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_without_duckdb_until_it_is_told_to_stop(
    folder: Path, stop: signal.Signals
) -> None:
    port = free_port()
    with playground(installs=2) as sandbox:
        listen = f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
        (folder / "stocktake.toml").write_text(sandbox.config + listen, "utf-8")
        with running(folder, "metrics") as process:
            wait_for(lambda: told_at(port))
            if Path("/proc").is_dir():
                assert "duckdb" not in Path(f"/proc/{process.pid}/maps").read_text()
            with socket.create_connection(
                ("127.0.0.1", port)
            ):  # says nothing, and is not waited for
                process.send_signal(stop)
                assert process.wait(HANG_S) == 0
    assert (folder / "log").read_bytes() == b""


def test_without_an_address_that_can_be_had_it_ends_with_2_and_a_message(folder: Path) -> None:
    def refused(listen: str) -> str:
        with playground(installs=0) as sandbox:
            (folder / "stocktake.toml").write_text(sandbox.config + listen, "utf-8")
        command = [*COMMAND, "metrics"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    assert "[metrics] listen\n  not set" in refused("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(f'[metrics]\nlisten = "127.0.0.1:{port}"\n')
    assert (
        said == f"[metrics] listen\n  cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )
