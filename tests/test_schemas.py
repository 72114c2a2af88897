"""Every body that we can make is as its JSON Schema says, and the schemas say what we mean."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from functools import reduce
from operator import getitem
from typing import Any

import msgspec
import pytest
from examples import (
    NOON,
    OF_A,
    Shown,
    aeontel_row,
    commit,
    gathered,
    gestal_integration,
    gestal_row,
    harvest,
    new_store,
    pair,
    policy,
    walk,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from outposts import LOGIN
from receivers import endpoint
from sqlalchemy import text

from worker import (
    aftermath,
    backup,
    changes,
    outcomes,
    planning,
    relay,
    restore,
    schemas,
    warehouse,
    webhooks,
)
from worker.cli import main
from worker.deliver import deliver
from worker.errors import SourceRefused
from worker.findings import Plan, Proposal
from worker.models import INSTALLS, INTEGRATIONS, Event, Install, Integration
from worker.outbound import Answer
from worker.settings import EVENT_TYPES, NOTICE_TYPES, Settings, Source
from worker.state import connect, opened

VALIDATORS = {type: Draft202012Validator(schemas.schema(type)) for type in schemas.types()}
FARM = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})
FARM = Source.model_validate({"name": "farm", "dialect": "gestal", **LOGIN})
WITHHELD = {"payload", "variables", "row_hash"}


def check(body: bytes) -> Any:
    """The body, which is as the schema of its type says."""
    said = json.loads(body)
    VALIDATORS[said["type"]].validate(said)
    return said


# The schemas themselves.


@pytest.mark.parametrize("type", schemas.types())
def test_a_schema_is_one_and_stands_alone(type):
    schema = schemas.schema(type)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    refs = {ref.removeprefix("#/$defs/") for ref in references(schema)}
    assert refs == set(schema["$defs"])


def references(part: Any) -> set[str]:
    """All that a schema refers to."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    own = {part["$ref"]} if isinstance(part, dict) and "$ref" in part else set()
    return own.union(*map(references, inner))


def test_every_type_has_a_schema_and_no_other_has():
    assert tuple(schemas.types()) == EVENT_TYPES + NOTICE_TYPES


def test_all_together_are_one_schema_of_any_message():
    every = schemas._messages()
    Draft202012Validator.check_schema(every)
    assert references(every) == {f"#/$defs/{name}" for name in every["$defs"]}
    for body in SAID[:2]:
        Draft202012Validator(every).validate(json.loads(body))


@pytest.mark.parametrize(
    ("kind", "struct", "type"),
    [("install", Install, "install.updated"), ("integration", Integration, "integration.updated")],
)
def test_the_columns_are_those_of_the_tables(kind, struct, type):
    columns = {"source", *struct.__struct_fields__} - WITHHELD
    defs = schemas.schema(type)["$defs"]
    event = defs[f"{kind}_event"]["properties"]["data"]
    assert set(defs[kind]["properties"]) == columns
    assert set(event["else"]["properties"][kind]["required"]) == columns
    times = {f.name for f in msgspec.structs.fields(struct) if datetime in types_of(f.type)}
    said = {
        name for name, part in defs[kind]["properties"].items() if "time" in part.get("$ref", "")
    }
    assert said == times


def types_of(annotation: Any) -> set[Any]:
    return set(getattr(annotation, "__args__", ())) | {annotation}


@pytest.mark.parametrize(
    ("kind", "fields", "id"),
    [
        ("install", changes._INSTALL_FIELDS, "install_id"),
        ("integration", changes._INTEGRATION_FIELDS, "integration_id"),
    ],
)
def test_the_fields_that_change_are_those_that_are_compared(kind, fields, id):
    event = schemas.schema(f"{kind}.updated")["$defs"][f"{kind}_event"]["properties"]["data"]
    said = event["properties"]["changed_fields"]["items"]["enum"]
    assert set(said) == {*fields, "payload"} - {id}


# What is said of installs and integrations, by the code that says it.

RUN = replace(walk(), run_id="run_0123456789ab")
GONE = "2026-02-01T00:00:00Z"


