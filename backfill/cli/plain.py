"""Text that others wrote, as a terminal may have it: no control characters, no reversed order.

Who names an environment, gives a reason or raises an error could else move the cursor, colour what
is ours, or write a line that looks like ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, ParamSpec, TypeVar, cast

from backfill.errors import BackfillError

# Spaces of other widths are harmless. The two ends of a line and of a paragraph are none of these.
_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_MAY_BE_UNPRINTABLE = re.compile(rf"[^ -~{_SPACES}]")
Told = TypeVar("Told")
Given = ParamSpec("Given")
Answer = TypeVar("Answer")

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable():
        return char
    code = ord(char)
    return _NAMED.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def one_line(text: str) -> str:
    """Text with what cannot be printed as an escape: a new line is \\n, ESC is \\x1b."""
    return text if text.isprintable() else _MAY_BE_UNPRINTABLE.sub(_escaped, text)


def lines(text: str) -> str:
    """The same for text of several lines, which stay lines."""
    return "\n".join(map(one_line, text.split("\n")))


def json_text(text: str) -> str:
    """JSON with what cannot be printed as \\u escapes. It says the same."""

    def escape(found: re.Match[str]) -> str:
        char = found[0]
        if char == "\n" or char.isprintable():
            return char
        units = char.encode("utf-16-be", errors="surrogatepass").hex()
        return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))

    return text if text.isprintable() else _MAY_BE_UNPRINTABLE.sub(escape, text)


def of_others(told: Told) -> Told:
    """A result with each text in it in one line. Its own sentences are made of these."""
    value: Any = told
    plain: Any = value
    if isinstance(value, str):
        plain = one_line(value)
    elif is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: of_others(getattr(value, f.name)) for f in fields(value) if f.init}
        plain = replace(value, **changed)
    elif isinstance(value, Mapping):
        plain = {of_others(name): of_others(inner) for name, inner in value.items()}
    elif isinstance(value, tuple):
        inner = map(of_others, value)
        plain = type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
    elif isinstance(value, list):
        plain = [of_others(inner) for inner in value]
    return cast(Told, plain)


def shown(show: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Give a function that shows results only what is in one line."""

    def shows(*given: Given.args, **named: Given.kwargs) -> Answer:
        plain = cast(Any, of_others)
        return show(*plain(given), **plain(named))

    shows.__doc__, shows.__name__ = show.__doc__, show.__name__
    return shows


def error_text(error: BackfillError) -> str:
    """What an error says, what to type now, and its notes. The message is one line."""
    step = lines(error.next_step).replace("\n", "\n    ")
    said = one_line(error.message) + (f"\n  Next: {step}" if step else "")
    return "\n".join([said, *map(lines, getattr(error, "__notes__", ()))])
