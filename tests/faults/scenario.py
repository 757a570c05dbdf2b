"""A project under faults: plan, disturb, go on, and compare with a run that nobody disturbed.

Every scenario passes through the same end: the run as undisturbed, then all taken back, then a
second start that completes (see tests.kit.whole).
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

import backfill
from tests.conftest import Project
from tests.faults import measures
from tests.faults.clock import CommonClock
from tests.faults.measures import Content, Measured
from tests.faults.proxy import ELSEWHERE, Hit, Proxy
from tests.faults.subjects import Subject
from tests.kit.throttling import Start, closest_batches, most_in_a_minute
from tests.kit.whole import WHOLE, examples, one_of

SESSIONS = examples(200, at_a_push=60)
THROTTLE = examples(120, at_a_push=60)
BATCH_SESSIONS = examples(20, at_a_push=10)
SPACING_S = 60 / (THROTTLE // BATCH_SESSIONS)
CONCURRENCY = examples(8, at_a_push=4)
# A scoring call early in a batch, with more to come than run at a time.
MIDWAY = examples(37, at_a_push=16)
LATE = SESSIONS * 2 // 3  # a scoring call that most sessions do not wait for
PACED: dict[str, Any] = {
    "throttle_per_minute": THROTTLE,
    "batch_size": BATCH_SESSIONS,
}
REPORT_VARIABLE = "BACKFILL_FAULTS_REPORT"
CALL_TIMEOUT_S = 30.0
MOST_STARTS = 12  # of one run's workers, one after the other: more means that it gets nowhere

PATIENCE_S = 60.0
LOOK_S = 0.01


@dataclass(frozen=True)
class Undisturbed:
    """The target tables of a twin after a run that nobody disturbed."""

    after: Content


@dataclass
class Scene:
    """One test's project, the proxy in front of it, and what happened so far.

    sessions: in the largest plan so far. owed: the calls that the plan needs, each exactly once.
    rows: what they write, by session and component.
    struck_at: when something went wrong beside what the proxy did.
    """

    project: Project
    proxy: Proxy
    dsn: str
    before: Content
    after: Content
    subject: Subject
    sessions: int = 0
    owed: set[tuple[str, str]] = field(default_factory=set)
    rows: set[tuple[str, str]] = field(default_factory=set)
    events: list[backfill.Event] = field(default_factory=list)
    struck_at: list[float] = field(default_factory=list)

    @property
    def quickest_mode(self) -> Literal["direct", "bulk"]:
        """At a push, for runs that nobody disturbs."""
        return "bulk" if self.subject.name == "rpc" and not WHOLE else "direct"

    def planned(self, **request: Any) -> str:
        """A run over every candidate, approved; its id."""
        with self.project.connect() as bf:
            plan = bf.plan(**{**self.subject.request, **PACED, **request})
        self.project.approve(plan)
        return self.takes(plan)

    def takes(self, plan: backfill.Plan) -> str:
        """Hold what comes to an approved plan; its run's id."""
        self.sessions = max(self.sessions, len(plan.sessions))
        writers = self.subject.writers
        self.owed |= {(s.session_id, writers[c]) for s in plan.sessions for c in s.components}
        self.rows |= {(s.session_id, c) for s in plan.sessions for c in s.components}
        return plan.run_id

    def apply(
        self,
        run_id: str,
        *,
        url: str | None = None,
        worker: str = "worker",
        wrong_by_s: float = 0.0,
        call_timeout_s: float = CALL_TIMEOUT_S,
        **options: Any,
    ) -> backfill.Outcome:
        """One worker's apply, through the proxy unless another url is given."""
        key = self.project.keys.service_role
        with (
            CommonClock(self.dsn, worker, wrong_by_s=wrong_by_s) as clock,
            backfill.connect(
                url or self.proxy.url, key, clock=clock, call_timeout_s=call_timeout_s
            ) as bf,
        ):
            given = {"concurrency": CONCURRENCY, "on_event": self.events.append, **options}
            return bf.apply(run_id, **given)

    def go_on(self, run_id: str, **options: Any) -> backfill.Outcome:
        """Apply as an operator does: again after a crash, resumed after a pause, to its end."""
        for _ in range(MOST_STARTS):
            try:
                outcome = self.apply(run_id, **options)
            except backfill.Paused:
                with self.project.connect() as bf:
                    bf.resume(run_id)
            except backfill.CannotConnect:
                # Waiting takes no time on the common clock, a server's start does.
                wait_until(self.is_served)
            else:
                if outcome.state == "completed":
                    return outcome
        raise AssertionError(f"run {run_id} did not end in {MOST_STARTS} starts")

    def is_served(self) -> bool:
        """Whether the project's API answers, past the proxy."""
        try:
            return httpx.head(self.project.rest_url).status_code < 500
        except httpx.TransportError:
            return False

    def struck(self) -> None:
        """Something went wrong now."""
        self.struck_at.append(time.time())

    def outcomes(self) -> Counter[str]:
        """The `call` events so far, by outcome."""
        return Counter(e.details["outcome"] for e in self.events if e.kind == "call")

    def codes(self) -> Counter[str]:
        """The codes of the calls that failed."""
        calls = [e.details for e in self.events if e.kind == "call"]
        return Counter(call["code"] for call in calls if call["code"])

    @contextmanager
    def beside(
        self, run_id: str, *, keeps_at_it: bool = False, **options: Any
    ) -> Iterator[Future[backfill.Outcome]]:
        """An apply in a thread of its own; the network is whole again when the block ends.

        keeps_at_it: started again where it gives up.
        """
        work: Callable[..., backfill.Outcome] = self.go_on if keeps_at_it else self.apply
        with ThreadPoolExecutor(1) as pool:
            try:
                yield pool.submit(work, run_id, **options)
            finally:
                self.proxy.heal()

    # The end of every scenario ------------------------------------------------------------------

    def content(self) -> Content:
        """What is in the target's tables now."""
        return measures.content(self.project.db, self.subject.tables)

    def measured(self, case: str, wanted: Content | None = None) -> Measured:
        """What the faults did, counted in the tables. wanted: as after a run unless given."""
        calls = measures.scorings(self.project.db)
        here = [hit.at for hit in self.proxy.hits if hit.fault != ELSEWHERE]
        faults = [*here, *self.struck_at]
        return Measured(
            case,
            self.sessions,
            len(faults),
            len(measures.missing_from(wanted or self.after, self.content())),
            len(measures.scored_twice(self.project.db)),
            measures.longest_to_go_on(faults, calls, spacing_s=SPACING_S),
        )

    def recorded(self, case: str, wanted: Content | None = None) -> Measured:
        """The same, told to the table where one is being made."""
        named = case if self.subject.name == "rpc" else f"{case} ({self.subject.name})"
        found = self.measured(named, wanted)
        report = os.environ.get(REPORT_VARIABLE)
        if report:
            with Path(report).open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
        return found

    def ends_as_undisturbed(self, case: str, *run_ids: str, paced: bool = True) -> None:
        """The whole proof: rows, calls, receipts, throttle, chain; then undone and done again.

        paced: whether the runs had a throttle.
        """
        found = self.recorded(case)
        assert found.sessions >= SESSIONS
        assert found.faults > 0
        assert (found.lost, found.twice) == (0, 0)
        assert self.content() == self.after
        assert self._committed() == sorted(self.owed)
        self._receipts_equal_writes(run_ids)
        for run_id in run_ids:
            if paced:
                self._throttle_was_kept(run_id)
            self._verifies(run_id)
        self._undone(run_ids)
        if one_of(3, case):
            self.completes_undisturbed()

    def _committed(self) -> list[tuple[str, str]]:
        rows = self.project.rows(
            "select session_id, function from public.test_scorings order by 1, 2"
        )
        return [(row["session_id"], row["function"]) for row in rows]

    def _receipts_equal_writes(self, run_ids: tuple[str, ...]) -> None:
        receipts = measures.receipted_rows(self.project.db, run_ids)
        assert len(receipts) == len(set(receipts)) == len(self.rows)
        assert measures.receipts_without_row(self.project.db, self.subject, run_ids) == []

    def _throttle_was_kept(self, run_id: str) -> None:
        granted = self.project.rows(
            "select at, (details ->> 'sessions')::int as sessions from public.backfill_events"
            " where run_id = %s and kind = 'batch_granted' order by seq",
            run_id,
        )
        starts = [Start(row["at"], row["sessions"]) for row in granted]
        assert most_in_a_minute(starts) <= THROTTLE
        assert closest_batches(starts).total_seconds() >= SPACING_S

    def _verifies(self, run_id: str) -> None:
        with self.project.connect() as bf:
            verification = bf.verify(run_id)
        assert {c.name: c.status for c in verification.criteria}["audit_complete"] == "pass"
        assert (verification.verdict, verification.critical) == ("pass", ())

    def _undone(self, run_ids: tuple[str, ...]) -> None:
        with self.project.connect() as bf:
            for run_id in run_ids:
                assert bf.rollback(run_id).confirm(reason="a test").conflicts == ()
        assert self.content() == self.before

    def completes_undisturbed(self) -> None:
        """A run of its own that nobody disturbs ends as one does on an untouched project."""
        # Edge Functions take ten times as long, and the same functions of ours run behind them.
        if not WHOLE and self.subject.name != "rpc":
            return
        self.project.db.execute("delete from public.test_scorings")
        run_id = self.planned(throttle_per_minute="none", mode=self.quickest_mode)
        outcome = self.apply(run_id, url=self.project.url)
        assert outcome.is_complete
        assert self.content() == self.after
        assert self._committed() == sorted(self.owed)
        self._verifies(run_id)


def wait_until(holds: Callable[[], object]) -> None:
    """Look until something is so, which others do in their own time."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(LOOK_S)


def hits_of(hits: list[Hit], *functions: str) -> int:
    """How often a fault happened to these functions' calls."""
    return sum(hit.call.function in functions for hit in hits)
