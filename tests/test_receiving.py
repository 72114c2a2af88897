"""What README tells receivers to do works with what is really sent."""

import re
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from receivers import SECRET, STORE, endpoint, event
from standardwebhooks import WebhookVerificationError

from worker import clock, relay
from worker.deliver import deliver
from worker.relay import Log
from worker.sandbox.receiver import Received, Receiver
from worker.sandbox.server import serve_receiver
from worker.state import connect
from worker.webhooks import DISABLED

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
(LINES,) = re.findall(
    r"^<!-- receiver -->\n```python\n(.+?)^```$", README, re.MULTILINE | re.DOTALL
)


def the_lines_in_the_readme() -> Callable[..., Any]:
    made: dict[str, Any] = {}
    exec(LINES, made)  # noqa: S102 - they are to be copied, so they are run
    take: Callable[..., Any] = made["take"]
    return take


take = the_lines_in_the_readme()
POST = {"integration_id": "int_1", "name": "Post"}
EVENTS = (
    event(1, "ins_1"),
    event(2, "ins_2"),
    event(3, "ins_1"),
    event(4, None, type="integration.updated", before=POST, after=POST, changed_fields=("name",)),
)


def delivered_to(receiver: Receiver, folder: Path) -> Sequence[Received]:
    """Sends EVENTS and a notice for real, as often as it takes; the requests as they were kept."""
    engine = connect(f"sqlite:///{folder}/state.db")
    with serve_receiver(receiver) as listening:
        crm = endpoint(url=listening.url, events=("*",), max_in_flight=1)
        relay.register(engine, [crm], STORE, 0, clock.now())
        relay.relay(engine, [crm], Log(STORE, len(EVENTS), EVENTS), clock.now())
        facts = {"endpoint": "chat", "reason": "gone"}
        relay.announce(engine, [crm], "ntc_1", DISABLED, None, facts, clock.now())
        for ahead in (timedelta(), timedelta(seconds=20)):  # what failed is tried again then

            def now(ahead: timedelta = ahead) -> datetime:
                return clock.now() + ahead

            deliver(engine, [crm], stop=threading.Event(), now=now)
    engine.dispose()
    return receiver.received


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Received]:
    """What arrives where all goes well."""
    return delivered_to(Receiver(SECRET), tmp_path_factory.mktemp("state"))


def taken(requests: Sequence[Received], last: dict[str, int]) -> list[str | None]:
    """The sequences, or types, of what a receiver would act on; None where it does nothing."""
    messages = (take(one.body, dict(one.headers), SECRET, last) for one in requests)
    return [
        message and str(message["data"].get("sequence", message["type"])) for message in messages
    ]


def test_the_lines_are_few_enough_to_copy() -> None:
    assert len(LINES.splitlines()) <= 12


def test_events_of_installs_and_integrations_and_a_notice_are_taken_once(
    requests: Sequence[Received],
) -> None:
    last: dict[str, int] = {}
    assert taken(requests, last) == ["1", "2", "3", "4", "endpoint.disabled"]
    assert last == {
        "voice/install/ins_1": 3,
        "voice/install/ins_2": 2,
        "voice/integration/int_1": 4,
    }
    # All of it comes again: nothing but the notice, which is no news of an install.
    assert taken(requests, last) == [None, None, None, None, "endpoint.disabled"]


def test_what_is_sent_again_because_the_answer_was_lost_is_taken_once(
    tmp_path: Path,
) -> None:
    receiver = Receiver(SECRET)
    receiver.then_reset()  # it was kept, but nobody knows
    requests = delivered_to(receiver, tmp_path)
    ids = [one.headers["webhook-id"] for one in requests]
    assert ids.count("evt_1") == 2
    assert sorted(filter(None, taken(requests, {}))) == ["1", "2", "3", "4", "endpoint.disabled"]


def test_what_a_later_event_of_the_install_has_overtaken_is_left(
    requests: Sequence[Received],
) -> None:
    late = sorted(requests, key=lambda one: one.headers["webhook-id"], reverse=True)
    assert taken(late, {}) == ["endpoint.disabled", "4", "3", "2", None]


def test_what_is_forged_or_changed_on_the_way_raises_and_is_not_remembered(
    requests: Sequence[Received],
) -> None:
    request, last = requests[0], dict[str, int]()
    headers = dict(request.headers)
    forged = [
        (request.body.replace(b"ins_1", b"ins_9"), headers),
        (request.body, headers | {"webhook-id": "evt_9"}),
        (request.body, headers | {"webhook-timestamp": "1772366400"}),
        (request.body, {"content-type": "application/json"}),
    ]
    for body, claimed in forged:
        with pytest.raises(WebhookVerificationError):
            take(body, claimed, SECRET, last)
    assert last == {}


def test_after_a_restore_a_receiver_that_forgot_takes_lower_sequences(
    requests: Sequence[Received],
) -> None:
    last = {"voice/install/ins_2": 900}
    assert "2" not in taken(requests, last)
    last.clear()
    assert "2" in taken(requests, last)
