"""What people read: every figure is there, no text can break a table, the end fits the state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from markdown_it import MarkdownIt

from backfill.render.markdown import code, duration, escaped, mm_ss
from backfill.render.plan import plan_markdown, plan_pieces
from backfill.render.reports import summary_markdown, verification_markdown
from backfill.results.check import Check
from backfill.results.plan import Approval, Plan
from backfill.results.run import FailedSession, NextStep, Status
from backfill.results.sessions import PlannedSession, PlannedSessions
from backfill.results.verification import Criterion, Verification

RUN = "22dc9d26-0e85-4a2c-9bdc-1b92db031930"
DIGEST = "a261f1ecc13668a0c44fa538787b47741ec50f7705721dd416c7124a87532fe8"
MOMENT = datetime(2025, 9, 16, 23, 59, 59, tzinfo=UTC)
HOSTILE = "a|b\n| --- |\n`x` <script> **bold** [link](https://example.org) \x1b[31mred"

REQUEST = {
    "basis": "functions",
    "since": "2025-08-01",
    "until": None,
    "target": "prism",
    "priority": ["session-01", "session-02"],
    "since_at": "2025-08-01T00:00:00+00:00",
    "batch_size": 5,
    "fc_version": "v1.2",
    "environment": "staging",
    "recent_since": "2025-09-01T00:00:00+00:00",
    "until_before": None,
    "min_responses": 1,
    "engine_version": "v1.2.1",
    "min_fc_responses": 1,
    "throttle_per_minute": 20,
}
FIGURES = {
    "newest": "2025-09-16T23:59:59.9+00:00",
    "oldest": "2025-08-01T00:00:00+00:00",
    "phases": {"recent": 5, "priority": 2, "historical": 32},
    "batches": 9,
    "excluded": [{"reason": "0 responses, at least 1 needed", "session_id": "session-99"}],
    "candidates": {"total": 39, "missing": {"profile": 13, "fc_scores": 39}, "missing_all": 13},
    "categories": {"profile": 0, "fc_scores": 26, "profile+fc_scores": 13},
    "excluded_total": 1,
    "expected_calls": {"total": 52, "score_prism": 13, "score_fc_session": 39},
    "batch_spacing_s": 15,
    "expected_writes": {
        "total": 52,
        "profiles": 13,
        "fc_scores": 39,
        "new": {"profiles": 13, "fc_scores": 39},
        "replaced": {"profiles": 0, "fc_scores": 0},
    },
    "replaced_versions": {"profiles": {}, "fc_scores": {}},
    "expected_runtime_s": 120,
}
STEPS = [
    {
        "component": "fc_scores",
        "function": "score_fc_session",
        "arguments": [["session_id", None], ["version", "v1.2"], ["basis", "functions"]],
        "table": "fc_scores",
        "version_column": "version",
        "version": "v1.2",
        "keeps_versions": True,
    },
    {
        "component": "profile",
        "function": "score_prism",
        "arguments": [["session_id", None], ["engine_version", "v1.2.1"]],
        "table": "profiles",
        "version_column": "results_version",
        "version": "v1.2.1",
        "keeps_versions": False,
    },
]
CHECKS = (
    Check("responses", "ok", "39 of 39 sessions have enough, 248 to 248 each"),
    Check("approval policy", "warn", "any: the service key may approve its own plan"),
)


def _session(ordinal: int) -> PlannedSession:
    phase = "priority" if ordinal <= 2 else "recent" if ordinal <= 7 else "historical"
    lacks = ("fc_scores", "profile") if ordinal % 3 == 2 else ("fc_scores",)
    return PlannedSession(
        ordinal=ordinal,
        session_id=f"session-{ordinal:02}",
        session_at=MOMENT - timedelta(hours=28 * ordinal),
        category="+".join(reversed(lacks)),
        components=lacks,
        phase=phase,  # type: ignore[arg-type]  # one of the three
        batch=1 if ordinal <= 2 else 2 + (ordinal - 3) // 5,
    )


def seed_plan(**changes: Any) -> Plan:
    """The seed's plan as the database seals it: 2, 5 and 32 sessions in nine batches."""
    plan = Plan(
        run_id=RUN,
        state="awaiting_approval",
        digest=DIGEST,
        environment="staging",
        created_at=datetime(2025, 9, 17, 8, tzinfo=UTC),
        request=REQUEST,
        figures=FIGURES,
        sessions=PlannedSessions(_session(ordinal) for ordinal in range(1, 40)),
        checks=CHECKS,
    )
    return replace(plan, **changes)


