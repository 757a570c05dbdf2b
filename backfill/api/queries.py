"""What the database holds about a run, read page by page, so that no limit hides a row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

from backfill.api import answers
from backfill.api.gateway import Gateway
from backfill.api.retries import BRIEF, Patience
from backfill.api.rows import (
    BUCKETS,
    EVENT_COLUMNS,
    FAILURE_COLUMNS,
    PROGRESS_COLUMNS,
    RECEIPT_FIELDS,
    RUN_COLUMNS,
    STANDING_COLUMNS,
    STATUS_COLUMNS,
    TREND_COLUMNS,
    WITH_ROWS,
    failure_of,
    freshness_of,
    missing_of,
    next_step_of,
    plan_of,
    sessions_of,
    status_of,
    summary_of,
    trend_of,
    verification_of,
)
from backfill.errors import BackfillError, BadRequest, UnknownRun
from backfill.request import checked_number
from backfill.results.coverage import Missing
from backfill.results.event import OnProgress, ignore
from backfill.results.history import History
from backfill.results.plan import Freshness, Plan
from backfill.results.run import Json, NextStep, Outcome, RunState, RunSummary, Status
from backfill.results.sessions import PlannedSessions
from backfill.results.verification import Verification, packed

TREND_DAYS = 60  # a bar and a block each
SESSIONS_A_CALL = 5_000  # half a megabyte
EVENTS_A_CALL = 100
LEAST_PREFIX_CHARS = 8  # as the database has it
LOOK_MS = 2_000  # how long one call of a verification looks at rows


async def load_plan(gateway: Gateway, run_id: str) -> Plan:
    """A run with all its sessions. Raises UnknownRun."""
    run = await load_run(gateway, run_id)
    sessions = PlannedSessions()
    asked: dict[str, Json] = {"p_run_id": run_id, "p_after": 0, "p_sessions": SESSIONS_A_CALL}
    while page := await gateway.call("backfill_plan_sessions", asked, answers.LISTS):
        sessions.extend(sessions_of(page))
        asked["p_after"] = page[-1][0]
    standing = await load_standing(gateway, run_id)
    return replace(plan_of(run, sessions), **standing._asdict())


class Standing(NamedTuple):
    """How a run stands: what helps it now, what its undos left, what is not as it was approved.

    left_behind: {session_id, table, row, reason}. unlike_approved: a sentence, or None.
    standing: {standing_id, covers, reason}, what standing approvals say of it, or None.
    """

    next_step: NextStep | None
    left_behind: tuple[Mapping[str, Json], ...]
    unlike_approved: str | None
    standing: Mapping[str, Json] | None


async def load_standing(gateway: Gateway, run_id: str) -> Standing:
    """How a run stands now."""
    columns = f"{STANDING_COLUMNS},unlike_approved"
    row = await gateway.first(
        "backfill_run_progress", columns=columns, equal={"run_id": run_id}, is_known=True
    )
    left: list[dict[str, Json]] = []
    if row and row["left_behind"]:
        left = await gateway.call("backfill_left_behind", {"p_run_id": run_id}, answers.ROWS)
    told = row or {}
    return Standing(
        next_step_of(told), tuple(left), told.get("unlike_approved"), told.get("standing")
    )


async def load_fresh_plan(gateway: Gateway, run_id: str) -> Plan:
    """The same, with what changed since it was sealed, or why that is unknown.

    Only this part takes as long as detection and needs views of the user. Raises UnknownRun.
    """
    plan = await with_trend(gateway, await load_plan(gateway, run_id))
    try:
        return replace(plan, freshness=await load_freshness(gateway, run_id))
    except BackfillError as error:
        return replace(plan, freshness_unknown=error.message)


async def with_trend(gateway: Gateway, plan: Plan) -> Plan:
    """A plan with what the watch counted of its target's last days. Nothing if nobody looked."""
    rows = await gateway.newest(
        "backfill_coverage_history",
        columns=TREND_COLUMNS,
        order="day",
        key="target",
        limit=TREND_DAYS,
        equal={"target": str(plan.request.get("target"))},
    )
    return replace(plan, trend=trend_of(rows))


async def load_runs(
    gateway: Gateway, *, state: RunState | None = None, target: str | None = None, limit: int
) -> tuple[RunSummary, ...]:
    """At most `limit` runs, newest first. state, target: only runs in it, only runs of it.

    Raises BadRequest, also if there is none because no target is installed.
    """
    if state is not None and state not in get_args(RunState):
        raise BadRequest(
            f"no run is ever {str(state)[:40]}", f"one of: {', '.join(get_args(RunState))}"
        )
    checked_number("limit", limit, least=1)
    asked = {"state": state, "target": target}
    rows = await gateway.newest(
        "backfill_run_progress",
        columns=PROGRESS_COLUMNS,
        order="created_at",
        key="run_id",
        limit=limit,
        equal={column: value for column, value in asked.items() if value is not None},
    )
    if not rows:
        await gateway.call("backfill_find_runs", {"p_prefix": ""}, answers.NAMES)
    return tuple(summary_of(row) for row in rows)


async def load_history(gateway: Gateway, versions: Sequence[str]) -> History:
    """Which of these migrations are applied, and which targets are installed."""
    asked = {"p_versions": list(versions)}
    told = await gateway.call("backfill_history", asked, answers.HISTORY)
    applied = told["applied"]
    return History(None if applied is None else frozenset(applied), frozenset(told["targets"]))