def events_of(*answers: Any, scope: str = INSTALLS, dialect: str = "aeontel") -> list[Event]:
    """What is told of one object after each of several answers about it; None is a 404."""
    before, events = None, list[Event]()
    for answer in answers:
        if answer is None and before is None:
            continue
        found = gathered(pair(answer, before, scope))
        plan = planning.plan(found, [replace(RUN, scope=scope)], policy(dialect))
        events += plan.events
        before = next((change.after for change in plan.changes), before)
    return events


def last(type: str, *answers: Any, **about: Any) -> Any:
    return pytest.param(type, events_of(*answers, **about)[-1], id=type)


V1, V2 = aeontel_row(), aeontel_row(integrationVersionId="v2")
POST = {"scope": INTEGRATIONS, "dialect": "gestal"}
EVENTS = [
    last("install.created", V1),
    last("install.upgraded", V1, V2),
    last("install.updated", V1, aeontel_row(installedBy="usr_2", variables={"key": "hush"})),
    last("install.updated", V1, aeontel_row(unknown="hush")),
    last("install.deleted", V1, aeontel_row(deletedAt=GONE)),
    last("install.deleted", V1, None),
    last("install.restored", V1, aeontel_row(deletedAt=GONE), V1),
    last("install.restored", V1, None, V1),
    last("install.purged", V1, None, None),
    last("integration.created", gestal_integration(), **POST),
    last("integration.updated", gestal_integration(), gestal_integration(name="Mail"), **POST),
    last("integration.deleted", gestal_integration(), None, **POST),
    last("integration.restored", gestal_integration(), None, gestal_integration(), **POST),
]
SAID = [webhooks.event_body(param.values[1], "standard") for param in EVENTS]


def test_all_types_of_events_are_tried():
    assert {param.values[0] for param in EVENTS} == set(EVENT_TYPES)


@pytest.mark.parametrize(("type", "event"), EVENTS)
def test_an_event_is_as_its_schema_says_even_if_it_is_truncated(type, event):
    assert check(webhooks.event_body(event, "standard"))["type"] == type
    long = replace(event, after={**event.after, "site_name": "x" * 30_000, "name": "x" * 30_000})
    assert check(webhooks.event_body(long, "standard"))["data"]["truncated"] is True


@pytest.mark.parametrize(("type", "event"), EVENTS)
def test_only_what_was_there_already_is_of_a_baseline(type, event):
    message = json.loads(webhooks.event_body(replace(event, baseline=True), "standard"))
    assert message["data"]["baseline"] is True
    assert VALIDATORS[type].is_valid(message) is type.endswith(".created")


names = st.text(max_size=9) | st.text(st.sampled_from('<>&"\\\n\0\u2028漢🚜'), max_size=9)
nothing_or = st.none() | names
times = st.none() | st.datetimes().map(lambda time: f"{time.isoformat()}Z")
rows = st.fixed_dictionaries(
    {
        "id": st.just("ins_1"),
        "integrationId": nothing_or,
        "integrationVersionId": nothing_or,
        "workspaceId": nothing_or,
        "variables": st.none() | st.dictionaries(names, names, max_size=2),
        "installedBy": nothing_or | st.just("x" * 9_000) | st.just("ø" * 10_000),
        "installedAt": times,
        "lastUpgradedAt": times,
        "deletedAt": times,
    },
    optional={"unknown": names, "authStateId": names, "solutionId": names, "memberPolicy": names},
)


def assert_said_well(events: list[Event]) -> None:
    for event in events:
        body = webhooks.event_body(event, "standard")
        data = check(body)["data"]
        assert set(data["previous_attributes"]) <= set(data["changed_fields"]) - WITHHELD
        assert len(body) <= webhooks.MAX_BODY


@settings(max_examples=15, deadline=None)
@given(answers=st.lists(st.none() | rows, min_size=2, max_size=4))
def test_whatever_a_source_answers_is_said_as_the_schema_says(answers):
    assert_said_well(events_of(*answers))


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(answers=st.lists(st.none() | rows, min_size=2, max_size=6))
def test_whatever_a_source_answers_over_time_is_said_as_the_schema_says(answers):
    assert_said_well(events_of(*answers))


