"""Rows as JSON values: what is blotted out, what is taken out, what makes two of them equal."""

from typing import Any

import pytest
from examples import aeontel_row

from worker.payloads import canonical_hash, decoded, encoded, pruned, redacted


@pytest.mark.parametrize(
    ("payload", "path", "expected"),
    [
        ({"a": 1, "b": 2}, "a", {"a": "[redacted]", "b": 2}),
        ({"a": {"b": 1, "c": 2}}, "a.b", {"a": {"b": "[redacted]", "c": 2}}),
        ({"a": {"b": {"c": 1}}}, "a", {"a": "[redacted]"}),
        ({"a": {"x": 1, "y": 2}}, "a.*", {"a": {"x": "[redacted]", "y": "[redacted]"}}),
        ({"a": [{"b": 1}, {"b": 2}]}, "a.*.b", {"a": [{"b": "[redacted]"}, {"b": "[redacted]"}]}),
        ({"a": [1, 2]}, "a.1", {"a": [1, "[redacted]"]}),
        ({"a": None}, "a", {"a": "[redacted]"}),
        ({"a": 1}, "b", {"a": 1}),
        ({"a": 1}, "a.b", {"a": 1}),
        ({"a.b": 1}, "a.b", {"a.b": 1}),
    ],
    ids=[
        "a field",
        "a field of an object",
        "a whole object",
        "every field of an object",
        "a field of every element",
        "an element",
        "a null: even that there is nothing is hidden",
        "a path that is not there changes nothing",
        "a path through a number changes nothing",
        "a dot is never part of a name",
    ],
)
def test_a_path_is_blotted_out(payload: Any, path: str, expected: Any) -> None:
    assert redacted(payload, [path]) == expected


@pytest.mark.parametrize(
    ("payload", "path", "expected"),
    [
        ({"a": 1, "b": 2}, "a", {"b": 2}),
        ({"a": {"b": 1, "c": 2}}, "a.b", {"a": {"c": 2}}),
        ({"a": [{"b": 1, "c": 2}]}, "a.*.b", {"a": [{"c": 2}]}),
        ({"a": [1, 2, 3]}, "a.1", {"a": [1, 3]}),
        ({"a": [1, 2, 3]}, "a.*", {"a": []}),
        ("text", "a", "text"),
    ],
)
def test_a_path_is_taken_out(payload: Any, path: str, expected: Any) -> None:
    assert pruned(payload, [path]) == expected


def test_what_was_given_is_not_changed() -> None:
    payload = aeontel_row()
    redacted(payload, ["variables.api_key"])
    pruned(payload, ["variables.api_key"])
    assert payload == aeontel_row()


def test_the_order_of_keys_does_not_move_the_hash() -> None:
    one = {"a": 1, "b": {"c": [1, 2], "d": None}}
    other = {"b": {"d": None, "c": [1, 2]}, "a": 1}
    assert canonical_hash(one) == canonical_hash(other)


@pytest.mark.parametrize(
    "other", [{"a": [2, 1]}, {"a": [1, 2], "b": None}, {"a": ["1", 2]}, {"b": [1, 2]}, [1, 2], None]
)
def test_another_value_has_another_hash(other: Any) -> None:
    assert canonical_hash(other) != canonical_hash({"a": [1, 2]})


def test_a_payload_survives_its_text() -> None:
    payload = {"name": "Müller 😀", "n": 2**70, "x": [None, 1.5, True, {"": "\x00"}]}
    assert decoded(encoded(payload)) == payload
