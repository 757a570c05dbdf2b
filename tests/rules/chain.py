"""What a run remembers between its batches, and what its chain's events name."""

from __future__ import annotations

from tests.rules.case import Case, Rule
from tests.rules.world import NOW, OTHER_RUN, RUN, insert, run_has

REMEMBERED = """jsonb_build_array(audit_count, audit_head, batches_granted,
  extract(epoch from next_batch_at - backfill_private.clock()), settled_since, failed_since,
  failed_in_row)"""
NOW_OF = f"select {REMEMBERED} from backfill_private.run_now('{RUN}')"
ROW_OF = f"select {REMEMBERED} from public.backfill_runs where run_id = '{RUN}'"
LEFT = "select count(*) from backfill_private.tallies"
IN_ROW, BESIDE = [2, "row", 1, None, 3, 2, 1], [5, "beside", 4, 0, 9, 8, 7]
THE_ROW = run_has(
    audit_count=2, audit_head="row", batches_granted=1, settled_since=3, failed_since=2,
    failed_in_row=1,
)  # fmt: skip


def tally(head: str = "beside", run: str = RUN) -> str:
    """What stands beside a run's row."""
    return insert(
        "backfill_private.tallies",
        run_id=run, audit_count=5, audit_head=head, batches_granted=4, next_batch_at=NOW,
        settled_since=9, failed_since=8, failed_in_row=7,
    )  # fmt: skip


RUN_NOW = Rule(
    "a run as its row and its newest tally say",
    ("run_now", "newest_tally"),
    (
        Case("no tally", NOW_OF, (), IN_ROW, (THE_ROW,)),
        Case("another run's", NOW_OF, (), IN_ROW, (THE_ROW, tally(run=OTHER_RUN))),
        Case("one", NOW_OF, (), BESIDE, (THE_ROW, tally())),
        Case("the newest", NOW_OF, (), BESIDE, (THE_ROW, tally("before"), tally())),
        Case(
            "the rest is the row's",
            f"select state from backfill_private.run_now('{RUN}')",
            (),
            "paused",
            (tally(), run_has(state="paused")),
        ),
    ),
)


def keep(is_batch: bool, run: str = RUN) -> str:
    """Keep a run as it is now."""
    return (
        "select backfill_private.keep_run("
        f"backfill_private.run_now('{run}'), {str(is_batch).lower()})"
    )


BATCH, ELSE, PAUSED = keep(True), keep(False), run_has(state="paused")
KEEP_RUN = Rule(
    "what a batch changes stands beside the row of a running run",
    ("keep_run",),
    (
        Case("after a batch", ROW_OF, (), IN_ROW, (THE_ROW, tally(), BATCH)),
        Case("it is appended", LEFT, (), 2, (THE_ROW, tally(), BATCH)),
        Case("as it was", NOW_OF, (), BESIDE, (THE_ROW, tally(), BATCH)),
        Case("after something else", ROW_OF, (), BESIDE, (THE_ROW, tally(), ELSE)),
        Case("nothing is left beside", LEFT, (), 0, (THE_ROW, tally(), tally(), ELSE)),
        Case("but another run's", LEFT, (), 1, (tally(run=OTHER_RUN), tally(), ELSE)),
        Case("of a paused run", ROW_OF, (), BESIDE, (THE_ROW, tally(), PAUSED, BATCH)),
        Case("nothing beside it", LEFT, (), 0, (THE_ROW, tally(), PAUSED, BATCH)),
        Case(
            "another run's row stays",
            f"select audit_count from public.backfill_runs where run_id = '{OTHER_RUN}'",
            (),
            0,
            (tally(), ELSE),
        ),
    ),
)


def number(name: str, told: str, wanted: int | None) -> Case:
    return Case(name, "select backfill_private.told_number(%s, 'n')", (told,), wanted)


MOST = 9_000_000_000_000_000_000
TOLD_NUMBER = Rule(
    "a number that an event names",
    ("told_number",),
    (
        number("a number", '{"n": 7, "m": 8}', 7),
        number("none", '{"n": 0}', 0),
        number("the largest", f'{{"n": {MOST}}}', MOST),
        number("larger", f'{{"n": {MOST + 1}}}', None),
        number("below none", '{"n": -1}', None),
        number("not named", '{"m": 8}', None),
        number("null", '{"n": null}', None),
        number("a text", '{"n": "7"}', None),
        number("a list", '{"n": [7]}', None),
        number("of no object", "[7]", None),
    ),
)


def ordinals(name: str, told: str, wanted: list[int]) -> Case:
    return Case(name, "select backfill_private.told_ordinals(%s)", (told,), wanted)


TOLD_ORDINALS = Rule(
    "the places that an event names",
    ("told_ordinals",),
    (
        ordinals("some", '{"ordinals": [3, 1, 2]}', [3, 1, 2]),
        ordinals("the last that there may be", '{"ordinals": [2147483647]}', [2147483647]),
        ordinals("beyond", '{"ordinals": [2147483648, 0, -1]}', [0]),
        ordinals("what is none", '{"ordinals": ["1", null, true, {"a": 3}, 4]}', [4]),
        ordinals("none", '{"ordinals": []}', []),
        ordinals("not named", "{}", []),
        ordinals("no list", '{"ordinals": {"a": 1}}', []),
    ),
)

RULES = (RUN_NOW, KEEP_RUN, TOLD_NUMBER, TOLD_ORDINALS)
