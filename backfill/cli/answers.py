"""What each answer looks like on a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from backfill.api.queries import LEAST_PREFIX_CHARS
from backfill.cli import terminal
from backfill.cli.plain import of_others
from backfill.cli.plain import shown as plainly
from backfill.cli.terminal import print_marked, print_next, print_next_step, print_prose, table
from backfill.files.folder import files_are_missing
from backfill.render.markdown import Called, counted, duration
from backfill.render.reports import unplanned_in_words
from backfill.render.state import rate_line
from backfill.results.check import Check
from backfill.results.coverage import Missing
from backfill.results.run import FailedSession, Json, Outcome, RunSummary, Status
from backfill.results.undo import UndoEffect
from backfill.results.verification import Verification, elsewhere_in_words

PROJECT = "project"
# A table in a check's name, with the word before it: `index on public.orders (paid_at)`.
_TABLE = re.compile(r'(?: of| on)? ((?:"(?:[^"]|"")+"|[^\s".]+)\.(?:"(?:[^"]|"")+"|[^\s".]+))\.?')
NAMED_SESSIONS = 20
RUNS_COLUMNS = 150  # below these the list of runs is cut


@plainly
def print_checks(checks: Sequence[Check], *, is_verbose: bool = False) -> None:
    """What is ok in a line per thing that it is about, then the others with what to do.

    is_verbose: one line per check.
    """
    fine = [] if is_verbose else [c for c in checks if c.status == "ok"]
    for subject, names in _by_subject(fine).items():
        print_prose(terminal.out, f"  {subject}: {', '.join(names)}", "ok")
    for check in checks:
        if check in fine:
            continue
        print_marked(check.status, f"  {check.name}: {check.detail}")
        if check.next_step:
            terminal.out.print(f"        Next: {check.next_step}")
    if fine:
        terminal.out.print(f"{len(fine)} of {len(checks)} are ok: --verbose lists them")


def _by_subject(checks: Sequence[Check]) -> dict[str, list[str]]:
    """Table -> what was looked at there. What names no table is about the project."""
    groups: dict[str, list[str]] = {PROJECT: []}
    for check in checks:
        found = _TABLE.search(check.name)
        subject = found[1] if found else PROJECT
        looked_at = _TABLE.sub(" ", check.name).replace("  ", " ") if found else check.name
        groups.setdefault(subject, []).append(looked_at.strip())
    return {subject: names for subject, names in groups.items() if names}


@plainly
def print_missing(missing: Missing) -> None:
    """What is missing per day, and in all."""
    several = len(missing.components) > 1
    every = ["lacks both" if len(missing.components) == 2 else "lacks all"] if several else []
    terminal.out.print(
        table(
            "day", "completed", "complete", *(f"lacks {name}" for name in missing.components),
            *every, "excluded", "coverage",
            rows=(
                (d.day or "no date", d.completed, d.complete, *d.missing.values(),
                 *([d.missing_all] if several else []),
                 d.excluded, "n/a" if d.coverage is None else f"{d.coverage:.1%}")
                for d in missing.days
            ),
        )
    )  # fmt: skip
    for one in missing.not_wanted:
        sessions = missing.called.counted(one["sessions"])
        terminal.out.print(f"no {one['component']} is wanted of {sessions}: {one['reason']}")
    if missing.coverage is None:
        terminal.out.print(f"no {missing.called.one} that can be scored")
    else:
        terminal.out.print(
            f"coverage {missing.coverage:.2%} of {missing.called.counted(missing.scorable)} "
            "that can be scored"
        )
    for note in missing.notes:
        terminal.out.print(note)


@plainly
def print_runs(
    runs: Sequence[RunSummary], *, state: str | None = None, target: str | None = None
) -> None:
    """The runs, the newest first. state, target: what was asked for."""
    if not runs:
        of_target = f" of target {target}" if target else ""
        is_so = f"no run{of_target} is {_words(state)}" if state else f"no runs{of_target} yet"
        terminal.out.print(is_so)
    elif terminal.out.width < RUNS_COLUMNS:
        _print_runs_narrow(runs)
    else:
        terminal.out.print(
            table(
                "run", "target", "state", "environment", "created", "sessions", "done", "failed",
                "approved by",
                rows=(
                    (r.run_id, r.target, _words(r.state), r.environment,
                     f"{r.created_at:%Y-%m-%d %H:%M}", r.total, r.done, r.failed, r.approved_by)
                    for r in runs
                ),
            )
        )  # fmt: skip


def _print_runs_narrow(runs: Sequence[RunSummary]) -> None:
    """One line per run in 80 columns: ids as prefixes, days without hours, names cut.

    Without the environment, which is the same for all of a project's runs but old ones.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    widths = {"run": None, "target": 9, "state": None, "created": None}
    for name, widest in widths.items():
        table.add_column(name, no_wrap=True, max_width=widest)
    for name in ("done", "failed"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("approved by", no_wrap=True, max_width=12)
    chars = _prefix_chars([r.run_id for r in runs])
    for r in runs:
        done, created = f"{r.done}/{r.total}", f"{r.created_at:%Y-%m-%d}"
        named = (r.run_id[:chars], r.target, _words(r.state), created)
        table.add_row(*named, done, str(r.failed), r.approved_by or "")
    terminal.out.print(table, soft_wrap=False)


def _words(state: str) -> str:
    return state.replace("_", " ")


def _prefix_chars(ids: Sequence[str]) -> int:
    """How many characters tell these ids apart, at least eight."""
    lengths = range(LEAST_PREFIX_CHARS, max(map(len, ids)))
    return next((n for n in lengths if len({i[:n] for i in ids}) == len(ids)), max(map(len, ids)))


@plainly
def status_text(status: Status) -> str:
    """The status of a run, and why it waits, in lines."""
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in status.counts.items() if n)
    lines = [f"run {status.run_id} is {status.state}: {counts or 'nothing'}"]
    if status.unselected:
        lines.append(f"{status.called.counted(status.unselected)} skipped: no longer selected")
    if status.left_behind:
        rows = f"{status.left_behind} row{'s' if status.left_behind > 1 else ''}"
        lines.append(f"{rows} left behind by an undo: backfill verify names them")
    if status.waits_for:
        lines.append(f"waits for {status.waits_for}")
    elif status.reason:
        lines.append(f"reason: {status.reason}")
    if status.state == "running":
        left = "not known" if status.eta_s is None else f"about {duration(status.eta_s)}"
        lines.append(f"{status.rate_per_minute:g} {status.called.many}/min, time left {left}")
    lines += _of_standing(status)
    if status.pace_per_minute != status.throttle_per_minute:
        lines.append(f"rate {rate_line(status.pace_per_minute, status.throttle_per_minute)}")
    lines.append(f"audit: {counted(status.audit_count, 'event')}, head {status.audit_head}")
    return "\n  ".join(lines)


