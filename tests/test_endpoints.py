"""The life of an endpoint: paused, resumed, tested; and `endpoints` as a person meets it."""

import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from examples import gestal_row
from receivers import Receiver, receiving, replying
from scenes import Scene, configured, ids
from terminals import Terminal, logging_as_before, narrowed

from worker import clock, receivers
from worker.outbound import Health
from worker.receivers import Standing
from worker.state import deliveries, transaction

pytestmark = pytest.mark.slow  # each has a store and deliveries of its own

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with logging_as_before():
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a baseline and two installs after it, of which nobody was told yet."""
    scene = Scene(tmp_path_factory.mktemp("kept"))
    with scene.at_hand():
        scene.sync(gestal_row("ins_1"))
        scene.sync(gestal_row("ins_3"), gestal_row("ins_2"), gestal_row("ins_1"))
    return scene.folder


@pytest.fixture
def scene(kept: Path, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(Path(shutil.copytree(kept, tmp_path / "copy")), syncs=2)
    with scene.at_hand():
        yield scene


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def terminal(scene: Scene, receiver: Receiver) -> Terminal:
    return configured(scene, receiver.url)


def pause(scene: Scene) -> None:
    receivers.pause(scene.outpost.settings, scene.outpost.engine, scene.crm)


def resume(scene: Scene) -> int:
    return receivers.resume(scene.outpost.settings, scene.outpost.engine, scene.crm)


def health(scene: Scene) -> Health:
    (standing,) = receivers.standings(scene.outpost.engine, [scene.crm])
    return standing.health


def states(scene: Scene) -> list[tuple[str, str | None]]:
    return [(state, reason) for state, reason in scene.rows("state", "reason")]


# Paused and resumed


def test_what_waits_for_a_paused_endpoint_is_paused_and_what_comes_too(scene: Scene) -> None:
    pause(scene)
    pause(scene)
    assert states(scene) == [("paused", "paused")] * 2
    scene.sync(gestal_row("ins_4"), gestal_row("ins_3"), gestal_row("ins_2"), gestal_row("ins_1"))
    assert states(scene) == [("paused", "paused")] * 3
    assert scene.deliver() == []


def test_resuming_sends_what_waited_in_its_order(scene: Scene) -> None:
    expected = [event_id for (event_id,) in scene.rows("event_id")]
    pause(scene)
    assert resume(scene) == 2
    assert resume(scene) == 0
    assert states(scene) == [("pending", None)] * 2
    assert ids(scene.deliver()) == expected


def test_resuming_enables_an_endpoint_that_was_given_up(scene: Scene) -> None:
    now = clock.now()
    failing = Health(
        7, now + HOUR, 12, now - HOUR, now - 2 * HOUR, "redirect", "failing", paused=True
    )
    scene.save_health(failing)
    with transaction(scene.outpost.engine) as session:
        deliveries.pause_pending(session, "crm", "failing")
    assert resume(scene) == 2
    assert health(scene) == Health(last_success_at=now - 2 * HOUR)
    assert len(scene.deliver()) == 2


def test_pausing_an_endpoint_that_was_given_up_keeps_why(scene: Scene) -> None:
    scene.save_health(Health(disabled_reason="gone"))
    pause(scene)
    assert health(scene) == Health(disabled_reason="gone", paused=True)
    assert states(scene) == [("paused", "gone")] * 2


def test_how_often_it_was_tried_is_kept_and_the_time_it_waited_does_not_count(
    scene: Scene,
) -> None:
    scene.deliver(429)
    assert {row[0] for row in scene.rows("first_attempt_at")} != {None}
    pause(scene)
    resume(scene)
    # A 429 is borne with for seven days, but not those in which nothing was sent.
    assert {row[0] for row in scene.rows("first_attempt_at")} == {None}


def test_what_is_in_flight_when_an_endpoint_is_paused_ends_by_itself(
    scene: Scene, receiver: Receiver
) -> None:
    terminal = configured(scene, receiver.url)

    def reply(handler, received):  # type: ignore[no-untyped-def]
        if len(receiver.received) == 1:
            pause(scene)
        replying(503)(handler, received)

    receiver.reply = reply
    terminal.configure('events = ["install.*"]', 'events = ["install.*"]\nmax_in_flight = 1')
    assert terminal("deliver", "--wait", "5", "--json").document["failed"] == 1
    assert len(receiver.received) == 1  # a deliverer that runs already takes notice
    assert states(scene) == [("paused", "paused")] * 2


def test_a_deliverer_that_runs_takes_notice_when_an_endpoint_is_resumed(
    scene: Scene, receiver: Receiver
) -> None:
    terminal = configured(scene, receiver.url)
    scene.configure(scene.crm)
    pause(scene)
    with transaction(scene.outpost.engine) as session:
        # Something is open, so that a deliverer waits.
        session.connection().exec_driver_sql(
            "update deliveries set state = 'in_flight', next_at = '2999-01-01' where position = 1"
        )

    class Resuming(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if not receiver.received:
                resume(scene)
            else:
                self.set()
            return self.is_set()

    said = terminal("deliver", "--wait", "60", "--json", stop=Resuming())
    assert said.document["delivered"] == 1


# Tested


def test_a_test_is_sent_at_once_and_alone(scene: Scene, receiver: Receiver) -> None:
    terminal = configured(scene, receiver.url)
    said = terminal("endpoints", "test", "crm", "--json")
    assert said.code == 0
    assert (said.document["taken"], said.document["status"]) == (True, 204)
    (got,) = receiver.received
    assert got.headers["stocktake-event-type"] == "webhook.test"
    assert states(scene) == [("pending", None)] * 2 + [("delivered", None)]


def test_a_test_that_is_not_taken_fails_and_is_kept_for_later(
    scene: Scene, receiver: Receiver
) -> None:
    receiver.reply = replying(503)
    terminal = configured(scene, receiver.url)
    said = terminal("endpoints", "test", "crm")
    assert said.code == 1
    assert "answered 503 after 0." in said.out
    assert scene.rows("state", "attempts", where="type = 'webhook.test'") == [("pending", 1)]
    assert health(scene).failures == 1


def test_a_test_says_why_there_was_no_answer(scene: Scene, receiver: Receiver) -> None:
    terminal = configured(scene, receiver.url)
    terminal.configure("allow_private_networks = true", "allow_private_networks = false")
    said = terminal("endpoints", "test", "crm", "--json")
    assert said.code == 1
    assert said.document["status"] is None
    assert "its address is not allowed for webhooks" in said.document["error"]


def test_a_test_that_says_gone_gives_the_endpoint_up(scene: Scene, receiver: Receiver) -> None:
    receiver.reply = replying(410)
    assert configured(scene, receiver.url)("endpoints", "test", "crm").code == 1
    assert health(scene).disabled_reason == "gone"
    assert states(scene)[:2] == [("paused", "gone")] * 2


def test_a_test_goes_through_an_open_breaker_and_closes_it(
    scene: Scene, receiver: Receiver
) -> None:
    scene.save_health(Health(overloads=5, breaker_until=clock.now() + HOUR))
    assert configured(scene, receiver.url)("endpoints", "test", "crm").code == 0
    assert health(scene).breaker_until is None


def test_a_paused_endpoint_is_not_tested(scene: Scene, receiver: Receiver) -> None:
    terminal = configured(scene, receiver.url)
    assert terminal("endpoints", "pause", "crm").code == 0
    said = terminal("endpoints", "test", "crm")
    assert (said.code, receiver.received) == (1, [])
    assert "is sent nothing (paused)" in said.out


# Listed and shown


@pytest.mark.parametrize(
    ("fares", "state"),
    [
        (Health(), "ok"),
        (Health(failing_since=clock.now()), "failing"),
        (Health(breaker_until=clock.now() + HOUR, failing_since=clock.now()), "breaker"),
        (Health(breaker_until=clock.now() - HOUR), "ok"),
        (Health(paused=True, failing_since=clock.now()), "paused"),
        (Health(paused=True, disabled_reason="gone"), "disabled"),
    ],
)
def test_how_an_endpoint_fares_is_one_word(scene: Scene, fares: Health, state: str) -> None:
    assert Standing(scene.crm, fares, 0, {}).state(clock.now()) == state


def test_endpoints_are_listed_without_their_paths(scene: Scene, terminal: Terminal) -> None:
    terminal.configure("/hook", "/hook/T0/hush")
    (listed,) = terminal("endpoints", "list", "--json").document["endpoints"]
    assert (listed["name"], listed["state"], listed["pending"]) == ("crm", "ok", 2)
    assert listed["address"].startswith("http://127.0.0.1:")
    with narrowed(80):
        out = terminal("endpoints", "list").out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "hush" not in out + str(listed) + terminal("endpoints", "show", "crm").out


def test_an_endpoint_is_shown_with_its_limits_and_last_attempts(
    scene: Scene, terminal: Terminal, receiver: Receiver
) -> None:
    receiver.reply = replying(404, b"\x07no")
    terminal("deliver")
    shown = terminal("endpoints", "show", "crm", "--json").document
    assert (shown["cursor"], shown["flag"], shown["secrets"]) == (3, "receiver_config", 1)
    assert (shown["events"], shown["max_in_flight"]) == (["install.*"], 4)
    assert [each["status"] for each in shown["recent_attempts"]] == [404, 404]
    assert shown["recent_attempts"][0]["answer"] == r"\x07no"
    assert "answered 404" in terminal("endpoints", "show", "crm").out


def test_commands_say_what_they_did(scene: Scene, terminal: Terminal) -> None:
    assert terminal("endpoints", "pause", "crm").out.startswith("crm is paused;")
    assert terminal("endpoints", "resume", "crm").out == (
        "crm is sent to again; 2 deliveries that waited are due\n"
    )


@pytest.mark.parametrize("command", ["show", "pause", "resume", "test"])
def test_an_endpoint_that_nobody_knows_is_told(terminal: Terminal, command: str) -> None:
    said = terminal("endpoints", command, "crn")
    assert (said.code, said.out) == (2, "")
    assert "did you mean crm?" in said.err


def test_without_endpoints_there_is_nothing_to_list(terminal: Terminal) -> None:
    terminal.config.write_text(terminal.config.read_text().partition("[[endpoints]]")[0])
    assert terminal("endpoints", "list").out == "no endpoint is configured\n"
