"""What a person sees: answers on stdout, progress on stderr, no colour when piped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Self

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from backfill.coverage import Missing
from backfill.models import (
    Check,
    Event,
    FailedSession,
    Json,
    Outcome,
    RunSummary,
    Status,
    UndoEffect,
    Verification,
)

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
MARKS |= {"pass": "[green]pass[/]", "partial": "[yellow]partial[/]"}
NAMED_SESSIONS = 20
NEVER_CUT = frozenset({"run", "failed session", "day"})

PIPE_COLUMNS = 250  # a pipe has no width; nothing may be cut there


def _console(*, stderr: bool) -> Console:
    shown = Console(stderr=stderr, soft_wrap=True, highlight=False)
    if not shown.is_terminal:
        shown.width = PIPE_COLUMNS
    return shown


out = _console(stderr=False)
err = _console(stderr=True)


def print_json(answer: Json) -> None:
    """An answer for machines, on stdout."""
    print(json.dumps(answer, indent=2, ensure_ascii=False, default=str))


def print_markdown(text: str) -> None:
    """Markdown: rendered for a terminal, as it is for a pipe."""
    if out.is_terminal:
        out.print(Markdown(text), soft_wrap=False)
    else:
        print(text)


def print_next(step: str) -> None:
    """What to type now."""
    out.print(f"  Next: {step}", markup=False)


def _table(*headers: str, rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=header in NEVER_CUT)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    return table


def print_checks(checks: Sequence[Check]) -> None:
    """A line a thing, with what to do where something is to be done."""
    for check in checks:
        out.print(f"{MARKS[check.status]:>4}  {check.name}: ", end="")
        out.print(check.detail, markup=False)
        if check.next_step:
            out.print(f"        Next: {check.next_step}", markup=False)


def print_missing(missing: Missing) -> None:
    """What is missing by day, and in all."""
    out.print(
        _table(
            "day", "completed", "complete", "no profile", "no FC scores", "neither",
            "unscorable", "coverage",
            rows=(
                (d.day, d.completed, d.complete, d.missing_profile, d.missing_fc_scores,
                 d.missing_both, d.excluded, "n/a" if d.coverage is None else f"{d.coverage:.1%}")
                for d in missing.days
            ),
        )
    )  # fmt: skip
    if missing.coverage is None:
        out.print("no session that can be scored")
    else:
        out.print(
            f"coverage {missing.coverage:.2%} of {missing.scorable} sessions that can be scored"
        )


def print_runs(runs: Sequence[RunSummary]) -> None:
    """The runs, the newest first."""
    if not runs:
        out.print("no runs yet")
        return
    out.print(
        _table(
            "run", "state", "environment", "created", "sessions", "done", "failed", "approved by",
            rows=(
                (r.run_id, r.state, r.environment, f"{r.created_at:%Y-%m-%d %H:%M}", r.total,
                 r.done, r.failed, r.approved_by)
                for r in runs
            ),
        )
    )  # fmt: skip


def print_status(status: Status) -> None:
    """Where a run stands, and why it waits."""
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in status.counts.items() if n)
    out.print(f"run {status.run_id} is {status.state}: {counts or 'nothing'}", markup=False)
    if status.waits_for or status.reason:
        out.print(f"  {status.waits_for or status.reason}", markup=False)
    if status.state in ("approved", "running"):
        eta = "unknown" if status.eta_s is None else f"{status.eta_s:.0f} s"
        out.print(f"  {status.rate_per_minute:g} sessions/min, about {eta} left")
    out.print(f"  audit: {status.audit_count} events, head {status.audit_head}")


def print_failures(failures: Sequence[FailedSession]) -> None:
    """The failed sessions with their causes."""
    if failures:
        out.print(
            _table(
                "failed session", "step", "code", "cause",
                rows=(
                    (f.session_id, f.failed_step, f.error_code, f.error_message)
                    for f in failures
                ),
            )
        )  # fmt: skip


def print_outcome(outcome: Outcome) -> None:
    """How an apply ended."""
    print_status(outcome.status)
    print_failures(outcome.failures)


def print_verification(verification: Verification) -> None:
    """The criteria, the buckets, the verdict."""
    for c in verification.criteria:
        written = "" if c.inserted is None else f"  ({c.inserted} inserted, {c.updated} updated)"
        out.print(f"{MARKS[c.status]}  {c.name}: expected {c.expected}, found {c.actual}{written}")
    for name, rows in verification.buckets.items():
        out.print(f"      {name}: {len(rows)}")
        if name in ("missing", "extra", "changed_since"):
            for row in rows[:NAMED_SESSIONS]:
                out.print(f"        {row['session_id']} {row['component']}", markup=False)
            if len(rows) > NAMED_SESSIONS:
                out.print(f"        … and {len(rows) - NAMED_SESSIONS} more: --json names them")
    for line in verification.critical:
        out.print(f"[red]critical[/]  {line}")
    out.print(f"verdict: {MARKS[verification.verdict]}")


def print_undo(effect: UndoEffect) -> None:
    """What an undo would do, or did, and when where that was before."""
    if effect.was_finished:
        at = f"{effect.finished_at:%Y-%m-%d %H:%M:%S} UTC" if effect.finished_at else "before"
        out.print(f"already carried out at {at} by {effect.confirmed_by}", markup=False)
    if effect.is_empty:
        out.print("nothing to undo" if effect.is_preview else "nothing was undone")
    else:
        _print_rows(effect)
    for conflict in effect.conflicts:
        out.print(
            f"  left as it is: {conflict['session_id']} {conflict['table']}: {conflict['reason']}",
            markup=False,
        )
    if effect.confirming:
        print_next(effect.confirming)


def _print_rows(effect: UndoEffect) -> None:
    verbs = ("would delete", "would restore") if effect.is_preview else ("deleted", "restored")
    for verb, counts in zip(verbs, (effect.deletes, effect.restores), strict=True):
        shown = ", ".join(f"{n} of {table}" for table, n in counts.items() if n)
        out.print(f"{verb}: {shown or 'nothing'}", markup=False)
    out.print(f"sessions: {effect.sessions}")


class ApplyProgress:
    """A bar with rate, time left and what the run waits for; plain lines where nobody looks."""

    def __init__(self, status: Status) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=err,
            transient=True,
        )
        settled = status.total - status.counts["pending"] - status.counts["leased"]
        self._task = self._bar.add_task(
            "apply", total=status.total, completed=settled, note="", rate=""
        )
        self._last = ""
        self._scored = 0
        self._began: datetime | None = None

    def __enter__(self) -> Self:
        if err.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def hear(self, event: Event) -> None:
        """Show an event."""
        self._began = self._began or event.at
        if event.kind == "batch_settled":
            self._settled(event)
        elif event.kind == "waiting":
            self._waiting(event)

    def _settled(self, event: Event) -> None:
        states = [s["state"] for s in event.details["settled"]]
        over = sum(state not in ("pending", "leased") for state in states)
        failed = states.count("failed")
        self._bar.advance(self._task, over)
        self._scored += over
        minutes = max((event.at - (self._began or event.at)).total_seconds(), 1) / 60
        self._bar.update(self._task, rate=f"{self._scored / minutes:.0f}/min")
        line = f"batch {event.details['batch']}: {over - failed} done, {failed} failed"
        self._note(line)

    def _waiting(self, event: Event) -> None:
        reason = f"waits for {event.details['wait_for']}: {event.details['why']}"
        self._bar.update(self._task, note=f"{reason}, {event.details['wait_s']:.0f} s")
        if not err.is_terminal and reason != self._last:
            err.print(reason, markup=False)
            self._last = reason

    def _note(self, line: str) -> None:
        self._bar.update(self._task, note=line)
        self._last = ""
        if not err.is_terminal:
            err.print(line, markup=False)
