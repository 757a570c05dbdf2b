"""Rows and answers of the database, read into models. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from backfill.buckets import Bucket
from backfill.coverage import DayCoverage, Missing, all_missing_name
from backfill.models import (
    ITEM_STATES,
    Change,
    Check,
    Criterion,
    FailedSession,
    Freshness,
    Json,
    RunSummary,
    Status,
    UndoEffect,
    Verification,
)
from backfill.planned import PlannedSession, PlannedSessions
from backfill.plans import Approval, Plan

RUN_COLUMNS = (
    "run_id,state,reason,environment,created_at,request,plan,digest,project_host,"
    "approved_by,approved_via,approved_at,approved_until,started_at"
)
PROGRESS_COLUMNS = (
    "run_id,state,reason,environment,total,pending,leased,done,failed,skipped,rolled_back,"
    "rate_per_minute,eta_s,waits_for,approved_by,approved_until,created_at,audit_count,audit_head"
)
BUCKETS = ("as_planned", "missing", "extra", "filled_elsewhere", "changed_since")
EVENT_COLUMNS = "seq,at,kind,details"
RECEIPT_FIELDS = (
    "receipt_id", "ordinal", "session_id", "component", "operation", "table_name", "row_key",
    "before_hash", "after_hash", "attempt", "at", "undone_at",
)  # fmt: skip
FAILURE_COLUMNS = "session_id,failed_step,error_code,error_message"


def moment(text: str | None) -> datetime | None:
    """A timestamp as the API writes it."""
    return datetime.fromisoformat(text) if text else None


def _certain(text: str) -> datetime:
    return datetime.fromisoformat(text)


def plan_of(run: Mapping[str, Json], sessions: PlannedSessions) -> Plan:
    """A run's row and its sessions, by ordinal."""
    figures = dict(run["plan"] or {})
    checks = figures.pop("checks", [])
    return Plan(
        run_id=run["run_id"],
        state=run["state"],
        digest=run["digest"] or "",
        environment=run["environment"],
        created_at=moment(run["created_at"]),
        request=run["request"],
        figures=figures,
        sessions=sessions,
        checks=tuple(check_of(c) for c in checks),
        approval=_approval_of(run),
        reason=run["reason"],
        started_at=moment(run["started_at"]),
    )


def empty_plan_of(answer: Mapping[str, Json]) -> Plan:
    """What backfill_seal says where there is nothing to do: there is no run."""
    figures = dict(answer["plan"])
    return Plan(
        run_id="",
        state="empty",
        digest="",
        environment=answer["environment"],
        created_at=None,
        request=answer["request"],
        checks=tuple(check_of(c) for c in figures.pop("checks")),
        figures=figures,
    )


def session_of(packed: Sequence[Json]) -> PlannedSession:
    """A session as backfill_plan_sessions packs it: the fields in their order."""
    (
        ordinal, session_id, at, category, components, phase, batch, state, attempts,
        failed_step, error_code, error_message, started_at, settled_at,
    ) = packed  # fmt: skip
    return PlannedSession(
        ordinal, session_id, _certain(at), category, tuple(components), phase, batch, state,
        attempts, failed_step, error_code, error_message, moment(started_at), moment(settled_at),
    )  # fmt: skip


def check_of(mark: Mapping[str, Json]) -> Check:
    """A mark."""
    return Check(mark["name"], mark["status"], mark["detail"], mark.get("next") or "")


def _approval_of(run: Mapping[str, Json]) -> Approval | None:
    if not run["approved_by"]:
        return None
    return Approval(
        approver=run["approved_by"],
        via=run["approved_via"],
        at=_certain(run["approved_at"]),
        until=_certain(run["approved_until"]),
    )


def status_of(row: Mapping[str, Json]) -> Status:
    """A row of backfill_run_progress."""
    return Status(
        run_id=row["run_id"],
        state=row["state"],
        reason=row["reason"],
        counts={name: row[name] for name in ITEM_STATES},
        rate_per_minute=row["rate_per_minute"],
        eta_s=row["eta_s"],
        audit_count=row["audit_count"],
        audit_head=row["audit_head"],
        waits_for=row["waits_for"],
        approved_by=row["approved_by"],
        approved_until=moment(row["approved_until"]),
    )


