"""The next step knows its cause: each pause and each refusal is brought about and walked out of.

What is said either helps by itself, or says that a person has to look or decide first. Then the
test does what that person would do.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import psycopg
import pytest

import backfill
from backfill.calls import METHODS, python_call, python_calls
from backfill.results.run import RunState
from backfill.targets import migrations
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.seed import CANDIDATES, SEED
from tests.kit.walk import SMALL, Walk

Db = psycopg.Connection[Any]
Act = Callable[[Walk], None]

SQL = Path(__file__).parents[1] / "sql"
THROTTLED = {"throttle_per_minute": 600}
GONE = "alter view backfill_private.prism_standing rename to moved_away"
BACK = "alter view backfill_private.moved_away rename to prism_standing"
RENAMED = "alter table public.fc_scores rename to scores_of_old"
NAMED_AGAIN = "alter table public.scores_of_old rename to fc_scores"
NO_TRIGGERS = """
do $$ declare v_name text; begin
  select tgname into v_name from pg_trigger
  where tgrelid = 'public.fc_scores'::regclass and tgname like '%backfill%' limit 1;
  execute format('drop trigger %I on public.fc_scores', v_name);
end $$
"""


@pytest.fixture
def walk(project_db: Db, clock: DatabaseClock) -> Walk:
    """On a project of its own, on a clock that moves only when somebody waits."""
    return Walk(project_db, clock)


ELSEWHERE = (
    "create or replace function backfill_private.server_identity() returns text"
    " language sql stable set search_path = pg_catalog, pg_temp as $$ select 'restored' $$"
)
NO_KEY = "alter table public.fc_scores drop constraint fc_scores_pkey cascade"
KEY_AGAIN = "alter table public.fc_scores add primary key (session_id, version, fc_kind)"


# How each cause comes about -----------------------------------------------------------------------


def running(**request: Any) -> Act:
    return lambda walk: walk.start(**request)


def broken(statement: str, **request: Any) -> Act:
    """The run is started, then somebody does this, then a worker asks for a batch."""

    def act(walk: Walk) -> None:
        walk.start(**request)
        walk.do(statement)
        walk.work()

    return act


def by_a_revoked_rule(walk: Walk) -> None:
    """A standing approval lets the run start, and is revoked."""
    walk.plan(limit=3)
    rule = verbs.call(
        walk.db,
        "backfill_propose_standing",
        until="2999-12-31",
        max_sessions=3,
        environment="staging",
    )
    named = (rule["standing_id"], rule["digest"])
    walk.db.execute("select public.backfill_approve(%s, %s, 'Ada')", named)
    verbs.call(walk.db, "backfill_ask_standing", run=walk.run_id)
    verbs.call(walk.db, "backfill_start", p_run_id=walk.run_id, p_worker="test")
    walk.db.execute("select public.backfill_revoke_standing(%s, 'enough')", named[:1])
    walk.work()


def told(*, canary: bool = False, limit: int = 3, **outcome: Any) -> Act:
    """Every call of the run has this outcome. canary: five sessions go first, of seven."""

    def act(walk: Walk) -> None:
        named = first_sessions(walk, 5) if canary else []
        walk.start(priority=named, limit=7 if canary else limit)
        walk.tell(**outcome)

    return act


def first_sessions(walk: Walk, count: int) -> list[str]:
    """Some of the sample's sessions that lack something."""
    return [row["session_id"] for row in walk.db.execute(CANDIDATES.encode())][:count]


def statement(text: str) -> Act:
    return lambda walk: walk.do(text)


def person_only(_: Walk) -> None:
    """A person looks and decides. There is nothing to do but what is typed."""


def hidden_receipt(walk: Walk) -> None:
    """A row of the canary's loses its receipt before it is settled."""
    walk.start(limit=3, batch_size=1)

    def tell(grant: dict[str, Any]) -> dict[str, Any]:
        outcome = verbs.score_all(walk.db, walk.run_id, grant)
        # Only the owner of the database can. The receipts' own guard refuses nobody else.
        walk.do("delete from public.backfill_receipts")
        return outcome

    walk.work(tell)


