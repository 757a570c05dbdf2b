"""What is likely meant: which column is the session, the version, the date, and how it is called.

Each answer is a list, the likeliest first. An empty one says that nothing fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backfill.targets.catalog import DATES, KEY_KINDS, Argument, Catalog, Column, Relation
from backfill.targets.declaration_values import TAKEN
from backfill.targets.words import singular

# What people call the column that says which version wrote a row, the likeliest first.
VERSION_WORDS = (
    "version", "model", "revision", "release", "ruleset", "engine", "algorithm", "algo", "method",
    "variant", "ver", "rev", "v",
)  # fmt: skip
DATE_WORDS = (
    "created_at",
    "inserted_at",
    "created",
    "created_on",
    "completed_at",
    "finished_at",
    "date",
)
STATE_WORDS = ("status", "state", "stage", "phase", "kind")
NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
LONGEST_NAME = 20  # so that the names of the views made from it are not cut
NO_VERSION_TYPES = (*DATES, "boolean", "json", "jsonb", "bytea", "interval")


def slug(text: str) -> str:
    """A name as a declaration has it: small letters, digits and _."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return re.sub(r"^[^a-z]+", "", words)[:LONGEST_NAME].rstrip("_") or "one"


def bare(argument: str) -> str:
    """An argument's name without the prefix that tells it from a column."""
    return re.sub(r"^(p|in|arg|v|_)?_+(?=[a-zA-Z])", "", argument).lower()


def sources(catalog: Catalog) -> list[Relation]:
    """The relations by how many others name their rows."""
    counts = {
        (one.schema, one.table): 0
        for relation in catalog.relations
        for one in relation.foreign_keys
    }
    for relation in catalog.relations:
        for one in relation.foreign_keys:
            counts[one.schema, one.table] += 1
    usual = [r for r in catalog.relations if keys(r) and dates(r)]
    return sorted(usual, key=lambda r: (-counts.get((r.schema, r.name), 0), r.schema, r.name))


def keys(source: Relation) -> list[str]:
    """The columns that name a row of a source. A view has no keys, so a name decides."""
    unique = [k.columns[0] for k in source.keys if len(k.columns) == 1]
    fit = [c for c in source.columns if c.key_kind]
    if source.kind == "table":
        named = {c.name for c in fit if c.not_null}
        return list(dict.fromkeys(name for name in unique if name in named))
    own = f"{singular(source.name)}_id"
    by_name = sorted(fit, key=lambda c: (c.name != "id", c.name != own, not _is_id(c.name)))
    return [c.name for c in by_name if _is_id(c.name)]


def _is_id(name: str) -> bool:
    return name in ("id", "uuid", "key") or name.endswith(("_id", "_uuid", "_key"))


def dates(source: Relation) -> list[str]:
    """The columns that date a row: never null first, then as people call it, then by type."""
    fit = [c for c in source.columns if c.base_type in DATES and "delet" not in c.name]
    return [
        c.name
        for c in sorted(
            fit,
            key=lambda c: (
                not c.not_null and source.kind == "table",
                _place(c.name, DATE_WORDS),
                DATES.index(c.base_type),
                "update" in c.name,
            ),
        )
    ]


def sessions(derived: Relation, source: Relation, key: str) -> list[str]:
    """The columns of a derived table that name its source's row."""
    wanted = source.column(key)
    kind = None if wanted is None else wanted.key_kind
    own = singular(source.name)
    names = (f"{own}_{key}", f"{own}_id", key if key != "id" else f"{own}_uuid", "session_id")
    known = derived.reference_to(source, key)
    in_keys = [column for k in derived.keys for column in k.columns]
    fit = [c for c in derived.columns if c.key_kind == kind]
    ranked = sorted(
        fit,
        key=lambda c: (
            c.name != known,
            _place(c.name, names),
            c.name not in in_keys,
            not _is_id(c.name),
        ),
    )
    likely = [c.name for c in ranked if c.name == known or c.name in (*names, *in_keys)]
    return likely or [c.name for c in ranked if _is_id(c.name)]


def key_columns(derived: Relation, session: str) -> list[tuple[str, ...]]:
    """The keys of a derived table by which a row of a session is written."""
    not_null = {c.name for c in derived.columns if c.not_null} | {session}
    fit = [k for k in derived.keys if session in k.columns and not_null.issuperset(k.columns)]
    return [k.columns for k in sorted(fit, key=lambda k: (not k.is_primary, len(k.columns)))]


