"""Plans, summaries, verifications and undos as Markdown for people. Pure: data in, text out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from backfill.models import (
    Batch,
    Check,
    FailedSession,
    Json,
    Plan,
    PlannedSession,
    Status,
    UndoEffect,
    Verification,
)

MARKS = {"ok": "✅", "warn": "⚠️", "fail": "❌", "pass": "✅", "partial": "⚠️"}
WINDOW_S = 60  # the throttle counts the starts of any 60 seconds
NONE = "-"

# Parameters that the plan shows in a place of their own; all others are listed by name.
_PLACED = frozenset(
    {
        "since", "since_at", "until", "until_before", "recent_since", "throttle_per_minute",
        "batch_size", "priority", "environment",
    }
)  # fmt: skip
_CONSEQUENCES = {
    "environment": "nothing keeps this plan from being applied to the wrong project",
    "throttle": "nothing bounds the load on the database",
    "approval policy": "no second person has to look at the plan",
}
_MEANINGS = {
    "approved": "The plan is approved; no session has started.",
    "running": "Sessions are being scored, or wait for a worker.",
    "paused": "No session starts until the run is resumed.",
    "completed": "Every session is settled.",
    "rejected": "An approver refused the plan; it cannot be applied.",
    "cancelled": "The run was stopped for good; what it wrote stays.",
    "expired": "The approval ran out; what the run wrote stays.",
    "rolled_back": "No session is left done: what the run wrote was taken back.",
}
_NEXT = {
    "approved": "backfill apply {run}",
    "running": "backfill status {run}",
    "paused": "backfill resume {run}",
    "completed": "backfill verify {run}",
    "rejected": "backfill plan --like {run}",
    "cancelled": "backfill plan --like {run}",
    "expired": "backfill plan --like {run}",
}


# Pieces of Markdown ------------------------------------------------------------------------------

_SPECIAL = re.compile(r"[\\`*<\[\]|~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")


def escaped(value: object) -> str:
    """One line of plain text that no Markdown, HTML or terminal takes for anything else."""
    line = "".join(c if c.isprintable() else " " for c in str(value))
    return _SPECIAL.sub(r"\\\g<0>", " ".join(line.split()))


def code(value: object) -> str:
    """A code span; plain text where a code span in a table could not hold the value."""
    text = str(value)
    fits = text.isprintable() and re.fullmatch(r"[^`|\s]([^`|]*[^`|\s])?", text)
    return f"`{text}`" if fits else escaped(text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; the cells are Markdown already. Numbers stand to the right."""
    body = [list(row) for row in rows]
    rules = [_rule([row[place] for row in body]) for place in range(len(header))]
    lines = [header, rules, *body]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _rule(column: Sequence[object]) -> str:
    return "---:" if column and all(isinstance(cell, int) for cell in column) else "---"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *filter(None, parts)])


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def mm_ss(seconds: float) -> str:
    """75 as 01:15; from an hour on 3725 as 1:02:05. Rounded to whole seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours}:{left:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def duration(seconds: float) -> str:
    """15 as "15 s", 8.571429 as "8.571 s", 120 as "2 min", 3725 as "1 h 2 min 5 s"."""
    if seconds < WINDOW_S:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    named = ((hours, "h"), (left, "min"), (rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in named if count)


def counted(count: int, noun: str) -> str:
    """1 session, 1,200 sessions, 2 batches."""
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def _utc(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if moment else NONE


def _day(text: Json) -> str:
    return str(text).removesuffix("T00:00:00+00:00") if text else NONE


# The plan ----------------------------------------------------------------------------------------


def plan_markdown(plan: Plan) -> str:
    """A plan as people read it before they approve it, and afterwards what became of it.

    A plan that awaits approval ends with the SQL line that approves it.
    """
    if plan.is_empty:
        return _nothing_to_do(plan)
    title = f"# Backfill plan {code(plan.run_id)}"
    if not plan.figures:
        why = f"Reason: {escaped(plan.reason)}" if plan.reason else ""
        return _joined(title, _facts(plan), "The plan is not sealed: it has no figures.", why)
    parts = (
        _candidates, _calls_and_writes, _data_quality, _excluded, _batching, _order, _sessions,
        _risks, _rollback, _criteria, _ending,
    )  # fmt: skip
    return _joined(title, _facts(plan), *(part(plan) for part in parts))


def _nothing_to_do(plan: Plan) -> str:
    asked = plan.request
    until = f" until {escaped(asked['until'])}" if asked.get("until") else ""
    return (
        f"**Nothing to do**: no session since {escaped(asked.get('since', NONE))}{until} "
        "lacks anything that can be scored. No run was made.\n"
    )


def _facts(plan: Plan) -> str:
    asked, throttle = plan.request, plan.request.get("throttle_per_minute")
    facts = {
        "Created": _utc(plan.created_at),
        "Environment": escaped(plan.environment or "not set"),
        "Since": escaped(asked.get("since") or NONE),
        "Until": f"{escaped(asked['until'])}, included" if asked.get("until") else "no end",
        "Recent since": escaped(_day(asked.get("recent_since"))),
        **{code(name): code(asked[name]) for name in _unplaced(asked)},
        "Throttle": f"{throttle}/min" if throttle else "none",
        "Batch size": escaped(asked.get("batch_size") or NONE),
        "Digest": code(plan.digest or NONE),
        "State": plan.state.replace("_", " "),
    }
    return _bullets(f"**{name}**: {value}" for name, value in facts.items())


def _unplaced(request: Mapping[str, Json]) -> list[str]:
    """Names of the other parameters, versions first."""
    names = [name for name, value in request.items() if name not in _PLACED and value is not None]
    return sorted(names, key=lambda name: (not name.endswith("_version"), name))


def _largest_first(figures: Mapping[str, int]) -> list[tuple[str, int]]:
    named = [(name, count) for name, count in figures.items() if name != "total"]
    return sorted(named, key=lambda item: (-item[1], item[0]))


def _candidates(plan: Plan) -> str:
    found = plan.figures["candidates"]
    missing = _largest_first(found["missing"])
    every = "both" if len(missing) == 2 else f"all {len(missing)}"
    lines = [
        f"**Total candidates**: {counted(found['total'], 'session')}, created from "
        f"{_moment(plan.figures.get('oldest'))} to {_moment(plan.figures.get('newest'))}",
        *(f"**Missing {code(name)}**: {counted(count, 'session')}" for name, count in missing),
        f"**Missing {every}**: {counted(found['missing_all'], 'session')}",
    ]
    needs = {s.category: " then ".join(map(code, s.components)) for s in plan.sessions}
    categories = table(
        ("Category", "Sessions", "Scored"),
        ((code(n), c, needs.get(n, NONE)) for n, c in _largest_first(plan.figures["categories"])),
    )
    return _section("Candidate analysis", _bullets(lines), categories)


def _moment(text: str | None) -> str:
    return _utc(datetime.fromisoformat(text)) if text else NONE


def _steps(plan: Plan) -> Sequence[Mapping[str, Json]]:
    """The calls in their order where the plan carries them.

    [{component, function, arguments: [[name, value or null for the session's id]], table,
    version_column, version, keeps_versions}]
    """
    return plan.figures.get("steps") or ()


def _calls_and_writes(plan: Plan) -> str:
    calls, writes = plan.figures["expected_calls"], plan.figures["expected_writes"]
    versions = _versions(plan)
    order = (
        "In each session the calls are made in this order, each only where its row is missing; "
        "a call that fails ends the session."
        if _steps(plan)
        else "Each call is made only where its row is missing, with the parameters named above."
    )
    return _section(
        "Expected calls and writes",
        "Counted from what is missing. No call was made for this plan.",
        table(
            ("Function call", "Calls"),
            [*((code(c), n) for c, n in _calls(plan)), ("**total**", calls["total"])],
        ),
        order,
        table(
            ("Table", "Rows", "Version"),
            [
                *((code(n), f"+{c}", versions.get(n, NONE)) for n, c in _tables(plan)),
                ("**total**", f"+{writes['total']}", ""),
            ],
        ),
    )


def _calls(plan: Plan) -> list[tuple[str, int]]:
    calls = plan.figures["expected_calls"]
    steps = [(_pattern(step), calls[step["function"]]) for step in _steps(plan)]
    return steps or [(f"{name}(…)", count) for name, count in _largest_first(calls)]


def _pattern(step: Mapping[str, Json]) -> str:
    shown = (name if value is None else f"{name}='{value}'" for name, value in step["arguments"])
    return f"{step['function']}({', '.join(shown)})"


def _tables(plan: Plan) -> list[tuple[str, int]]:
    """The tables that are written, with their rows, in the order of the calls where known."""
    writes = plan.figures["expected_writes"]
    names = dict.fromkeys(s["table"] for s in _steps(plan))
    return [(name, writes[name]) for name in names] or _largest_first(writes)


def _versions(plan: Plan) -> dict[str, str]:
    """Table: the version its rows will carry, as Markdown."""
    return {s["table"]: f"{code(s['version_column'])} = {code(s['version'])}" for s in _steps(plan)}


def _data_quality(plan: Plan) -> str:
    rows = ((MARKS[c.status], escaped(c.name), _detail(c)) for c in plan.checks)
    return _section("Data quality", table(("", "Looked at", "Seen"), rows))


def _detail(check: Check) -> str:
    after = f" Next: {escaped(check.next_step)}" if check.next_step else ""
    return escaped(check.detail) + after


def _excluded(plan: Plan) -> str:
    listed, total = plan.figures["excluded"], plan.figures["excluded_total"]
    if not total:
        return _section("Excluded sessions", "None.")
    cut = f" The first {len(listed):,} are listed." if len(listed) < total else ""
    return _section(
        "Excluded sessions",
        f"{counted(total, 'session')} that lack something are left out as a whole.{cut}",
        table(
            ("Session", "Reason"),
            ((code(e["session_id"]), escaped(e["reason"])) for e in listed),
        ),
    )


def _batching(plan: Plan) -> str:
    size, throttle = plan.request["batch_size"], plan.request.get("throttle_per_minute")
    lines = [
        f"**Batch size**: at most {counted(size, 'session')} of one phase",
        *(_pace(throttle, size, plan.batch_spacing_s) if throttle else _no_pace()),
        f"**Runtime**: {_runtime(plan)}",
        "**A session that fails** is recorded with its error; the others go on",
    ]
    batches = table(
        ("Batch", "Phase", "Starts", "Sessions"),
        ((b.number, b.phase, mm_ss(b.starts_at_s), len(b.sessions)) for b in plan.batches),
    )
    return _section("Batching strategy", _bullets(lines), batches)


def _no_pace() -> list[str]:
    return ["**Throttle**: none; a batch starts as soon as a worker asks for it"]


def _pace(throttle: int, size: int, spacing_s: float) -> list[str]:
    """What the throttle allows, and why a faster pace would break it."""
    room = throttle // size
    return [
        f"**Throttle**: at most {counted(throttle, 'session')} started in any {WINDOW_S} s, "
        "over all workers, retries counted",
        f"**Spacing**: a window holds {counted(room, 'batch')} of {size}, so batches start "
        f"{duration(spacing_s)} apart. A batch every {duration(WINDOW_S / (room + 1))} would be "
        f"{(room + 1) * size}/min: the throttle wins",
    ]


def _runtime(plan: Plan) -> str:
    runtime_s = plan.figures.get("expected_runtime_s")
    if runtime_s is None:
        return "not predicted without a throttle"
    return (
        f"{duration(runtime_s)} from the first batch to the start of the last, at the earliest, "
        f"for {counted(plan.figures['candidates']['total'], 'session')}; "
        "how long the calls take was not measured"
    )


def _order(plan: Plan) -> str:
    what = {
        "priority": "the canary: verified before the next phase starts; "
        "where a row is missing, the run pauses",
        "recent": f"sessions created on or after {_day(plan.request.get('recent_since'))}",
        "historical": "the rest",
    }
    by_phase = Counter(s.phase for s in plan.sessions)
    lines = [
        f"{place}. **{phase}** ({counted(count, 'session')}): {escaped(what[phase])}"
        for place, (phase, count) in enumerate(by_phase.items(), start=1)
    ]
    named = [s.session_id for s in plan.sessions if s.phase == "priority"]
    canary = f"Priority sessions: {', '.join(map(code, named))}." if named else ""
    return _section(
        "Execution order", "\n".join(lines), canary, "Inside a phase the newest session is first."
    )


def _sessions(plan: Plan) -> str:
    members: dict[int, list[PlannedSession]] = {}
    for session in plan.sessions:
        members.setdefault(session.batch, []).append(session)
    started = any(s.state != "pending" or s.attempts for s in plan.sessions)
    parts = (_batch(b, members[b.number], started) for b in plan.batches)
    return _section("Sessions", *parts)


def _batch(batch: Batch, members: Sequence[PlannedSession], started: bool) -> str:
    header = ["#", "Session", "Lacks", "Created", *(["State", "Error"] if started else [])]
    rows = ([*_planned(s), *(_became(s) if started else [])] for s in members)
    title = f"### Batch {batch.number} ({batch.phase}, starts at {mm_ss(batch.starts_at_s)})"
    return f"{title}\n\n{table(header, rows)}"


def _planned(session: PlannedSession) -> list[object]:
    created = _utc(session.session_at)
    return [session.ordinal, code(session.session_id), code(session.category), created]


def _became(session: PlannedSession) -> list[object]:
    state = session.state.replace("_", " ")
    again = f", attempt {session.attempts}" if session.attempts > 1 else ""
    return [state + again, _error(session) if session.state == "failed" else ""]


def _error(failed: PlannedSession | FailedSession) -> str:
    parts = (failed.failed_step, failed.error_code, failed.error_message)
    return ": ".join(escaped(part) for part in parts if part) or NONE


def _risks(plan: Plan) -> str:
    worst_first = sorted(plan.checks, key=lambda c: c.status != "fail")
    seen = [_risk(c) for c in worst_first if c.status != "ok"]
    return _section("Risks", _bullets([*seen, *_standing_risks(plan)]))


def _risk(check: Check) -> str:
    why = _CONSEQUENCES.get(check.name)
    said = f"{MARKS[check.status]} **{escaped(check.name)}**: {_detail(check)}"
    return f"{said}; {why}" if why else said


def _standing_risks(plan: Plan) -> list[str]:
    excluded = plan.figures["excluded_total"]
    left = f"**Left as they are**: {counted(excluded, 'excluded session')}" if excluded else ""
    return [
        "**Idempotence**: not rehearsed; no scoring call was made for this plan. "
        "A call is made only where its row is still missing",
        "**Overwriting**: every planned row was missing when the plan was sealed. What somebody "
        "else has filled by then is skipped; of a row that a call does change, the receipt keeps "
        "what it was before",
        *([left] if left else []),
    ]


def _rollback(plan: Plan) -> str:
    run = plan.run_id
    return _section(
        "Rollback and audit",
        "Every row that the run writes has a receipt, committed with the row. An undo previews "
        "first, touches only rows that are still what the run wrote, and reports the others. "
        "It takes the whole run, single sessions or a range of dates:",
        _fenced(
            "sh",
            f"backfill rollback {run}\n"
            f"backfill rollback {run} --session ID\n"
            f"backfill rollback {run} --since DAY --until DAY",
        ),
        "Every move of the run, every claim and every settled batch is an event of its hash "
        f"chain; `backfill apply` also writes plan, calls, batches and summary to a folder, by "
        f"default {code(f'backfill_logs/{run}')}.",
    )


def _criteria(plan: Plan) -> str:
    """What `verify` will look at, by the names it uses, with what a pass expects."""
    priority = sum(s.phase == "priority" for s in plan.sessions)
    rows = [
        *_criteria_of_tables(plan),
        ("`priority_complete`", priority, "priority sessions with every planned row"),
        ("`critical_errors`", 0, "rows without a receipt, receipts without a row, refused gates"),
        ("`failed_sessions`", 0, "failed sessions; with any the verdict is partial, not pass"),
        ("`audit_complete`", "all", "events of the audit chain, none missing or changed"),
    ]
    return _section(
        "Success criteria",
        table(("Criterion", "Expected", "Counted"), rows),
        f"After the run: {code(f'backfill verify {plan.run_id}')}",
    )


def _criteria_of_tables(plan: Plan) -> list[tuple[str, object, str]]:
    versions = _versions(plan)
    rows: list[tuple[str, object, str]] = []
    for name, count in _tables(plan):
        version = versions.get(name, "the wanted version")
        rows.append((code(f"{name}_rows"), count, "planned rows, new and updated told apart"))
        rows.append((code(f"{name}_version"), count, f"rows the run wrote, with {version}"))
    kept = (s["table"] for s in _steps(plan) if s.get("keeps_versions"))
    legacy = [(code(f"{n}_no_legacy_versions"), 0, "new rows of another version") for n in kept]
    return [*rows, *legacy]


# How it ends -------------------------------------------------------------------------------------


def _ending(plan: Plan) -> str:
    return _halted(plan) if plan.state == "awaiting_approval" else _became_of(plan)


def _halted(plan: Plan) -> str:
    failing = sum(c.status == "fail" for c in plan.checks)
    warning = f"{MARKS['fail']} {counted(failing, 'check')} failed, see above." if failing else ""
    return _section(
        "Status",
        "**HALTED FOR APPROVAL**",
        "Nothing has been written. An approver accepts exactly this plan:",
        warning,
        _fenced("sh", f"backfill approve {plan.run_id} --digest {plan.digest}"),
        "or, in the SQL editor:",
        _fenced("sql", plan.approval_sql),
    )


def _became_of(plan: Plan) -> str:
    counts = Counter(s.state for s in plan.sessions)
    return _section(
        "Status",
        f"**{plan.state.upper().replace('_', ' ')}**. {_MEANINGS.get(plan.state, '')}".rstrip(),
        f"Reason: {escaped(plan.reason)}" if plan.reason else "",
        _counts(counts),
        _approval(plan),
        _next(plan.run_id, plan.state, counts["failed"]),
    )


def _counts(counts: Mapping[str, int]) -> str:
    rows = ((state.replace("_", " "), count) for state, count in counts.items() if count)
    return table(("Sessions", "Count"), rows)


def _approval(plan: Plan) -> str:
    given = plan.approval
    if given is None:
        return "Never approved."
    return (
        f"Approved by {escaped(given.approver)} (via {escaped(given.via)}) "
        f"at {_utc(given.at)}, valid until {_utc(given.until)}."
    )


def _next(run_id: str, state: str, failed: int) -> str:
    commands = [_NEXT[state].format(run=run_id)] if state in _NEXT else []
    if state == "completed" and failed:
        commands.append(f"backfill retry {run_id}")
    return "\n\n".join(["Next:", _fenced("sh", "\n".join(commands))]) if commands else ""


# After the run -----------------------------------------------------------------------------------


def summary_markdown(
    status: Status, verification: Verification | None, failures: Sequence[FailedSession]
) -> str:
    """How a run ended: its counts, its failed sessions, and the verdict where it was verified."""
    verified = _verified(verification) if verification else "Not verified."
    return _joined(
        f"# Backfill run {code(status.run_id)}",
        f"**{status.state.upper().replace('_', ' ')}**",
        f"Reason: {escaped(status.reason)}" if status.reason else "",
        f"Waits for: {escaped(status.waits_for)}" if status.waits_for else "",
        _counts({**status.counts, "total": status.total}),
        _approved(status),
        _section("Failed sessions", _failures(failures)),
        verified,
        _section("Audit", _audit(status.audit_count, status.audit_head)),
        _next(status.run_id, status.state, len(failures)),
    )


def _approved(status: Status) -> str:
    if not status.approved_by:
        return ""
    return f"Approved by {escaped(status.approved_by)}, valid until {_utc(status.approved_until)}."


def _failures(failures: Sequence[FailedSession]) -> str:
    rows = ((code(f.session_id), _error(f)) for f in failures)
    return table(("Session", "Error"), rows) if failures else "None."


def _audit(count: int, head: str) -> str:
    return (
        f"{counted(count, 'event')}, head {code(head or NONE)}. "
        "Keep the head outside the database: a chain computed anew shows against it."
    )


def verification_markdown(verification: Verification) -> str:
    """What stands in the tables against what was planned."""
    return _joined(
        f"# Verification of run {code(verification.run_id)}",
        _verified(verification),
        _section("Audit", _audit(verification.audit_count, verification.audit_head)),
    )


def _verified(verification: Verification) -> str:
    verdict = verification.verdict
    rows = (
        (MARKS[c.status], code(c.name), c.expected, c.actual, _shares(c.inserted, c.updated))
        for c in verification.criteria
    )
    critical = _bullets(f"{MARKS['fail']} {escaped(what)}" for what in verification.critical)
    return "\n\n".join(
        part
        for part in (
            f"## Verdict: {MARKS[verdict]} {verdict.upper()}",
            table(("", "Criterion", "Expected", "Counted", "Of these"), rows),
            f"**Critical**\n\n{critical}" if critical else "",
            _buckets(verification.buckets),
        )
        if part
    )


def _shares(inserted: int | None, updated: int | None) -> str:
    return "" if inserted is None else f"{inserted:,} new, {updated or 0:,} updated"


def _buckets(buckets: Mapping[str, Sequence[Mapping[str, Json]]]) -> str:
    """The counts of all, and the rows of those that are not as planned."""
    counts = table(
        ("Rows", "Count"), ((n.replace("_", " "), len(rows)) for n, rows in buckets.items())
    )
    odd = [
        (name.replace("_", " "), code(row["session_id"]), code(row["component"]))
        for name, rows in buckets.items()
        if name != "as_planned"
        for row in rows
    ]
    listed = table(("Rows", "Session", "Component"), odd) if odd else ""
    return "\n\n".join(filter(None, (counts, listed)))


def undo_markdown(effect: UndoEffect) -> str:
    """What an undo would take back, or took back, and the rows in conflict that it leaves."""
    previewed = effect.state == "previewed"
    tables = sorted({*effect.deletes, *effect.restores})
    rows = ((code(t), effect.deletes.get(t, 0), effect.restores.get(t, 0)) for t in tables)
    return _joined(
        f"# Undo of run {code(effect.run_id)}",
        "A preview: nothing has been changed."
        if previewed
        else f"Carried out; the run is {effect.state.replace('_', ' ')}.",
        f"{counted(effect.sessions, 'session')}, digest {code(effect.digest)}" if previewed else "",
        table(("Table", "Rows deleted", "Rows restored"), rows) if tables else "No row to undo.",
        _section("Conflicts", _conflicts(effect.conflicts)),
        _confirm(effect) if previewed and effect.sessions else "",
    )


def _conflicts(conflicts: Sequence[Mapping[str, Json]]) -> str:
    if not conflicts:
        return "None."
    rows = (
        (code(c["session_id"]), code(c["table"]), _key(c["row"]), escaped(c["reason"]))
        for c in conflicts
    )
    return "Left as they are:\n\n" + table(("Session", "Table", "Row", "Why"), rows)


def _key(row: Mapping[str, Json]) -> str:
    return ", ".join(f"{code(name)} {code(value)}" for name, value in row.items())


def _confirm(effect: UndoEffect) -> str:
    confirm = f'backfill rollback {effect.run_id} --confirm {effect.digest} --reason "…"'
    return "Next:\n\n" + _fenced("sh", confirm)
