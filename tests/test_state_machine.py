"""Random verbs by several workers over runs that want the same sessions: the promises hold.

The oracles are our own: a log of the scoring calls that came back well, a trigger that sees every
row written under a run's header, the moments at which sessions were granted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.seed import SEED
from tests.kit.throttling import Start, most_in_a_minute
from tests.kit.whole import examples

LEASE = timedelta(seconds=60)
MOST_LIVE_RUNS = 3
LEAST_STEPS = 1_000
ENOUGH_STEPS = examples(4_000, at_a_push=LEAST_STEPS)
MOST_WALKS = examples(8, at_a_push=20)
FIRST_WALK = examples(0, at_a_push=4)  # one that meets every state soon
LEAST_EVENTS = examples(
    {"live write": 100, "stale write": 20, "undone": 10},
    at_a_push={"live write": 50, "stale write": 8, "undone": 5},
)
EIGHT_DAYS_S = 8 * 86_400.0
ITEM_STATES = {"pending", "leased", "done", "failed", "skipped", "rolled_back"}
ENDED = {"rejected", "cancelled", "expired", "rolled_back"}
# Seven sessions lack something since then: few enough for the runs to be in each other's way.
SINCE = "2025-09-01"

# Sees every row that a target table's write under a run's header touches, whatever ours do.
WITNESS = b"""
create table public.witnessed (run_id uuid, session_id text, table_name text, operation text);
create function public.witness() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_headers jsonb := nullif(current_setting('request.headers', true), '');
  v_run text := coalesce(v_headers ->> 'x-backfill-run', v_headers ->> 'x-backfill-undo');
begin
  if v_run is not null then
    insert into public.witnessed values (v_run::uuid,
      coalesce(new.session_id, old.session_id)::text, 'public.' || tg_table_name, lower(tg_op));
  end if;
  return null;
end
$$;
create trigger witness after insert or update or delete on public.fc_scores
  for each row execute function public.witness();
create trigger witness after insert or update or delete on public.profiles
  for each row execute function public.witness();
"""

# Each part yields a line for each thing that must not be.
FAULTS = b"""
with moves as (
  select e.run_id, e.seq, e.kind as to_state, e.details ->> 'from' as from_state,
    lag(e.kind, 1, 'planning') over (partition by e.run_id order by e.seq) as was,
    lead(e.kind) over (partition by e.run_id order by e.seq) as next
  from public.backfill_events as e where e.details ? 'from' and e.kind <> 'paced'
), lacking as (
  select i.run_id, i.ordinal, w.component
  from public.backfill_items as i, unnest(i.components) as w (component)
  where i.state = 'done' and w.component <> all (i.filled) and not case w.component
    when 'fc_scores' then exists (select from public.fc_scores as t
      where t.session_id = i.session_id::uuid and t.version = 'v1.2' and t.fc_kind = 'functions')
    else exists (select from public.profiles as t where t.session_id = i.session_id::uuid) end
), sizes as (
  select r.run_id, (r.plan -> 'candidates' ->> 'total')::integer as planned,
    (select count(*) from public.backfill_items as i where i.run_id = r.run_id) as items
  from public.backfill_runs as r where r.sealed_at is not null
), receipts as (
  select run_id, session_id, table_name, operation, count(*) as receipts
  from public.backfill_receipts group by 1, 2, 3, 4
), witnessed as (
  select run_id, session_id, table_name, operation, count(*) as writes
  from public.witnessed group by 1, 2, 3, 4
)
select format('%s moved from %s to %s', m.run_id, m.from_state, m.to_state) as fault
from moves as m left join public.backfill_transitions as t using (from_state, to_state)
where t.reason is null
union all
select format('%s was %s and moved from %s', run_id, was, from_state) from moves
where was <> from_state
union all
select format('%s is %s, its last move was to %s', run_id, r.state, m.to_state)
from public.backfill_runs as r join moves as m using (run_id)
where m.next is null and r.state <> m.to_state
union all
select format('%s is leased %s times', session_id, count(*)) from public.backfill_items
where state = 'leased' or fence_hash is not null group by session_id having count(*) > 1
union all
select format('%s %s is done and lacks its %s', run_id, ordinal, component) from lacking
union all
select format('the chain of %s: %s at %s', r.run_id, f.fault, f.seq)
from public.backfill_runs as r, backfill_private.chain_faults(r.run_id) as f
union all
select format('%s has %s items, its plan %s', run_id, items, planned) from sizes
where items <> planned
union all
select format('%s is rolled back and %s is %s', r.run_id, i.session_id, i.state)
from public.backfill_runs as r join public.backfill_items as i using (run_id)
where r.state = 'rolled_back' and i.state in ('done', 'leased')
union all
select format('%s of %s: %s receipts, %s writes', session_id, table_name,
  coalesce(receipts, 0), coalesce(writes, 0))