def tables_of(markdown: str) -> list[list[list[str]]]:
    """Every table as a Markdown reader sees it: rows of cells."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level > 3:
            tables[-1][-1].append(token.content)
    return tables


def text_of(markdown: str) -> str:
    """What a reader sees of inline Markdown."""
    inline = MarkdownIt("commonmark").parseInline(markdown)[0].children or []
    return "".join(child.content for child in inline)


def section_of(markdown: str, title: str) -> str:
    """One section's text."""
    return markdown.split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    "figure",
    [
        "**Created**: 2025-09-17T08:00:00Z",
        "**Environment**: staging",
        "**Since**: 2025-08-01",
        "**Engine version**: `v1.2.1`",
        "**FC version**: `v1.2`",
        "**Basis**: `functions`",
        "**Target**: `prism`",
        "**Throttle**: 20/min",
        "**Batch size**: 5",
        f"**Digest**: `{DIGEST}`",
        "**Total candidates**: 39 sessions",
        "**Missing `profile`**: 13 sessions",
        "**Missing `fc_scores`**: 39 sessions",
        "**Missing both**: 13 sessions",
        "| `profile+fc_scores` | 13 | `fc_scores` then `profile` |",
        "| `fc_scores` | 26 | `fc_scores` |",
        "| `score_fc_session(…)` | 39 |",
        "| `score_prism(…)` | 13 |",
        "| **total** | 52 |",
        "| `fc_scores` | +39 new |",
        "| `profiles` | +13 new |",
        "| **total** | +52 new |",
        "| `session-99` | 0 responses, at least 1 needed |",
        "| 9 | historical | 02:00 | 2 |",
        "2 min from the first batch",
        "1. **priority** (2 sessions)",
        "2. **recent** (5 sessions): sessions dated on or after 2025-09-01",
        "3. **historical** (32 sessions)",
        "Not rehearsed. No scoring call was made for this plan.",
    ],
)
def test_the_plan_shows_every_figure_of_the_seed(figure: str) -> None:
    assert figure in plan_markdown(seed_plan())


def test_the_calls_show_their_arguments_in_order_where_the_plan_carries_them() -> None:
    shown = plan_markdown(seed_plan(figures={**FIGURES, "steps": STEPS}))
    calls = section_of(shown, "Expected calls and writes")
    first = calls.index(
        "| `score_fc_session(session_id, version='v1.2', basis='functions')` | 39 |"
    )
    second = calls.index("| `score_prism(session_id, engine_version='v1.2.1')` | 13 |")
    assert first < second
    assert "| `profiles` | +13 new | `results_version` = `v1.2.1` |" in calls


def replacing(new: int, versions: Mapping[str, int]) -> Plan:
    """The seed's plan, of which some profiles take the place of a row that stands."""
    replaced = sum(versions.values())
    writes = {
        "fc_scores": 39, "profiles": new + replaced, "total": 39 + new + replaced,
        "new": {"fc_scores": 39, "profiles": new},
        "replaced": {"fc_scores": 0, "profiles": replaced},
    }  # fmt: skip
    told = {"fc_scores": {}, "profiles": versions}
    return seed_plan(figures={**FIGURES, "expected_writes": writes, "replaced_versions": told})