def held(cause: str, reason: str) -> Act:
    """The database holds the run so. What it sees is brought about for real elsewhere."""

    def act(walk: Walk) -> None:
        walk.start()
        walk.db.execute("select backfill_private.hold(%s, %s, %s)", (walk.run_id, cause, reason))

    return act


def paused_by(reason: str) -> Act:
    def act(walk: Walk) -> None:
        walk.start()
        verbs.call(walk.db, "backfill_pause", run=walk.run_id, reason=reason)

    return act


def planning(walk: Walk) -> None:
    walk.run_id = verbs.collected(walk.db, **SMALL)


def planned(walk: Walk) -> None:
    walk.plan()


def approved(walk: Walk) -> None:
    walk.plan()
    verbs.approve(walk.db, walk.run_id)


def leased(walk: Walk) -> None:
    walk.start()
    verbs.claim(walk.db, walk.run_id)


def completed(walk: Walk) -> None:
    walk.start()
    walk.work()


def failed(walk: Walk) -> None:
    walk.start()
    walk.tell(outcome="failed", code="P0001", message="no score for this one")


def failed_long_ago(walk: Walk) -> None:
    failed(walk)
    walk.clock.advance(8 * 86_400)


def rejected(walk: Walk) -> None:
    walk.plan()
    verbs.reject(walk.db, walk.run_id)


def cancelled(walk: Walk) -> None:
    walk.start()
    verbs.call(walk.db, "backfill_cancel", run=walk.run_id, reason="the wrong day")


def expired(walk: Walk) -> None:
    approved(walk)
    walk.clock.advance(8 * 86_400)
    verbs.start(walk.db, walk.run_id)


def undone(walk: Walk) -> None:
    completed(walk)
    preview = verbs.call(walk.db, "backfill_preview_undo", p_run_id=walk.run_id)
    verbs.call(
        walk.db,
        "backfill_confirm_undo",
        p_run_id=walk.run_id,
        p_digest=preview["digest"],
        p_reason="wrong scores",
    )


def half_undone(walk: Walk) -> None:
    """A row that somebody has changed since stays."""
    completed(walk)
    walk.do(
        "update public.fc_scores set blocks_answered = blocks_answered + 1 where session_id = ("
        " select session_id::uuid from public.backfill_items where state = 'done' limit 1)"
    )
    preview = verbs.call(walk.db, "backfill_preview_undo", p_run_id=walk.run_id)
    assert preview["conflicts"]
    verbs.call(
        walk.db,
        "backfill_confirm_undo",
        p_run_id=walk.run_id,
        p_digest=preview["digest"],
        p_reason="wrong scores",
    )


def change_back(walk: Walk) -> None:
    walk.do(
        "update public.fc_scores set blocks_answered = blocks_answered - 1 where session_id = ("
        " select session_id::uuid from public.backfill_items order by state = 'done' desc limit 1)"
    )


def unanswered(walk: Walk) -> None:
    """A critical event, and the run was resumed without an answer to it."""
    told(outcome="failed", code="OB018")(walk)
    verbs.call(walk.db, "backfill_resume", run=walk.run_id)
    walk.work()


def removed(walk: Walk) -> None:
    """Somebody has removed its target."""
    completed(walk)
    walk.do("select backfill_private.remove_target('prism')")


def put_target_back(walk: Walk) -> None:
    """Somebody installs it again."""
    [prism] = [f for f in migrations.our_files() if f.name.endswith("_backfill_prism.sql")]
    walk.do(prism.read_text())


def other_plan(walk: Walk) -> None:
    """Somebody has declared another version since the approval."""
    approved(walk)
    walk.do(
        "update backfill_private.sources"
        " set defaults = defaults || '{\"fc_version\": \"v1.3\"}' where target = 'prism'"
    )
    assert verbs.start(walk.db, walk.run_id)["state"] == "paused"
    assert walk.next["lines"] == [f"backfill plan --like {walk.run_id} --want fc_scores=v1.3"]


