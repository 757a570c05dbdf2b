"""Whether a row is ours: what the gate is known to have seen, and who wrote a row."""

from __future__ import annotations

import json

from tests.rules.batches import leased
from tests.rules.canary import profile, score
from tests.rules.case import Case, Rule
from tests.rules.standing import receipt
from tests.rules.world import OTHER_RUN, RUN, insert, item, run_has, stand_in

# A run's fingerprint and snapshot are sealed.
UNSEALED = "alter table public.backfill_runs disable trigger backfill_runs_guard"
SAME = (UNSEALED, *(run_has(run, fingerprint={"f": 1}) for run in (RUN, OTHER_RUN)))
TO_EDGE = "update public.backfill_targets set transport = 'edge', function_version = '1'"


def used(name: str, wanted: bool, *given: str) -> Case:
    """A case of calls of the toy's score."""
    query = (
        "select backfill_private.gate_is_used(r, t) from public.backfill_runs as r"
        " join public.backfill_targets as t on t.target = r.target and t.component = 'score'"
        f" where r.run_id = '{RUN}'"
    )
    return Case(name, query, (), wanted, (*SAME, *given))


def rehearsed(component: str, run: str = RUN) -> str:
    return insert(
        "backfill_private.rehearsals",
        run_id=run,
        ordinal=1,
        session_id="s1",
        session_at="2025-10-01",
        components=["score"],
        category="score",
        phase="recent",
        seen={"receipts": {component: {}}},
    )


GATE_IS_USED = Rule(
    "whether calls come by the gate",
    ("gate_is_used",),
    (
        used("nobody knows", False),
        used("its own receipt", True, receipt(1)),
        used("one that was inferred", False, receipt(1),
             "update public.backfill_receipts set is_inferred = true"),
        used("one of an undo", False, receipt(1, kind="undo")),
        used("one of another component", False, receipt(1, component="profile")),
        used("an earlier run's", True, receipt(1, run=OTHER_RUN)),
        used("an earlier run's of other functions", False, receipt(1, run=OTHER_RUN),
             run_has(OTHER_RUN, fingerprint={"f": 2})),
        used("an earlier run's of another target", False, receipt(1, run=OTHER_RUN),
             run_has(OTHER_RUN, target="prism")),
        used("an earlier run's by an Edge Function", False, receipt(1, run=OTHER_RUN), TO_EDGE),
        used("its own by an Edge Function", True, receipt(1), TO_EDGE),
        used("the rehearsal's", True, rehearsed("score")),
        used("the rehearsal's of another component", False, rehearsed("profile")),
        used("another run's rehearsal", False, rehearsed("score", OTHER_RUN)),
    ),
)  # fmt: skip

GUARDED = "select backfill_private.guard('toy')"


def sealed(at: str) -> str:
    """The run was sealed when transaction `at`, which is SQL, had not begun."""
    return (
        f"update public.backfill_runs set sealed_snapshot = x || ':' || x || ':'"
        f" from (select {at} as x) as s where run_id = '{RUN}'"
    )


NOW = "pg_current_xact_id()::text::bigint"
# A case's statements may have ids of their own after that of their transaction.
AFTER, BEFORE = sealed(f"{NOW} + 1000"), sealed(NOW)


def stood(name: str, wanted: bool, *given: str, table: str = "public.toy_scores") -> Case:
    query = (
        f"select backfill_private.gate_has_stood(r, '{table}') from public.backfill_runs as r"
        f" where r.run_id = '{RUN}'"
    )
    return Case(name, query, (), wanted, (UNSEALED, *given))


OWN_TRIGGER = (
    "create trigger own after insert on public.fc_scores"
    " for each row execute function suppress_redundant_updates_trigger()"
)
GATE_HAS_STOOD = Rule(
    "whether the gate has stood since a run was sealed",
    ("gate_has_stood",),
    (
        stood("it stands, and the run was sealed after it", True, GUARDED, AFTER),
        stood("it was put there since", False, GUARDED, BEFORE),
        stood("it does not stand", False, AFTER),
        stood(
            "another table's was put there since", True, GUARDED, BEFORE, table="public.fc_scores"
        ),
        stood(
            "another trigger was put there since", True, OWN_TRIGGER, BEFORE,
            table="public.fc_scores",
        ),
    ),
)  # fmt: skip