async def load_missing(
    gateway: Gateway, *, since: str | None, until: str | None, target: str | None
) -> Missing:
    """What is missing by UTC day. since, until: a day or None. target: None for the only one."""
    asked = {"p_target": target, "p_since": since, "p_until": until}
    told = await gateway.call("backfill_coverage", asked, answers.COVERAGE)
    return missing_of(told)


async def load_targets(gateway: Gateway) -> tuple[str, ...]:
    """The installed targets, by name."""
    first = {"position": "1"}  # of the components that each has
    pages = gateway.rows("backfill_targets", columns="target", key="target", equal=first)
    return tuple([row["target"] async for page in pages for row in page])


async def load_run(gateway: Gateway, run_id: str) -> dict[str, Json]:
    """A run's row. Raises UnknownRun."""
    run = await gateway.first("backfill_runs", columns=RUN_COLUMNS, equal={"run_id": run_id})
    if run is None:
        raise UnknownRun(f"there is no run {run_id}", "backfill runs")
    return run


async def full_run_id(gateway: Gateway, given: str) -> str:
    """The run that an id, or a unique prefix of at least eight characters, names.

    Raises UnknownRun.
    """
    found = await gateway.call("backfill_find_runs", {"p_prefix": given}, answers.NAMES)
    if len(found) == 1:
        return str(found[0])
    if found:
        raise UnknownRun(
            f"{given} is the beginning of more than one run: {found[0]}, …", "backfill runs"
        )
    if len(given.strip()) < LEAST_PREFIX_CHARS:
        raise UnknownRun(
            f"{given} names no run: give its id, or at least {LEAST_PREFIX_CHARS} characters of it",
            "backfill runs",
        )
    raise UnknownRun(f"there is no run {given}", "backfill runs")


async def load_status(gateway: Gateway, run_id: str) -> Status:
    """The status of a run, and why it waits."""
    row = await gateway.first(
        "backfill_run_progress", columns=STATUS_COLUMNS, equal={"run_id": run_id}, is_known=True
    )
    return status_of(row or {})


async def load_outcome(gateway: Gateway, run_id: str) -> Outcome:
    """The status of a run, with its failed sessions."""
    failures = [
        failure_of(row)
        async for page in gateway.rows(
            "backfill_run_failures",
            columns=FAILURE_COLUMNS,
            key="session_id",
            equal={"run_id": run_id},
        )
        for row in page
    ]
    return Outcome(await load_status(gateway, run_id), tuple(failures))


async def load_verification_if_possible(gateway: Gateway, run_id: str) -> Verification | None:
    """A run's verification, None if its target was removed: nothing says what to compare."""
    try:
        return await load_verification(gateway, run_id)
    except BadRequest:
        run = await load_run(gateway, run_id)
        if run["request"]["target"] in await load_targets(gateway):
            raise
        return None


async def load_verification(
    gateway: Gateway, run_id: str, on_progress: OnProgress = ignore
) -> Verification:
    """Compare the tables with the plan, in one call, or in several for a large run.

    Each call is its own transaction. A row that changes in between is reported as it was or as it
    is now. The database sums up what the calls saw. Only the sessions of the buckets are kept here.
    """
    asked: dict[str, Json] = {"p_run_id": run_id, "p_so_far": None, "p_budget_ms": LOOK_MS}
    critical: list[str] = []
    sessions: dict[str, dict[str, list[str]]] = {}
    rows: dict[str, list[Mapping[str, Json]]] = {bucket: [] for bucket in WITH_ROWS}
    while True:
        part = await gateway.call("backfill_verify_part", asked, answers.PART)
        critical += part["critical"]
        for component in part["components"]:
            seen = {
                bucket: part["buckets"].get(bucket, {}).get(component, []) for bucket in BUCKETS
            }
            for bucket, found in rows.items():
                found.extend(seen.pop(bucket))
            for bucket, ids in seen.items():
                sessions.setdefault(bucket, {}).setdefault(component, []).extend(packed(ids))
        if part["verification"] is not None:
            verified = verification_of(part["verification"], critical, sessions, rows)
            standing = await load_standing(gateway, run_id)
            return replace(verified, next_step=standing.next_step, left_behind=standing.left_behind)
        on_progress(part["looked_at"], part["to_look_at"])
        asked["p_so_far"] = part["so_far"]


async def load_freshness(
    gateway: Gateway, run_id: str, patience: Patience = BRIEF
) -> Freshness | None:
    """What changed since a plan was sealed. None if its run is over."""
    answer = await gateway.call(
        "backfill_freshness", {"p_run_id": run_id}, answers.FRESHNESS, patience=patience
    )
    return None if answer is None else freshness_of(answer)


async def load_receipts(gateway: Gateway, run_id: str) -> AsyncIterator[list[dict[str, Json]]]:
    """The receipts of a run's scoring, some sessions per page, the plan's last session first.

    Those of a session come together, by receipt_id. undone_at says what was taken back.
    """
    asked: dict[str, Json] = {"p_run_id": run_id, "p_before": None}
    while page := await gateway.call("backfill_written", asked, answers.LISTS):
        receipts = [dict(zip(RECEIPT_FIELDS, receipt, strict=True)) for receipt in page]
        yield receipts
        asked["p_before"] = receipts[-1]["ordinal"]


async def load_chain(gateway: Gateway, run_id: str) -> AsyncIterator[dict[str, Json]]:
    """The events of a run, by seq. One of a batch may name 500 sessions."""
    pages = gateway.rows(
        "backfill_events",
        columns=EVENT_COLUMNS,
        key="seq",
        equal={"run_id": run_id},
        page_rows=EVENTS_A_CALL,
    )
    async for page in pages:
        for row in page:
            yield row
