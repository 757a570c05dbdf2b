"""The Python call that does what a command line does. Pure: text in, text out."""

from __future__ import annotations

import re
import shlex

# Verbs of the command line that are methods of a connection, with the method's name.
METHODS = {
    "check": "check",
    "missing": "missing",
    "plan": "plan",
    "runs": "runs",
    "show": "get",
    "approve": "approve",
    "reject": "reject",
    "apply": "apply",
    "retry": "retry",
    "pace": "pace",
    "pause": "pause",
    "resume": "resume",
    "cancel": "cancel",
    "status": "status",
    "verify": "verify",
    "rollback": "rollback",
    "logs": "write_logs",
}
# Options that have another name in Python. A flag takes no value.
_NAMES = {"throttle": "throttle_per_minute", "set": "parameters", "confirm": "digest"}
_SEVERAL = {"session": "sessions", "priority": "priority"}
_PAIRS = ("want", "parameters")
_LINE = re.compile(r"(?:^|: )(backfill \S.*)", re.MULTILINE)


def python_calls(text: str) -> tuple[str, ...]:
    """The calls of the commands in a text, each on a line of its own or behind a colon.

    A command that only a shell has, such as install, has none.
    """
    calls = (python_call(line[1]) for line in _LINE.finditer(text))
    return tuple(call for call in calls if call)


def python_call(command: str) -> str | None:
    """bf.plan(like="4f2c…") for backfill plan --like 4f2c…. None if no method does it."""
    try:
        _, verb, *words = shlex.split(command)
    except ValueError:
        return None
    words = _of_the_command(words)
    method = METHODS.get(verb)
    if method is None:
        return None
    if verb == "rollback" and "--confirm" in words:
        method = "confirm_rollback"
    return f"bf.{method}({', '.join(_arguments(words))})"


def _of_the_command(words: list[str]) -> list[str]:
    """The words before a comma, behind which the sentence goes on."""
    for place, word in enumerate(words):
        if word.endswith(","):
            return [*words[:place], word[:-1]]
    return words


def _arguments(words: list[str]) -> list[str]:
    """What stands behind the verb, as arguments."""
    places: list[str] = []
    named: dict[str, str | int | list[str] | dict[str, str]] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            places.append(word if word == "…" else _quoted(word))
            continue
        option = word.removeprefix("--").replace("-", "_")
        name, value = _NAMES.get(option, option), next(rest, "")
        if option in _SEVERAL:
            some = named.setdefault(_SEVERAL[option], [])
            if isinstance(some, list):
                some.append(value)
        elif name in _PAIRS:
            pairs = named.setdefault(name, {})
            if isinstance(pairs, dict):
                key, _, told = value.partition("=")
                pairs[key] = told
        else:
            named[name] = int(value) if value.isdecimal() else value
    return [*places, *(f"{name}={_written(value)}" for name, value in named.items())]


def _written(value: str | int | list[str] | dict[str, str]) -> str:
    """A value as Python writes it, with double quotes."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(k)}: {_quoted(v)}" for k, v in value.items()) + "}"
    return str(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
