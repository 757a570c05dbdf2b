"""A run's files: plan, calls, batches, summary, rollback. A failed write stops nothing."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from backfill.atomic_file import Draft, open_regular, read_regular, replace_file
from backfill.files.records import call_key
from backfill.render.plan import plan_pieces
from backfill.results.plan import Plan
from backfill.results.run import Json

logger = logging.getLogger("backfill")

MESSAGE_CHARS = 500  # as the database cuts error messages
MOST_LINES = 1_000  # of one write, when many are appended
FOLDER_MODE = 0o700  # the files hold session ids and error messages


class RunLog:
    """The folder of one run. After a failed write, files of the same kind are not tried again.

    folder: None writes nothing at all. failed: the first failed write as a sentence, or None.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.failed: str | None = None
        self._off: set[str] = set()

    @classmethod
    def open(cls, logs_dir: Path | None, run_id: str) -> RunLog:
        """The log of a run. Makes its folder if it is missing. Never raises OSError."""
        if logs_dir is None:
            return cls(None)
        folder = logs_dir / re.sub(r"[^0-9A-Za-z-]", "_", run_id)
        log = cls(folder)
        if not log._write("folder", folder, lambda: _make_private(folder)):
            log.folder = None
        return log

    def plan(self, plan: Plan) -> None:
        """Write plan.md and plan.json."""
        self._replace("plan", "plan.md", lambda: plan_pieces(plan))
        self._replace("plan", "plan.json", lambda: json_pieces(plan.told()))

    def call(self, record: Mapping[str, Json]) -> None:
        """Append one line to calls.jsonl. When this returns, the system has it."""
        if self.folder is not None:
            path = self.folder / "calls.jsonl"
            self._write("calls", path, lambda: _append(path, [record]))

    def rebuilt_calls(self, records: Iterable[Mapping[str, Json]]) -> None:
        """Append to calls.jsonl the calls that it lacks. No existing line is touched."""
        if self.folder is not None:
            path = self.folder / "calls.jsonl"
            self._write("calls", path, lambda: _append_lacking(path, records))

    def batch(self, number: int, record: Mapping[str, Json]) -> None:
        """Write batch-0001.json, whole or not at all."""
        name = _batch_name(number)
        self._replace("batch", name, lambda: [_json(_cut(record), indent=2), "\n"])

    def rebuilt_batch(self, number: int, record: Mapping[str, Json]) -> None:
        """Write a batch's file, unless the worker that settled it has written it."""
        if self.folder is None or not _is_a_workers(self.folder / _batch_name(number)):
            self.batch(number, record)

    def summary(self, text: str) -> None:
        """Write summary.md."""
        self._replace("summary", "summary.md", lambda: [text])

    @contextmanager
    def rollback(self) -> Iterator[Callable[[str], None]]:
        """Write rollback.sql piece by piece. It takes its place when it is complete."""
        if self.folder is None:
            yield lambda _: None
            return
        path = self.folder / "rollback.sql"
        draft = Draft(path)

        def write(text: str) -> None:
            self._write("rollback", path, lambda: draft.write(text))

        try:
            yield write
            self._write("rollback", path, draft.finish)
        finally:
            draft.discard()

    def _replace(self, kind: str, name: str, pieces: Callable[[], Iterable[str]]) -> None:
        if self.folder is not None:
            path = self.folder / name
            self._write(kind, path, lambda: replace_file(path, pieces()))

    def _write(self, kind: str, path: Path, writing: Callable[[], None]) -> bool:
        """Whether it worked. The first failure of a kind is logged, later ones are not tried."""
        if kind in self._off:
            return False
        try:
            writing()
        except OSError as error:
            self._off.add(kind)
            self._tell(path, error)
            return False
        return True

    def unanswered(self, said: str) -> None:
        """Note that the database did not tell what a file should say. said: the error."""
        if self.failed is None:
            self.failed = f"what {self.folder} should say at the end was not told: {said}"
        logger.warning("backfill.logs_failed", extra={"path": str(self.folder), "errno": None})

    def _tell(self, path: Path, error: OSError) -> None:
        if self.failed is None:
            self.failed = f"{path} could not be written: {error.strerror or type(error).__name__}"
        logger.warning("backfill.logs_failed", extra={"path": str(path), "errno": error.errno})


