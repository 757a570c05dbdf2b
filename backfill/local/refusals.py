"""What a start asks for, against what the stack's folder has."""

from __future__ import annotations

import shlex
from pathlib import Path

from backfill.errors import BadRequest
from backfill.local.sample import SEED, SEED_CANDIDATES, candidates_of
from backfill.local.supervisor import (
    NEW_PRIVILEGES,
    NO_SAMPLE,
    OLD_PRIVILEGES,
    Kept,
    read_state,
)

DEFAULT_DIR = Path(".backfill-local")


def checked_sample(sample: str | int) -> str:
    """A sample as the stack keeps its name. Raises BadRequest."""
    named = str(sample).strip()
    if named == NO_SAMPLE:
        return NO_SAMPLE
    candidates = candidates_of(named)
    return SEED if candidates == SEED_CANDIDATES else str(candidates)


def check_privileges(wanted: str | None) -> None:
    """Refuse a year that default privileges have no name for. Raises BadRequest."""
    if wanted not in (None, OLD_PRIVILEGES, NEW_PRIVILEGES):
        raise BadRequest(
            f"Default privileges are those of {OLD_PRIVILEGES} or of {NEW_PRIVILEGES}, "
            f"not {wanted[:40]!r}.",
            f"backfill local start --privileges {OLD_PRIVILEGES}",
        )


def refuse_other_data(home: Path, sample: str | None, privileges: str | None) -> None:
    """A folder keeps the data of its first start: others would be ignored.

    None: whatever it has. Raises BadRequest.
    """
    stored = read_state(home).get("kept")
    if not stored or not stored.get("is_prepared"):
        return
    kept = Kept.of(stored)
    has = checked_sample(kept.sample)
    if sample not in (None, has):
        shown = "no sample" if has == NO_SAMPLE else f"the sample {has}"
        instead = "no sample" if sample == NO_SAMPLE else f"the sample {sample}"
    elif privileges not in (None, kept.privileges):
        shown = f"the default privileges of {kept.privileges}"
        instead = f"those of {privileges}"
    else:
        return
    raise BadRequest(
        f"The stack in {home} has {shown}, not {instead}.",
        f"{command('stop', home)} and remove the folder, or another --dir",
    )


def refuse_other_functions(home: Path, wanted: Path | None) -> None:
    """A running stack serves the folder of its start: another one would be ignored."""
    serves = read_state(home).get("running", {}).get("functions")
    if wanted is not None and serves != str(wanted.resolve()):
        raise BadRequest(
            f"The stack in {home} is running and serves {serves or 'no Edge Functions'}.",
            f"{command('stop', home)}, then start it with them",
        )


def command(verb: str, home: Path) -> str:
    """What to type for a stack's folder, from where we are."""
    named = "" if home == DEFAULT_DIR.resolve() else f" --dir {shlex.quote(str(home))}"
    return f"backfill local {verb}{named}"