@pytest.mark.parametrize(
    ("new", "versions", "row", "total"),
    [
        (5, {"r1": 1}, "+5 new, 1 replaces version `r1`", "+44 new, 1 replaced"),
        (
            0,
            {"r1": 3, "": 1},
            "3 replace version `r1`, 1 replaces a row without a version",
            "+39 new, 4 replaced",
        ),
    ],
)
def test_new_and_replaced_rows_are_told_apart(
    new: int, versions: Mapping[str, int], row: str, total: str
) -> None:
    """In the table, and as a risk that names the versions."""
    shown = replacing(new, versions).markdown()
    writes = section_of(shown, "Expected calls and writes")
    assert f"| `profiles` | {row} |" in writes
    assert f"| **total** | {total} |" in writes
    assert "| `fc_scores` | +39 new |" in writes
    risks = section_of(shown, "Risks")
    assert f"⚠️ **Overwriting**: in `profiles` {row.removeprefix('+5 new, ')}. For each" in risks
    told = replacing(new, versions).as_dict()
    assert told["replaced_versions"]["profiles"] == versions


def test_the_success_criteria_bear_the_names_that_verify_uses() -> None:
    shown = plan_markdown(seed_plan(figures={**FIGURES, "steps": STEPS}))
    rows = tables_of(section_of(shown, "Success criteria"))[0][1:]
    assert {name.strip("`"): expected for name, expected, _ in rows} == {
        "fc_scores_rows": "39",
        "fc_scores_version": "39",
        "fc_scores_no_legacy_versions": "0",
        "profiles_rows": "13",
        "profiles_version": "13",
        "priority_complete": "2",
        "critical_errors": "0",
        "failed_sessions": "0",
        "audit_complete": "all",
    }


def test_every_session_is_named_once_in_its_batch() -> None:
    tables = tables_of(section_of(plan_markdown(seed_plan()), "Sessions"))
    named = [row[1].strip("`") for table in tables for row in table[1:]]
    assert [len(table) - 1 for table in tables] == [2, 5, 5, 5, 5, 5, 5, 5, 2]
    assert named == [f"session-{n:02}" for n in range(1, 40)]


def test_a_mark_is_what_was_measured() -> None:
    """In the table what was seen. What to do about it stands with the risks."""
    checks = (*CHECKS, Check("function score_prism", "fail", "it does not exist", "make it"))
    shown = plan_markdown(seed_plan(checks=checks))
    rows = tables_of(section_of(shown, "Data quality"))[0][1:]
    assert [row[0] for row in rows] == ["✅", "⚠️", "❌"]
    assert rows[2][2] == "it does not exist"
    assert "**function score_prism**: it does not exist. Next: make it" in shown


@pytest.mark.parametrize(("step", "language"), [("grant x to y;", "sql"), ("backfill check", "sh")])
def test_what_a_risk_wants_typed_is_a_block(step: str, language: str) -> None:
    """A terminal prints it whole, and it is pasted as it is."""
    shown = plan_markdown(seed_plan(checks=(Check("rights", "fail", "none", step),)))
    assert f". Next:\n\n  ```{language}\n  {step}\n  ```\n" in section_of(shown, "Risks")


@pytest.mark.parametrize(
    ("throttle", "size", "spacing_s", "said"),
    [(20, 5, 15, "15 s"), (600, 5, 0.5, "0.5 s"), (60, 1, 1, "1 s"), (5, 5, 60, "1 min")],
)
def test_the_pace_is_the_one_that_follows(
    throttle: int, size: int, spacing_s: float, said: str
) -> None:
    """No other pace is named: nobody asked for one."""
    plan = seed_plan(
        request={**REQUEST, "throttle_per_minute": throttle, "batch_size": size},
        figures={**FIGURES, "batch_spacing_s": spacing_s},
    )
    pace = section_of(plan_markdown(plan), "Batching strategy")
    assert f"batches start {said} apart\n" in pace
    assert pace.count("/min") == 0


