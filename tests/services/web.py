"""A web service around the async face: plan, see, apply; approval stays with a person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date

from fastapi import BackgroundTasks, FastAPI, HTTPException

import backfill


def make_app(bf: backfill.AsyncBackfill) -> FastAPI:
    """The service; it closes the connection when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with bf:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/runs", status_code=201)
    async def plan(since: date) -> dict[str, str | int]:
        planned: backfill.Plan = await bf.plan(since=since)
        return {"run": planned.run_id, "state": planned.state, "sessions": len(planned.sessions)}

    @app.get("/runs/{run}")
    async def status(run: str) -> dict[str, str | int | None]:
        try:
            now: backfill.Status = await bf.status(run)
        except backfill.UnknownRun as unknown:
            raise HTTPException(404, unknown.message) from unknown
        return {"state": now.state, "done": now.counts["done"], "waits_for": now.waits_for}

    @app.post("/runs/{run}/apply", status_code=202)
    async def apply(run: str, tasks: BackgroundTasks) -> None:
        state = (await bf.status(run)).state
        if state == "awaiting_approval":
            raise HTTPException(409, "not approved yet")
        tasks.add_task(bf.apply, run)

    return app