def _of_standing(status: Status) -> list[str]:
    """By which standing approval it was approved, or why none covers it."""
    if status.standing is None:
        return []
    if status.approved_via == "standing":
        by = str(status.standing["standing_id"])[:8]
        return [f"approved by standing approval {by}, which {status.approved_by} approved"]
    if status.standing["reason"]:
        return [f"not covered: {status.standing['reason']}"]
    return [f"a standing approval covers it now: backfill standing ask {status.run_id}"]


@plainly
def print_status(status: Status) -> None:
    """The status of a run, why it waits, and what to type now."""
    terminal.out.print(status_text(status))
    print_next_step(status.next_step)


def show_status(status: Status, as_json: bool) -> None:
    """The status of a run, for machines or for people."""
    if as_json:
        terminal.print_json(status.as_dict())
    else:
        print_status(status)


@plainly
def print_failures(failures: Sequence[FailedSession], called: Called) -> None:
    """The failed sessions with their causes."""
    if failures:
        terminal.out.print(
            table(
                f"failed {called.one}", "step", "code", "cause",
                rows=(
                    (f.session_id, f.failed_step, f.error_code, f.error_message)
                    for f in failures
                ),
            )
        )  # fmt: skip


@plainly
def print_outcome(outcome: Outcome) -> None:
    """How an apply ended."""
    terminal.out.print(status_text(outcome.status))
    print_failures(outcome.failures, outcome.status.called)
    print_next_step(outcome.status.next_step)


@plainly
def print_missing_files(outcome: Outcome) -> None:
    """Say that files of the run are missing, on stderr, since it is not the answer."""
    if outcome.logs_failed:
        said = files_are_missing(outcome.status.run_id, outcome.logs_failed)
        terminal.err.print(said)


