"""README.md names everything there is to use, nothing that is not there, and stays short."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from rich.text import Text
from typer.main import get_command

from worker import warehouse
from worker.cli import loaded
from worker.settings import EVENT_TYPES, NOTICE_TYPES, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
LONGEST = 150


def section(title: str) -> str:
    """The part of README under a heading."""
    text = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert text, f"README has no section {title!r}"
    return text


def code(text: str) -> list[str]:
    """What is written as code in a line."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command: "sync", "runs", "runs show"."""
    for name, inner in getattr(command, "commands", {}).items():
        yield " ".join((*path, name))
        yield from commands(inner, (*path, name))


def helps(command: Any) -> Iterator[str]:
    """What `--help` says of a command, its options and all below it."""
    yield command.help or ""
    yield from (getattr(each, "help", None) or "" for each in command.params)
    for inner in getattr(command, "commands", {}).values():
        yield from helps(inner)


def tables() -> Iterator[tuple[str, list[str]]]:
    """Every table of the configuration as it is written, with its keys; the topmost is ""."""
    yield "", list(Settings.model_fields)
    for key, field in Settings.model_fields.items():
        annotation = field.annotation
        repeated = next(iter(get_args(annotation)), None)  # of tuple[Source, ...]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield f"[{key}]", list(annotation.model_fields)
        elif isinstance(repeated, type) and issubclass(repeated, BaseModel):
            yield f"[[{key}]]", list(repeated.model_fields)


def in_the_published_copy(folder: Path) -> set[str]:
    """Its tables, views and macros."""
    store, copy = folder / "private" / "store.duckdb", folder / "published" / "warehouse.duckdb"
    now = datetime(2026, 1, 31, tzinfo=UTC)
    with warehouse.opened(store, now):
        pass
    warehouse.publish(store, copy, now, {})
    relations = warehouse.ask(copy, "select table_name from information_schema.tables").rows
    macros = warehouse.ask(copy, "select function_name from duckdb_functions() where not internal")
    return {name for (name,) in (*relations, *macros.rows)}


def missing(names: Iterable[str], title: str) -> list[str]:
    """Those of `names` that a section does not have as code, perhaps with arguments behind it."""
    written = code(section(title))
    return [
        name
        for name in names
        if not any(re.match(rf"{re.escape(name)}(?![\w.-])", each) for each in written)
    ]


def test_every_command_is_in_the_readme() -> None:
    known = list(commands(get_command(loaded())))
    assert "runs show" in known
    assert missing(known, "Commands") == []


def test_the_readme_names_no_command_that_is_not_there() -> None:
    known = set(commands(get_command(loaded())))
    rows = re.findall(r"^\| (`.*?`) \|", section("Commands"), re.MULTILINE)
    listed = {span.split()[0] for row in rows for span in code(row)}
    called = set(re.findall(r"(?:^|[ /`])stocktake ([a-z]+)", README, re.MULTILINE))
    assert listed
    assert called
    assert (listed | called) - known == set()


def test_help_says_all_that_was_written() -> None:
    """Rich takes [words] for markup, and leaves them out."""
    said = list(helps(get_command(loaded())))
    assert said
    assert [text for text in said if Text.from_markup(text).plain != text] == []


def test_every_table_and_key_of_the_configuration_is_in_the_readme() -> None:
    known = dict(tables())
    assert {"[[sources]]", "[schedule]", "[[endpoints]]"} <= set(known)
    unwritten = [
        (table, key)
        for table, keys in known.items()
        for key in keys
        if not any(is_documented(line, table, key) for line in README.splitlines())
    ]
    assert unwritten == []


def is_documented(line: str, table: str, key: str) -> bool:
    """Whether a line of README is about `table` and names `key`; a key that is a table of its own
    has a line of its own."""
    if not table:
        return f"`{key}`" in line or f"`[{key}]`" in line or f"`[[{key}]]`" in line
    return f"`{table}`" in line and f"`{key}`" in line


@pytest.mark.parametrize("types", [EVENT_TYPES, NOTICE_TYPES], ids=["events", "notices"])
def test_every_type_is_in_the_readme(types: tuple[str, ...]) -> None:
    assert missing(types, "For receivers") == []


def test_everything_in_the_published_copy_is_in_the_readme(tmp_path: Path) -> None:
    there = in_the_published_copy(tmp_path)
    assert {"installs", "install_history", "events", "sync_runs", "installs_as_of"} <= there
    assert missing(there, "For analysts") == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST


def test_what_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("marker", ["demo", "tests"])
def test_the_commands_to_copy_are_marked_for_ci(marker: str) -> None:
    (command,) = re.findall(rf"^<!-- {marker} -->\n```sh\n(.+)\n```$", README, re.MULTILINE)
    assert command.startswith("python3 -m venv .venv && ")
