"""Rows and answers of the database, read into models. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from backfill.errors import NotInstalled
from backfill.moments import moment
from backfill.render.markdown import Called
from backfill.results.check import Check
from backfill.results.coverage import DayCoverage, Missing, all_missing_name
from backfill.results.plan import Approval, Freshness, Plan
from backfill.results.run import ITEM_STATES, FailedSession, Json, NextStep, RunSummary, Status
from backfill.results.sessions import PlannedSession, PlannedSessions
from backfill.results.standing import StandingApproval
from backfill.results.target import InstalledTarget
from backfill.results.undo import UndoEffect
from backfill.results.verification import Bucket, Verification
from backfill.results.watch import DayTrend, TargetWatch

T = TypeVar("T")

RUN_COLUMNS = (
    "run_id,state,reason,environment,created_at,request,plan,digest,project_host,"
    "approved_by,approved_via,approved_at,approved_until,started_at,pace_per_minute"
)
PROGRESS_COLUMNS = (
    "run_id,target,state,reason,environment,total,pending,leased,done,failed,skipped,rolled_back,"
    "unselected,rate_per_minute,eta_s,waits_for,approved_by,approved_until,created_at,audit_count,audit_head,"
    "called"
)
STANDING_COLUMNS = "left_behind,next,standing"
STATUS_COLUMNS = (
    f"{PROGRESS_COLUMNS},cause,approved_via,{STANDING_COLUMNS},pace_per_minute,throttle_per_minute"
)
BUCKETS = (
    "as_planned", "missing", "unplanned", "extra", "filled_elsewhere", "changed_since",
    "no_longer_selected",
)  # fmt: skip
WITH_ROWS = ("unplanned", "extra")  # the buckets whose rows are named by their keys
EVENT_COLUMNS = "seq,at,kind,details"
RECEIPT_FIELDS = (
    "receipt_id", "ordinal", "session_id", "component", "operation", "table_name", "row_key",
    "before_hash", "after_hash", "attempt", "at", "undone_at",
)  # fmt: skip
THROTTLE = "throttle_per_minute"
TREND_COLUMNS = "day,wanted,there,missing"
FAILURE_COLUMNS = "session_id,failed_step,error_code,error_message"


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def adapter(kind: Any) -> TypeAdapter[Any]:
    """What reads a type. Made once, since that takes longer than reading."""
    return _adapter(cast(Hashable, kind))


def read(kind: type[T], row: Mapping[str, Json], **more: Json) -> T:
    """A row or an answer as one of our results. `more` wins over its own values.

    Values without a field are left out: the database may say more than this version reads.
    Raises NotInstalled if it says less, or something else.
    """
    with _understood(kind.__name__):
        result: T = adapter(kind).validate_python({**row, **more})
    return result


@contextmanager
def _understood(what: str) -> Iterator[None]:
    """Raise NotInstalled if what is read has another form than this version knows."""
    try:
        yield
    except ValidationError as error:
        raise another_form(differs_in(what, error)) from None  # it holds contents of rows
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise another_form(what) from error


def differs_in(what: str, error: ValidationError) -> str:
    """Where an answer differs from a type, and how. Nothing of what was answered."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # pydantic names the choices of a union too, which are no part of the way.
    way = (step for step in first["loc"] if "[" not in str(step))
    return f"{'.'.join(map(str, (what, *way)))}: {first['msg']}"


def another_form(what: str) -> NotInstalled:
    """The error for an answer of another version. what: where it differs."""
    return NotInstalled(
        f"the project's answer is not of the form that this version reads ({what})",
        "backfill install, apply the migrations, then backfill check",
    )


def plan_of(run: Mapping[str, Json], sessions: PlannedSessions) -> Plan:
    """A plan from a run's row and its sessions, by ordinal."""
    with _understood("Plan"):
        figures = dict(run["plan"] or {})
        return read(
            Plan,
            run,
            digest=run["digest"] or "",
            checks=tuple(map(check_of, figures.pop("checks", ()))),
            figures=figures,
            sessions=sessions,
            approval=_approval_of(run),
            pace_per_minute=run.get("pace_per_minute") or run["request"].get(THROTTLE),
        )


def empty_plan_of(answer: Mapping[str, Json]) -> Plan:
    """The answer of backfill_seal if there is nothing to do, and so no run."""
    return plan_of({**answer, "run_id": "", "digest": "", "created_at": None}, PlannedSessions())


def sessions_of(page: Sequence[Sequence[Json]]) -> Iterator[PlannedSession]:
    """Sessions as backfill_plan_sessions packs them. There may be very many."""
    with _understood("PlannedSession"):
        yield from map(_session_of, page)


