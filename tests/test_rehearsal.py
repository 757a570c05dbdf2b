"""The rehearsal tries the real calls: a bad scorer shows before approval, and nothing stays."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

import backfill
from backfill.local.servers import PostgresServer
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.at_once import more_connections
from tests.kit.commands import Shell
from tests.kit.seed import REHEARSED

MARKS = (
    "scoring calls",
    "scoring time",
    "second call",
    "one transaction",
    "existing rows",
    "other tables",
    "undo",
)
REPEATED = "calls that the API repeats"  # only if any was seen
# The sample's scorer is copied aside; the new one does something before or after it.
SCORER = """
create or replace function public.score_fc_session(session_id uuid, version text, basis text)
returns jsonb
language plpgsql {options} as $$
declare
  v_answer jsonb;
begin
  {before}
  v_answer := public.score_fc_session_real($1, $2, $3);
  {after}
  return v_answer;
end
$$;
"""
OWN_PATH = "set search_path = ''"
DEFERRED = """
create table public.fc_versions (version text primary key);
alter table public.fc_scores add constraint fc_scores_known_version
  foreign key (version) references public.fc_versions (version)
  deferrable initially deferred not valid;
"""
# What is wrong: (SQL that prepares the project, before the real scorer, after it).
BAD: dict[str, tuple[str, str, str]] = {
    "not idempotent": (
        "",
        "",
        "update public.fc_scores as f set scores_json = f.scores_json || jsonb_build_object("
        "'noise', random()) where f.session_id = $1 and f.version = $2;",
    ),
    "overwrites": (
        "",
        "",
        "update public.profiles as p set type_code = 'XXXX' where p.session_id = $1;",
    ),
    "fails for one category": (
        "",
        "if exists (select from public.profiles as p"
        " where p.session_id = $1 and p.created_at < now()) then"
        " raise exception 'has a profile already'; end if;",
        "",
    ),
    "writes elsewhere": (
        "create table public.scoring_log (session_id uuid); "
        "grant insert on public.scoring_log to service_role;",
        "insert into public.scoring_log values ($1);",
        "",
    ),
    "needs a right": (
        "create table public.secret_weights (weight numeric);",
        "perform from public.secret_weights;",
        "",
    ),
    "repeated by the API": ("", "raise sqlstate '40001' using message = 'again';", ""),
    "slow": ("", "perform pg_sleep(60);", ""),
    "deferred constraint": (DEFERRED, "", ""),
}
# Which marks then are not ok, with what they must name.
SAYS: dict[str, dict[str, tuple[str, str]]] = {
    "not idempotent": {"second call": ("warn", "fc_scores.scores_json")},
    "overwrites": {
        "existing rows": ("warn", "overwrites 3 of profiles (profiles.type_code"),
        "undo": ("warn", "sets again profiles.updated_at"),
    },
    "fails for one category": {
        "scoring calls": (
            "fail",
            "3 of 5 sessions failed. score_fc_session: "
            "P0001 has a profile already, 3 sessions (fc_scores)",
        )
    },
    "writes elsewhere": {"other tables": ("warn", "public.scoring_log (5 inserted)")},
    "needs a right": {
        "scoring calls": ("fail", "42501 permission denied for table secret_weights"),
    },
    "repeated by the API": {
        "scoring calls": ("fail", "score_fc_session: 40001 again"),
        REPEATED: ("fail", "score_fc_session raised 40001. PostgREST before version 16 calls"),
    },
    "slow": {"scoring calls": ("fail", "score_fc_session: slower than the limit of a statement")},
    "deferred constraint": {"scoring calls": ("fail", "a deferred constraint: 23503")},
}  # fmt: skip
# Of these no session can be scored, so nothing else can be said of them.
HOPELESS = {"needs a right", "repeated by the API", "slow", "deferred constraint"}


def replace_scorer(
    project: Project, before: str = "", after: str = "", options: str = OWN_PATH
) -> None:
    """Put another function in the place of the sample's score_fc_session."""
    real = project.value(
        "select pg_get_functiondef('public.score_fc_session(uuid,text,text)'::regprocedure)"
    )
    project.db.execute(real.replace("score_fc_session", "score_fc_session_real").encode())
    project.db.execute(SCORER.format(before=before, after=after, options=options).encode())