def over_edge(walk: Walk) -> None:
    """An Edge Function writes without our headers, though it is declared to hand them on."""
    walk.do(
        "update public.backfill_targets set transport = 'edge', function_version = '1',"
        " function_signature = 'score_fc_session' where component = 'fc_scores'"
    )
    walk.start()

    def tell(grant: dict[str, Any]) -> dict[str, Any]:
        walk.db.execute(
            "select public.score_fc_session(%s, 'v1.2', 'functions')", (grant["session_id"],)
        )
        return {"ordinal": grant["ordinal"], "outcome": "answered", "answered": ["fc_scores"]}

    walk.work(tell)


def hand_headers_on(walk: Walk) -> None:
    """Somebody mends the function: here the database makes the calls again."""
    walk.do(
        "update public.backfill_targets set transport = 'rpc', function_version = null,"
        " function_signature = 'public.score_fc_session(uuid, text, text)'"
        " where component = 'fc_scores'"
    )


def bad_canary(walk: Walk) -> None:
    """The one session that goes first fails."""
    walk.start(priority=first_sessions(walk, 1))
    walk.tell(outcome="failed", code="P0001", message="no score for this one")


@dataclass(frozen=True)
class Case:
    """A cause, how it comes about, and how one gets out of it.

    decides: what the person does before typing, None if the lines help by themselves. types: which
    of the lines, None for all. verdict: at the end, None if the run is not scored.
    """

    cause: str
    brings: Act
    decides: Act | None = None
    types: tuple[int, ...] | None = None
    verdict: str | None = "pass"


# What the API or a gateway answers for every call, and the causes that a mended project leaves.
STOP: tuple[str, ...] = (
    "25006",
    "42501",
    "42883",
    "42P01",
    "PGRST106",
    "PGRST202",
    "PGRST203",
    "PGRST205",
)
STOP += ("PGRST301", "PGRST302", "PGRST303", "301", "401", "403", "404", "540")
HELP_ALONE = ("42501", "PGRST202", "PGRST205")
FAILS: dict[str, Any] = {"outcome": "failed", "code": "P0001", "message": "no score for this one"}
STATES = (
    Case("planning", planning, verdict=None),
    Case("awaiting_approval", planned, person_only),
    Case("approved", approved),
    Case("running", leased, verdict=None),
    Case("no_worker", running()),
    Case("completed", completed),
    Case("failed", failed),
    Case("failed_for_good", failed_long_ago),
    Case("rejected", rejected),
    Case("cancelled", cancelled),
    Case("expired", expired),
    Case("rolled_back", undone, person_only),
    Case("left_behind", half_undone, change_back, types=(1,), verdict=None),
    Case("unanswered", unanswered, person_only),
    Case("removed", removed, put_target_back, types=()),
)
PAUSES = (
    Case("asked", paused_by("lunch")),
    Case("definition", broken("alter function public.score_prism(uuid, text) cost 101")),
    Case("plan", other_plan),
    Case("environment", broken("update public.backfill_settings set environment = 'qa'")),
    Case("server", broken(ELSEWHERE)),
    Case("standing", by_a_revoked_rule, person_only),
    Case("settings", broken("delete from public.backfill_settings"), person_only),
    Case("view_gone", broken(GONE), statement(BACK)),
    Case("gone", broken(RENAMED), statement(NAMED_AGAIN)),
    Case("receipt_triggers", broken(NO_TRIGGERS)),
    Case("key", broken(NO_KEY), statement(KEY_AGAIN)),
    Case(
        "throttle",
        broken("update public.backfill_settings set max_throttle_per_minute = 1", **THROTTLED),
        statement("update public.backfill_settings set max_throttle_per_minute = 600"),
    ),
    Case("no_headers", over_edge, hand_headers_on),
    Case("canary", bad_canary, person_only, types=(0, 1), verdict="partial"),
    Case("breaker", told(limit=25, **FAILS), person_only, verdict="partial"),
    Case("breaker:OB017", told(canary=True, outcome="answered"), person_only, types=(0, 1)),
    Case("no_outcome", told(outcome="unknown", code="transport", message="ReadTimeout", limit=9)),
    Case("repeats", held("repeats", "a call is repeated, in backends 99999999: …"), person_only),
    Case("OB016", hidden_receipt, person_only, verdict="partial"),
    Case("OB018", told(outcome="failed", code="OB018"), person_only, verdict="partial"),
    *(
        Case(
            f"call:{code}",
            told(outcome="stop", code=code, message="of every session"),
            None if code in HELP_ALONE else person_only,
        )
        for code in STOP
    ),
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.cause) for case in (*STATES, *PAUSES)])
def test_what_is_said_helps_or_says_that_a_person_decides(walk: Walk, case: Case) -> None:
    """The run is brought there, and what is typed leads out."""
    case.brings(walk)
    step = walk.next
    assert any(cause.startswith(case.cause) for cause in step["causes"])
    assert step["decides"] is (case.decides is not None)
    if case.decides is not None:
        assert step["says"] or case.cause == "awaiting_approval"
        case.decides(walk)
    types = range(len(step["lines"])) if case.types is None else case.types
    walk.follow([step["lines"][place] for place in types])
    if case.verdict is not None:
        assert (walk.row["state"], walk.verdict()) == ("completed", case.verdict)


