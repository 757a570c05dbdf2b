"""Plan: open a run, collect window by window, seal. The database decides; this asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import uuid4

from backfill.errors import UnknownRun
from backfill.gateway import Gateway
from backfill.models import Json, Plan
from backfill.reading import ITEM_COLUMNS, RUN_COLUMNS, plan_of

# What a request carries that a plan like it takes over; the rest is derived anew.
KEPT_BY_LIKE = frozenset(
    {
        "target", "since", "until", "throttle_per_minute", "batch_size", "priority", "environment",
        "basis", "min_responses", "min_fc_responses", "fc_version", "engine_version",
    }
)  # fmt: skip


async def make_plan(gateway: Gateway, request: Mapping[str, Json]) -> Plan:
    """Plan a request; the run then awaits approval. An empty plan where nothing is missing."""
    run_id = str(uuid4())
    opening = {"p_request": dict(request), "p_project_host": gateway.host, "p_run_id": run_id}
    await gateway.call("backfill_open", opening, expect=str)
    while not await gateway.call("backfill_collect", {"p_run_id": run_id}, expect=bool):
        pass
    if not await gateway.call("backfill_seal", {"p_run_id": run_id}, expect=bool):
        return Plan("", "empty", "", request.get("environment"), None, dict(request))
    return await load_plan(gateway, run_id)


async def load_plan(gateway: Gateway, run_id: str) -> Plan:
    """A run with all its sessions. Raises UnknownRun."""
    run = await load_run(gateway, run_id)
    items = [
        item
        async for page in gateway.rows(
            "backfill_items", columns=ITEM_COLUMNS, key="ordinal", equal={"run_id": run_id}
        )
        for item in page
    ]
    return plan_of(run, items)


async def load_run(gateway: Gateway, run_id: str) -> dict[str, Json]:
    """A run's row. Raises UnknownRun."""
    run = await gateway.first("backfill_runs", columns=RUN_COLUMNS, equal={"run_id": run_id})
    if run is None:
        raise UnknownRun(f"there is no run {run_id}", "backfill runs")
    return run


async def full_run_id(gateway: Gateway, given: str) -> str:
    """The run that an id or a unique prefix names. Raises UnknownRun."""
    found = await gateway.call("backfill_find_runs", {"p_prefix": given}, expect=list)
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise UnknownRun(f"there is no run {given}", "backfill runs")
    raise UnknownRun(f"{given} is the prefix of more than one run", "give more of the id")


async def request_like(gateway: Gateway, run_id: str, want: Mapping[str, str]) -> dict[str, Json]:
    """The request of a run, for another plan like it.

    want: versions by component, which take the place of the run's.
    """
    request = (await load_run(gateway, run_id))["request"]
    replaced = await _version_parameters(gateway, request["target"], want) if want else set()
    return {n: value for n, value in request.items() if n in KEPT_BY_LIKE - replaced}


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
