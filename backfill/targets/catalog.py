"""What a project has that a declaration may name: relations, keys, functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from backfill.errors import BadRequest, NotInstalled
from backfill.targets.declaration_faults import nearest
from backfill.targets.declaration_values import TableName
from backfill.targets.sql import name_of

# The types of a key, by kind: a column of one kind is compared with any other of it.
KEY_KINDS = {
    "uuid": "uuid",
    **dict.fromkeys(("smallint", "integer", "bigint"), "number"),
    **dict.fromkeys(("text", "character varying"), "text"),
}
DATES = ("timestamp with time zone", "timestamp without time zone", "date")
NAMED = TypeAdapter(TableName)


@dataclass(frozen=True, slots=True)
class Column:
    """A column. base_type: of a domain, the type below. labels: of an enum."""

    name: str
    type: str
    base_type: str
    not_null: bool
    default: str | None
    labels: tuple[str, ...] | None = None

    @property
    def key_kind(self) -> str | None:
        """What it is compared as if it is a key. None if it can be none."""
        return KEY_KINDS.get(self.base_type)


@dataclass(frozen=True, slots=True)
class Key:
    """Columns that name one row, always."""

    columns: tuple[str, ...]
    is_primary: bool


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns that name a row of another table."""

    columns: tuple[str, ...]
    schema: str
    table: str
    to_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or a view. keys: the primary one first. checks: their SQL.

    indexed: the columns that an index begins with. None if none can be built beside writers.
    """

    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]
    keys: tuple[Key, ...]
    foreign_keys: tuple[ForeignKey, ...]
    checks: tuple[str, ...]
    indexed: tuple[str, ...] | None

    @property
    def sql(self) -> str:
        """Its name as SQL writes it."""
        return name_of(self.schema, self.name)

    def column(self, name: str) -> Column | None:
        """A column by its name."""
        return next((c for c in self.columns if c.name == name), None)

    def reference_to(self, other: Relation, key: str) -> str | None:
        """The column that names a row of another relation by its key."""
        for one in self.foreign_keys:
            is_meant = (one.schema, one.table) == (other.schema, other.name)
            if is_meant and one.to_columns == (key,):
                return one.columns[0]
        return None


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a function. default: None if every call has to give it."""

    name: str
    type: str
    default: str | None


@dataclass(frozen=True, slots=True)
class SqlFunction:
    """A function in SQL or PL/pgSQL."""

    schema: str
    name: str
    signature: str
    arguments: tuple[Argument, ...]
    is_trigger: bool
    language: str
    body: str

    @property
    def can_be_called(self) -> bool:
        """Whether the API calls it: in public, every argument by its name."""
        is_named = all(a.name for a in self.arguments)
        return self.schema == "public" and is_named and not self.is_trigger


@dataclass(frozen=True, slots=True)
class Catalog:
    """All of it."""

    relations: tuple[Relation, ...]
    functions: tuple[SqlFunction, ...]

    def relation(self, given: str) -> Relation:
        """The relation that SQL means by this name. Raises BadRequest with the nearest."""
        try:
            table = NAMED.validate_python(given)
        except ValidationError as error:
            raise BadRequest(
                f"{given[:60]} is no name of a table", "schema.table, as SQL writes it"
            ) from error
        for one in self._called(table.name):
            if one.schema == table.schema or "." not in given:
                return one
        known = [r.sql for r in self.relations] + [r.name for r in self.relations]
        raise BadRequest(
            f"there is no table {given}{nearest(given, known)}", "correct the name of the table"
        )

    def meant(self, schema: str | None, name: str) -> Relation | None:
        """The relation that a function's body means: by its schema, else public before others."""
        found = [r for r in self._called(name) if schema in (None, r.schema)]
        return min(found, key=lambda r: r.schema != "public", default=None)

    def _called(self, name: str) -> Iterator[Relation]:
        return (r for r in self.relations if r.name == name)


READ = TypeAdapter(Catalog)


def catalog_of(answer: Mapping[str, object]) -> Catalog:
    """The answer of backfill_catalog. Raises NotInstalled if it is another version's."""
    try:
        return READ.validate_python(answer)
    except ValidationError as error:
        raise NotInstalled(
            "this project's migrations are of another version of backfill",
            "backfill install, apply the migrations, then backfill check",
        ) from error
