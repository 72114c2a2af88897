"""What is wrong with a configuration, said so that it can be mended and gives no secret away."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from worker.settings.addresses import origin
from worker.settings.table import Table
from worker.settings.values import Settings

Key = tuple[str | int, ...]  # ("sources", 0, "page_size")

_SECRET = {"password", "token", "secrets", "headers", "url", "state_url", "broker_url"}
_OPENING = re.compile(r"^(Input|Value|String|Tuple|List) should (be )?")
_MESSAGES = {
    "missing": "missing",
    "model_type": "expected a table",
    "dict_type": "expected a table",
    "mapping_type": "expected a table",
    "tuple_type": "expected a list",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the value of one key."""

    key: Key
    message: str
    value: Any = None  # containers and None are never shown


def of_validation(error: ValidationError) -> Iterator[Problem]:
    """The problems that pydantic found."""
    for detail in error.errors(include_url=False):
        has_value = detail["type"] not in ("missing", "extra_forbidden")
        yield Problem(detail["loc"], _message(detail), detail["input"] if has_value else None)


def describe(problem: Problem, tables: Mapping[str, Any], hidden: Collection[Key]) -> str:
    """One line: the key, its value unless it is secret or `hidden`, and what is expected."""
    line = _place(problem.key, tables, hidden)
    if isinstance(problem.value, str | int | float):
        line += f" = {_shown(problem, hidden)}"
    return f"{line}: {problem.message}"


def _message(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return _unknown(detail["loc"])
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return _MESSAGES.get(detail["type"]) or _OPENING.sub("expected ", detail["msg"])


def _unknown(key: Key) -> str:
    table: type[Table] | None = Settings
    for part in key[:-1]:
        if table is not None and isinstance(part, str):
            table = _table_of(table.model_fields[part].annotation)
    near = get_close_matches(str(key[-1]), table.model_fields if table else (), n=1, cutoff=0.5)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _table_of(annotation: Any) -> type[Table] | None:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next(filter(None, map(_table_of, get_args(annotation))), None)


def _place(key: Key, tables: Mapping[str, Any], hidden: Collection[Key]) -> str:
    match key:
        case (str(table), int(index)):
            return f"[[{table}]] {_label(table, index, tables, hidden)}"
        case ("sources" | "endpoints" as table, int(index), *rest):
            return f"[[{table}]] {_label(table, index, tables, hidden)}: {_dotted(rest)}"
        case (table, str(), *_) if len(key) > 1:
            return f"[{table}] {_dotted(key[1:])}"
    return _dotted(key)


def _label(table: str, index: int, tables: Mapping[str, Any], hidden: Collection[Key]) -> str:
    row = tables[table][index]
    name = row.get("name") if isinstance(row, dict) else None
    if isinstance(name, str) and name.isprintable() and (table, index, "name") not in hidden:
        return name
    return f"#{index + 1}"


def _dotted(key: Collection[str | int]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return "".join(parts).removeprefix(".")


def _shown(problem: Problem, hidden: Collection[Key]) -> str:
    value = problem.value
    if problem.key in hidden:
        return "(hidden)"
    if problem.key[-1] == "url" and isinstance(value, str):
        return _origin_of(value)
    if _SECRET.intersection(problem.key) or ("@" in str(value) and problem.key[-1] == "base_url"):
        return "(hidden)"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _origin_of(url: str) -> str:
    try:
        return f"{origin(url)}/…" if "://" in url else "(hidden)"
    except ValueError:
        return "(hidden)"