@pytest.mark.parametrize(
    ("cause", "breaks", "mends"),
    [
        (
            "definition",
            "alter function public.score_prism(uuid, text) cost 101",
            "alter function public.score_prism(uuid, text) cost 100",
        ),
        (
            "environment",
            "update public.backfill_settings set environment = 'qa'",
            "update public.backfill_settings set environment = 'staging'",
        ),
        ("view_gone", GONE, BACK),
        ("key", NO_KEY, KEY_AGAIN),
    ],
)
def test_resume_is_offered_and_taken_only_once_what_stands_in_the_way_is_gone(
    walk: Walk, cause: str, breaks: str, mends: str
) -> None:
    """While it stands a resume is refused with the same step. Put back, the same run ends."""
    broken(breaks)(walk)
    step = walk.next
    assert step["causes"] == [cause]
    assert not any(line.startswith("backfill resume") for line in step["lines"])
    for door in ("backfill_resume", "backfill_retry"):
        with pytest.raises(psycopg.Error) as refused:
            verbs.call(
                walk.db, door, **{"run" if door == "backfill_resume" else "p_run_id": walk.run_id}
            )
        assert refused.value.sqlstate == "OB007"
        assert (refused.value.diag.message_hint or "").split("\n")[1:] == step["lines"]
    walk.do(mends)
    assert walk.next["causes"] == ["mended"]
    walk.follow(walk.next["lines"])
    assert (walk.row["state"], walk.verdict()) == ("completed", "pass")


def test_a_pause_by_a_person_does_not_hide_what_stands_in_the_way(walk: Walk) -> None:
    """Somebody paused it for lunch, and a function changed meanwhile: no resume would do."""
    paused_by("lunch")(walk)
    walk.do("alter function public.score_prism(uuid, text) cost 101")
    assert walk.next["causes"] == ["definition"]


# Refusals -----------------------------------------------------------------------------------------


def door(name: str, **arguments: Any) -> Act:
    """A call with the secret key. RUN stands for the run."""

    def act(walk: Walk) -> None:
        given = {n: walk.run_id if value == "RUN" else value for n, value in arguments.items()}
        verbs.call(walk.db, name, **given)

    return act


START = door("backfill_start", p_run_id="RUN", p_worker="test")
RESUME = door("backfill_resume", run="RUN")
RETRY = door("backfill_retry", p_run_id="RUN")
UNDO = door("backfill_preview_undo", p_run_id="RUN")


def approve_as(digest: str) -> Act:
    def act(walk: Walk) -> None:
        walk.db.execute("select public.backfill_approve(%s, %s, 'Ada')", (walk.run_id, digest))

    return act


def approve_now(walk: Walk) -> None:
    walk.db.execute(
        "select public.backfill_approve(run_id, digest, 'Ada')"
        " from public.backfill_runs where run_id = %s",
        (walk.run_id,),
    )


def redefined(walk: Walk) -> None:
    walk.plan()
    walk.do("alter function public.score_prism(uuid, text) cost 101")


def paused_long_ago(walk: Walk) -> None:
    paused_by("lunch")(walk)
    walk.clock.advance(8 * 86_400)


