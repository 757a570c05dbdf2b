"""The demonstration: every step on a real database, in a temporary folder."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from backfill.api.gateway import Gateway
from backfill.blocking import Backfill
from backfill.cli import exit_codes, terminal
from backfill.client import AsyncBackfill
from backfill.local import stack
from backfill.local.sample import declare
from backfill.results.event import Event
from backfill.results.plan import Plan
from backfill.results.run import Json
from backfill.targets.declaration import PRISM, declared, over_edge_functions
from backfill.targets.migrations import functions_folder

Tell = Callable[[str], None]

SINCE = "2025-08-01"
UNDO_UNTIL = "2025-08-10"
PRIORITY = ("618c5ea6", "070d9bf2")


def print_line(line: str) -> None:
    """Print a line to stdout at once."""
    terminal.write(line)


def demonstrate(
    throttle_per_minute: int, *, over_edge: bool = False, tell: Tell, announce: Tell
) -> dict[str, Json]:
    """Take every step and say what happens. Returns what each step found.

    over_edge: score by Edge Functions instead of SQL functions.
    """
    with _ending() as ending, tempfile.TemporaryDirectory(prefix="backfill-demo-") as folder:
        tell("== A Supabase-like project on this machine: PostgreSQL, PostgREST, the sample's data")
        home = Path(folder)
        with (
            stack.running(
                home / "stack",
                sample="seed",
                functions=functions_folder() if over_edge else None,
                announce=announce,
            ) as project,
            Backfill(lambda: AsyncBackfill(Gateway(project.url, project.service_role_key))) as bf,
        ):
            try:
                ending.release()
                if over_edge:
                    declare(project.database_url, over_edge_functions(declared(PRISM), "demo"))
                return _whole_way(bf, throttle_per_minute, home, tell, ending)
            finally:
                ending.hold()


class _Ending:
    """Ctrl-C or SIGTERM ends the demonstration and removes all that it has started.

    A signal is held back while it would interrupt the start or the removal of the stack, or the
    scoring, which looks at `asked` itself.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._is_held = True

    def hear(self, number: int, _: FrameType | None) -> None:
        """On a signal, end here, or when released."""
        self.asked = number
        if not self._is_held:
            self.release()

    def hold(self) -> None:
        """From here on a signal is only noted."""
        self._is_held = True

    def release(self) -> None:
        """From here on a signal raises SystemExit with its exit code, at once if one came."""
        self._is_held = self.asked is not None
        if self.asked is not None:
            raise SystemExit(exit_codes.of_signal(self.asked))


@contextmanager
def _ending() -> Iterator[_Ending]:
    ending = _Ending()
    former = {n: signal.signal(n, ending.hear) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ending
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _whole_way(
    bf: Backfill, throttle: int, folder: Path, tell: Tell, ending: _Ending
) -> dict[str, Json]:
    plan = bf.plan(
        since=SINCE,
        engine_version="v1.2.1",
        fc_version="v1.2",
        throttle_per_minute=throttle,
        batch_size=5,
        priority=PRIORITY,
        environment="staging",
    )
    _tell_plan(plan, tell)
    tell("\n== Approve exactly this digest (the policy here is `any`: a stack of one person)")
    bf.approve(plan.run_id, digest=plan.digest, approver="demo")
    tell("\n== Apply")
    ending.hold()
    outcome = bf.apply(
        plan.run_id,
        on_event=lambda e: _tell_event(e, tell),
        logs_dir=folder / "logs",
        should_stop=lambda: ending.asked is not None,
    )
    ending.release()
    tell(f"   {outcome.status.counts['done']} sessions done, {len(outcome.failures)} failed")
    verdict = _tell_verification(bf, plan, tell)
    undone = _undo(bf, plan, tell)
    return {"plan": plan.as_dict(), "verdict": verdict, **undone}


def _tell_plan(plan: Plan, tell: Tell) -> None:
    shown = plan.as_dict()
    candidates, categories = shown["candidates"], shown["categories"]
    writes, phases = shown["expected_writes"], shown["phases"]
    tell("\n== Plan, measured from the database")
    tell(plan.markdown())
    tell("\n== In short")
    tell(
        f"   candidates {candidates['total']}, without a profile {candidates['missing_profile']}, "
        f"without FC scores {candidates['missing_fc_scores']}, "
        f"without both {candidates['missing_both']}"
    )
    tell(
        f"   categories: profile+fc_scores {categories['profile+fc_scores']}, "
        f"fc_scores {categories['fc_scores']}"
    )
    tell(
        f"   writes: {writes['fc_scores']} + {writes['profiles']} = {writes['total']}; "
        f"phases: {phases['priority']} / {phases['recent']} / {phases['historical']}"
    )
    tell(f"   run {plan.run_id} halts here: {plan.state.replace('_', ' ')}")


def _tell_event(event: Event, tell: Tell) -> None:
    if event.kind == "batch_settled":
        done = sum(s["state"] == "done" for s in event.details["settled"])
        tell(f"   batch {event.details['batch']}: {done} done")


def _tell_verification(bf: Backfill, plan: Plan, tell: Tell) -> str:
    verification = bf.verify(plan.run_id)
    tell("\n== Verify: planned against the tables")
    for c in verification.criteria:
        tell(f"   {c.status}  {c.name}: expected {c.expected}, found {c.actual}")
    tell(f"   verdict: {verification.verdict}")
    return verification.verdict


def _undo(bf: Backfill, plan: Plan, tell: Tell) -> dict[str, Json]:
    tell(f"\n== Undo the sessions up to {UNDO_UNTIL}: preview, then confirm exactly that")
    undo = bf.rollback(plan.run_id, until=UNDO_UNTIL)
    tell(f"   would delete {dict(undo.effect.deletes)}, conflicts {len(undo.effect.conflicts)}")
    done = undo.confirm(reason="demonstration")
    tell(f"   deleted {dict(done.deletes)}")
    missing = [d for d in bf.missing(since=SINCE).days if d.day and d.day <= UNDO_UNTIL]
    again = sum(d.missing["fc_scores"] for d in missing)
    tell(f"   missing again up to {UNDO_UNTIL}: {again} sessions without FC scores")
    return {"undo": done.as_dict(), "missing_again": again}
