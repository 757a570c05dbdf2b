"""A run's folder: written while the run is applied, and rebuilt from the database afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from backfill.api.gateway import Gateway
from backfill.api.queries import (
    load_chain,
    load_outcome,
    load_plan,
    load_receipts,
    load_verification_if_possible,
)
from backfill.errors import BackfillError, CannotConnect
from backfill.files.folder import RunLog, files_are_missing
from backfill.files.records import (
    AnsweredCalls,
    Evidence,
    GrantedBatches,
    rebuilt_batches,
    rebuilt_calls,
    record_of,
)
from backfill.files.rollback_sql import Listing
from backfill.render.reports import summary_markdown
from backfill.results.event import Event
from backfill.results.plan import Plan


@asynccontextmanager
async def kept(logs_dir: Path | None, gateway: Gateway, run_id: str) -> AsyncIterator[RunLog]:
    """A run's folder while it is applied: the plan first, the ending last, also after an error.

    If a file could not be written, or the database did not answer what it should say, an error of
    ours says so in a note, and `failed` says it otherwise.
    """
    log = RunLog.open(logs_dir, run_id)
    if log.folder is not None:
        log.plan(await load_plan(gateway, run_id))
    try:
        try:
            yield log
        except CannotConnect:
            raise  # nobody answers or lets us in, so nobody says how it ended
        except BaseException:
            await _end(log, gateway, run_id)
            raise
        await _end(log, gateway, run_id)
    except BackfillError as error:
        if log.failed:
            error.add_note(files_are_missing(run_id, log.failed))
        raise


def write_down(log: RunLog, event: Event) -> None:
    """Keep an event of a run that is being applied, if its kind is kept."""
    if event.kind == "call":
        log.call(record_of(event))
    elif event.kind == "batch_settled":
        log.batch(int(event.details["batch"]), record_of(event))


async def _end(log: RunLog, gateway: Gateway, run_id: str) -> None:
    """Write the ending. The run has ended by then, whatever the files lack."""
    if log.folder is None:
        return
    try:
        await write_ending(log, gateway, run_id)
    except CannotConnect:
        raise
    except BackfillError as error:
        log.unanswered(error.message)


async def write_ending(log: RunLog, gateway: Gateway, run_id: str) -> None:
    """Write summary.md and rollback.sql as the database has it now."""
    await _write_summary(log, gateway, run_id)
    await _write_rollback(log, gateway, run_id)


async def write_all(logs_dir: Path, gateway: Gateway, run_id: str) -> Path:
    """Write every file of a run and return their folder. Raises BackfillError."""
    log = RunLog.open(logs_dir, run_id)
    await rebuild(log, gateway, run_id)
    if log.failed:
        raise BackfillError(f"the files could not be written: {log.failed}", "another --logs-dir")
    return logs_dir / run_id


async def rebuild(log: RunLog, gateway: Gateway, run_id: str) -> None:
    """Write every file of a run from the database.

    What a worker wrote stays, since it knows more, such as durations. Its batch files are not
    replaced, and calls.jsonl is only appended to. A call that is in flight now may be there twice:
    rebuilt, and from its worker.
    """
    plan = await load_plan(gateway, run_id)
    log.plan(plan)
    if plan.digest:  # an unsealed plan has nothing to verify
        await _write_summary(log, gateway, run_id)
    answered = AnsweredCalls()
    await _write_rollback(log, gateway, run_id, answered)
    batches = GrantedBatches(plan.sessions)
    async for event in load_chain(gateway, run_id):
        batches.add(event)
    known = Evidence(run_id, _functions(plan), plan.sessions, answered)
    for batch in rebuilt_batches(known, batches):
        log.rebuilt_batch(batch.details["batch"], record_of(batch))
    log.rebuilt_calls(map(record_of, rebuilt_calls(known, batches)))


async def _write_summary(log: RunLog, gateway: Gateway, run_id: str) -> None:
    ended = await load_outcome(gateway, run_id)
    verification = await load_verification_if_possible(gateway, run_id)
    log.summary(summary_markdown(ended.status, verification, ended.failures))


async def _write_rollback(
    log: RunLog, gateway: Gateway, run_id: str, answered: AnsweredCalls | None = None
) -> None:
    """Write rollback.sql. answered: takes the calls that left a receipt, unless None."""
    listing = Listing(run_id)
    with log.rollback() as write:
        write(listing.beginning())
        async for receipts in load_receipts(gateway, run_id):
            write(listing.of([r for r in receipts if r["undone_at"] is None]))
            if answered is not None:
                answered.add(receipts)
        write(listing.end())


def _functions(plan: Plan) -> dict[str, str]:
    steps = plan.figures.get("steps") or ()
    return {
        c: step["function"] for step in steps for c in step.get("components", [step["component"]])
    }