def share_is_taken(walk: Walk) -> None:
    """The project's bound leaves another run nothing."""
    walk.start(**THROTTLED)
    verbs.call(walk.db, "backfill_pause", run=walk.run_id, reason="lunch")
    walk.do("update public.backfill_settings set max_throttle_per_minute = 1")


REFUSALS = (
    ("start of a plan that is being made", "OB003", planning, START, None),
    ("start before the approval", "OB003", planned, START, "pass"),
    ("start of a rejected run", "OB002", rejected, START, "pass"),
    ("start of a cancelled run", "OB002", cancelled, START, "pass"),
    ("start of an expired run", "OB002", expired, START, "pass"),
    ("start of an undone run", "OB002", undone, START, "pass"),
    ("resume of a running run", "OB002", running(), RESUME, None),
    ("resume of a completed run", "OB002", completed, RESUME, "pass"),
    ("resume of an approved run", "OB002", approved, RESUME, "pass"),
    ("resume after the approval ran out", "OB006", paused_long_ago, RESUME, "pass"),
    ("resume without a share", "OB015", share_is_taken, RESUME, None),
    ("retry after the approval ran out", "OB006", failed_long_ago, RETRY, "pass"),
    ("retry of a cancelled run", "OB002", cancelled, RETRY, "pass"),
    ("undo of a running run", "OB002", running(), UNDO, None),
    ("undo of a plan", "OB002", planned, UNDO, "pass"),
    ("approve another digest", "OB004", planned, approve_as("9c1e"), None),
    ("approve what has changed", "OB007", redefined, approve_now, "pass"),
    ("approve twice", "OB002", approved, approve_now, "pass"),
)


@pytest.mark.parametrize(
    ("code", "brings", "does", "verdict"),
    [pytest.param(*case, id=name) for name, *case in REFUSALS],
)
def test_a_refusal_says_what_leads_on(
    walk: Walk, code: str, brings: Act, does: Act, verdict: str | None
) -> None:
    """What is refused is said with the step that the run waits for, and that one is taken."""
    brings(walk)
    with pytest.raises(psycopg.Error) as refused:
        does(walk)
    assert refused.value.sqlstate == code
    said = (refused.value.diag.message_hint or "").split("\n")
    lines = [line for line in said if line.startswith("backfill ")]
    assert lines
    for line in lines:
        walk.type(line)
    if verdict is not None:
        walk.follow([])
        assert (walk.row["state"], walk.verdict()) == ("completed", verdict)


# The same words everywhere ------------------------------------------------------------------------