ROW = "select backfill_private.is_written_here({}) from public.toy_scores as t"
WRITTEN_HERE = "select backfill_private.is_written_here((" + NOW + " {})::text::xid)"


def written(name: str, wanted: list[int], *given: str, component: str = "score") -> Case:
    """A case of sessions s1, s2, s4 and s5, whose rows of a component it may have written."""
    query = (
        "select to_jsonb(backfill_private.written_here(r, t, '{1,2,4,5}'))"
        " from public.backfill_runs as r"
        f" join public.backfill_targets as t on t.target = r.target and t.component = '{component}'"
        f" where r.run_id = '{RUN}'"
    )
    return Case(name, query, (), wanted, given)


WRITERS = Rule(
    "whether this very transaction wrote a row",
    ("is_written_here", "written_here"),
    (
        Case("its own", ROW.format("t.xmin"), (), True, (score(1, 5),)),
        Case(
            "an earlier one's", "select bool_or(backfill_private.is_written_here(t.xmin))"
            " from public.toy_sessions as t", (), False,
        ),
        Case("the transaction itself", WRITTEN_HERE.format("+ 0"), (), True),
        Case("the one before it", WRITTEN_HERE.format("- 1"), (), False),
        Case("none at all", "select backfill_private.is_written_here('0'::xid)", (), False),
        Case(
            "one before the first of all",
            "select backfill_private.is_written_here('4294967295'::xid)", (), False,
        ),
        written(
            "the places of these whose rows it wrote", [1],
            item(1), item(2), item(3), item(4, run=OTHER_RUN), item(5),
            score(1, 5), score(3, 5), score(4, 5), score(5, 5, "v1"),
        ),
        written(
            "none of them, if others wrote", [],
            stand_in("is_written_here(p_xmin xid)", "boolean", "select false"), item(1),
            score(1, 5),
        ),
        written("any version counts", [1], item(1), profile(1, "v1"), component="profile"),
    ),
)  # fmt: skip

LATER, AT = "2025-11-02T12:00:01Z", "2025-11-02T12:00:00Z"


def refused(name: str, code: str, wanted: str, *given: str) -> Case:
    """A case of a call that failed with a code while the gate had no reason but those given."""
    told = json.dumps([{"ordinal": 1, "outcome": "failed", "code": code}])
    query = f"select backfill_private.doubt_refusals('{RUN}', '{told}')"
    become = [{"ordinal": 1, "outcome": wanted, "code": code}]
    may_write = (UNSEALED, run_has(approved_until=LATER))
    return Case(name, query, (), become, (*may_write, *(given or (leased(1),))))


DOUBTS = Rule(
    "whether a refusal of the gate is its own",
    ("doubt_refusals",),
    (
        refused("a stale fence, and the lease lives", "OB011", "again"),
        refused("a run that holds, and it may write", "OB012", "again"),
        refused("another error", "P0001", "failed"),
        refused("the run is paused", "OB012", "failed", leased(1), run_has(state="paused")),
        refused("the approval is over", "OB012", "failed", leased(1), run_has(approved_until=AT)),
        refused("the lease is over", "OB011", "failed", leased(1, lease_until=AT)),
        refused(
            "another run's lease lives, and another session's", "OB011", "failed",
            leased(1, lease_until=AT), leased(2), leased(1, run=OTHER_RUN, session_id="x",
            fence_hash="x"),
        ),
        refused("there is no such session", "OB011", "failed", leased(2)),
    ),
)  # fmt: skip

RULES = (GATE_IS_USED, GATE_HAS_STOOD, WRITERS, DOUBTS)