# What is said by notices, by the code that says it.


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The body of every notice, by its type: each made by what makes it in earnest."""
    folder = tmp_path_factory.mktemp("said")
    ops, gone = endpoint("ops", events=("*",)), endpoint("gone", events=("sync.*",))
    settings = Settings(data_dir=folder, sources=(FARM,), endpoints=(ops, gone))
    engine = connect(f"sqlite:///{folder}/state.db")
    with warehouse.opened(new_store(settings.store_path), NOON) as store:
        shown = (Shown(INTEGRATIONS, [gestal_integration()]), Shown(OF_A, [gestal_row()]))
        commit(store, harvest(store, folder, *shown))
        aftermath.relay(settings, engine, store)
        brief = store.brief("farm")
    hold = Proposal(OF_A, "12 of 35 rows absent at once (34%)", ("ins_1", "ins_2"), 12 / 35)
    aftermath.record(settings, engine, FARM, [], Plan(holds=(hold,)), NOON)
    for error in (SourceRefused("farm answered 403"),) * 3 + (None,):
        run = outcomes.run_of("farm", RUN, error, Plan(), {}, NOON, NOON)
        aftermath.conclude(settings, engine, FARM, [run], whole=True, brief=brief, requests=1)
    test_id = webhooks.notice_id(webhooks.TEST, "ops", NOON.isoformat())
    relay.announce(engine, [ops], test_id, webhooks.TEST, None, {}, NOON)
    deliver(
        engine,
        settings.endpoints,
        stop=threading.Event(),
        make_sender=lambda each: Answering(410 if each.name == "gone" else 204),
    )
    with engine.connect() as connection:
        query = text("select type, body from deliveries where endpoint = 'ops'")
        yield {type: body for type, body in connection.execute(query)}
    engine.dispose()


class Answering:
    """Stands for the network: every request gets one status."""

    def __init__(self, status):
        self.status = status

    async def send(self, _headers, _body):
        return Answer(self.status)

    async def aclose(self):
        """Nothing is open."""


def test_every_notice_is_as_its_schema_says(said):
    assert set(said) == set(NOTICE_TYPES)
    for type, body in said.items():
        assert check(body)["type"] == type
        assert json.loads(body)["data"]["source"] == ("farm" if type.startswith("sync.") else None)


def test_a_long_baseline_is_as_the_schema_says(said):
    facts = dict(json.loads(said["sync.baseline"])["data"])
    id, source, listings = facts.pop("notice_id"), facts.pop("source"), facts.pop("scopes")
    long = {**facts, "scopes": listings * 1000}
    body = webhooks.notice_body(id, "sync.baseline", source, long, NOON, "standard")
    assert check(body)["data"]["truncated"] is True


@pytest.mark.slow
def test_the_notice_of_a_restore_is_as_the_schema_says_and_nothing_else_is(tmp_path):
    """Made by the restore itself; it is of no source."""
    ops = endpoint("ops", events=("*",))
    settings = Settings(data_dir=tmp_path, sources=(FARM,), endpoints=(ops,))
    new_store(settings.store_path)
    with opened(settings) as engine:
        backup.backup(settings, engine, tmp_path / "kept")
    restore.restore(settings, tmp_path / "kept")
    with opened(settings) as engine, engine.connect() as connection:
        (body,) = connection.execute(text("select body from deliveries")).scalars()
    message = check(body)
    assert message["data"]["reason"] == "restored"
    assert_closed(message)


# What is not as the schema says.


def refused(message: Any, type: str) -> bool:
    return not VALIDATORS[type].is_valid(message)


def paths(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each object in a message."""
    if isinstance(part, dict):
        yield path
        for name, inner in part.items():
            yield from paths(inner, (*path, name))


