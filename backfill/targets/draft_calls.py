"""The functions that may write a component, and the components that one call fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backfill.targets.catalog import Argument, Catalog, Relation
from backfill.targets.draft_parts import Part, Writer
from backfill.targets.edge_sources import EdgeFunction
from backfill.targets.function_bodies import Touched, touched


def writers_of(catalog: Catalog, edge: Mapping[str, EdgeFunction]) -> list[Writer]:
    """The functions that the API can call, in SQL and at the edge."""
    return [*_sql_writers(catalog), *_edge_writers(catalog, edge)]


def in_order(parts: Sequence[Part]) -> list[Part]:
    """What a function reads of another component comes before it. What one call fills is together.

    Says of each what it comes after.
    """
    placed: list[Part] = []
    waiting = list(parts)
    while waiting:
        free = [p for p in waiting if not any(_reads(p, o) for o in waiting if o is not p)]
        first = (free or waiting)[0]
        before = [o.name for o in placed if _reads(first, o)]
        for part in [p for p in waiting if p is first or _is_one_call(p, first)]:
            part.after = list(before)
            placed.append(part)
            waiting.remove(part)
    return placed


def _sql_writers(catalog: Catalog) -> list[Writer]:
    fit = [f for f in catalog.functions if f.can_be_called]
    return [Writer(f.signature, f.arguments, touched(f, catalog)) for f in fit]


def _edge_writers(catalog: Catalog, edge: Mapping[str, EdgeFunction]) -> list[Writer]:
    return [
        Writer(
            f.name,
            tuple(Argument(name, "", "''") for name in f.body),
            _touched_at_the_edge(f, catalog),
            f,
        )
        for f in edge.values()
    ]


def _touched_at_the_edge(edge: EdgeFunction, catalog: Catalog) -> Touched:
    """What an Edge Function touches, by itself and by the SQL functions that it calls."""
    called = [touched(f, catalog) for f in catalog.functions if f.name in edge.calls]
    writes = [*_meant(edge.writes, catalog), *(r for one in called for r in one.writes)]
    reads = [*_meant(edge.reads, catalog), *(r for one in called for r in one.reads)]
    return Touched(tuple(dict.fromkeys(writes)), tuple(dict.fromkeys(reads)))


def _meant(names: Sequence[str], catalog: Catalog) -> tuple[Relation, ...]:
    found = (catalog.meant(*name.split(".", 1)) for name in names)
    return tuple(r for r in found if r is not None)


def is_called(writer: Writer, names: Sequence[str]) -> bool:
    """Whether one of these names means this function."""
    path = writer.name.partition("(")[0]
    return not {writer.name, path, path.rpartition(".")[2].strip('"')}.isdisjoint(names)


def _reads(part: Part, other: Part) -> bool:
    return (
        part.writer is not None
        and part.writer != other.writer
        and other.relation in part.writer.touches.reads
        and other.relation not in part.writer.touches.writes
    )


def _is_one_call(part: Part, other: Part) -> bool:
    is_same = part.writer == other.writer and part.arguments == other.arguments
    return part.writer is not None and is_same


def share_calls(parts: Sequence[Part]) -> None:
    """Of the components of one call, one says it and names the others."""
    for part in parts:
        one_call = [p for p in parts if p is part or _is_one_call(p, part)]
        gives = [p for p in one_call if p.version_parameter in p.arguments.values()]
        filler = (gives or one_call)[0]
        if filler is not part:
            filler.fills.append(part.name)
            part.filled_by = filler
            part.notes = {k: n for k, n in part.notes.items() if k not in ("function", "arguments")}
