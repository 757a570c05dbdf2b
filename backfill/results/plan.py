"""A plan: its sessions, its batches, its figures, and once it runs what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Literal

from backfill.render.markdown import SESSION, Called
from backfill.results.check import Check
from backfill.results.coverage import all_missing_name
from backfill.results.rehearsal import Rehearsal, rehearsal_of
from backfill.results.run import ITEM_STATES, FailedSession, Json, Moment, NextStep, RunState
from backfill.results.sessions import Phase, PlannedSessions
from backfill.results.watch import DayTrend

# The figures of a plan as long as the database has measured nothing.
UNMEASURED: Mapping[str, Json] = {
    "candidates": {"total": 0, "missing": {}, "missing_all": 0},
    "categories": {},
    "phases": {},
    "expected_calls": {"total": 0},
    "expected_writes": {"total": 0, "new": {}, "replaced": {}},
    "replaced_versions": {},
    "expected_runtime_s": None,
    "excluded": [],
    "excluded_total": 0,
    "undated": 0,
    "not_wanted": [],
}


@dataclass(frozen=True, slots=True)
class Effect:
    """Something else that a plan's writes set off, or that refers to the rows.

    kind: trigger, webhook, publication, foreign key, materialized view, generated column, sequence,
    policy, cron job or function. events: how often this plan causes it, None if that is unknown.
    """

    kind: str
    name: str
    table: str | None
    detail: str
    events: int | None


@dataclass(frozen=True, slots=True)
class Risk:
    """How much can go wrong if the plan is carried out, and why. The digest covers it.

    grade: high if a check failed or an undo would not be exact, medium for any other reason, low
    for none. reasons: the gravest first.
    """

    grade: Literal["low", "medium", "high"]
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Json]:
        """{grade, reasons}."""
        return {"grade": self.grade, "reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class Change:
    """A definition, a setting or a key that is not what it was when the plan was sealed.

    kind: definition, setting or key. was, now: a definition's fingerprint or a setting's value,
    None if there was or is none. Of a key, whether it names one row.
    """

    kind: str
    name: str
    was: str | None
    now: str | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """What changed since a plan was sealed.

    filled: pending sessions that someone else has filled. unselected: {session_id, reason} of those
    that are gone or that the target no longer selects. Both will be skipped. replacing: those with
    a row of another version by now where a new one was planned: the run replaces it.
    new_candidates: sessions in the plan's range that lack something now and are not in the plan.
    At most 1,000 of each are named. approval_left_s: seconds until the approval runs out, None
    without one.
    """

    run_id: str
    state: str
    filled: tuple[str, ...]
    filled_total: int
    unselected: tuple[Mapping[str, str], ...]
    unselected_total: int
    replacing: tuple[str, ...]
    replacing_total: int
    new_candidates: tuple[str, ...]
    new_candidates_total: int
    changes: tuple[Change, ...]
    digest_matches: bool
    approved_until: Moment | None
    approval_left_s: float | None

    @property
    def is_fresh(self) -> bool:
        """Whether nothing changed and no approval has run out."""
        skipped = self.filled_total or self.unselected_total
        changed = skipped or self.replacing_total or self.new_candidates_total or self.changes
        return not changed and self.digest_matches and self.approval_left_s != 0

    def as_dict(self) -> dict[str, Json]:
        """The fields by name. Times are in ISO 8601."""
        until = self.approved_until
        return {**asdict(self), "approved_until": until.isoformat() if until else None}


@dataclass(frozen=True, slots=True)
class Batch:
    """At most `batch_size` sessions of one phase. starts_at_s: seconds after the first batch."""

    number: int
    phase: Phase
    sessions: tuple[str, ...]
    starts_at_s: float

    def as_dict(self) -> dict[str, Json]:
        """{number, phase, sessions: [id], starts_at_s}."""
        told = {"number": self.number, "phase": self.phase, "sessions": list(self.sessions)}
        return told | {"starts_at_s": self.starts_at_s}


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approved, how, when, and until when it counts."""

    approver: str
    via: str
    at: Moment
    until: Moment