def altered(message: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy in which what is at `path` was changed in place."""
    copy = deepcopy(message)
    change(reduce(getitem, path, copy))
    return copy


def assert_closed(message: Any) -> None:
    type = message["type"]
    for path in paths(message):
        assert refused(altered(message, path, lambda part: part.update(surprise=1)), type), path
        if path[-1:] == ("previous_attributes",):
            continue  # how many there are is told by changed_fields
        for name in reduce(getitem, path, message):
            without = altered(message, path, lambda part, name=name: part.pop(name))
            wrong = altered(message, path, lambda part, name=name: part.update({name: [{}]}))
            assert refused(without, type), (path, name)
            assert refused(wrong, type), (path, name)


@pytest.mark.parametrize("type", ["install.upgraded", "install.deleted", "integration.updated"])
def test_an_event_with_one_thing_more_or_less_or_other_is_refused(type):
    assert_closed(next(message for message in map(check, SAID) if message["type"] == type))


def test_an_event_is_not_as_the_schema_of_another_type_says():
    for message in map(json.loads, SAID):
        for type in set(EVENT_TYPES) - {message["type"]}:
            assert refused(message, type)


def test_a_notice_with_one_thing_more_or_less_or_other_is_refused(said):
    for body in said.values():
        assert_closed(check(body))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("timestamp",), "2026-03-01 12:00:00"),
        (("timestamp",), "2026-03-01T13:00:00+01:00"),
        (("timestamp",), 1772366400),
        (("data", "event_id"), "evt_1"),
        (("data", "event_id"), "ntc_" + "a" * 26),
        (("data", "run_id"), "0123456789ab"),
        (("data", "sequence"), 0),
        (("data", "sequence"), "7"),
        (("data", "source"), "Farm"),
        (("data", "source"), None),
        (("data", "deletion_inferred"), True),
        (("data", "changed_fields"), []),
        (("data", "changed_fields"), ["version_id", "version_id"]),
        (("data", "changed_fields"), ["installed_by"]),
        (("data", "changed_fields"), ["row_hash"]),
        (("data", "previous_attributes"), {"payload": {}}),
        (("data", "previous_attributes"), {"variables": {}}),
        (("data", "previous_attributes"), {"state": "deleted"}),
        (("data", "previous_attributes"), {"upgraded_at": "yesterday"}),
        (("data", "baseline"), True),
        (("data", "truncated"), True),
        (("data", "truncated"), False),
        (("data", "install", "state"), "deleted"),
        (("data", "install", "install_id"), ""),
        (("data", "install", "installed_at"), "2026-03-01"),
        (("data", "install", "version_id"), 3),
        (("data", "install", "payload"), {}),
    ],
)
def test_an_upgrade_that_says_something_else_is_refused(path, value):
    (_, upgraded) = events_of(V1, V2)
    message = check(webhooks.event_body(upgraded, "standard"))
    *way, name = path
    wrong = altered(message, tuple(way), lambda part: part.update({name: value}))
    assert refused(wrong, "install.upgraded")


# The command.


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["events", "schema", *arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize("type", ["install.upgraded", "integration.deleted", "sync.held"])
def test_a_schema_is_printed_as_one_json_document(type, capsys):
    for options in ((), ("--json",)):
        code, out, _ = run(capsys, type, *options)
        assert code == 0
        assert json.loads(out) == schemas.schema(type)


def test_without_a_type_all_are_listed(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert re.findall(r"^\w+\.\w+", out, re.MULTILINE) == [*EVENT_TYPES, *NOTICE_TYPES]
    code, out, _ = run(capsys, "--json")
    assert [each["type"] for each in json.loads(out)["types"]] == [*EVENT_TYPES, *NOTICE_TYPES]


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("install.upgrade", "did you mean install.upgraded?"),
        ("sync.hold", "did you mean sync.held?"),
        ("x", f"known: {', '.join((*EVENT_TYPES, *NOTICE_TYPES))}"),
    ],
)
def test_an_unknown_type_is_said_with_the_nearest_one_or_all(typed, hint, capsys):
    code, out, err = run(capsys, typed)
    assert (code, out) == (2, "")
    assert f"no type {typed!r}; {hint}\n" in err
