"""Edge Functions read as text: which tables each writes and reads, and what its body takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# A folder that begins so is shared code, as the Supabase CLI has it.
SHARED = ("_", ".")
SOURCES = ("*.ts", "*.tsx", "*.js", "*.mjs")
MOST_CHARS = 1_000_000

_COMMENT = re.compile(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", re.DOTALL)
_FROM = re.compile(
    r"""(?:\.schema\(\s*["'`](?P<schema>\w+)["'`]\s*\)\s*)?"""
    r"""\.from\(\s*["'`](?P<table>[^"'`]+)["'`]\s*\)\s*(?:\.(?P<verb>\w+))?""",
)
_RPC = re.compile(r"""\.rpc\(\s*["'`](\w+)["'`]""")
_VERSION = r"""["']?\b{name}\b["']?\s*[:=]\s*["'`]([^"'`]{{1,60}})["'`]"""
_BODY = re.compile(r"\{([^{}]*)\}(?:\s*:[^=\n]+)?\s*=\s*(?:\(\s*)?await\s+\w+\.json\(\)")
_IMPORT = re.compile(r"""(?:from|import)\s*\(?\s*["'](\.{1,2}/[^"']+)["']""")
WRITES = ("insert", "upsert", "update")


@dataclass(frozen=True, slots=True)
class EdgeFunction:
    """An Edge Function's source. writes, reads: tables as schema.table. body: what a call gives.

    calls: SQL functions, by name.
    """

    name: str
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    calls: tuple[str, ...]
    body: tuple[str, ...]
    source: str

    @property
    def hands_headers_on(self) -> bool:
        """Whether its writes carry our headers, so that each leaves an exact receipt."""
        return "x-backfill-" in self.source or "_shared/backfill" in self.source

    def literal_of(self, column: str) -> str | None:
        """The text that the source gives a column, if it is always the same."""
        found = set(re.findall(_VERSION.format(name=re.escape(column)), self.source))
        return found.pop() if len(found) == 1 else None


def edge_functions(folder: Path) -> Mapping[str, EdgeFunction]:
    """The Edge Functions of a folder by name. None if there is no such folder."""
    if not folder.is_dir():
        return {}
    named = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(SHARED))
    sources = ((f.name, _source(f)) for f in named)
    return {name: edge_function(name, source) for name, source in sources if source is not None}


def edge_function(name: str, source: str) -> EdgeFunction:
    """What a source says."""
    bare = _COMMENT.sub("", source)
    verbs = [(f"{m['schema'] or 'public'}.{m['table']}", m["verb"]) for m in _FROM.finditer(bare)]
    writes = dict.fromkeys(table for table, verb in verbs if verb in WRITES)
    reads = dict.fromkeys(table for table, verb in verbs if verb == "select")
    calls = tuple(dict.fromkeys(_RPC.findall(bare)))
    return EdgeFunction(name, tuple(writes), tuple(reads), calls, _body(bare), bare)


def _body(source: str) -> tuple[str, ...]:
    """The names that a function takes out of its request's body."""
    found = _BODY.search(source)
    if found is None:
        return ()
    names = (re.match(r"\s*(\w+)", part) for part in found[1].split(","))
    return tuple(name[1] for name in names if name)


def _source(folder: Path) -> str | None:
    """The text of a function's own files and of what they import from beside it. None: no files."""
    own = [f for pattern in SOURCES for f in sorted(folder.rglob(pattern)) if _is_own(f, folder)]
    if not own:
        return None
    text = "\n".join(map(_read, own))
    beside = {path for f in own for path in _imported(f)} - {f.resolve() for f in own}
    return "\n".join([text, *(_read(path) for path in sorted(beside))])[:MOST_CHARS]


def _is_own(file: Path, folder: Path) -> bool:
    inner = file.relative_to(folder).parts
    is_test = re.search(r"[._]test\.\w+$", file.name) is not None
    return "node_modules" not in inner and not is_test


def _imported(file: Path) -> Iterator[Path]:
    for path in _IMPORT.findall(_read(file)):
        found = (file.parent / path).resolve()
        if found.is_file():
            yield found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