def files_are_missing(run_id: str, failed: str) -> str:
    """What to say, and what to type, if not all files of a run could be written."""
    return f"not all files were written: {failed}\n  Next: backfill logs {run_id} --logs-dir …"


def _make_private(folder: Path) -> None:
    """Make a folder and those above it. Raises OSError, also if a file or a link is in the way."""
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link", str(folder))
    if not folder.parent.is_dir():
        folder.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def _batch_name(number: int) -> str:
    return f"batch-{number:04}.json"


def _append(path: Path, records: Sequence[Mapping[str, Json]]) -> None:
    """Append lines in one write, so that those of two processes never mix."""
    lines = "".join(_json(_cut(record)) + "\n" for record in records)
    with open(path, "ab+", buffering=0, opener=open_regular) as file:
        # A full disk may have left half a line: it must not swallow this one.
        size = file.seek(0, os.SEEK_END)
        torn = size > 0 and file.seek(size - 1) >= 0 and file.read(1) != b"\n"
        rest = ("\n" * torn + lines).encode()
        while rest:  # a disk takes what it still can, and says only then that it is full
            rest = rest[file.write(rest) :]


def _append_lacking(path: Path, records: Iterable[Mapping[str, Json]]) -> None:
    """Append the calls that have no line yet. Raises OSError if the file cannot be read."""
    told = _calls_told(path) if os.path.lexists(path) else set()
    lacking = (record for record in records if hash(call_key(record)) not in told)
    while some := list(islice(lacking, MOST_LINES)):
        _append(path, some)


def _calls_told(path: Path) -> set[int]:
    """The calls that have a line, by a hash of their keys: those of a large run are many."""
    with open(path, encoding="utf-8", errors="replace", opener=open_regular) as lines:
        return {hash(call_key(call)) for call in map(_parsed, lines)}


def _is_a_workers(path: Path) -> bool:
    """Whether a file is whole and was not rebuilt."""
    try:
        held = _parsed(read_regular(path))
    except OSError:
        return False
    return bool(held) and not held.get("rebuilt")


def _parsed(text: str) -> dict[str, Json]:
    """The JSON object of a text, or {} if it is none, such as half a line."""
    try:
        held = json.loads(text)
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


def json_pieces(told: Iterable[tuple[str, Json]]) -> Iterator[str]:
    """An object as JSON, indented by two, name by name. An iterator becomes an array."""
    before = "{"
    for name, value in told:
        yield f"{before}\n  {_json(name)}: "
        before = ","
        if isinstance(value, Iterator):
            yield from _array(value)
        else:
            yield _indented(value, "  ")
    yield "\n}\n"


def _array(values: Iterator[Json]) -> Iterator[str]:
    before = "["
    for value in values:
        yield f"{before}\n    {_indented(value, '    ')}"
        before = ","
    yield "[]" if before == "[" else "\n  ]"


def _indented(value: Json, margin: str) -> str:
    """Indent every line of a value. The only line ends in JSON are those of its layout."""
    return _json(value, indent=2).replace("\n", f"\n{margin}")


def _json(value: Json, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, default=str)


def _cut(value: Json) -> Json:
    """The same record with every text cut, so that no message carries a row's contents."""
    if isinstance(value, str):
        return value[:MESSAGE_CHARS]
    if isinstance(value, Mapping):
        return {name: _cut(inner) for name, inner in value.items()}
    return [_cut(inner) for inner in value] if isinstance(value, (list, tuple)) else value