def test_a_plan_of_one_component_says_each_figure_once() -> None:
    """What lacks all lacks that one, and its category is the component."""
    found = {"total": 32, "missing": {"profile": 32}, "missing_all": 32}
    figures = {**FIGURES, "candidates": found, "categories": {"profile": 32}}
    shown = section_of(plan_markdown(seed_plan(figures=figures)), "Candidate analysis")
    assert "**Missing `profile`**: 32 sessions" in shown
    assert "Missing all" not in shown
    assert "| Category |" not in shown
    assert seed_plan(figures=figures).candidates["missing_all"] == 32


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "1 session lacks something and is excluded as a whole."),
        (2, "2 sessions lack something and are excluded as a whole."),
    ],
)
def test_a_counted_sentence_agrees_with_its_number(count: int, said: str) -> None:
    excluded = [{"reason": "none", "session_id": f"s{n}"} for n in range(count)]
    figures = {**FIGURES, "excluded": excluded, "excluded_total": count}
    assert said in section_of(plan_markdown(seed_plan(figures=figures)), "Excluded sessions")


def test_a_plan_that_a_check_speaks_against_names_it_where_it_is_approved() -> None:
    """The page shows the end first, so nothing is said to stand above it."""
    checks = (Check("function f", "fail", "it is gone;", "make it"), *CHECKS)
    shown = plan_markdown(seed_plan(checks=checks))
    status = section_of(shown, "Status")
    assert "❌ 1 check failed: function f. The section Risks says what to do." in status
    assert "❌ **function f**: it is gone. Next: make it" in section_of(shown, "Risks")


def test_a_parameter_without_a_name_for_people_is_listed_by_its_own_after_the_others() -> None:
    shown = plan_markdown(seed_plan(request={"model_version": "m1", **REQUEST, "unused": None}))
    facts = [line for line in section_of(shown, "Request").splitlines() if line.startswith("- ")]
    names = [line.split("**")[1] for line in facts]
    assert names[names.index("Engine version") : names.index("Throttle")] == [
        "Engine version",
        "FC version",
        "Basis",
        "Target",
        "Minimum responses",
        "Minimum FC responses",
        "`model_version`",
    ]


def test_without_a_throttle_no_runtime_is_predicted() -> None:
    shown = plan_markdown(
        seed_plan(
            request={**REQUEST, "throttle_per_minute": None},
            figures={**FIGURES, "batch_spacing_s": 0, "expected_runtime_s": None},
        )
    )
    assert "**Throttle**: none" in shown
    assert "not predicted without a throttle" in shown


def test_a_risk_is_named_for_every_check_that_is_not_ok_the_worst_first() -> None:
    checks = (*CHECKS, Check("receipts of public.profiles", "fail", "triggers are missing"))
    risks = section_of(plan_markdown(seed_plan(checks=checks)), "Risks").splitlines()
    assert risks[1].startswith("- ❌ **receipts of public.profiles**: triggers are missing")
    assert risks[2].startswith("- ⚠️ **approval policy**")
    assert not any("248" in line for line in risks)


REASONS = ["1 check failed: function f", "2 rows are replaced", "1 trigger fires: audit"]


def test_a_plan_begins_with_its_answer_in_25_lines() -> None:
    """What is written, how risky that is and why, what speaks against it, how to approve."""
    checks = (Check("function f", "fail", "it is gone", "make it"), *CHECKS)
    risk = {"grade": "high", "reasons": [*REASONS, "4", "5", "6", "7"]}
    plan = seed_plan(checks=checks, figures={**FIGURES, "risk": risk})
    shown = plan_markdown(plan)
    first = shown.split("\n## ")
    lines = f"{first[0]}\n## {first[1]}".strip().splitlines()
    assert len(lines) <= 25
    text = "\n".join(lines)
    assert "**HALTED FOR APPROVAL**" in text
    assert "- **Writes**: +39 new in `fc_scores`; +13 new in `profiles`" in text
    assert "- **For**: 39 sessions, from 2025-08-01T00:00:00Z to 2025-09-16T23:59:59Z" in text
    assert "- **Risk**: **high** (high if a check failed or an undo would not be exact" in text
    assert [line.strip() for line in lines if line.startswith("  - ")] == [
        *(f"- {reason}" for reason in [*REASONS, "4"]),
        f"- 3 more: `backfill show {RUN} --json`",
    ]
    assert "❌ 1 check failed: function f." in text
    assert f"```sh\nbackfill approve {RUN} --digest {DIGEST}\n```" in text
    assert text.endswith(f"```sql\n{plan.approval_sql}\n```")
    assert "".join(plan_pieces(plan, is_summary=True)).strip() == text


