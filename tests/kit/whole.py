"""What a push tries in part and `poe all` tries whole.

Everything is tried at each push, in fewer combinations: the examples of property tests are fewer,
and a case of the fault suite meets two of its subjects, one that SQL scores and one that Edge
Functions score. Both are the same from run to run. BACKFILL_WHOLE=1 makes them whole.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TypeVar
from zlib import crc32

WHOLE = bool(os.environ.get("BACKFILL_WHOLE"))
# One of these by the name of the case, so that each subject meets about half of them. Documents are
# scored by both.
PAIRS = (("rpc", "edge"), ("documents", "silent"), ("rpc", "silent"), ("documents", "edge"))
OTHER = {"rpc": "documents", "documents": "rpc", "edge": "silent", "silent": "edge"}

T = TypeVar("T")


def examples(whole: T, at_a_push: T) -> T:
    """How many of something are tried."""
    return whole if WHOLE else at_a_push


def pair(case: str, subjects: Collection[str]) -> set[str]:
    """The subjects of a case at a push. subjects: those that it has, which may be just one."""
    wanted = PAIRS[crc32(case.encode()) % len(PAIRS)]
    found = {name if name in subjects else OTHER[name] for name in wanted}
    return found & set(subjects)