def versions(derived: Relation, key: Sequence[str], session: str) -> list[str]:
    """The columns that say which version wrote a row."""
    fit = [
        c
        for c in derived.columns
        if c.name != session
        and c.base_type not in NO_VERSION_TYPES
        and not any(c.name in one.columns for one in derived.foreign_keys)
    ]
    named = [c for c in fit if _version_word(c.name) < len(VERSION_WORDS)]
    others = [c for c in fit if c.name in key]
    ranked = sorted(named, key=lambda c: (c.name not in key, _version_word(c.name)))
    only = others if len(others) == 1 else []
    return list(dict.fromkeys(c.name for c in [*ranked, *only]))


def _version_word(name: str) -> int:
    words = name.lower().split("_")
    return min((_place(word, VERSION_WORDS) for word in words), default=len(VERSION_WORDS))


def states(source: Relation) -> list[tuple[str, tuple[str, ...]]]:
    """The columns that say which rows count, each with the values that it may have."""
    found = [(c.name, values_of(c, source)) for c in source.columns]
    named = [(name, values) for name, values in found if values or name in STATE_WORDS]
    return sorted(named, key=lambda one: _place(one[0], STATE_WORDS))


def values_of(column: Column, relation: Relation) -> tuple[str, ...]:
    """The values that a column may have, by its enum or by a check."""
    if column.labels:
        return column.labels
    for check in relation.checks:
        about = re.match(rf'CHECK \(+"?{re.escape(column.name)}"? = ANY', check)
        if about:
            return tuple(v.replace("''", "'") for v in re.findall(r"'((?:[^']|'')*)'", check))
    return ()


def bare_value(column: str, answer: str) -> str:
    """A value as somebody gives it, who may write the condition: `state = 'done'` is done."""
    value = re.sub(rf"^\"?{re.escape(column)}\"?\s*=\s*", "", answer)
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def literal_of(default: str | None) -> str | None:
    """The value of a default that is a literal."""
    text = re.fullmatch(r"'((?:[^']|'')*)'(::.+)?", default or "")
    if text:
        return text[1].replace("''", "'")
    return default if NUMBER.fullmatch(default or "") else None


def version_value(column: Column, relation: Relation, known: Iterable[str | None]) -> str | None:
    """A version that the column takes: a known one, its default, its last value. None: unknown."""
    values = values_of(column, relation)
    is_number = column.base_type in NUMBERS
    for value in (*known, literal_of(column.default)):
        is_fit = value in values if values else not is_number or NUMBER.fullmatch(value or "")
        if value and is_fit:
            return value
    return values[-1] if values else None


def any_value(column: Column) -> str:
    """A value of the column's type, which stands in a file until a person corrects it."""
    if column.base_type == "uuid":
        return "00000000-0000-0000-0000-000000000000"
    return "1" if column.base_type in NUMBERS else "v1"


def session_argument(arguments: Sequence[Argument], names: Sequence[str], kind: str) -> str | None:
    """The argument that takes the session's key: by its name, else the first of its type."""
    ranked = sorted(
        (a for a in arguments if kind_of(a.type) == kind), key=lambda a: _place(bare(a.name), names)
    )
    return ranked[0].name if ranked else None


def kind_of(argument_type: str) -> str | None:
    """What an argument's type is compared as."""
    return KEY_KINDS.get(argument_type)


def is_version(name: str, column: str | None) -> bool:
    """Whether an argument takes the version of a row."""
    return bare(name) == (column or "").lower() or _version_word(bare(name)) < len(VERSION_WORDS)


def is_composed(argument_type: str) -> bool:
    """Whether a value of the type is more than a request can hold."""
    return argument_type.endswith("[]") or argument_type in ("json", "jsonb", "bytea", "record")


def is_known(argument: str, relation: Relation) -> bool:
    """Whether an argument is a column of the table, a version, or the session's key."""
    name = bare(argument)
    return relation.column(name) is not None or is_version(argument, None) or _is_id(name)


def given_version(arguments: Sequence[Argument], relation: Relation, session: str) -> str | None:
    """The column that a function is given: without any other sign it is the version."""
    names = {bare(a.name) for a in arguments if not is_composed(a.type)} - {session.lower(), "id"}
    fit = (c for c in relation.columns if c.base_type not in NO_VERSION_TYPES)
    return next((c.name for c in fit if c.name in names and c.name != session), None)


def free(name: str, taken: Iterable[str]) -> str:
    """A name that nothing else has."""
    used = {*taken, *TAKEN}
    tries = (name, *(f"{name}_{n}" for n in range(2, 1000)))
    return next(n for n in tries if n not in used)


def _place(word: str, words: Sequence[str]) -> int:
    return list(words).index(word) if word in words else len(words)
