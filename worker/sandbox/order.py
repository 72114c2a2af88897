"""Aeontel's `orderBy` and keyset cursors: a place in an order, not a row that must still exist."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

from worker.sandbox.query import QueryInvalid, Schema
from worker.sandbox.world import Row

Key = tuple[Any, ...]

# Descending, nulls first. PostgreSQL takes null for the largest value unless told otherwise.
DIRECTIONS: Mapping[str, tuple[bool, bool]] = {
    "asc": (False, False),
    "desc": (True, True),
    "asc_nulls_first": (False, True),
    "asc_nulls_last": (False, False),
    "desc_nulls_first": (True, True),
    "desc_nulls_last": (True, False),
}


@total_ordering
@dataclass(frozen=True, slots=True)
class Descending:
    """A value that sorts the other way round."""

    value: str

    def __lt__(self, other: "Descending") -> bool:
        return self.value > other.value


@dataclass(frozen=True, slots=True)
class Term:
    """One key of an order."""

    name: str
    descending: bool = False
    nulls_first: bool = False

    def key(self, value: str | None) -> Key:
        """What sorts `value` among others; the rank keeps nulls from being compared."""
        if value is None:
            return (-1 if self.nulls_first else 1, "")
        return (0, Descending(value) if self.descending else value)


@dataclass(frozen=True, slots=True)
class Order:
    """The terms of `orderBy`, and the id at the end so that no two rows are equal."""

    terms: tuple[Term, ...]

    def key(self, row: Row) -> Key:
        """Where `row` stands."""
        return self._place([row[term.name] for term in self.terms])

    def cursor(self, row: Row) -> str:
        """The opaque text for the place of `row`."""
        values = [row[term.name] for term in self.terms]
        return urlsafe_b64encode(json.dumps(values).encode()).decode()

    def place(self, cursor: str) -> Key:
        """The place that a cursor of this very order stands for."""
        try:
            values = json.loads(urlsafe_b64decode(cursor))
        except ValueError:
            raise QueryInvalid("malformed cursor") from None
        if not isinstance(values, list) or len(values) != len(self.terms):
            raise QueryInvalid("the cursor belongs to another order")
        if not all(value is None or isinstance(value, str) for value in values):
            raise QueryInvalid("malformed cursor")
        return self._place(values)

    def _place(self, values: list[str | None]) -> Key:
        return tuple(term.key(value) for term, value in zip(self.terms, values, strict=True))


def ordered(given: Any, schema: Schema) -> Order:
    """The order that the JSON of `orderBy` stands for."""
    if not isinstance(given, list):
        raise QueryInvalid("orderBy takes a list of {field: direction}")
    return Order((*(_term(one, schema) for one in given), Term("id")))


def _term(given: Any, schema: Schema) -> Term:
    if not isinstance(given, dict) or len(given) != 1:
        raise QueryInvalid("orderBy takes a list of {field: direction}")
    (name, direction), *_ = given.items()
    if name not in schema.fields:
        raise QueryInvalid(f"no field {name!r} to sort by")
    if not isinstance(direction, str) or direction not in DIRECTIONS:
        raise QueryInvalid(f"no direction {direction!r}")
    return Term(name, *DIRECTIONS[direction])
