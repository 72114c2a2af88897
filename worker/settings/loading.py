"""Finds the configuration file and reads it; says everything that is wrong with it at once."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from worker.errors import ConfigInvalid
from worker.settings.contradictions import contradictions
from worker.settings.environment import Unresolved, refers, resolve
from worker.settings.problems import Key, Problem, describe, of_validation
from worker.settings.values import Settings

_INIT = "`stocktake init` writes one"
_SQLITE = "sqlite:///"


def find(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The configuration file to use: `explicit`, else the first that there is."""
    places = [explicit] if explicit else list(_places(environ))
    for place in places:
        if os.path.isfile(place):
            return place
    looked = [f"looked at {place}" for place in places]
    raise ConfigInvalid("there is no configuration file", [*looked, _INIT])


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings in the file at `path`, or ConfigInvalid with every problem of it."""
    written = _parse(path)
    tables = _replaced(written, environ)

    unresolved = list(_unresolved(written, environ))
    settings, invalid = _validated(_placed(tables, path.absolute().parent, environ))
    # A value that the environment does not give is reported once, not judged as well.
    skipped = {problem.key for problem in unresolved}
    judged = (problem for problem in [*invalid, *contradictions(tables)])
    problems = [*unresolved, *(problem for problem in judged if problem.key not in skipped)]

    if settings is None or problems:
        hidden = {key for key, text in _strings(written) if refers(text)}
        raise ConfigInvalid(str(path), [describe(each, tables, hidden) for each in problems])
    return settings


def template() -> str:
    """The commented configuration that `stocktake init` writes."""
    return Path(__file__).with_name("template.toml").read_text("utf-8")


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    if named := environ.get("STOCKTAKE_CONFIG"):
        yield Path(named)
        return  # who names a file does not mean another one
    yield Path("stocktake.toml")
    if home := environ.get("XDG_CONFIG_HOME"):
        yield Path(home) / "stocktake" / "stocktake.toml"
    elif home := environ.get("HOME"):
        yield Path(home) / ".config" / "stocktake" / "stocktake.toml"
    yield Path("/etc/stocktake/stocktake.toml")


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigInvalid(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(str(path), [f"is not UTF-8 at byte {error.start}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(str(path), [f"is not TOML: {error}"]) from error


def _strings(value: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    match value:
        case str():
            yield key, value
        case dict():
            for name, item in value.items():
                yield from _strings(item, (*key, name))
        case list():
            for index, item in enumerate(value):
                yield from _strings(item, (*key, index))


def _unresolved(written: Any, environ: Mapping[str, str]) -> Iterator[Problem]:
    for key, text in _strings(written):
        try:
            resolve(text, environ)
        except Unresolved as error:
            yield Problem(key, str(error))


def _replaced(value: Any, environ: Mapping[str, str]) -> Any:
    match value:
        case str():
            try:
                return resolve(value, environ)
            except Unresolved:
                return value
        case dict():
            return {name: _replaced(item, environ) for name, item in value.items()}
        case list():
            return [_replaced(item, environ) for item in value]
    return value


def _placed(tables: Mapping[str, Any], base: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """`tables` with its paths made absolute: relative ones are relative to the file's directory."""
    # systemd names several directories with colons between them; the first is the main one.
    usual = environ.get("STATE_DIRECTORY", "").split(":")[0] or "data"
    data_dir, state_url = tables.get("data_dir", usual), tables.get("state_url")
    placed = {**tables, "data_dir": base / data_dir if isinstance(data_dir, str) else data_dir}
    if isinstance(state_url, str) and state_url.startswith(_SQLITE):
        placed["state_url"] = f"{_SQLITE}{base / state_url.removeprefix(_SQLITE)}"
    return placed


def _validated(tables: Mapping[str, Any]) -> tuple[Settings | None, list[Problem]]:
    try:
        return Settings.model_validate(tables), []
    except ValidationError as error:
        return None, list(of_validation(error))
