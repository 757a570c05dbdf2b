"""A plan as Markdown for people: before it is approved, and what became of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import indent
from typing import TYPE_CHECKING

from backfill.render.markdown import (
    MARKS,
    NONE,
    agreed,
    bullets,
    code,
    day,
    document,
    escaped,
    fenced,
    joined,
    section,
    table,
    utc,
)
from backfill.render.plan_answer import answer, span
from backfill.render.plan_batches import batching, order, sessions
from backfill.render.plan_rehearsal import MARKED, rehearsal
from backfill.render.plan_surroundings import blast_radius, freshness, undo_and_audit
from backfill.render.plan_trend import trend
from backfill.render.plan_writes import (
    calls_and_writes,
    filled,
    largest_first,
    overwriting,
    planned_steps,
    wanted_versions,
    written_tables,
)
from backfill.render.state import left_behind, next_step, reason_line
from backfill.request import OWN, PARAMETERS

if TYPE_CHECKING:
    from backfill.results.check import Check
    from backfill.results.plan import Plan
    from backfill.results.run import Json

# Titles of the parameters that a plan lists. A target's parameter without a title is listed by its
# name in the request.
_NAMED = {name: p.title for name, p in PARAMETERS.items() if p.title}
_CONSEQUENCES = {
    "throttle": "Nothing bounds the load on the database",
    "approval policy": "No second person has to look at the plan",
}


def plan_markdown(plan: Plan) -> str:
    """A plan as people read it before they approve it, and afterwards what became of it.

    It begins with its answer: what is written, how risky that is, and the lines that approve it.
    """
    return "".join(plan_pieces(plan))


def plan_pieces(
    plan: Plan, *, is_summary: bool = False, approver: str | None = None
) -> Iterator[str]:
    """The same, batch by batch: a large plan is some twenty megabytes of text.

    is_summary: the first part alone. approver: who reads it, for the SQL line. Without a
    name the line has a placeholder, which the database refuses.
    """
    if plan.is_empty:
        yield _nothing_to_do(plan)
    else:
        yield from document(_parts(plan, is_summary, approver))


def _parts(plan: Plan, is_summary: bool, approver: str | None) -> Iterator[str]:
    yield f"# Backfill plan {code(plan.run_id)}"
    if not plan.figures:
        yield _facts(plan)
        yield "The plan is not sealed: it has no figures."
        yield reason_line(plan.reason)
        yield next_step(plan.next_step)
        return
    yield answer(plan, approver)
    yield left_behind(plan.left_behind, plan.called)
    if is_summary:
        return
    for part in (
        freshness, _request, _candidates, trend, calls_and_writes, _data_quality, rehearsal,
        blast_radius, _not_wanted, batching, order, _risks, undo_and_audit, _criteria, _excluded,
    ):  # fmt: skip
        yield part(plan)
    yield from sessions(plan)


def _nothing_to_do(plan: Plan) -> str:
    asked = plan.request
    until = f" until {escaped(asked['until'])}" if asked.get("until") else ""
    return joined(
        f"**Nothing to do**: no {plan.called.one} since {escaped(asked.get('since', NONE))}{until} "
        "lacks anything that can be scored. No run was made.",
        bullets(_risk(c) for c in plan.checks if c.status != "ok" and _is_of_data(c)),
        _excluded(plan) if plan.excluded else "",
        _not_wanted(plan),
        bullets(_risk(c) for c in plan.checks if c.name.startswith(("where ", "dates of "))),
    )


def _is_of_data(check: Check) -> bool:
    return check.name not in _CONSEQUENCES and not check.name.startswith(MARKED)


def _request(plan: Plan) -> str:
    return section("Request", _facts(plan))


def _facts(plan: Plan) -> str:
    asked, throttle = plan.request, plan.request.get("throttle_per_minute")
    facts = {
        "Created": utc(plan.created_at),
        "Environment": escaped(plan.environment or "not set"),
        "Since": escaped(asked.get("since") or NONE),
        "Until": f"{escaped(asked['until'])}, included" if asked.get("until") else "no end",
        "Recent since": escaped(day(asked.get("recent_since"))),
        **_parameters(asked),
        **({} if asked.get("ids") is None else {"Limited to": f"{len(asked['ids'])} named"}),
        "Throttle": f"{throttle}/min" if throttle else "none",
        "Batch size": escaped(asked.get("batch_size") or NONE),
        "Digest": code(plan.digest or NONE),
        "State": plan.state.replace("_", " "),
    }
    return bullets(f"**{name}**: {value}" for name, value in facts.items())


def _parameters(asked: Mapping[str, Json]) -> dict[str, str]:
    """Title -> value as Markdown. Parameters without a title follow, versions first."""
    others = [name for name in asked if name not in OWN and name not in _NAMED]
    others.sort(key=lambda name: (not name.endswith("_version"), name))
    titles = _NAMED | {name: code(name) for name in others}
    return {titles[n]: code(asked[n]) for n in titles if asked.get(n) is not None}


def _candidates(plan: Plan) -> str:
    found, called = plan.figures["candidates"], plan.called
    missing = largest_first(found["missing"])
    several = len(missing) > 1
    every = "both" if len(missing) == 2 else f"all {len(missing)}"
    lines = [
        f"**Total candidates**: {called.counted(found['total'])}, dated {span(plan)}",
        *(f"**Missing {code(name)}**: {called.counted(count)}" for name, count in missing),
        *([f"**Missing {every}**: {called.counted(found['missing_all'])}"] if several else []),
    ]
    needs = {name: " then ".join(map(code, lacks)) for name, lacks, _ in plan.sessions.kinds()}
    categories = table(
        ("Category", called.title, "Scored"),
        ((code(n), c, needs.get(n, NONE)) for n, c in largest_first(plan.figures["categories"])),
    )
    # Of one component the table would say again what the lines say.
    return section("Candidate analysis", bullets(lines), categories if several else "")


def _data_quality(plan: Plan) -> str:
    standing = (c for c in plan.checks if not c.name.startswith(MARKED))
    rows = ((MARKS[c.status], escaped(c.name), _detail(c)) for c in standing)
    return section("Data quality", table(("", "Looked at", "Seen"), rows))


def _detail(check: Check, why: str | None = None) -> str:
    return escaped(". ".join(text.rstrip(" .;") for text in (check.detail, why) if text))


def _excluded(plan: Plan) -> str:
    listed, total = plan.figures["excluded"], plan.figures["excluded_total"]
    title = f"Excluded {plan.called.many}"
    if not total:
        return section(title, "None.")
    cut = f" The first {len(listed):,} are listed." if len(listed) < total else ""
    return section(
        title,
        f"{plan.called.counted(total)} {agreed(total, 'lacks', 'lack')} something and "
        f"{agreed(total, 'is', 'are')} excluded as a whole.{cut}",
        table(
            (plan.called.one_title, "Reason"),
            ((code(e["session_id"]), escaped(e["reason"])) for e in listed),
        ),
    )


def _not_wanted(plan: Plan) -> str:
    """Nothing if every component is wanted of every session that lacks it."""
    if not plan.not_wanted:
        return ""
    return section(
        "Not wanted",
        "These components are missing and not wanted. The other components of these "
        f"{plan.called.many} are planned as usual.",
        table(
            ("Component", plan.called.title, "Reason"),
            (
                (code(n["component"]), f"{n['sessions']:,}", escaped(n["reason"]))
                for n in plan.not_wanted
            ),
        ),
    )


def _risks(plan: Plan) -> str:
    worst_first = sorted(plan.checks, key=lambda c: c.status != "fail")
    seen = [_risk(c) for c in worst_first if c.status != "ok"]
    return section("Risks", bullets([*seen, *_standing_risks(plan)]))


def _risk(check: Check) -> str:
    told = _detail(check, _CONSEQUENCES.get(check.name))
    return f"{MARKS[check.status]} **{escaped(check.name)}**: {told}{_cure(check.next_step)}"


def _cure(step: str) -> str:
    """What to do about a mark. A line to copy is a block: a terminal prints it whole."""
    if not step.endswith(";") and not step.startswith("backfill "):
        return f". Next: {escaped(step)}" if step else ""
    block = fenced("sql" if step.endswith(";") else "sh", step)
    return f". Next:\n\n{indent(block, '  ')}"


def _standing_risks(plan: Plan) -> list[str]:
    excluded = plan.figures["excluded_total"]
    left = f"**Left as they are**: {plan.called.counted(excluded, 'excluded ')}" if excluded else ""
    return [
        "**Idempotence**: a call is made only if its row is still missing",
        overwriting(plan),
        *([left] if left else []),
    ]


def _criteria(plan: Plan) -> str:
    """What `verify` will count, by its own names, and the numbers that a pass expects."""
    many, priority = plan.called.many, sum(1 for _ in plan.sessions.in_phase("priority"))
    rows = [
        *_criteria_of_tables(plan),
        ("`priority_complete`", priority, f"priority {many} with every planned row"),
        ("`critical_errors`", 0, "rows without a receipt, receipts without a row, refused gates"),
        ("`failed_sessions`", 0, f"failed {many}: with any, the verdict is partial, not pass"),
        ("`audit_complete`", "all", "events of the audit chain, none missing or changed"),
    ]
    return section(
        "Success criteria",
        table(("Criterion", "Expected", "Counted"), rows),
        f"After the run: {code(f'backfill verify {plan.run_id}')}",
    )


def _criteria_of_tables(plan: Plan) -> list[tuple[str, object, str]]:
    versions, counted_rows = wanted_versions(plan), dict(_rows_by_criterion(plan))
    rows: list[tuple[str, object, str]] = []
    for name, (table_name, count) in counted_rows.items():
        rows.append((code(f"{name}_rows"), count, "planned rows, new and updated told apart"))
        if table_name in versions or not planned_steps(plan):
            version = versions.get(table_name, "the wanted version")
            rows.append((code(f"{name}_version"), count, f"rows the run wrote, with {version}"))
    kept = (_criterion(f) for f in filled(plan) if f.get("keeps_versions"))
    legacy = [(code(f"{n}_no_legacy_versions"), 0, "new rows of another version") for n in kept]
    return [*rows, *legacy]


def _rows_by_criterion(plan: Plan) -> Iterator[tuple[str, tuple[str, int]]]:
    """What `verify` calls a component's rows, with their table and their planned number.

    That is the table, and the component too if it shares that table with another one.
    """
    missing = plan.figures["candidates"]["missing"]
    writes = plan.expected_writes
    for f in filled(plan):
        rows = missing.get(f.get("component"), writes[f["table"]])
        yield _criterion(f), (f["table"], rows)
    if not planned_steps(plan):
        yield from ((name, (name, writes[name])) for name in written_tables(plan))


def _criterion(filled: Mapping[str, Json]) -> str:
    return str(filled.get("criteria", filled["table"]))