@dataclass(frozen=True)
class Plan:
    """A sealed plan, or an empty one (state "empty", no run) if nothing is missing.

    figures: candidates, categories, phases, expected calls and writes, excluded sessions, as the
    database measured them when it sealed the plan. freshness: what changed since, if the plan was
    read again and can still be carried out. freshness_unknown: why that could not be found out.
    next_step: what helps the run now. left_behind: rows that an undo could not take back,
    {session_id, table, row, reason}, 1,000 at most. unlike_approved: a sentence if the figures or
    marks are not those that the approver read. standing: {standing_id, covers, reason}: the
    standing approval that approved it, or why none covers it. None if its target has none.
    pace_per_minute: starts per minute in force, None without a throttle.
    trend: the target's last days as the watch counted them, the oldest first.
    """

    # pydantic takes the sessions as they are: to validate each would undo their compact form.
    __pydantic_config__ = {"arbitrary_types_allowed": True}  # noqa: RUF012 - pydantic's own form

    run_id: str
    state: RunState | Literal["empty"]
    digest: str
    environment: str | None
    created_at: Moment | None
    request: Mapping[str, Json]
    figures: Mapping[str, Json] = field(default_factory=dict)
    sessions: PlannedSessions = field(default_factory=PlannedSessions)
    checks: tuple[Check, ...] = ()
    approval: Approval | None = None
    reason: str | None = None
    started_at: Moment | None = None
    freshness: Freshness | None = None
    freshness_unknown: str | None = None
    next_step: NextStep | None = None
    left_behind: tuple[Mapping[str, object], ...] = ()
    unlike_approved: str | None = None
    standing: Mapping[str, object] | None = None
    pace_per_minute: int | None = None
    trend: tuple[DayTrend, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was missing, so that there is no run."""
        return self.state == "empty"

    def _figure(self, name: str) -> Json:
        return self.figures.get(name, UNMEASURED[name])

    @property
    def called(self) -> Called:
        """How the target's rows are called: one of them, and several."""
        return Called(*self.figures.get("called", SESSION))

    @property
    def candidates(self) -> Mapping[str, Json]:
        """{total, missing: {component: n}, missing_<component>…, missing_both}.

        With another number of components than two it is missing_all.
        """
        found = self._figure("candidates")
        missing = found["missing"]
        return {
            "total": found["total"],
            "missing": missing,
            **{f"missing_{name}": count for name, count in missing.items()},
            all_missing_name(len(missing)): found["missing_all"],
        }

    @property
    def categories(self) -> Mapping[str, int]:
        """Sessions by what they lack."""
        return dict(self._figure("categories"))

    @property
    def expected_calls(self) -> Mapping[str, int]:
        """Scoring calls by function, and in total."""
        return dict(self._figure("expected_calls"))

    @property
    def expected_writes(self) -> Mapping[str, Json]:
        """Rows by table, and in total. new and replaced: those of each kind, by table."""
        return dict(self._figure("expected_writes"))

    @property
    def replaced_versions(self) -> Mapping[str, Mapping[str, int]]:
        """The rows that are replaced, by table and by the version that they have now."""
        return dict(self._figure("replaced_versions"))

    @property
    def expected_runtime_s(self) -> float | None:
        """Seconds from the first batch to the last one's start, None without a throttle."""
        runtime = self._figure("expected_runtime_s")
        return None if runtime is None else float(runtime)

    @property
    def risk(self) -> Risk | None:
        """How much can go wrong, and why. None if the plan is not sealed."""
        told = self.figures.get("risk")
        return None if told is None else Risk(told["grade"], tuple(told["reasons"]))

    @property
    def rehearsal(self) -> Rehearsal | None:
        """What was seen when a few sessions were scored and rolled back. None if none were."""
        seen = self.figures.get("rehearsal")
        return None if seen is None else rehearsal_of(seen)

    @property
    def effects(self) -> tuple[Effect, ...]:
        """What else the writes set off: triggers, listeners, functions that no digest covers."""
        return tuple(Effect(**effect) for effect in self.figures.get("blast_radius") or ())

    @property
    def excluded(self) -> tuple[Mapping[str, str], ...]:
        """Sessions that lack something and are left out: {session_id, reason}, 1,000 at most."""
        return tuple(self._figure("excluded"))

    @property
    def not_wanted(self) -> tuple[Mapping[str, Json], ...]:
        """Sessions that lack a component not wanted of them: {component, sessions, reason}."""
        return tuple(self._figure("not_wanted"))

    @property
    def batch_spacing_s(self) -> float:
        """Seconds between the starts of two batches, 0 without a throttle."""
        return float(self.figures.get("batch_spacing_s") or 0)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches in the order in which they start."""
        return tuple(self._batches())

    def _batches(self) -> Iterator[Batch]:
        for number, phase, places in self.sessions.batches():
            yield Batch(number, phase, tuple(self.sessions.ids(places)), self.starts_at_s(number))

    def starts_at_s(self, number: int) -> float:
        """Seconds from the start of the first batch to that of this one."""
        return (number - 1) * self.batch_spacing_s

    @property
    def counts(self) -> Mapping[str, int]:
        """Sessions by what became of them so far, every state named."""
        states = self.sessions.states()
        return {state: states[state] for state in ITEM_STATES}

    @property
    def failures(self) -> tuple[FailedSession, ...]:
        """The sessions that failed, and why."""
        return tuple(
            FailedSession(s.session_id, s.failed_step, s.error_code, s.error_message)
            for s in self.sessions.in_state("failed")
        )

    @property
    def approval_sql(self) -> str:
        """The line for the SQL editor. The database refuses it until `your name` is replaced."""
        return self.approval_sql_by("your name")

    def approval_sql_by(self, approver: str) -> str:
        """The line that approves this plan in the SQL editor, signed with a name."""
        name = approver.replace("'", "''")
        return f"select public.backfill_approve('{self.run_id}', '{self.digest}', '{name}');"

    def markdown(self) -> str:
        """The plan for people."""
        from backfill.render.plan import plan_markdown

        return plan_markdown(self)

    def as_dict(self) -> dict[str, Json]:
        """The shape of `backfill plan --json`, and once the run has started what became of it."""
        return {n: list(told) if isinstance(told, Iterator) else told for n, told in self.told()}

    def summary(self) -> dict[str, Json]:
        """The same without what names each session: batches, excluded, sessions."""
        named = ("batches", "excluded", "sessions")
        return {name: told for name, told in self.told() if name not in named}

    def told(self) -> Iterator[tuple[str, Json]]:
        """The same, name by name. Values that grow with the plan are iterators."""
        yield "run_id", self.run_id or None
        yield "state", self.state
        yield "digest", self.digest or None
        yield "environment", self.environment
        yield "created_at", self.created_at.isoformat() if self.created_at else None
        yield "request", dict(self.request)
        yield "risk", self.risk.as_dict() if self.risk else None
        yield "called", list(self.called)
        yield "candidates", dict(self.candidates)
        yield "categories", self.categories
        yield "phases", dict(self._figure("phases"))
        yield "expected_calls", self.expected_calls
        yield "expected_writes", self.expected_writes
        yield "replaced_versions", self.replaced_versions
        yield "batches", (batch.as_dict() for batch in self._batches())
        yield "batch_spacing_s", self.batch_spacing_s
        yield "expected_runtime_s", self.expected_runtime_s
        yield "excluded", list(self.excluded)
        yield "excluded_total", self._figure("excluded_total")
        yield "undated", self._figure("undated")
        yield "not_wanted", list(self.not_wanted)
        yield "rehearsal", self.rehearsal.as_dict() if self.rehearsal else None
        yield "blast_radius", [asdict(effect) for effect in self.effects]
        yield "checks", [check.as_dict() for check in self.checks]
        yield "freshness", self.freshness.as_dict() if self.freshness else None
        yield "freshness_unknown", self.freshness_unknown
        yield "unlike_approved", self.unlike_approved
        yield "approved_by", self.approval.approver if self.approval else None
        yield "approved_via", self.approval.via if self.approval else None
        yield "standing", dict(self.standing) if self.standing else None
        yield "next", self.next_step.as_dict() if self.next_step else None
        if self.trend:
            yield "trend", [day.as_dict() for day in self.trend]
        if self.started_at is not None:
            yield from self._became_of_it(self.started_at)

    def _became_of_it(self, started_at: datetime) -> Iterator[tuple[str, Json]]:
        """The names of a run that has started. sessions: {session_id, batch, state, attempts}."""
        yield "started_at", started_at.isoformat()
        yield "pace_per_minute", self.pace_per_minute
        yield "counts", dict(self.counts)
        yield "failures", [asdict(failed) for failed in self.failures]
        yield "left_behind", [dict(row) for row in self.left_behind]
        names = ("session_id", "batch", "state", "attempts")
        yield "sessions", ({name: getattr(s, name) for name in names} for s in self.sessions)
