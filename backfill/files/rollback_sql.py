"""rollback.sql: the rows that a run wrote, and the two calls that take them back. Pure: text out.

No statement of the file touches a row by itself. The calls go through the gate, as
`backfill rollback` does, so an undo from the SQL editor compares, locks and leaves receipts too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from uuid import UUID

from backfill.results.run import Json

Receipt = Mapping[str, Json]
Receipts = Sequence[Receipt]

HEADER = """\
-- What run {run} wrote and has not taken back, the last sessions of the plan first.
-- The two calls below the list take it back. Or: backfill rollback {run}
-- Contents are not listed: the old ones are kept in public.backfill_receipts.
--
-- what the run did, table, key, session:
"""

# The calls by hand, for the SQL editor. A digest and a reason that are left out are refused.
CALLS = """\
--
-- Run the calls one by one. A run that is running has to be paused first:
-- select public.backfill_pause('{run}', 'why');

-- 1. Preview. This changes nothing. Rows under conflicts, the first thousand, were changed since,
-- and will be left.
-- For a part of it: add p_sessions => array['…'], p_since => '2025-08-01', p_until => '2025-08-31'
-- While there is no digest yet: add p_undo_id => …, as the answer has it, and call it again.
select
  undo ->> 'digest' as digest,
  undo -> 'sessions' as sessions,
  undo -> 'session_ids' as the_first_hundred,
  undo -> 'deletes' as deletes,
  undo -> 'restores' as restores,
  undo -> 'conflicts_total' as conflicts_total,
  undo -> 'conflicts' as conflicts,
  undo -> 'undo_id' as undo_id
from public.backfill_preview_undo(p_run_id => '{run}') as undo;

-- 2. Confirm. Fill in the digest and the reason, and call it again until remaining is 0.
-- If a call takes too long, nothing of it has happened: make p_sessions smaller.
select
  undo -> 'remaining' as remaining,
  undo ->> 'state' as state,
  undo -> 'deletes' as deletes,
  undo -> 'restores' as restores,
  undo -> 'conflicts_total' as conflicts_total,
  undo -> 'conflicts' as conflicts
from public.backfill_confirm_undo(
  p_run_id => '{run}',
  p_digest => '',
  p_reason => '',
  p_sessions => 5000
) as undo;
"""


class Listing:
    """The rows that a run wrote, in the pieces of a file, and the calls that take them back.

    Raises ValueError if run_id is no UUID.
    """

    def __init__(self, run_id: str) -> None:
        self._run = str(UUID(run_id))
        self._rows = 0

    def beginning(self) -> str:
        """The text before the first row."""
        return HEADER.format(run=self._run)

    def of(self, receipts: Receipts) -> str:
        """One line per row of some sessions, the newest first.

        receipts: of kind score and not undone, all of a session, in any order:
        {receipt_id, session_id, table_name, row_key: {column: value}, operation, after_hash}.
        Several of one row give one line, with what became of it in the end.
        """
        left = [history for history in _folded(receipts) if _has_left_something(history)]
        self._rows += len(left)
        return "".join(f"-- {_line(history)}\n" for history in left)

    def end(self) -> str:
        """The text after the last row."""
        counted = f"-- {self._rows:,} row{'' if self._rows == 1 else 's'}\n"
        return counted + CALLS.format(run=self._run)


def _line(history: Receipts) -> str:
    """Only printable ASCII, so that no name or key can end the comment or look like another."""
    last = history[-1]
    key = json.dumps(last["row_key"], sort_keys=True)
    return f"{_done(history)} {_ascii(last['table_name'])} {key} {_ascii(last['session_id'])}"


def _ascii(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _done(history: Receipts) -> str:
    if history[-1]["after_hash"] is None:
        return "delete"
    return "insert" if history[0]["operation"] == "insert" else "update"


def _has_left_something(history: Receipts) -> bool:
    return history[0]["operation"] != "insert" or history[-1]["after_hash"] is not None


def _folded(receipts: Receipts) -> Iterator[Receipts]:
    """The receipts of each row, oldest first. The row written last comes first."""
    by_row = sorted(receipts, key=lambda r: (_row(r), r["receipt_id"]))
    histories = [list(history) for _, history in groupby(by_row, key=_row)]
    return iter(sorted(histories, key=lambda h: h[-1]["receipt_id"], reverse=True))


def _row(receipt: Receipt) -> tuple[str, str]:
    return receipt["table_name"], json.dumps(receipt["row_key"], sort_keys=True)
