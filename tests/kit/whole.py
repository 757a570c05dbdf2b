"""The tests that a push tries in part and `poe all` tries whole.

Each push tries everything in fewer combinations. Property tests have fewer examples. A case of the
fault suite meets two of its subjects, one that SQL scores and one that Edge Functions score, over
60 sessions instead of 200. Faults of one kind come in one run, in turn. What was undone is done
again in one case of three, only if SQL alone scores it, and in bulk. All of it is the same from run
to run. What is NIGHTLY takes long, and a push leaves it out. BACKFILL_WHOLE=1 makes them whole.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TypeVar
from zlib import crc32

import pytest

WHOLE = bool(os.environ.get("BACKFILL_WHOLE"))
NIGHTLY = pytest.mark.skipif(not WHOLE, reason="takes long: BACKFILL_WHOLE=1 runs it")
# The name of a case chooses one of these, so that each subject meets about half of the cases. SQL
# and Edge Functions both score documents.
PAIRS = (("rpc", "edge"), ("documents", "silent"), ("rpc", "silent"), ("documents", "edge"))
OTHER = {"rpc": "documents", "documents": "rpc", "edge": "silent", "silent": "edge"}

T = TypeVar("T")


def examples(whole: T, at_a_push: T) -> T:
    """The number to try: `whole`, or `at_a_push` at a push."""
    return whole if WHOLE else at_a_push


def together(name: str, cases: Mapping[str, list[T]]) -> dict[str, list[T]]:
    """The cases; at a push one of this name, which has what they have."""
    return dict(examples(cases, at_a_push={name: [it for has in cases.values() for it in has]}))


def one_of(number: int, case: str) -> bool:
    """Whether to go on with this case: at a push with one of so many."""
    return WHOLE or crc32(case.encode()) % number == 0


def pair(case: str, subjects: Collection[str]) -> set[str]:
    """The subjects of a case at a push. subjects: all that it has, which may be just one."""
    wanted = PAIRS[crc32(case.encode()) % len(PAIRS)]
    found = {name if name in subjects else OTHER[name] for name in wanted}
    return found & set(subjects) or set(subjects)
