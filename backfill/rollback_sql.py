"""The reviewable undo of a run as SQL text, built from its receipts. Pure: rows in, text out.

`backfill rollback` is the right way: it goes through the gate and leaves receipts. This file is
for review, and for the SQL editor where nothing else is left. sqlglot builds a statement of each
shape; those of the same shape differ in their values alone, which are put in: building each takes
two milliseconds, for which a large run has too many rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlglot import exp
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers

from backfill.models import Json

Receipt = Mapping[str, Json]
Receipts = Sequence[Receipt]

DIALECT = "postgres"
ROW = "t"
KEPT = "r"
UNCHANGED = "unchanged"

# A row's hash depends on these; the receipts were hashed under exactly them.
PINS: Mapping[str, str | int] = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": 1,
    "bytea_output": "hex",
}

HEADER = """\
-- Undo of run {run}, the newest rows first.
--
-- The right way is: backfill rollback {run}
-- It previews, locks, compares, goes through the gate and leaves receipts of its own.
--
-- This file is for review, and for the SQL editor in an emergency. Each statement touches its row
-- only while that is still what the run wrote and, before a delete, while no other row refers to
-- it; otherwise it does nothing. Old contents come from public.backfill_receipts; none stand here.
-- Pause the run first. The run itself does not learn of an undo made this way: verify then counts
-- the rows as lost or changed since.
"""


class Undo:
    """One transaction that takes back what a run wrote, row by row, in the pieces of a file.

    Raises ValueError where run_id is no UUID.
    """

    def __init__(self, run_id: str) -> None:
        self._run = str(UUID(run_id))
        self._rows = 0
        self._shapes: dict[tuple[Json, ...], _Shape] = {}

    def beginning(self) -> str:
        """What stands before the first row."""
        opening = [exp.Transaction(), *map(_pin, PINS.items())]
        body = "".join(f"{s.sql(dialect=DIALECT)};\n" for s in opening)
        return f"{HEADER.format(run=self._run)}\n{body}"

    def of(self, receipts: Receipts) -> str:
        """The statements for some sessions' rows, the newest first.

        receipts: those of kind score that are not undone, all of a session, in any order:
        {receipt_id, table_name, row_key: {column: value}, operation, before_hash, after_hash: hex
        with or without backslash x, or None}. Several of one row are folded: back to before the
        first, if it is still what the last left. Raises ValueError where a hash is no hex.
        """
        undoing = [self._undo(h) for h in _folded(receipts) if _has_left_something(h)]
        self._rows += len(undoing)
        return "".join(f"{statement};\n" for statement in undoing)

    def end(self) -> str:
        """What stands after the last row."""
        counted = f"{self._rows:,} row{'' if self._rows == 1 else 's'}"
        return f"-- {counted}\n{exp.Commit().sql(dialect=DIALECT)};\n"

    def _undo(self, history: Receipts) -> str:
        first, last = history[0], history[-1]
        names, key = sorted(last["row_key"]), last["row_key"].values()
        if any(value is None or isinstance(value, (dict, list)) for value in key):
            return built(self._run, first, last)  # hardly a key that many rows have
        is_there = last["after_hash"] is not None
        shape = (last["table_name"], *names, first["operation"] == "insert", is_there)
        if shape not in self._shapes:
            self._shapes[shape] = _Shape.of(self._run, first, last)
        return self._shapes[shape].filled(
            [
                str(int(first["receipt_id"])),
                _digits(last["after_hash"]) if is_there else "",
                *(_inside_quotes(_literal(last["row_key"][name])) for name in names),
            ]
        )


class _Shape(NamedTuple):
    """A statement cut at its values: the texts around them, and which value stands where."""

    texts: list[str]
    places: list[int]

    @classmethod
    def of(cls, run: str, first: Receipt, last: Receipt) -> _Shape:
        """Built with marks for values, each a number, a text and hex digits at once."""
        names = sorted(last["row_key"])
        an_id, a_hash, *a_key = marks = [f"1{uuid4().int:039}" for _ in range(2 + len(names))]
        row_key = dict(zip(names, a_key, strict=True))
        marked = {**last, "after_hash": last["after_hash"] and a_hash, "row_key": row_key}
        whole = built(run, {**first, "receipt_id": an_id}, marked)
        pieces = re.split(f"({'|'.join(marks)})", whole)
        return cls(pieces[::2], [marks.index(mark) for mark in pieces[1::2]])

    def filled(self, values: Sequence[str]) -> str:
        """The statement with these values: the receipt's id, the hash's digits, the key's texts."""
        return self.texts[0] + "".join(
            values[place] + text for place, text in zip(self.places, self.texts[1:], strict=True)
        )


def _has_left_something(history: Receipts) -> bool:
    return history[0]["operation"] != "insert" or history[-1]["after_hash"] is not None


def built(run: str, first: Receipt, last: Receipt) -> str:
    """The statement that takes a row back, by the first and the last of its receipts."""
    is_new = first["operation"] == "insert"
    statement = _delete(last) if is_new else _put_back(run, first, last)
    return statement.sql(dialect=DIALECT)


