"""A drafted target as TOML, with what is undecided as comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from backfill.results.run import Json
from backfill.targets.schema import SCHEMA_FILE

if TYPE_CHECKING:
    from backfill.targets.draft_parts import Need, Part, Plan

BARE = re.compile(r"[A-Za-z0-9_-]+")


def text_of_draft(plan: Plan) -> str:
    """The file."""
    parameters = [_pair(name, value) for name, value in plan.parameters.items()]
    blocks = [
        [f"#:schema ./{SCHEMA_FILE}", _pair("target", plan.target)],
        ["[source]", *_source(plan)],
        ["[parameters]", *parameters] if parameters else [],
        *(["[[component]]", *_component(part)] for part in plan.parts),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _source(plan: Plan) -> Iterable[str]:
    yield _pair("table", plan.source.sql, plan.notes.get("table"))
    yield _pair("key", plan.key, plan.notes.get("key"))
    yield _pair("date", plan.date, plan.notes.get("date"))
    if plan.where:
        yield _pair("where", plan.where)
    elif "where" in plan.notes:
        yield from _undecided_rows(plan)
    if plan.index is not None:
        yield _pair("index", plan.index)
    if "called" in plan.notes:
        yield f"# {plan.notes['called']}:"
        yield f"# {_pair('called', plan.called)}"
    elif plan.called is not None:
        yield _pair("called", plan.called)


def _undecided_rows(plan: Plan) -> Iterable[str]:
    from backfill.targets.likely import states

    column, values = states(plan.source)[0]
    yield f"# {plan.notes['where']}. To select some:"
    yield f"# {_pair('where', {column: list(values) or ['…']})}"


def _component(part: Part) -> Iterable[str]:
    notes = part.notes
    yield _pair("name", part.name)
    yield _pair("table", part.relation.sql)
    yield _pair("session", part.session, notes.get("session"))
    yield _pair("key", list(part.key), notes.get("key"))
    if part.version_column is not None:
        yield _pair("version_column", part.version_column)
    if part.version_column is not None and not _has_shared_version(part):
        yield _pair("version", part.version, notes.get("version"))
    if part.matches:
        yield _pair("matches", part.matches, notes.get("matches"))
    if part.filled_by is None:
        yield from _function(part)
        yield _pair("arguments", part.arguments, notes.get("arguments"))
    if part.fills:
        yield _pair("fills", part.fills)
    if part.after:
        yield _pair("after", part.after)
    if part.needs:
        needs = ", ".join(value_text(_need(need)) for need in part.needs)
        yield f"needs = [{needs}]{_comment(notes.get('needs'))}"


def _has_shared_version(part: Part) -> bool:
    """Whether the component that fills it is of the same version, so that one says it for both."""
    filler = part.filled_by
    return (
        filler is not None and filler.version_column is not None and filler.version == part.version
    )


def _function(part: Part) -> Iterable[str]:
    note = part.notes.get("function")
    if part.writer is None:
        column = part.relation.column(part.session)
        kind = column.base_type if column else "text"
        yield _pair("function", f"public.write_{part.name}({kind})", note)
        return
    if part.writer.edge is not None:
        yield _pair("transport", "edge")
        if not part.writer.edge.hands_headers_on:
            yield _pair("receipts", "inferred")
    yield _pair("function", part.writer.name, note)
    if part.writer.edge is not None:
        yield _pair("function_version", "1")


def _need(need: Need) -> dict[str, Json]:
    return {
        "name": need.relation.name,
        "table": need.relation.sql,
        "column": need.column,
        "at_least": need.parameter,
    }


def _pair(key: str, value: Json, note: str | None = None) -> str:
    return f"{_key(key)} = {value_text(value)}{_comment(note)}"


def _comment(note: str | None) -> str:
    return "" if note is None else f"  # {' '.join(note.split())}"


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def value_text(value: Json) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {value_text(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(value_text(one) for one in value)}]"
    return _text(value) if isinstance(value, str) else json.dumps(value)