from receipts full join witnessed using (run_id, session_id, table_name, operation)
where receipts is distinct from writes
"""


@dataclass
class Attempt:
    """A leased session as its worker knows it."""

    run_id: str
    claim_id: str
    grant: dict[str, Any]
    lease_until: datetime
    is_over: bool = False
    answered: list[str] = field(default_factory=list)

    @property
    def item(self) -> tuple[str, int]:
        """The leased item."""
        return self.run_id, self.grant["ordinal"]


@dataclass
class Seen:
    """What the whole test has met, to show that it met something."""

    steps: int = 0
    events: Counter[str] = field(default_factory=Counter)
    run_states: set[str] = field(default_factory=set)
    item_states: set[str] = field(default_factory=set)

    def lacks(self, every_state: set[str]) -> list[str]:
        """What a test of the promises should have met and did not."""
        events = [e for e, least in LEAST_EVENTS.items() if self.events[e] < least]
        return [*events, *(every_state - self.run_states), *(ITEM_STATES - self.item_states)]


@dataclass(frozen=True)
class Ground:
    """The database that every example starts afresh on."""

    db: psycopg.Connection[Any]
    clock: DatabaseClock
    slate: verbs.Slate
    seen: Seen


UNLIKELY = 10
picks = st.integers(0, 11)
paces = st.integers(2, 6).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, min(t, 3))))
outcomes = st.sampled_from(
    ["true", "true", "true", "true", "answered", "failed", "again", "unknown", "slow", "released"]
)
seconds = st.sampled_from([0.000001, 1, 10, 15, 20, 30, 30, 59.999999, 60, 61, EIGHT_DAYS_S])
# Verb: how often, its argument for the run, further ones, the states in which it mostly comes.
OPERATING: dict[str, tuple[int, str, dict[str, str], *tuple[str, ...]]] = {
    "start": (2, "p_run_id", {"p_worker": "test"}, "approved", "running"),
    "pace": (1, "run", {"per_minute": "1"}, "running"),
    "pause": (2, "run", {"reason": "a look at it"}, "running"),
    "resume": (4, "run", {}, "paused"),
    "retry": (3, "p_run_id", {}, "completed"),
    "cancel": (1, "run", {"reason": "no more of it"}),
    "prune": (1, "run", {}, "completed", "cancelled"),
}


class Verbs(RuleBasedStateMachine):
    """Several workers, an approver, an operator, live traffic and time."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.db, self.clock, self.seen = ground.db, ground.clock, ground.seen
        self.slate = ground.slate
        self.runs: list[str] = []
        self.states: dict[str, str] = {}
        self.attempts: list[Attempt] = []
        self.latest: dict[tuple[str, int], Attempt] = {}
        self.starts: dict[str, list[Start]] = {}
        self.throttles: dict[str, int] = {}
        self.written: Counter[tuple[str, int, str]] = Counter()
        self.previews: dict[str, str] = {}

    # What every rule is made of

    def try_(self, verb: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """The verb's answer; None where it is refused with a SQLSTATE of ours. All else fails."""
        try:
            answer = verb(self.db, *args, **kw)
        except psycopg.Error as refused:
            if not (refused.sqlstate or "").startswith("OB"):
                raise
            self.seen.events[f"refused {refused.sqlstate}"] += 1
            return None
        return answer

    def query(self, text: str, *values: object) -> list[dict[str, Any]]:
        """What the owner sees."""
        found = self.db.execute(text.encode(), values)
        return found.fetchall() if found.description else []

    def run_of(self, pick: int, *likely: str) -> str:
        """One of the runs; mostly one in a likely state, where there is any."""
        chosen = [r for r in self.runs if self.states.get(r) in likely] if pick < UNLIKELY else []
        among = chosen or self.runs
        return among[pick % len(among)]

    def has_room(self) -> bool:
        """Whether another run would not be one too many."""
        return sum(state not in ENDED for state in self.states.values()) < MOST_LIVE_RUNS

    def is_writable(self, run_id: str) -> bool:
        """Whether the run may write now, from its row."""
        (row,) = self.query(
            "select state = 'running' and approved_until > %s as it from public.backfill_runs"
            " where run_id = %s",
            self.clock.now(),
            run_id,
        )
        return bool(row["it"])

    def open(self, pace: tuple[int, int], with_canary: bool) -> None:
        """A run in planning, collected to its end."""
        throttle, batch = pace
        run_id = verbs.collected(
            self.db,
            since=SINCE,
            throttle_per_minute=throttle,
            batch_size=batch,
            priority=SEED["priority"] if with_canary else [],
        )
        self.runs.append(run_id)
        self.throttles[run_id] = throttle
        self.starts[run_id] = []

    def take(self, run_id: str, claim_id: str) -> float:
        """Claim; the grants become attempts, and new starts unless their leases still lived.

        Returns how many seconds to wait.
        """
        now = self.clock.now()
        answer = self.try_(verbs.claim, run_id, claim_id)
        for grant in answer["granted"] if answer else []:
            attempt = Attempt(run_id, claim_id, grant, now + LEASE)
            before = self.latest.get(attempt.item)
            if (
                before is None
                or before.claim_id != claim_id
                or before.is_over
                or before.lease_until <= now
            ):
                self.starts[run_id].append(Start(now, 1))
            self.attempts.append(attempt)
            self.latest[attempt.item] = attempt
            self.seen.events["granted"] += 1
        return float(answer.get("wait_s") or 0) if answer else 0.0

    # The run's life

    @initialize(first=paces, second=paces, with_canary=st.booleans())
    def begin(self, first: tuple[int, int], second: tuple[int, int], with_canary: bool) -> None:
        """Two runs over the same sessions, both running."""
        self.slate.wipe()
        self.db.execute("delete from public.witnessed")
        for pace in (first, second):
            self.open(pace, with_canary)
            self.seal(self.runs[-1])
            verbs.approve(self.db, self.runs[-1])
            verbs.start(self.db, self.runs[-1])

    @precondition(lambda self: self.has_room())
    @rule(pace=paces, with_canary=st.booleans(), how_far=st.integers(0, 6))
    def plan(self, pace: tuple[int, int], with_canary: bool, how_far: int) -> None:
        """A new run, mostly taken further at once, now and then rejected."""
        self.open(pace, with_canary)
        sealed = how_far > 0 and self.seal(self.runs[-1])
        if sealed and how_far == 6:
            self.try_(verbs.reject, self.runs[-1])
        elif sealed and how_far > 2:
            self.try_(verbs.approve, self.runs[-1])
            self.try_(verbs.start, self.runs[-1])

    def seal(self, run_id: str) -> bool:
        """Seal a plan; one with nothing to do is gone."""
        sealed = self.try_(verbs.call, "backfill_seal", p_run_id=run_id)
        if sealed and sealed["state"] == "empty":
            self.runs.remove(run_id)
            return False
        return bool(sealed)

    @precondition(lambda self: self.runs)
    @rule(pick=picks, verb=st.sampled_from(["approve", "approve", "seal", "reject", "reject"]))
    def decide(self, pick: int, verb: str) -> None:
        """Seal, approve or reject a plan."""
        if verb == "seal":
            self.seal(self.run_of(pick, "planning"))
        else:
            self.try_(getattr(verbs, verb), self.run_of(pick, "awaiting_approval"))

    @precondition(lambda self: self.runs)
    @rule(
        pick=picks, verb=st.sampled_from([v for v, (n, *_) in OPERATING.items() for _ in range(n)])
    )
    def operate(self, pick: int, verb: str) -> None:
        """Start, pause, resume, retry, cancel or prune a run."""
        _, argument, arguments, *likely = OPERATING[verb]
        run_id = self.run_of(pick, *likely)
        self.try_(verbs.call, f"backfill_{verb}", **{argument: run_id}, **arguments)

    # The workers

    @precondition(lambda self: self.runs)
    @rule(pick=picks, turns=st.sampled_from([0, 0, 0, 1, 2, 4, 8, 8]), told=outcomes)
    def claim(self, pick: int, turns: int, told: str) -> None:
        """A worker claims and does as much as pleases, or works on so that runs end."""
        run_id = self.run_of(pick, "running")
        if turns == 0:
            claim_id = str(uuid4())
            self.take(run_id, claim_id)
            for attempt in [a for a in self.attempts if a.claim_id == claim_id]:
                self.score_under(attempt, pick % 3)
        for _ in range(turns):
            claim_id = str(uuid4())
            wait_s = self.take(run_id, claim_id)
            granted = [a for a in self.attempts if a.claim_id == claim_id]
            for attempt in granted:
                self.score_under(attempt, 2 if told == "true" else pick % 3)
            if granted:
                self.settle_claim(claim_id, ["true", told])
            elif wait_s:
                self.clock.advance(wait_s)

    @precondition(lambda self: self.runs)
    @rule(steps=st.integers(0, 2))
    def every_run_claims(self, steps: int) -> None:
        """Workers of all runs want the same sessions at the same moment."""
        claims = {str(uuid4()): run_id for run_id in self.runs}
        for claim_id, run_id in claims.items():
            self.take(run_id, claim_id)
        for attempt in [a for a in self.attempts if a.claim_id in claims]:
            self.score_under(attempt, steps)

    @precondition(lambda self: self.attempts)
    @rule(
        pick=picks, verb=st.sampled_from(["score", "score", "score late", "claim again", "renew"])
    )
    def hold(self, pick: int, verb: str) -> None:
        """A worker uses what it was granted: in time, after its lease, or stale long since."""
        attempt = self.attempt_of(pick)
        if verb == "claim again":
            self.take(attempt.run_id, attempt.claim_id)
        elif verb == "renew":
            self.renew(attempt)
        elif verb == "score late":
            late_s = (attempt.lease_until - self.clock.now()).total_seconds()
            self.clock.advance(max(late_s, 0))
            self.score_under(attempt, 2)
        else:
            for _ in range(1 + pick % 2):
                self.score_under(attempt, 2)

    def attempt_of(self, pick: int) -> Attempt:
        """One of the last attempts; mostly one that nobody has settled, where there is any."""
        held = [a for a in self.latest.values() if not a.is_over] if pick < UNLIKELY else []
        among = held or self.attempts
        return among[-1 - pick % len(among)]

    def renew(self, attempt: Attempt) -> None:
        """Renew a claim; leases that ran out stay so."""
        now = self.clock.now()
        run_id, claim_id = attempt.run_id, attempt.claim_id
        self.try_(verbs.call, "backfill_renew", p_run_id=run_id, p_claim_id=claim_id)
        for held in self.latest.values():
            if held.claim_id == claim_id and held.lease_until > now:
                held.lease_until = now + LEASE

    def score_under(self, attempt: Attempt, steps: int) -> None:
        """Make the first calls of a grant; what comes back well was allowed."""
        for step in attempt.grant["steps"][:steps]:
            is_live = (
                self.latest[attempt.item] is attempt
                and not attempt.is_over
                and attempt.lease_until > self.clock.now()
                and self.is_writable(attempt.run_id)
            )
            fence = attempt.grant["fence"]
            answer = self.try_(verbs.score, attempt.run_id, fence, step)
            self.seen.events[f"{'live' if is_live else 'stale'} write"] += 1
            if answer is None:
                return
            assert is_live
            self.written[(*attempt.item, step["component"])] += 1
            attempt.answered.append(step["component"])

    @precondition(lambda self: self.attempts)
    @rule(pick=picks, told=st.lists(outcomes, min_size=1, max_size=3))
    def settle(self, pick: int, told: list[str]) -> None:
        """Tell the truth or anything else of a claim, of all its sessions or of some."""
        self.settle_claim(self.attempt_of(pick).claim_id, told)

    def settle_claim(self, claim_id: str, told: list[str]) -> None:
        """Settle the claim's items with these outcomes in turn."""
        newest = {a.item: a for a in self.attempts if a.claim_id == claim_id}
        tellings = [
            outcome_of(attempt, told[place % len(told)])
            for place, attempt in enumerate(newest.values())
        ]
        run_id = next(iter(newest.values())).run_id
        answer = self.try_(verbs.settle, run_id, claim_id, tellings)
        for row in answer["settled"]:
            latest = self.latest[run_id, row["ordinal"]]
            if latest.claim_id == claim_id and row["state"] != "leased":
                latest.is_over = True

    # Undo

    @precondition(lambda self: self.runs)
    @rule(pick=picks, some=st.booleans(), at_once=st.integers(0, 7))
    def preview_undo(self, pick: int, some: bool, at_once: int) -> None:
        """Of all or of every second session; mostly confirmed soon, sometimes in part."""
        run_id = self.run_of(pick, "completed", "cancelled", "expired", "paused")
        sessions = [
            row["session_id"]
            for row in self.query(
                "select session_id from public.backfill_items"
                " where run_id = %s and ordinal %% 2 = %s",
                run_id,
                pick % 2,
            )
        ]
        effect = self.try_(
            verbs.call,
            "backfill_preview_undo",
            p_run_id=run_id,
            p_sessions=sessions if some and sessions else None,
        )
        if effect is not None:
            self.previews[run_id] = effect["digest"]
            if at_once > 1:
                self.confirm(run_id, at_once)

    @precondition(lambda self: self.previews)
    @rule(pick=picks, at_once=st.integers(1, 4))
    def confirm_undo(self, pick: int, at_once: int) -> None:
        self.confirm(list(self.previews)[pick % len(self.previews)], at_once)

    def confirm(self, run_id: str, at_once: int) -> None:
        """Carry the newest preview on by some sessions; no lease of the run outlives it."""
        progress = self.try_(
            verbs.call,
            "backfill_confirm_undo",
            p_run_id=run_id,
            p_digest=self.previews[run_id],
            p_reason="a try",
            p_sessions=at_once,
        )
        if progress is not None:
            self.seen.events["undone"] += sum(progress["deletes"].values())
            self.seen.events["conflicts"] += len(progress["conflicts"])
            for attempt in self.attempts:
                attempt.is_over = attempt.is_over or attempt.run_id == run_id

    # The world

    @rule(by=seconds)
    def time_passes(self, by: float) -> None:
        """A little, up to a throttle's or a lease's end, or until every approval has run out."""
        self.clock.advance(by)

    @rule(pick=picks, what=st.sampled_from(["both", "fc", "both", "fc", "change", "put back"]))
    def the_world_goes_on(self, pick: int, what: str) -> None:
        """Live traffic fills a session; a scoring function changes or is put back as it was."""
        cost = {"change": 7, "put back": 100}.get(what)
        if cost:
            self.query(f"alter function public.score_prism(uuid, text) cost {cost}")
            return
        sessions = self.query(
            "select distinct session_id from public.backfill_items order by session_id"
        )
        if sessions:
            self.score_live(sessions[pick % len(sessions)]["session_id"], what == "both")

    def score_live(self, session_id: str, both: bool) -> None:
        """An ordinary request."""
        with verbs.as_service(self.db, {"x-client-info": "live"}):
            self.query("select public.score_fc_session(%s, 'v1.2', 'functions')", session_id)
            if both:
                self.query("select public.score_prism(%s, 'v1.2.1')", session_id)

    # What must hold

    @invariant()
    def nothing_is_broken(self) -> None:
        """No line of FAULTS."""
        self.seen.steps += 1
        assert [row["fault"] for row in self.db.execute(FAULTS)] == []

    @invariant()
    def no_window_exceeds_a_throttle(self) -> None:
        """In no 60 s of any run."""
        for run_id, starts in self.starts.items():
            assert most_in_a_minute(starts) <= self.throttles[run_id]

    @invariant()
    def every_write_has_its_receipt(self) -> None:
        """The receipts are those of the calls that came back well, one each."""
        receipts = self.query(
            "select run_id::text, ordinal, component, count(*) as n"
            " from public.backfill_receipts where kind = 'score' group by 1, 2, 3"
        )
        assert {
            (r["run_id"], r["ordinal"], r["component"]): r["n"] for r in receipts
        } == self.written

    @invariant()
    def note_what_was_met(self) -> None:
        """For the test's own claim that it has met something."""
        self.states = {
            row["run_id"]: row["state"]
            for row in self.query("select run_id::text, state from public.backfill_runs")
        }
        self.seen.run_states.update(self.states.values())
        items = self.query("select distinct state from public.backfill_items")
        self.seen.item_states.update(row["state"] for row in items)


def outcome_of(attempt: Attempt, told: str) -> dict[str, Any]:
    """What a worker tells of a session: the truth, or an outcome it never had."""
    wanted = [step["component"] for step in attempt.grant["steps"]]
    answered = attempt.answered if told == "true" else wanted if told == "answered" else []
    is_whole = answered == wanted
    return {
        "ordinal": attempt.grant["ordinal"],
        "outcome": told if told != "true" else "answered" if is_whole else "unknown",
        "answered": answered,
        "step": wanted[-1] if wanted else None,
        "code": "P0001" if told == "failed" else None,
        "message": "no score for this one" if told == "failed" else None,
    }


@pytest.fixture
def ground(project_db: psycopg.Connection[Any], project_admin: psycopg.Connection[Any]) -> Ground:
    """The sample, a clock of its own, and the witness."""
    clock = DatabaseClock(project_db)
    slate = verbs.Slate(project_admin)
    project_db.execute(WITNESS)
    return Ground(project_db, clock, slate, Seen())


def walk_at_random(ground: Ground, walk: int) -> None:
    """Many sequences of verbs, the same ones for the same number."""

    @seed(walk)
    def machine() -> Verbs:
        return Verbs(ground)

    run_state_machine_as_test(
        machine,  # type: ignore[arg-type] # any factory will do
        settings=settings(
            max_examples=examples(50, at_a_push=24),
            stateful_step_count=50,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(300)
def test_the_promises_hold_after_any_sequence_of_verbs(ground: Ground) -> None:
    """At least 1,000 steps, through every state of runs and items, writes taken and refused."""
    seen = ground.seen
    every_state = {
        row["state"]
        for row in ground.db.execute(
            "select from_state as state from public.backfill_transitions"
            " union select to_state from public.backfill_transitions"
        )
    }
    for walk in range(MOST_WALKS):
        walk_at_random(ground, FIRST_WALK + walk)
        if seen.steps >= ENOUGH_STEPS and not seen.lacks(every_state):
            break
    print(json.dumps({"steps": seen.steps, **dict(seen.events.most_common())}))
    assert seen.steps >= LEAST_STEPS
    assert seen.lacks(every_state) == []
    assert (seen.run_states, seen.item_states) == (every_state, ITEM_STATES)