def test_a_plan_ends_with_the_list_of_its_sessions() -> None:
    """What names each session comes last: the excluded, then the batches."""
    titles = re.findall(r"^## (.*)$", plan_markdown(seed_plan()), re.MULTILINE)
    assert titles[:3] == ["Status", "Request", "Candidate analysis"]
    assert titles[-2:] == ["Excluded sessions", "Sessions"]


def test_a_plan_without_any_risk_says_so() -> None:
    """Low, and what that means."""
    figures = {**FIGURES, "risk": {"grade": "low", "reasons": []}}
    shown = section_of(plan_markdown(seed_plan(figures=figures)), "Status")
    assert "- **Risk**: **low**: no check warns, nothing is replaced, nothing fires" in shown
    assert "- **Against it**: nothing that was looked at failed" in shown


def test_a_plan_with_failed_checks_says_so_where_it_halts() -> None:
    plan = seed_plan(checks=(Check("responses", "fail", "38 of 39"),))
    assert "❌ 1 check failed" in section_of(plan_markdown(plan), "Status")


def test_a_run_shows_what_became_of_every_session() -> None:
    done, failed, *others = seed_plan().sessions
    plan = seed_plan(
        state="paused",
        reason="the canary failed",
        sessions=PlannedSessions(
            (
                replace(done, state="done", attempts=1),
                replace(
                    failed,
                    state="failed",
                    attempts=2,
                    failed_step="profile",
                    error_code="23514",
                    error_message="no | way",
                ),
                *others,
            )
        ),
        approval=Approval("Ada", "sql", MOMENT, MOMENT + timedelta(days=7)),
    )
    shown = plan_markdown(plan)
    first_batch = tables_of(section_of(shown, "Sessions"))[0]
    assert first_batch[1][4:] == ["done", ""]
    assert first_batch[2][4:] == ["failed, attempt 2", "profile: 23514: no | way"]
    status = section_of(shown, "Status")
    assert "**PAUSED**" in status
    assert "Reason: the canary failed" in status
    assert tables_of(status)[0][1:] == [["done", "1"], ["failed", "1"], ["pending", "37"]]
    assert "Approved by Ada (via sql) at 2025-09-16T23:59:59Z" in status
    assert "valid until 2025-09-23T23:59:59Z" in status
    assert "HALTED" not in shown
    assert "backfill_approve" not in shown


@pytest.mark.parametrize(
    ("state", "command"),
    [
        ("approved", "backfill apply"),
        ("running", "backfill status"),
        ("paused", "backfill resume"),
        ("completed", "backfill verify"),
        ("rejected", "backfill plan --like"),
        ("cancelled", "backfill plan --like"),
        ("expired", "backfill plan --like"),
    ],
)
def test_every_state_ends_with_the_next_command(state: str, command: str) -> None:
    """As the database says it. What it says in which state is walked in test_next_steps."""
    plan = seed_plan(state=state, next_step=NextStep((state,), False, None, (f"{command} {RUN}",)))
    assert section_of(plan_markdown(plan), "Status").endswith(f"```sh\n{command} {RUN}\n```\n")


def test_a_step_is_a_sentence_and_lines_to_copy_by_where_they_are_typed() -> None:
    """SQL and commands do not share a block: each is pasted whole."""
    lines = ("drop function public.f(uuid);", f"backfill resume {RUN}")
    step = NextStep(("call:PGRST203",), True, "A call fits several functions | drop one.", lines)
    shown = section_of(plan_markdown(seed_plan(state="paused", next_step=step)), "Status")
    assert shown.endswith(
        "Next: A call fits several functions \\| drop one.\n\n"
        f"```sql\n{lines[0]}\n```\n\n```sh\n{lines[1]}\n```\n"
    )


