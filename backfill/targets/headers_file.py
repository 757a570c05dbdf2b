"""The file with which Edge Functions hand our headers on, in a user's Supabase project."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from backfill.atomic_file import AS_ANY, replace_file
from backfill.errors import UsageError
from backfill.results.run import Json
from backfill.targets.migrations import headers_file

HOW_TO_USE = """\
In each Edge Function that a target names, two lines, and clients as they are:
  import { handOn } from "../_shared/backfill.ts";   // before every other import
  Deno.serve(handOn(async (request) => { … }));      // the same with std's serve
Then deploy it, give its component a new function_version, and: backfill install --target FILE"""


@dataclass(frozen=True, slots=True)
class HeadersFile:
    """The file's place, and what an install would do or did there.

    state: missing, same, other (changed by hand, or of another version) or copied.
    """

    path: Path
    state: Literal["missing", "same", "other", "copied"]

    def as_dict(self) -> dict[str, Json]:
        """{file, state}."""
        return {"file": str(self.path), "state": self.state}

    def __str__(self) -> str:
        said = {
            "missing": "copy    {}",
            "same": "skipped {} (there already)",
            "other": "left    {} (changed by hand, or of another version)",
            "copied": "copied  {}",
        }
        return said[self.state].format(self.path)


def plan_headers_file(supabase_path: Path) -> HeadersFile:
    """Where the file goes in this Supabase folder, and if it is there. Writes nothing."""
    path = supabase_path / "functions" / "_shared" / headers_file().name
    try:
        is_same = path.read_bytes() == headers_file().read_bytes()
    except FileNotFoundError:
        return HeadersFile(path, "missing")
    return HeadersFile(path, "same" if is_same else "other")


def copy_headers_file(planned: HeadersFile) -> HeadersFile:
    """Copy the file if it is missing. Safe to call again.

    Raises UsageError if another one is there, or if the folder cannot be written.
    """
    if planned.state == "other":
        raise UsageError(
            f"{planned.path} was changed by hand, or is of another version of backfill: left as is",
            "compare it with ours, or move it away to have ours copied",
        )
    if planned.state != "missing":
        return planned
    try:
        planned.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(planned.path, [headers_file().read_text("utf-8")], AS_ANY)
    except OSError as error:
        raise UsageError(
            f"cannot write {planned.path}: {error.strerror}", "backfill install --functions"
        ) from error
    return replace(planned, state="copied")