def _folded(receipts: Sequence[Receipt]) -> Iterator[Receipts]:
    """The receipts of each row, oldest first; the row written last comes first."""
    by_row = sorted(receipts, key=lambda r: (_row(r), r["receipt_id"]))
    histories = [list(history) for _, history in groupby(by_row, key=_row)]
    return iter(sorted(histories, key=lambda h: h[-1]["receipt_id"], reverse=True))


def _row(receipt: Receipt) -> tuple[str, str]:
    return receipt["table_name"], json.dumps(receipt["row_key"], sort_keys=True)


def _pin(setting: tuple[str, str | int]) -> exp.Expr:
    name, value = setting
    assigned = exp.EQ(this=exp.column(name), expression=exp.convert(value))
    return exp.Set(expressions=[exp.SetItem(this=assigned, kind="LOCAL")])


def _delete(last: Receipt) -> exp.Expr:
    """Delete an inserted row, while it is unchanged and nothing refers to it."""
    table = _table(last["table_name"])
    referring = _ours("referencing", exp.Literal.string(table.sql(dialect=DIALECT)), _content())
    condition = exp.and_(_is_still(last), referring.is_(exp.null()))
    return exp.delete(_aliased(table), where=condition, dialect=DIALECT)


def _put_back(run: str, first: Receipt, last: Receipt) -> exp.Expr:
    """Put the first before-image back: over the row the run left, or where it left none.

    The row is locked and compared in a part of its own, because undo_row changes it.
    """
    table = _table(last["table_name"])
    put = _ours(
        "undo_row",
        exp.Literal.string(table.sql(dialect=DIALECT)),
        _of(KEPT, "row_key"),
        _of(KEPT, "before"),
    )
    receipt = exp.alias_(
        exp.table_("backfill_receipts", "public", quoted=True), KEPT, table=True, quoted=True
    )
    query = exp.select(put).from_(receipt).where(_names_receipt(run, first))
    row = exp.select("1").from_(_aliased(table))
    if last["after_hash"] is None:
        return query.where(exp.Not(this=exp.Exists(this=row.where(_has_key(last["row_key"])))))
    return query.join(exp.to_identifier(UNCHANGED, quoted=True), join_type="cross").with_(
        exp.to_identifier(UNCHANGED, quoted=True),
        as_=row.where(_is_still(last)).lock(),
        materialized=True,
    )


def _names_receipt(run: str, receipt: Receipt) -> exp.Expr:
    """Picks one receipt, if its before-image was not pruned: without, undo_row would delete."""
    return exp.and_(
        _of(KEPT, "receipt_id").eq(exp.convert(int(receipt["receipt_id"]))),
        _of(KEPT, "run_id").eq(exp.Literal.string(run)),
        _of(KEPT, "before").is_(exp.null()).not_(),
    )


def _is_still(last: Receipt) -> exp.Expr:
    """The row has its key and the content that the run left."""
    return exp.and_(
        _has_key(last["row_key"]),
        _ours("row_hash", _content()).eq(exp.cast(_bytes(last["after_hash"]), "bytea")),
    )


def _has_key(row_key: Mapping[str, Json]) -> exp.Expr:
    return exp.and_(*(_has_value(name, value) for name, value in sorted(row_key.items())))


def _has_value(name: str, value: Json) -> exp.Expr:
    """An untyped literal takes the column's type, so that the key's index is used."""
    column = _of(ROW, name)
    if value is None:
        return column.is_(exp.null())
    if isinstance(value, (dict, list)):
        wanted = exp.cast(exp.Literal.string(json.dumps(value)), "jsonb")
        return exp.func("to_jsonb", column, dialect=DIALECT).eq(wanted)
    return column.eq(exp.Literal.string(_literal(value)))


def _literal(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _inside_quotes(text: str) -> str:
    """A text as it stands in a literal."""
    if re.fullmatch(r"[\w.:+-]*", text):
        return text
    return exp.Literal.string(text).sql(dialect=DIALECT)[1:-1]


def _bytes(hexed: str) -> exp.Literal:
    return exp.Literal.string(f"\\x{_digits(hexed)}")


def _digits(hexed: str) -> str:
    digits = str(hexed).removeprefix("\\x")
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits):
        raise ValueError(f"{digits[:80]!r} is no hash in hex")
    return digits.lower()


def _table(name: str) -> exp.Table:
    """A table as backfill_targets names it, every part quoted as PostgreSQL would read it."""
    table = normalize_identifiers(exp.to_table(name, dialect=DIALECT), dialect=DIALECT)
    for part in table.find_all(exp.Identifier):
        part.set("quoted", True)
    return table


def _aliased(table: exp.Table) -> exp.Expr:
    return exp.alias_(table.copy(), ROW, table=True, quoted=True)


def _of(relation: str, column: str) -> exp.Column:
    return exp.column(column, table=relation, quoted=True)


def _content() -> exp.Expr:
    """The whole row as JSON, as its receipt hashed it. With a star: a column may be named t."""
    whole = exp.column(exp.Star(), table=exp.to_identifier(ROW, quoted=True))
    return exp.func("to_jsonb", whole, dialect=DIALECT)


def _ours(function: str, *arguments: exp.Expr) -> exp.Expr:
    """A call of a function of the private schema."""
    call = exp.Anonymous(this=function, expressions=list(arguments))
    return exp.Dot(this=exp.to_identifier("backfill_private", quoted=True), expression=call)
