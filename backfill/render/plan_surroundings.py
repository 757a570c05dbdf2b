"""Around a plan: what changed since, what its writes set off, how it is undone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backfill.render.markdown import (
    NONE,
    Called,
    agreed,
    bullets,
    code,
    escaped,
    fenced,
    section,
    table,
    utc,
)

if TYPE_CHECKING:
    from backfill.results.plan import Plan

FINGERPRINT_CHARS = 12
NAMED_SESSIONS = 20
TITLE = "Since the plan was sealed"


def changes_in_words(told: Mapping[str, Any], called: Called) -> list[str]:
    """The details of a `freshness` event, one sentence each. Empty if nothing changed."""
    filled, new = told["filled_total"], told["new_candidates_total"]
    lines = [_change(change) for change in told["changes"]]
    if filled:
        lines.append(f"{called.counted(filled)} filled meanwhile: {_skipped(filled)}")
    if gone := told["unselected_total"]:
        lines.append(f"{called.counted(gone)} no longer selected: {_skipped(gone)}")
    if late := told["replacing_total"]:
        lines.append(
            f"{called.counted(late)} {agreed(late, 'has', 'have')} a row of another version by "
            f"now: the run replaces {agreed(late, 'it', 'them')}, though the plan has new ones"
        )
    if new:
        lines.append(f"{called.counted(new)} lacking something now and not in the plan")
    if not told["digest_matches"]:
        lines.append("the plan no longer matches its digest: nothing will be scored")
    return lines


def _skipped(count: int) -> str:
    return f"{agreed(count, 'it', 'they')} will be skipped"


def _change(change: Mapping[str, str | None]) -> str:
    was, now = (_shown(change["kind"], change[moment]) for moment in ("was", "now"))
    return f"{change['kind']} {change['name']}: was {was}, is {now}"


def _shown(kind: str | None, value: str | None) -> str:
    if value is None:
        return "not there" if kind == "definition" else "not set"
    return f"{value[:FINGERPRINT_CHARS]}…" if kind == "definition" else value


def freshness(plan: Plan) -> str:
    """The section on what changed. Empty if the plan can no longer be carried out."""
    if plan.freshness_unknown:
        return section(TITLE, f"This could not be told: {escaped(plan.freshness_unknown)}")
    seen = plan.freshness
    if seen is None:
        return ""
    changed = changes_in_words(seen.as_dict(), plan.called)
    lines = [escaped(line) for line in changed] or [
        "Nothing changed: the same candidates, definitions and settings, and the digest matches"
    ]
    if seen.approved_until:
        over = "ran out at" if not seen.approval_left_s else "is valid until"
        lines.append(f"The approval {over} {utc(seen.approved_until)}")
    return section(
        TITLE,
        bullets(lines),
        _named("Filled", seen.filled, seen.filled_total),
        _reasons(seen.unselected, seen.unselected_total),
        _named("Replacing", seen.replacing, seen.replacing_total),
        _named("New", seen.new_candidates, seen.new_candidates_total),
    )


def _reasons(sessions: Sequence[Mapping[str, str]], total: int) -> str:
    """The sessions that are no longer selected, by reason. Empty if there are none."""
    by_reason: dict[str, list[str]] = {}
    for session in sessions[:NAMED_SESSIONS]:
        by_reason.setdefault(session["reason"], []).append(code(session["session_id"]))
    told = [f"{', '.join(ids)} ({escaped(why)})" for why, ids in by_reason.items()]
    more = [f"{total - NAMED_SESSIONS:,} more"] if total > NAMED_SESSIONS else []
    return f"No longer selected: {'; '.join([*told, *more])}." if total else ""


def _named(what: str, sessions: Sequence[str], total: int) -> str:
    if not total:
        return ""
    named = sessions[:NAMED_SESSIONS]
    more = [f"{total - len(named):,} more"] if total > len(named) else []
    return f"{what}: {', '.join([*map(code, named), *more])}."


def blast_radius(plan: Plan) -> str:
    """Everything on the written tables that fires, listens or refers to them."""
    if not plan.effects:
        return section(
            "Blast radius",
            "Nothing else on these tables fires, listens or refers to them.",
        )
    rows = (
        (
            e.kind,
            code(e.name),
            code(e.table) if e.table else NONE,
            escaped(e.detail),
            NONE if e.events is None else e.events,
        )
        for e in plan.effects
    )
    return section(
        "Blast radius",
        "What else happens when these rows are written, as the catalogs say.",
        table(("Kind", "Name", "Table", "What it does", "Events"), rows),
    )


def undo_and_audit(plan: Plan) -> str:
    """How the run can be undone, and what it leaves to be looked up."""
    run = plan.run_id
    return section(
        "Rollback and audit",
        f"{_receipts(plan)} An undo previews "
        "first, touches only rows that are still what the run wrote, and reports the others. "
        f"It takes the whole run, single {plan.called.many} or a range of dates:",
        fenced(
            "sh",
            f"backfill rollback {run}\n"
            f"backfill rollback {run} --session ID\n"
            f"backfill rollback {run} --since DAY --until DAY",
        ),
        "Every move of the run, every claim and every settled batch is an event of its hash "
        f"chain. `backfill apply` also writes plan, calls, batches and summary to a folder, by "
        f"default {code(f'backfill_logs/{run}')}.",
    )


def _receipts(plan: Plan) -> str:
    if plan.request.get("inferred"):
        return (
            "Receipts of an Edge Function that does not hand our headers on are inferred from the "
            "rows before and after its call. Rows that someone else writes meanwhile count as the "
            "run's. Rows that arrive after the call was given up have no receipt."
        )
    return "Every row that the run writes has a receipt, committed with the row."