def test_what_an_undo_left_is_named() -> None:
    """The row, its table and why it stays. Of many the first."""
    row = {
        "session_id": "session-01",
        "table": "public.fc_scores",
        "row": {"session_id": "session-01", "version": "v1.2"},
        "reason": "the row was changed since",
    }
    shown = plan_markdown(seed_plan(state="completed", left_behind=(row,) * 22))
    assert "22 rows could not be undone." in section_of(shown, "Left behind")
    assert (
        "| `session-01` | `public.fc_scores` | `session_id session-01, version v1.2` |"
        " the row was changed since |"
    ) in shown
    assert "| 2 more |" in shown
    assert "Left behind" not in plan_markdown(seed_plan(state="completed"))


def test_an_empty_plan_is_one_short_paragraph() -> None:
    plan = Plan("", "empty", "", "staging", None, {"since": "2025-08-01", "until": "2025-08-31"})
    shown = plan_markdown(plan)
    assert shown.startswith("**Nothing to do**: no session since 2025-08-01 until 2025-08-31")
    assert shown.count("\n") == 1


def test_a_plan_that_is_not_sealed_has_no_figures_and_says_so() -> None:
    assert "not sealed" in plan_markdown(
        seed_plan(state="planning", figures={}, sessions=PlannedSessions())
    )


def test_no_text_from_outside_breaks_a_table() -> None:
    first, *others = seed_plan().sessions
    plan = seed_plan(
        checks=(Check(HOSTILE, "warn", HOSTILE, HOSTILE),),
        figures={
            **FIGURES,
            "excluded": [{"session_id": HOSTILE, "reason": HOSTILE}],
        },
        sessions=PlannedSessions(
            (
                replace(first, session_id=HOSTILE, state="failed", error_message=HOSTILE),
                *others,
            )
        ),
    )
    for table in tables_of(plan_markdown(plan)):
        assert {len(row) for row in table} == {len(table[0])}
        assert not any(cell == "---" for row in table for cell in row)


def test_text_from_outside_is_neither_markup_nor_a_terminal_command() -> None:
    shown = escaped(HOSTILE)
    assert text_of(shown) == " ".join(HOSTILE.replace("\x1b", " ").split())
    assert "\n" not in shown
    assert "\x1b" not in shown


def test_names_with_underscores_stay_readable() -> None:
    assert escaped("service_role writes public.fc_scores") == "service_role writes public.fc_scores"
    assert escaped("_x_") == r"\_x\_"


@pytest.mark.parametrize("value", ["a`b", "a|b", " a", "a\nb", ""])
def test_what_a_code_span_cannot_hold_becomes_plain_text(value: str) -> None:
    assert code(value) == escaped(value)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "00:00"),
        (75, "01:15"),
        (8.571429, "00:08.6"),
        (0.06, "00:00.1"),
        (59.96, "01:00"),
        (3725, "1:02:05"),
        (3725.5, "1:02:05.5"),
    ],
)
def test_start_times_are_minutes_and_seconds_with_tenths_where_there_are_some(
    seconds: float, shown: str
) -> None:
    assert mm_ss(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (15, "15 s"),
        (8.571429, "8.571 s"),
        (59.9999, "60 s"),
        (120, "2 min"),
        (3725, "1 h 2 min 5 s"),
    ],
)
def test_durations_name_their_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


VERIFICATION = Verification(
    run_id=RUN,
    state="completed",
    verdict="partial",
    criteria=(
        Criterion("fc_scores_rows", 39, 38, "fail", inserted=37, updated=1),
        Criterion("failed_sessions", 0, 1, "fail"),
        Criterion("critical_errors", 0, 0, "pass"),
    ),
    buckets={
        "as_planned": [{"session_id": "session-01", "component": "fc_scores"}],
        "missing": [{"session_id": "session-02", "component": "fc_scores"}],
        "extra": [],
    },
    critical=(),
    audit_count=17,
    audit_head="56dfa76a",
)
STATUS = Status(
    run_id=RUN,
    state="completed",
    reason=None,
    counts={"pending": 0, "leased": 0, "done": 38, "failed": 1, "skipped": 0, "rolled_back": 0},
    rate_per_minute=0,
    eta_s=None,
    audit_count=17,
    audit_head="56dfa76a",
    approved_by="Ada",
    approved_until=MOMENT,
)