def _session_of(packed: Sequence[Json]) -> PlannedSession:
    (
        ordinal, session_id, at, category, components, phase, batch, state, attempts,
        failed_step, error_code, error_message, started_at, settled_at,
    ) = packed  # fmt: skip
    return PlannedSession(
        ordinal, session_id, moment(at), category, tuple(components), phase, batch, state,
        attempts, failed_step, error_code, error_message, started_at and moment(started_at),
        settled_at and moment(settled_at),
    )  # fmt: skip


def check_of(mark: Mapping[str, Json]) -> Check:
    """A mark of a check or a plan."""
    with _understood("Check"):
        return read(Check, mark, next_step=mark.get("next") or "")


def _approval_of(run: Mapping[str, Json]) -> Approval | None:
    if not run.get("approved_by"):
        return None
    names = {"approver": "by", "via": "via", "at": "at", "until": "until"}
    return read(Approval, {name: run[f"approved_{column}"] for name, column in names.items()})


def status_of(row: Mapping[str, Json]) -> Status:
    """A row of backfill_run_progress."""
    counts = {name: row.get(name) for name in ITEM_STATES}
    return read(Status, row, counts=counts, next_step=row.get("next"))


def next_step_of(row: Mapping[str, Json]) -> NextStep | None:
    """The next step in a row of backfill_run_progress. None if it has none."""
    told = row.get("next")
    return None if told is None else read(NextStep, told)


def standing_of(told: Mapping[str, Json]) -> StandingApproval:
    """A standing approval as the doors tell it."""
    return read(StandingApproval, told)


def summary_of(row: Mapping[str, Json]) -> RunSummary:
    """A row of backfill_run_progress, for a list."""
    return read(RunSummary, row)


def failure_of(row: Mapping[str, Json]) -> FailedSession:
    """A row of backfill_run_failures."""
    return read(FailedSession, row)


def verification_of(
    answer: Mapping[str, Json],
    critical: Sequence[str],
    sessions: Mapping[str, Mapping[str, Sequence[str]]],
    rows: Mapping[str, list[Mapping[str, Json]]],
) -> Verification:
    """What all calls of backfill_verify_part say together.

    answer: the `verification` of the last one. sessions: packed, by bucket and component.
    rows: of the buckets WITH_ROWS, by bucket.
    """
    with _understood("Verification"):
        audit = {f"audit_{name}": value for name, value in answer["audit"].items()}
    found = read(Verification, answer, critical=critical, buckets={}, **audit)
    # The rows are put in afterwards: reading would copy them.
    return replace(
        found, buckets={b: rows[b] if b in WITH_ROWS else Bucket(sessions[b]) for b in BUCKETS}
    )


def freshness_of(answer: Mapping[str, Json]) -> Freshness:
    """The answer of backfill_freshness."""
    return read(Freshness, answer)


def undo_of(answer: Mapping[str, Json]) -> UndoEffect:
    """The answer of backfill_preview_undo."""
    return read(UndoEffect, answer)


def undone_of(run_id: str, digest: str, answer: Mapping[str, Json]) -> UndoEffect:
    """The last answer of backfill_confirm_undo."""
    return read(UndoEffect, answer, run_id=run_id, digest=digest)


def missing_of(answer: Mapping[str, Json]) -> Missing:
    """The answer of backfill_coverage."""
    with _understood("Missing"):
        components = tuple(answer["components"])
        days = tuple(_day_of(row, components) for row in answer["days"])
        called = Called(*answer["called"])
        reasons = {n: answer["not_wanted"][n] for n in components if n in answer["not_wanted"]}
        notes = tuple(answer["notes"])
        return Missing(days, components, answer["undated"], answer["date"], called, reasons, notes)


def _day_of(row: Mapping[str, Json], components: Sequence[str]) -> DayCoverage:
    missing = {name: row[f"missing_{name}"] for name in components}
    # With only one component, to lack all is to lack that one.
    all_missing = row.get(all_missing_name(len(components)), sum(missing.values()))
    not_wanted = {n: row[f"not_wanted_{n}"] for n in components if f"not_wanted_{n}" in row}
    return read(DayCoverage, row, missing=missing, missing_all=all_missing, not_wanted=not_wanted)


def installed_of(row: Mapping[str, Json], coverage: float | None) -> InstalledTarget:
    """A row of backfill_installed."""
    return read(InstalledTarget, row, coverage=coverage)


def watch_of(row: Mapping[str, Json]) -> TargetWatch:
    """A target of backfill_watch, or a row of backfill_watch_status."""
    return read(TargetWatch, row)


def trend_of(rows: Sequence[Mapping[str, Json]]) -> tuple[DayTrend, ...]:
    """Rows of backfill_coverage_history, the newest first, as days, the oldest first.

    Without the days of which no session is judged yet.
    """
    judged = [read(DayTrend, row) for row in rows if row["wanted"]]
    return tuple(reversed(judged))
