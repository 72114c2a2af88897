"""Aeontel's `filter` and `orderBy`, evaluated as PostgreSQL evaluates them: null is unknown."""

import json
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from worker.sandbox.world import Row

Truth = bool | None  # None: unknown, because something compared is null
Test = Callable[[Row], Truth]
FieldKind = Literal["text", "time"]

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "contains": operator.contains,
    "in": lambda value, among: value in among,
    "notIn": lambda value, among: value not in among,
}


class QueryInvalid(ValueError):
    """The client asked for something that cannot be evaluated: 400."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What can be filtered and sorted by: fields with their types, and the one row that each
    relation leads to."""

    fields: Mapping[str, FieldKind]
    relations: Mapping[str, tuple["Schema", Callable[[Row], Row | None]]] = field(
        default_factory=dict
    )


# filter


def read_json(name: str, text: str) -> Any:
    """The JSON of a query parameter."""
    try:
        return json.loads(text)
    except ValueError:
        raise QueryInvalid(f"{name} is not JSON") from None


def compiled(expression: Any, schema: Schema) -> Test:
    """The test that `expression` stands for; the fields of one object are joined by AND."""
    if not isinstance(expression, dict):
        raise QueryInvalid("a filter is an object")
    return _every([_part(key, given, schema) for key, given in expression.items()])


def _part(key: str, given: Any, schema: Schema) -> Test:
    match key:
        case "AND":
            return _every(_several(key, given, schema))
        case "OR":
            return _some(_several(key, given, schema))
        case "NOT":
            return _not(compiled(given, schema))
        case _ if key in schema.relations:
            return _through(*schema.relations[key], given)
        case _:
            return _field(key, given, schema)


def _several(key: str, given: Any, schema: Schema) -> list[Test]:
    if not isinstance(given, list):
        raise QueryInvalid(f"{key} takes a list of filters")
    return [compiled(one, schema) for one in given]


def _through(schema: Schema, lead: Callable[[Row], Row | None], given: Any) -> Test:
    test = compiled(given, schema)

    def related(row: Row) -> Truth:
        other = lead(row)
        return other is not None and test(other)

    return related


def _field(name: str, given: Any, schema: Schema) -> Test:
    if name not in schema.fields:
        raise QueryInvalid(f"no field {name!r} to filter by")
    if not isinstance(given, dict) or not given:
        raise QueryInvalid(f"{name} takes an object of operators")
    read = _read_time if schema.fields[name] == "time" else _read_text
    return _every([_compared(name, sign, operand, read) for sign, operand in given.items()])


def _compared(name: str, sign: str, operand: Any, read: Callable[[Any], Any]) -> Test:
    if sign == "isNull":
        if not isinstance(operand, bool):
            raise QueryInvalid("isNull takes true or false")
        return lambda row: (row[name] is None) == operand
    if sign not in COMPARISONS:
        raise QueryInvalid(f"no operator {sign!r} for {name}")
    if sign in ("in", "notIn"):
        if not isinstance(operand, list):
            raise QueryInvalid(f"{sign} takes a list")
        wanted: Any = {read(one) for one in operand}
    else:
        wanted = _read_text(operand) if sign == "contains" else read(operand)
    compare = COMPARISONS[sign]
    value = _read_text if sign == "contains" else read
    return lambda row: None if row[name] is None else compare(value(row[name]), wanted)


def _read_text(given: Any) -> str:
    if not isinstance(given, str):
        raise QueryInvalid(f"{given!r} is not text")
    return given


def _read_time(given: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(_read_text(given))
    except ValueError:
        raise QueryInvalid(f"{given!r} is not a time") from None
    if moment.tzinfo is None:
        raise QueryInvalid(f"{given!r} has no offset")
    return moment


def _every(tests: list[Test]) -> Test:
    return lambda row: _conjunction(test(row) for test in tests)


def _some(tests: list[Test]) -> Test:
    return lambda row: _negated(_conjunction(_negated(test(row)) for test in tests))


def _not(test: Test) -> Test:
    return lambda row: _negated(test(row))


def _negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _conjunction(truths: Iterable[Truth]) -> Truth:
    result: Truth = True
    for truth in truths:
        if truth is False:
            return False
        result = result and truth
    return result