def test_a_verification_tells_new_and_updated_rows_apart() -> None:
    rows = tables_of(verification_markdown(VERIFICATION))[0]
    assert rows[1] == ["❌", "`fc_scores_rows`", "39", "38", "37 new, 1 updated"]
    assert rows[3] == ["✅", "`critical_errors`", "0", "0", ""]


def test_a_verification_lists_the_rows_that_are_not_as_planned() -> None:
    shown = verification_markdown(VERIFICATION)
    assert "## Verdict: ⚠️ PARTIAL" in shown
    assert tables_of(shown)[-1][1:] == [["missing", "`session-02`", "`fc_scores`"]]


def test_a_verification_lists_what_the_run_wrote_besides_its_plan() -> None:
    """With the receipt and the reason, in a table of its own."""
    row = {
        "session_id": "s1", "component": "profile", "row": {"session_id": "s1"},
        "operation": "update", "receipt": 7, "why": "the session did not lack it",
    }  # fmt: skip
    shown = verification_markdown(replace(VERIFICATION, buckets={"unplanned": [row]}))
    assert "| unplanned | 1 |" in shown
    assert tables_of(shown)[-1][1:] == [
        ["`s1`", "`profile`", "update, receipt 7: the session did not lack it"]
    ]


def test_a_verification_names_what_is_critical() -> None:
    shown = verification_markdown(replace(VERIFICATION, critical=("x: a written row is gone",)))
    assert "- ❌ x: a written row is gone" in shown


def test_a_verification_names_twenty_new_candidates_and_counts_the_rest() -> None:
    came = tuple(f"new-{n:04}" for n in range(1000))
    shown = verification_markdown(
        replace(VERIFICATION, new_candidates=came, new_candidates_total=1234)
    )
    section = section_of(shown, "New candidates")
    assert "1,234 sessions in the plan's range" in section
    assert [line for line in section.splitlines() if line.startswith("- ")] == [
        *(f"- `{session}`" for session in came[:20]),
        "- 1,214 more",
    ]
    assert section.rstrip().endswith(f"backfill plan --like {RUN}\n```")


def test_without_a_new_candidate_there_is_no_section_about_them() -> None:
    assert "New candidates" not in verification_markdown(VERIFICATION)
    assert "New candidates" not in summary_markdown(STATUS, VERIFICATION, [])


def test_the_summary_has_counts_failures_verdict_and_head() -> None:
    failure = FailedSession("session-02", "fc_scores", "P0001", "broken\npipe | here")
    step = NextStep(("completed", "failed"), False, None, (f"backfill retry {RUN}",))
    shown = summary_markdown(replace(STATUS, next_step=step), VERIFICATION, [failure])
    counts, failures, *_ = tables_of(shown)
    assert counts[1:] == [["done", "38"], ["failed", "1"], ["total", "39"]]
    assert failures[1] == ["`session-02`", "fc_scores: P0001: broken pipe | here"]
    assert "Verdict: ⚠️ PARTIAL" in shown
    assert "17 events, head `56dfa76a`" in shown
    assert f"backfill retry {RUN}" in shown


def test_the_summary_of_a_run_that_was_not_verified_says_so() -> None:
    assert "Not verified." in summary_markdown(STATUS, None, [])


def test_an_empty_plan_says_what_speaks_against_its_data() -> None:
    """Nothing is missing where no row is selected. The throttle does not matter then."""
    checks = (
        Check("values of public.orders.status", "warn", "none of 3 rows has status Paid", "look"),
        Check("throttle", "warn", "none: as fast as it goes"),
    )
    shown = seed_plan(state="empty", checks=checks, figures={**FIGURES, "excluded": []}).markdown()
    assert "**Nothing to do**" in shown
    assert "- ⚠️ **values of public.orders.status**: none of 3 rows has status Paid. Next" in shown
    assert "throttle" not in shown