def marks_of(plan: backfill.Plan) -> dict[str, tuple[str, str]]:
    """Name: (status, detail) of the rehearsal's marks."""
    prefix = "rehearsal: "
    return {
        c.name.removeprefix(prefix): (c.status, c.detail)
        for c in plan.checks
        if c.name.startswith(prefix)
    }


def contents(project: Project) -> dict[str, str]:
    """Table: a hash over all its rows and their number, of the user's tables and the receipts."""
    tables = project.rows("""
        select c.oid::regclass::text as name from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where c.relkind = 'r' and n.nspname in ('public', 'backfill_private')
          and (c.relname not like 'backfill\\_%%' or c.relname = 'backfill_receipts')
          and c.relname not in ('findings', 'rehearsals')
    """)
    return {
        t["name"]: project.value(
            "select concat_ws('/', count(*), md5(string_agg(t::text, ',' order by t::text)))"
            f" from {t['name']} as t"
        )
        for t in tables
    }


@pytest.mark.parametrize("what", BAD)
def test_a_bad_scorer_shows_before_approval(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """The plan says what is wrong with it, no more than that, and nothing of it stays."""
    prepared, before, after = BAD[what]
    project.db.execute(prepared.encode())
    replace_scorer(project, before, after)
    was = contents(project)
    marks = marks_of(bf.plan(**REHEARSED))
    assert contents(project) == was
    assert (REPEATED in marks) == (REPEATED in SAYS[what])
    for name in MARKS + ((REPEATED,) if REPEATED in marks else ()):
        if what in HOPELESS and name not in SAYS[what]:
            assert name not in marks  # nobody measured it
            continue
        status, detail = marks[name]
        if name in SAYS[what]:
            assert status == SAYS[what][name][0]
            assert SAYS[what][name][1] in detail
        else:
            assert status == "ok", (name, detail)


def test_a_good_scorer_is_said_to_be_good(project: Project, bf: backfill.Backfill) -> None:
    """Each mark is ok; columns that hold the transaction's time are named as not decidable."""
    was = contents(project)
    plan = bf.plan(**REHEARSED)
    marks = marks_of(plan)
    assert tuple(marks) == MARKS
    assert {status for status, _ in marks.values()} == {"ok"}
    assert marks["second call"][1] == (
        "changes nothing. Not decidable, since they hold the time of the transaction: "
        "fc_scores.created_at, profiles.created_at, profiles.updated_at"
    )
    assert contents(project) == was
    assert len(was) > 8
    assert was["backfill_private.rehearsal_rows"].startswith("0")


def test_the_sample_covers_every_category_and_the_priority_sessions(
    bf: backfill.Backfill,
) -> None:
    """With room for few, a category that would fail is not left out."""
    two = bf.plan(**REHEARSED, rehearse=2).rehearsal
    five = bf.plan(**REHEARSED).rehearsal
    all_of_them = bf.plan(**REHEARSED, rehearse=10).rehearsal
    assert two is not None
    assert five is not None
    assert all_of_them is not None
    assert {s.category for s in two.sessions} == {"fc_scores", "profile+fc_scores"}
    assert {s.session_id[:8] for s in five.sessions} >= set(REHEARSED["priority"])
    assert len(five.sessions) == 5
    kinds = [(s.category, s.phase) for s in all_of_them.sessions]
    assert sorted(kinds) == sorted(
        (category, phase)
        for category in ("fc_scores", "profile+fc_scores")
        for phase in ("priority", "recent", "historical")
    )


def test_rows_before_and_after_are_counted(bf: backfill.Backfill) -> None:
    """By table, over the sessions of the sample; each call's time is told."""
    seen = bf.plan(**REHEARSED).rehearsal
    assert seen is not None
    missing_profile = sum(s.category == "profile+fc_scores" for s in seen.sessions)
    assert seen.rows["fc_scores"] == {
        "before": 0, "after": 5, "inserted": 5, "updated": 0, "deleted": 0,
    }  # fmt: skip
    assert seen.rows["profiles"]["inserted"] == missing_profile
    assert seen.rows["profiles"]["before"] == 5 - missing_profile
    assert all((s.took_ms or 0) > 0 and s.failure is None for s in seen.sessions)
    assert (seen.p95_ms or 0) >= (seen.p50_ms or 0) > 0


@pytest.mark.parametrize(
    ("request_", "settings", "sessions"),
    [
        ({}, "", 5),
        ({"rehearse": 0}, "", 0),
        ({"rehearse": 3}, "", 3),
        ({"throttle_per_minute": 6}, "", 3),
        ({"throttle_per_minute": 1, "batch_size": 1}, "", 0),
        ({"throttle_per_minute": "none", "rehearse": 6}, "", 6),
        ({}, "max_throttle_per_minute = 20", 5),
        ({"environment": "production"}, "environment = 'Production'", 0),
        ({"environment": "production", "rehearse": 2}, "environment = 'Production'", 2),
    ],
)
def test_a_rehearsal_keeps_within_the_throttle_and_out_of_production(
    project: Project,
    bf: backfill.Backfill,
    request_: dict[str, Any],
    settings: str,
    sessions: int,
) -> None:
    """Two calls a session, one minute's throttle at most; in production only when asked for."""
    if settings:
        project.db.execute(
            f"update public.backfill_settings set {settings} where only_row".encode()
        )
    plan = bf.plan(**REHEARSED | request_)
    rehearsed = plan.rehearsal.sessions if plan.rehearsal else ()
    assert len(rehearsed) == sessions
    if not sessions:
        assert marks_of(plan) == {}  # no mark stands there that nobody measured
        assert "Not rehearsed. No scoring call was made for this plan." in plan.markdown()


def test_running_runs_leave_less_room_to_rehearse(project: Project, bf: backfill.Backfill) -> None:
    """The project's bound counts them together."""
    first = bf.plan(**REHEARSED)
    project.approve(first)
    project.value("select public.backfill_start(%s, 'w')", first.run_id)
    project.db.execute(
        b"update public.backfill_settings set max_throttle_per_minute = 24 where only_row"
    )
    second = bf.plan(**REHEARSED)
    assert second.rehearsal is not None
    assert len(second.rehearsal.sessions) == 2


@pytest.mark.parametrize("given", [-1, 1.5, "five", True])
def test_a_number_to_rehearse_that_is_none_is_refused(
    project: Project, bf: backfill.Backfill, given: Any
) -> None:
    """One sentence, and no run is left behind."""
    with pytest.raises(backfill.BadRequest, match="rehearse"):
        bf.plan(**REHEARSED, rehearse=given)
    assert project.value("select count(*) from public.backfill_runs") == 0


def test_the_digest_does_not_know_of_the_rehearsal(bf: backfill.Backfill) -> None:
    """The same request on the same state gives the same digest, rehearsed or not."""
    digests = {bf.plan(**REHEARSED, rehearse=n).digest for n in (0, 2, 5)}
    assert len(digests) == 1


def test_a_scorer_meets_the_search_path_of_the_api(project: Project, bf: backfill.Backfill) -> None:
    """One that names its tables without a schema works through the API, so it is rehearsed well."""
    replace_scorer(
        project, before="perform from fc_scores as f where f.session_id = $1;", options=""
    )
    assert marks_of(bf.plan(**REHEARSED))["scoring calls"][0] == "ok"


def test_after_a_slow_session_no_other_is_rehearsed(
    project: Project, bf: backfill.Backfill
) -> None:
    """Each would hold a connection up to the limit of a statement."""
    replace_scorer(project, "perform pg_sleep(60);")
    plan = bf.plan(**REHEARSED)
    assert plan.rehearsal is not None
    assert len(plan.rehearsal.sessions) == 1


def test_a_locked_row_is_waited_for_a_second_and_reported(
    project: Project, bf: backfill.Backfill
) -> None:
    """A rehearsal never stands in a queue in front of the project's own work."""
    session_id = next(s for s in REHEARSED["priority"])
    with project.db.transaction():
        project.db.execute(
            "select from public.assessment_sessions where starts_with(id::text, %s) for update",
            (session_id,),
        )
        status, detail = marks_of(bf.plan(**REHEARSED))["scoring calls"]
    assert status == "fail"
    assert "55P03" in detail


# The scoring of one session goes on once somebody lets go of a lock.
KEPT_UP = """
create function public.keep_up() returns trigger language plpgsql as $$ begin
  while new.session_id = '{session}' and not pg_try_advisory_xact_lock_shared(42) loop
    perform pg_sleep(0.01);
  end loop;
  return new; end $$;
create trigger keep_up before insert on public.fc_scores
  for each row execute function public.keep_up();
"""


def test_two_clients_that_plan_one_run_rehearse_in_turn(
    project: Project, postgres_server: PostgresServer
) -> None:
    """Side by side their calls would wait for each other's rows, and seem to fail."""
    run_id = verbs.collected(project.db)
    sessions = verbs.call(project.db, "backfill_rehearsal", p_run_id=run_id)[:2]
    project.db.execute(KEPT_UP.format(session=sessions[0]).encode())
    sleeps = "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s"
    with (
        more_connections(postgres_server.dsn(project.db.info.dbname), 2) as clients,
        ThreadPoolExecutor(2) as pool,
    ):

        def rehearse(client: psycopg.Connection[Any], session: str) -> Future[Any]:
            asked = {"p_run_id": run_id, "p_session_id": session}
            return pool.submit(verbs.call, client, "backfill_rehearse", **asked)

        project.db.execute("select pg_advisory_lock(42)")
        first = rehearse(clients[0], sessions[0])
        while not project.value(sleeps, clients[0].info.backend_pid):
            pass
        second = rehearse(clients[1], sessions[1])
        blocked = "select %s = any (pg_blocking_pids(%s))"
        pids = [client.info.backend_pid for client in clients]
        while not second.done() and not project.value(blocked, *pids):
            pass
        was_done = second.done()
        project.db.execute("select pg_advisory_unlock(42)")
        assert [first.result()["error"], second.result()["error"], was_done] == [None, None, False]


def test_a_session_under_lease_is_left_alone(project: Project, bf: backfill.Backfill) -> None:
    """Another run is scoring it; the plan says why it was not rehearsed."""
    first = bf.plan(**REHEARSED)
    project.approve(first)
    project.value("select public.backfill_start(%s, 'w')", first.run_id)
    project.value("select public.backfill_claim(%s, gen_random_uuid(), 'w')", first.run_id)
    second = bf.plan(**REHEARSED, rehearse=2)
    assert second.rehearsal is None
    assert marks_of(second)["scoring calls"] == (
        "warn", "not rehearsed: another run is scoring it",
    )  # fmt: skip


def test_an_answer_without_a_row_is_no_effect(project: Project, bf: backfill.Backfill) -> None:
    """The calls came back well, and the row of the wanted version is not there."""
    replace_scorer(project, before="return jsonb_build_object('status', 'ok');")
    status, detail = marks_of(bf.plan(**REHEARSED))["scoring calls"]
    assert status == "fail"
    assert "fc_scores: OB017 no effect" in detail


def test_a_row_of_another_session_is_refused_in_the_rehearsal_too(
    project: Project, bf: backfill.Backfill
) -> None:
    """The gate at the write is the real one."""
    replace_scorer(
        project,
        after="update public.profiles as p set type_code = 'XXXX' where p.session_id <> $1;",
    )
    status, detail = marks_of(bf.plan(**REHEARSED))["scoring calls"]
    assert status == "fail"
    assert "OB018" in detail


def test_a_scratch_run_cannot_be_made_of_a_real_one(
    project: Project, bf: backfill.Backfill
) -> None:
    """Rows are kept for a rehearsal's own run alone, so that no contents stay."""
    plan = bf.plan(**REHEARSED)
    for call in ("seen_first(%s, '{}')", "seen_second(%s)", "seen_undone(%s, '', null)"):
        with pytest.raises(Exception, match="there is no rehearsal"):
            project.value(f"select backfill_private.{call}", plan.run_id)


def test_the_command_line_rehearses_as_asked(shell: Shell) -> None:
    """--rehearse N; --json has the figures."""
    made = shell("plan", "--since", "2025-08-01", "--rehearse", "2", "--json")
    assert made.code == 0
    assert len(made.json["rehearsal"]["sessions"]) == 2
    assert (
        shell("plan", "--since", "2025-08-01", "--rehearse", "0", "--json").json["rehearsal"]
        is None
    )
