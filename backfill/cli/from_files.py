"""What the command line takes from files: variables of an env file, defaults of a settings file.

The command line wins over the environment, that over an env file, and that over a settings file.
Of an env file only our own names are looked at. No message shows a value: it may be a secret.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from backfill.api import keys
from backfill.errors import BadRequest

if TYPE_CHECKING:
    from backfill.results.run import Json

ENV_FILE = Path(".env")
SETTINGS_FILE = Path("backfill.toml")
PROJECT_FILE = Path("pyproject.toml")
ACCESS_TOKEN = "BACKFILL_ACCESS_TOKEN"  # noqa: S105 - the name, not a token
NOTIFY_URL = "BACKFILL_NOTIFY_URL"
NOTIFY_SECRET = "BACKFILL_NOTIFY_SECRET"  # noqa: S105 - the name, not a secret
# A setting's key in a file -> the variable that sets the same.
SETTINGS = {
    "environment": "BACKFILL_ENVIRONMENT",
    "throttle": "BACKFILL_THROTTLE",
    "batch_size": "BACKFILL_BATCH_SIZE",
    "target": "BACKFILL_TARGET",
    "logs_dir": "BACKFILL_LOGS_DIR",
}
FORMS = {"throttle": 'a whole number or "none"', "batch_size": "a whole number"}
VARIABLES = (
    keys.URL_VARIABLE, *keys.KEY_VARIABLES, ACCESS_TOKEN, NOTIFY_URL, NOTIFY_SECRET,
    *SETTINGS.values(),
)  # fmt: skip

# What the files of the verb that runs say, by variable.
_READ: ContextVar[Mapping[str, str]] = ContextVar("read", default=MappingProxyType({}))


def read_files(env_file: Path | None) -> Mapping[str, str]:
    """What the files of the working folder say, by variable, for the verb that runs now.

    env_file: instead of `.env`, which need not be there. Raises BadRequest.
    """
    variables = dict(_variables(env_file or ENV_FILE, is_named=env_file is not None))
    _READ.set({**_settings(), **variables})
    return _READ.get()


def environ() -> dict[str, str]:
    """The variables of the process, and where it has none, those of the files."""
    own = {name: value for name, value in os.environ.items() if value.strip()}
    files = dict(_READ.get())
    if own.keys() & {*keys.KEY_VARIABLES}:
        # Either variable may hold the key. The other one's of a file would win over the process's.
        files = {n: v for n, v in files.items() if n not in keys.KEY_VARIABLES}
    return {**files, **own}


# An env file ------------------------------------------------------------------------------------


def _variables(file: Path, *, is_named: bool) -> Iterator[tuple[str, str]]:
    if not is_named and not file.is_file():
        return
    text = _text(file)
    lines = list(parse_stream(StringIO(text)))
    for line in lines:
        if line.error and any(name in line.original.string for name in VARIABLES):
            # Lines of other programs are theirs to judge.
            raise _fault(file, line.original.line, "this is no NAME=value", "write NAME=value")
    good = "".join(line.original.string for line in lines if not line.error)
    values = dotenv_values(stream=StringIO(good))
    of_settings = {variable: key for key, variable in SETTINGS.items()}
    for line in lines:
        value = values.get(line.key or "")
        if line.key not in VARIABLES or not value or not value.strip():
            continue
        key = of_settings.get(line.key)
        if key in FORMS and not re.fullmatch(r"-?\d+", value) and not _is_none(key, value):
            number = _first_line(line.original.string, line.original.line)
            raise _fault(file, number, f"{line.key} is {FORMS[key]}", f"{line.key}=5")
        yield line.key, value


def _first_line(original: str, line: int) -> int:
    """Where a variable stands, past the empty lines that the parser counts to it."""
    return line + original[: len(original) - len(original.lstrip())].count("\n")


def _is_none(key: str, value: Json) -> bool:
    return key == "throttle" and isinstance(value, str) and value.lower() == "none"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as failed:
        raise BadRequest(
            f"{file} cannot be read: {failed.strerror}", "name a file that can be read"
        ) from failed
    except UnicodeDecodeError as failed:
        raise BadRequest(f"{file} is not in UTF-8", "save it in UTF-8") from failed


def _fault(file: Path, line: int, what: str, advice: str) -> BadRequest:
    return BadRequest(f"{file}, line {line}: {what}", advice)


# A settings file --------------------------------------------------------------------------------


def _settings() -> dict[str, str]:
    """The settings of backfill.toml, or without it those of pyproject.toml, by variable."""
    file, table = (SETTINGS_FILE, "") if SETTINGS_FILE.is_file() else (PROJECT_FILE, "backfill")
    if not file.is_file():
        return {}
    text = _text(file)
    try:
        given = _settings_of(tomllib.loads(text), table)
    except tomllib.TOMLDecodeError as failed:
        raise BadRequest(f"{file} is no TOML: {failed}", "correct it") from None
    if not isinstance(given, dict):
        raise _fault(file, _line_of(text, table, table), "this is no table", "[tool.backfill]")
    for key, value in given.items():
        if fault := _setting_fault(key, value):
            raise _fault(file, _line_of(text, table, key), *fault)
    return {SETTINGS[key]: str(value) for key, value in given.items()}


def _setting_fault(key: str, value: Json) -> tuple[str, str] | None:
    """What is wrong with a setting, and what to do. None if nothing is."""
    if key not in SETTINGS:
        near = difflib.get_close_matches(key, SETTINGS, 1)
        meant = f", the nearest is {near[0]}" if near else ""
        return f"there is no setting {key[:40]}{meant}", f"the settings are {', '.join(SETTINGS)}"
    if key in FORMS:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        is_right = is_number or _is_none(key, value)
        return None if is_right else (f"{key} is {FORMS[key]}", f"{key} = 5")
    if not isinstance(value, str):
        return f"{key} is a text", f'{key} = "…"'
    return None if value.strip() else (f"{key} is empty", "leave it out, or give a value")


def _settings_of(given: Json, table: str) -> Json:
    """The settings of a file: the file itself, or its table [tool.<table>]."""
    tools = given.get("tool", {}) if table else {"": given}
    return tools.get(table, {}) if isinstance(tools, dict) else tools


def _line_of(text: str, table: str, key: str) -> int:
    """The line of a setting: the first after which a file that ended there would have it."""
    lines = text.splitlines(keepends=True)
    for number in range(1, len(lines)):
        try:
            given = tomllib.loads("".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # inside of a value
        settings = given.get("tool", {}) if key == table else _settings_of(given, table)
        if isinstance(settings, dict) and key in settings:
            return number
    return len(lines)