def summary_of(row: Mapping[str, Json]) -> RunSummary:
    """A row of backfill_run_progress, for a list."""
    return RunSummary(
        run_id=row["run_id"],
        state=row["state"],
        environment=row["environment"],
        created_at=_certain(row["created_at"]),
        total=row["total"],
        done=row["done"],
        failed=row["failed"],
        reason=row["reason"],
        approved_by=row["approved_by"],
    )


def failure_of(row: Mapping[str, Json]) -> FailedSession:
    """A row of backfill_run_failures."""
    return FailedSession(**{name: row[name] for name in FAILURE_COLUMNS.split(",")})


def verification_of(
    answer: Mapping[str, Json],
    critical: Sequence[str],
    sessions: Mapping[str, Mapping[str, Sequence[str]]],
    extra: Mapping[str, list[Mapping[str, Json]]],
) -> Verification:
    """What the parts of backfill_verify_part say together.

    answer: the `verification` of the last one. sessions: by bucket and component, packed. extra:
    rows that nobody planned, by component.
    """
    strangers = [row for rows in extra.values() for row in rows]
    return Verification(
        run_id=answer["run_id"],
        state=answer["state"],
        verdict=answer["verdict"],
        criteria=tuple(Criterion(**c) for c in answer["criteria"]),
        buckets={b: strangers if b == "extra" else Bucket(sessions[b]) for b in BUCKETS},
        critical=tuple(critical),
        audit_count=answer["audit"]["count"],
        audit_head=answer["audit"]["head"],
        new_candidates=tuple(answer["new_candidates"]),
        new_candidates_total=answer["new_candidates_total"],
        inferred=answer["inferred"],
    )


def freshness_of(answer: Mapping[str, Json]) -> Freshness:
    """The answer of backfill_freshness."""
    left_s = answer["approval_left_s"]
    return Freshness(
        run_id=answer["run_id"],
        state=answer["state"],
        filled=tuple(answer["filled"]),
        filled_total=answer["filled_total"],
        new_candidates=tuple(answer["new_candidates"]),
        new_candidates_total=answer["new_candidates_total"],
        changes=tuple(Change(**c) for c in answer["changes"]),
        digest_matches=answer["digest_matches"],
        approved_until=moment(answer["approved_until"]),
        approval_left_s=None if left_s is None else float(left_s),
    )


def undo_of(answer: Mapping[str, Json]) -> UndoEffect:
    """The answer of backfill_preview_undo."""
    return UndoEffect(
        run_id=answer["run_id"],
        digest=answer["digest"],
        deletes=answer["deletes"],
        restores=answer["restores"],
        conflicts=tuple(answer["conflicts"]),
        sessions=answer["sessions"],
        inferred=answer["inferred"],
    )


def undone_of(run_id: str, digest: str, answer: Mapping[str, Json]) -> UndoEffect:
    """The last answer of backfill_confirm_undo."""
    return UndoEffect(
        run_id=run_id,
        digest=digest,
        deletes=answer["deletes"],
        restores=answer["restores"],
        conflicts=tuple(answer["conflicts"]),
        sessions=answer["sessions"],
        state=answer["state"],
        confirmed_by=answer["confirmed_by"],
        finished_at=moment(answer["finished_at"]),
        was_finished=answer["was_finished"],
    )


def missing_of(answer: Mapping[str, Json]) -> Missing:
    """The answer of backfill_coverage."""
    components = tuple(answer["components"])
    return Missing(tuple(_day_of(row, components) for row in answer["days"]), components)


def _day_of(row: Mapping[str, Json], components: Sequence[str]) -> DayCoverage:
    share = row["coverage"]
    missing = {name: row[f"missing_{name}"] for name in components}
    return DayCoverage(
        day=row["day"],
        completed=row["completed"],
        complete=row["complete"],
        missing=missing,
        # With one component those that lack all are those that lack it.
        missing_all=row.get(all_missing_name(len(components)), sum(missing.values())),
        excluded=row["excluded"],
        coverage=None if share is None else float(share),
    )