def test_an_api_that_cannot_choose_is_said_with_what_to_drop(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """Exception, status, show, JSON and page say the same. Dropped and resumed, the run ends."""
    plan = bf.plan(**{**SEED, "limit": 2, "priority": [], "throttle_per_minute": "none"})
    project.approve(plan)
    run = plan.run_id
    project.db.execute(
        b"create function public.score_prism(session_id text, engine_version text) returns int"
        b" language sql as 'select 1';"
        b"create function public.score_fc_session(session_id text, version text, basis text)"
        b" returns int language sql as 'select 1'"
    )
    project.reload()
    with pytest.raises(backfill.Paused) as paused:
        bf.apply(run)
    drop = "drop function public.score_fc_session(text,text,text), public.score_prism(text,text);"
    resume = f"backfill resume {run}"
    assert paused.value.next_step.split("\n")[1:] == [
        drop,
        "notify pgrst, 'reload schema';",
        resume,
    ]
    assert f'In Python: bf.resume("{run}")' in str(paused.value)
    status = bf.status(run)
    assert status.cause == "call:PGRST203"
    assert status.next_step is not None
    assert status.next_step.text == paused.value.next_step
    assert status.next_step.calls == (f'bf.resume("{run}")',)
    assert shell("status", run, "--json").json["next"] == status.next_step.as_dict()
    assert shell("show", run, "--json").json["next"] == status.next_step.as_dict()
    applied = shell("apply", run)
    assert (applied.code, paused.value.typed() in applied.err) == (3, True)
    assert shell("apply", run, "--json").json["error"]["next"] == paused.value.next_step
    for shown in (shell("status", run).out, shell("show", run).out, bf.page(run)):
        assert drop in shown
        assert resume in shown
    project.db.execute(drop.encode())
    project.reload()
    assert shell(*shlex.split(resume)[1:]).code == 0
    assert bf.apply(run).is_complete


def test_what_an_undo_left_behind_is_counted_and_named(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """By status how many, by show and verify which, until a later undo takes them back."""
    plan = bf.plan(**{**SEED, "limit": 2, "priority": [], "throttle_per_minute": "none"})
    project.approve(plan)
    bf.apply(plan.run_id)
    changed = plan.sessions[0].session_id
    project.rows(
        "update public.fc_scores set blocks_answered = blocks_answered + 1 where session_id = %s"
        " returning 1",
        changed,
    )
    bf.rollback(plan.run_id).confirm(reason="wrong scores")
    status = bf.status(plan.run_id)
    assert status.left_behind == 1
    named = [(r["session_id"], r["table"], r["reason"]) for r in bf.get(plan.run_id).left_behind]
    assert named == [(changed, "public.fc_scores", "the row was changed since")]
    assert bf.verify(plan.run_id).left_behind == bf.get(plan.run_id).left_behind
    assert shell("verify", plan.run_id, "--json").json["left_behind"][0]["session_id"] == changed
    assert shell("show", plan.run_id, "--json").json["left_behind"][0]["session_id"] == changed
    assert "1 row left behind by an undo" in shell("status", plan.run_id).out
    assert f"left as it is: {changed}" in shell("verify", plan.run_id).out
    assert "could not be undone" in shell("show", plan.run_id).out
    project.rows(
        "update public.fc_scores set blocks_answered = blocks_answered - 1 where session_id = %s"
        " returning 1",
        changed,
    )
    bf.rollback(plan.run_id).confirm(reason="wrong scores, all of them")
    assert bf.status(plan.run_id).left_behind == 0


# The table is complete ----------------------------------------------------------------------------


def sources() -> dict[str, str]:
    """Path -> text of the SQL that declares the core."""
    return {str(f.relative_to(SQL)): f.read_text() for f in sorted(SQL.glob("[0-9]*/*.sql"))}


def arguments(text: str, start: int) -> list[str]:
    """The arguments of a call whose opening parenthesis ends at `start`."""
    found, depth, quoted = [""], 0, False
    for char in text[start:]:
        quoted ^= char == "'"
        if not quoted and char in ")]" and depth == 0:
            return [one.strip() for one in found]
        depth += 0 if quoted else (char in "([") - (char in ")]")
        if char == "," and depth == 0 and not quoted:
            found.append("")
        else:
            found[-1] += char
    raise AssertionError(text[start : start + 80])


def calls_of(function: str) -> list[tuple[str, list[str]]]:
    """(path, arguments) of every call of one of our functions."""
    return [
        (path, arguments(text, call.end()))
        for path, text in sources().items()
        for call in re.finditer(rf"(?<!function )backfill_private\.{function}\(", text)
    ]


@pytest.fixture
def table(project_db: Db) -> dict[str, dict[str, Any]]:
    """The rows of the view by their cause."""
    rows = project_db.execute("select * from backfill_private.causes").fetchall()
    assert len({row["cause"] for row in rows}) == len(rows)
    return {row["cause"]: row for row in rows}


def test_every_pause_names_its_cause_and_the_table_has_it(table: dict[str, Any]) -> None:
    """By a code, or by the beginning of one: of call: the code follows."""
    named = [args[1] for _, args in calls_of("hold")]
    named += [args[-1] for _, args in calls_of("move") if "'paused'" in args[1]]
    assert len(named) > 7
    literal = {found for text in named for found in re.findall(r"'([\w:]+)'", text)}
    text = sources()["60_apply/in_the_way.sql"] + sources()["95_face/next_step.sql"]
    literal |= set(re.findall(r"cause := '(\w+)'", text))
    literal.discard("pause")
    assert len(literal) > 12
    assert {cause for cause in literal if not any(cause.startswith(row) for row in table)} == set()
    # Codes of settled sessions and causes that are looked up are no literals.
    assert [text for text in named if not re.search(r"'\w+:?'|cause\b", text)] == []


def test_every_state_and_every_error_of_all_calls_has_a_row(
    project_db: Db, table: dict[str, Any]
) -> None:
    """A paused run has the cause of its pause."""
    assert {*get_args(RunState)} - {"paused"} <= set(table)
    stops = project_db.execute(
        "select class from backfill_private.faults where direct = 'stop'"
    ).fetchall()
    for row in stops:
        own = [cause for cause in table if f"call:{row['class']}".startswith(cause)]
        assert own != ["call:"], row


def test_every_row_is_walked_and_says_what_to_type(table: dict[str, Any]) -> None:
    """`mended` and `call:` are walked with the others. A line is a command of ours, or SQL."""
    walked = {case.cause for case in (*STATES, *PAUSES)}
    left = {cause for cause in table if not any(one.startswith(cause) for one in walked)}
    assert left == {"mended"}
    for row in table.values():
        assert row["lines"]
        assert all(line.startswith("backfill ") or line[-1] in ";}" for line in row["lines"])
        assert not row["decides"] or row["says"] or row["cause"] == "awaiting_approval"


def test_every_refusal_says_what_to_do_next() -> None:
    """A code, a sentence, and a next step that is not empty."""
    calls = calls_of("refuse")
    assert len(calls) > 80
    assert [
        (path, args) for path, args in calls if len(args) < 3 or args[2] in ("''", "null")
    ] == []


class Bound:
    """Takes a call as a connection would, and says which method it is."""

    def __getattr__(self, name: str) -> Callable[..., str]:
        signature = inspect.signature(getattr(backfill.Backfill, name))

        def bind(*args: Any, **named: Any) -> str:
            signature.bind(self, *args, **named)
            return name

        return bind


def test_every_command_of_the_table_has_its_call(table: dict[str, Any]) -> None:
    """As the method takes it. What only a shell has is typed there."""
    given = {
        "{run}": "4f2c1b9e",
        "{digest}": "9c1e",
        "{want}": " --want a=b",
        "{environment}": "qa",
    }
    for line in {line for row in table.values() for line in row["lines"]}:
        if not line.startswith("backfill ") or line.split()[1] == "install":
            assert python_call(line) is None
            continue
        for name, value in given.items():
            line = line.replace(name, value)
        call = python_call(line)
        assert call is not None
        assert eval(call, {"bf": Bound()}) == METHODS[line.split()[1]]  # noqa: S307 - our own line


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (
            "backfill plan … --environment live, or connect elsewhere",
            'bf.plan(…, environment="live")',
        ),
        (
            "backfill plan --like 4f2c --want a=v2 --want b=v3",
            'bf.plan(like="4f2c", want={"a": "v2", "b": "v3"})',
        ),
        ("backfill plan … --throttle 20", "bf.plan(…, throttle_per_minute=20)"),
        (
            "backfill rollback 4f2c --session a --session b",
            'bf.rollback("4f2c", sessions=["a", "b"])',
        ),
        (
            'backfill rollback 4f2c --confirm 9c1e --reason "…"',
            'bf.confirm_rollback("4f2c", digest="9c1e", reason="…")',
        ),
        ("backfill show 4f2c", 'bf.get("4f2c")'),
        ("backfill install --target prism", None),
        ("backfill it's", None),
    ],
)
def test_a_command_line_as_a_call(line: str, call: str | None) -> None:
    """Options by their names in Python, numbers as numbers."""
    assert python_call(line) == call


def test_no_word_of_a_sentence_becomes_an_argument_in_python() -> None:
    """A sentence goes on behind a comma, and each verb has one argument by place: its run."""
    hints = re.findall(r"'((?:[^'\n]*: )?backfill [a-z][^'\n]*)'", "".join(sources().values()))
    calls = [call for hint in hints for call in python_calls(hint.replace("%s", "R"))]
    assert len(calls) > 50
    assert [call for call in calls if re.search(r'\((?:"[^"]*"|…), "', call)] == []
