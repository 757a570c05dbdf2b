"""Plan: open a run, collect window by window, rehearse, seal. The database decides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from statistics import median
from uuid import uuid4

from backfill.api import answers
from backfill.api.gateway import Gateway
from backfill.api.queries import full_run_id, load_plan, load_run, with_trend
from backfill.api.retries import Patience
from backfill.api.rows import empty_plan_of
from backfill.errors import (
    BackfillError,
    BadKey,
    Busy,
    CannotConnect,
    NotInstalled,
    TookTooLong,
    UnknownRun,
)
from backfill.request import OWN, Request, like_request
from backfill.results.event import Event
from backfill.results.plan import Plan
from backfill.results.run import Json
from backfill.run.clock import Clock
from backfill.run.listeners import Listeners
from backfill.run.probe import probed

# The user's code may end its own connection, and would again. So a rehearsed call that brings no
# answer is soon given up.
REHEARSING = Patience(timeout_s=6.0, longest_wait_s=2.0)


async def make_plan(
    gateway: Gateway, clock: Clock, request: Mapping[str, Json], run_id: str | None = None
) -> Plan:
    """Plan a request. The run then awaits approval. The plan is empty if nothing is missing.

    run_id: of a run that may be there already for the same request, else a new one is opened.
    An error midway carries a note that says how to go on.
    """
    wanted, run_id = run_id, run_id or str(uuid4())
    opening = {"p_request": dict(request), "p_project_host": gateway.host, "p_run_id": run_id}
    await gateway.call("backfill_open", opening, answers.RUN_ID)
    try:
        return await finish_plan(gateway, clock, run_id)
    except UnknownRun:
        # A call whose reply was lost sealed the run and removed it, since nothing was missing.
        return await make_plan(gateway, clock, request, wanted)
    except BackfillError as error:
        if isinstance(error, Busy | CannotConnect | TookTooLong):
            error.add_note(f"To go on where it stopped: backfill plan --resume {run_id}")
        raise


async def finish_plan(gateway: Gateway, clock: Clock, run_id: str) -> Plan:
    """Take a run from any point of its planning to the seal.

    Raises IllegalMove if it is no longer in planning.
    """
    while not await gateway.call("backfill_collect", {"p_run_id": run_id}, answers.IS_DONE):
        pass
    round_trip_ms = await _rehearse(gateway, clock, run_id)
    told = await probed(gateway, run_id)
    sealing = {"p_run_id": run_id, "p_round_trip_ms": round_trip_ms, "p_probed": told}
    sealed = await gateway.call("backfill_seal", sealing, answers.SEALED)
    while sealed["state"] == "planning":  # a large plan is placed in more than one call
        sealed = await gateway.call("backfill_seal", sealing, answers.SEALED)
    if sealed["state"] == "empty":
        return empty_plan_of(sealed)
    return await with_trend(gateway, await load_plan(gateway, run_id))


def tell_sealed(plan: Plan, clock: Clock, listeners: Listeners) -> Plan:
    """Tell that a plan awaits approval, unless it is empty. Raises what a listener raises.

    One that a standing approval covers awaits none.
    """
    if plan.state != "awaiting_approval":
        return plan
    details: dict[str, Json] = {
        "digest": plan.digest,
        "environment": plan.environment,
        "sessions_total": len(plan.sessions),
        "expected_runtime_s": plan.expected_runtime_s,
        "approval_sql": plan.approval_sql,
    }
    listeners.tell(Event("awaiting_approval", plan.run_id, clock.now(), details))
    listeners.raise_what_they_raised(f"run {plan.run_id} is sealed and awaits approval")
    return plan


async def _rehearse(gateway: Gateway, clock: Clock, run_id: str) -> float | None:
    """Rehearse the run's sample, one session after the other.

    Returns the median time of a call outside the database, in ms. None if there is no sample.
    """
    sample = await gateway.call("backfill_rehearsal", {"p_run_id": run_id}, answers.NAMES)
    round_trips_ms = []
    for session_id in sample:
        began = clock.now()
        rehearsing = {"p_run_id": run_id, "p_session_id": session_id}
        try:
            seen = await gateway.call(
                "backfill_rehearse", rehearsing, answers.REHEARSED, patience=REHEARSING
            )
        except BackfillError as lost:
            if lost.code or isinstance(lost, BadKey | NotInstalled):
                raise
            continue  # Code of the user's can end its own connection. The plan then says so.
        took_ms = (clock.now() - began).total_seconds() * 1000
        round_trips_ms.append(max(took_ms - seen["took_ms"], 0))
    return round(median(round_trips_ms), 3) if round_trips_ms else None


async def plan_asked(gateway: Gateway, clock: Clock, asked: Request) -> Plan:
    """Plan what was asked for. If it is refused, what to do next keeps the run of `like`."""
    request = await _request_of(gateway, asked)
    try:
        return await make_plan(gateway, clock, request)
    except BackfillError as refused:
        if asked.like:
            like = f"backfill plan --like {asked.like}"
            refused.next_step = refused.next_step.replace("backfill plan …", like)
        raise


async def _request_of(gateway: Gateway, asked: Request) -> dict[str, Json]:
    """A request as it is sent, with the parameters taken over from the run of `like`.

    One that its target no longer has is not taken over.
    """
    if not asked.like:
        return asked.sent({})
    asked.given()  # refuses a bad request before any look-up
    run_id = await full_run_id(gateway, asked.like)
    like = (await load_run(gateway, run_id))["request"]
    installed = await gateway.call("backfill_installed", {}, answers.ROWS)
    now = {p for t in installed if t["target"] == like["target"] for p in t["parameters"]}
    replaced = like.keys() - OWN - now
    if asked.want:
        replaced |= await _version_parameters(gateway, like["target"], asked.want)
    return asked.sent(like_request(like, replaced))


async def _version_parameters(
    gateway: Gateway, target: str, components: Collection[str]
) -> set[str]:
    """The parameters that name the versions of these components."""
    pages = gateway.rows(
        "backfill_targets",
        columns="component,version_parameter",
        key="component",
        equal={"target": target},
    )
    rows = [row async for page in pages for row in page]
    return {row["version_parameter"] for row in rows if row["component"] in components}