@plainly
def print_verification(verification: Verification) -> None:
    """The criteria, the buckets, the verdict."""
    for c in verification.criteria:
        written = "" if c.inserted is None else f"  ({c.inserted} inserted, {c.updated} updated)"
        print_marked(c.status, f"  {c.name}: expected {c.expected}, found {c.actual}{written}")
    for name, rows in verification.buckets.items():
        terminal.out.print(f"      {name}: {len(rows)}")
        if name not in ("as_planned", "filled_elsewhere"):
            for row in of_others(rows[:NAMED_SESSIONS]):
                more = f": {unplanned_in_words(row)}" if name == "unplanned" else ""
                terminal.out.print(f"        {row['session_id']} {row['component']}{more}")
            if len(rows) > NAMED_SESSIONS:
                terminal.out.print(
                    f"        … and {len(rows) - NAMED_SESSIONS} more: --json names them"
                )
    if verification.inferred:
        terminal.out.print(
            f"      receipts inferred from the rows before and after: {verification.inferred}"
        )
    if verification.new_candidates_total:
        _print_new_candidates(verification)
    for left in verification.left_behind:
        print_left_as_it_is(left)
    _print_elsewhere(verification.elsewhere)
    _print_critical(verification)
    terminal.out.print(Text("verdict: ").append_text(terminal.mark(verification.verdict)))
    step = verification.next_step
    if step is not None and step.text != f"backfill verify {verification.run_id}":
        print_next_step(step)


def _print_elsewhere(elsewhere: Sequence[Mapping[str, Json]]) -> None:
    if elsewhere:
        written = elsewhere_in_words(elsewhere)
        said = f"also written by the calls, or by others at that time: {written}"
        terminal.out.print(f"      {said}. No component names it, so an undo leaves it.")


def _print_critical(verification: Verification) -> None:
    for answer in verification.answered:
        terminal.out.print(f"      answered: {answer}")
    for line in verification.critical:
        print_marked("critical", f"  {line}")
    if verification.without_headers:
        terminal.out.print(f"      {verification.without_headers} wrote without our headers")


def _print_new_candidates(verification: Verification) -> None:
    total, named = verification.new_candidates_total, verification.new_candidates[:NAMED_SESSIONS]
    terminal.out.print(f"      new candidates, not in the plan: {total}")
    for session_id in named:
        terminal.out.print(f"        {session_id}")
    if total > len(named):
        terminal.out.print(f"        … and {total - len(named)} more: --json names up to 1,000")
    terminal.out.print(f"        Next: backfill plan --like {verification.run_id}")


@plainly
def print_undo(effect: UndoEffect) -> None:
    """What an undo would do or did, and when, if that was earlier."""
    if effect.was_finished:
        at = f"{effect.finished_at:%Y-%m-%d %H:%M:%S} UTC" if effect.finished_at else "before"
        terminal.out.print(f"already carried out at {at} by {effect.confirmed_by}")
    if effect.is_empty:
        terminal.out.print("nothing to undo" if effect.is_preview else "nothing was undone")
    else:
        _print_rows(effect)
    for conflict in effect.conflicts:
        print_left_as_it_is(conflict)
    _print_elsewhere(effect.elsewhere)
    if effect.confirming:
        if effect.needs_approval:
            terminal.out.print(
                "an approver who did not ask for it has to confirm, signed in by login"
            )
        print_next(effect.confirming)


@plainly
def print_left_as_it_is(row: Mapping[str, Json]) -> None:
    """A row that an undo does not take back, and why."""
    terminal.out.print(f"  left as it is: {row['session_id']} {row['table']}: {row['reason']}")


def _print_rows(effect: UndoEffect) -> None:
    verbs = ("would delete", "would restore") if effect.is_preview else ("deleted", "restored")
    for verb, counts in zip(verbs, (effect.deletes, effect.restores), strict=True):
        shown = ", ".join(f"{n} of {table}" for table, n in counts.items() if n)
        terminal.out.print(f"{verb}: {shown or 'nothing'}")
    terminal.out.print(f"{effect.called.many}: {effect.sessions}")
    if effect.session_ids:
        more = effect.sessions - len(effect.session_ids)
        named = ", ".join(effect.session_ids) + (f" and {more} more" if more > 0 else "")
        terminal.out.print(f"  {named}")
    if effect.inferred:
        terminal.out.print(
            f"of these rows {effect.inferred} have receipts inferred from before and after the"
            " call: what anyone else wrote meanwhile goes with them"
        )
