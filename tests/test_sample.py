"""The sample project is the world that the seed plan describes, and scores like a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backfill.errors import BadRequest
from backfill.local import sample
from backfill.targets import migrations

SEED_SQL = Path(__file__).parents[1] / "supabase" / "seed.sql"
NAMED = "618c5ea6-3f0d-4b8e-9a41-5d2c7e90b1f4"  # lacks profile and FC scores
NAMED_WITH_PROFILE = "070d9bf2-8c15-4e6a-b7d3-1f64a2c83e59"
FUNCTIONS = {"Te", "Ti", "Fe", "Fi", "Ne", "Ni", "Se", "Si"}
TABLES = (
    "assessment_sessions",
    "assessment_responses",
    "fc_blocks",
    "fc_options",
    "fc_responses",
    "fc_scores",
    "profiles",
)

# Every session with what it has. A candidate: completed in the range, lacks a row, enough answers.
SESSIONS = """
with counted as (
  select session.*,
         session.created_at at time zone 'UTC' as at,
         profile.session_id is null as lacks_profile,
         score.session_id is null as lacks_fc_scores,
         (select count(*) from public.assessment_responses as response
           where response.session_id = session.id) as responses,
         (select count(*) from public.fc_responses as response
           where response.session_id = session.id) as fc_responses
    from public.assessment_sessions as session
    left join public.profiles as profile on profile.session_id = session.id
    left join public.fc_scores as score
           on score.session_id = session.id
          and score.version = 'v1.2'
          and score.fc_kind = 'functions'
), sessions as (
  select counted.*,
         status = 'completed' and at >= '2025-08-01' and at < '2025-09-17' as completed_in_range,
         lacks_profile or lacks_fc_scores as lacks,
         responses = 0 or (lacks_fc_scores and fc_responses = 0) as too_few
    from counted
)
"""
CANDIDATE = "completed_in_range and lacks and not too_few"


@pytest.fixture
def db(sample_db: Any) -> Iterator[Any]:
    """The sample's connection, in a transaction that leaves no trace."""
    with sample_db.transaction(force_rollback=True):
        yield sample_db


def one(db: Any, query: str, *values: object) -> Any:
    """The only row; its only value where it has one."""
    rows = db.execute(query, values or None).fetchall()
    assert len(rows) == 1, f"{len(rows)} rows for {query}"
    return rows[0][0] if len(rows[0]) == 1 else rows[0]


def how_many(db: Any, claim: str) -> int:
    return int(one(db, f"{SESSIONS} select count(*) from sessions where {claim}"))


def score_fc(db: Any, session: object, version: str = "v1.2", basis: str = "functions") -> Any:
    query = "select public.score_fc_session(session_id => %s, version => %s, basis => %s)"
    return one(db, query, session, version, basis)


def score_prism(db: Any, session: object, engine_version: str = "v1.2.1") -> Any:
    query = "select public.score_prism(session_id => %s, engine_version => %s)"
    return one(db, query, session, engine_version)


def load_again(db: Any, candidates: int) -> None:
    db.execute("truncate public.assessment_sessions, public.fc_blocks cascade")
    db.execute("select set_config('sample.candidates', %s, true)", [str(candidates)])
    db.execute(SEED_SQL.read_bytes())


# -- the data


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("true", 39),
        ("lacks_profile", 13),
        ("lacks_fc_scores", 39),
        ("lacks_profile and lacks_fc_scores", 13),
        ("at >= '2025-09-01'", 7),
        ("at < '2025-09-01'", 32),
        ("responses = 248 and fc_responses = 6", 39),
        ("left(id::text, 8) in ('618c5ea6', '070d9bf2') and at >= '2025-09-01'", 2),
    ],
)
def test_the_candidates_are_those_of_the_seed_plan(db: Any, claim: str, expected: int) -> None:
    """39 candidates, 13 without a profile, none with FC scores, 7 in September."""
    assert how_many(db, f"{CANDIDATE} and {claim}") == expected


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("status = 'in_progress' and at >= '2025-08-01'", 6),
        ("status = 'abandoned'", 2),
        ("status = 'completed' and at < '2025-08-01' and lacks_profile and lacks_fc_scores", 8),
        ("completed_in_range and not lacks", 10),
        ("completed_in_range and responses = 0 and lacks_profile and lacks_fc_scores", 2),
        ("completed_in_range and responses > 0 and fc_responses = 0 and lacks_fc_scores", 2),
        (f"not ({CANDIDATE})", 30),
    ],
)
def test_beside_them_are_sessions_that_must_not_be_picked(
    db: Any, claim: str, expected: int
) -> None:
    """Each reason to leave a session alone occurs, and the reasons do not overlap: they add up."""
    assert how_many(db, claim) == expected


def test_the_two_named_ids_are_unique_prefixes(db: Any) -> None:
    """A prefix names one session; 618c5ea6 lacks a profile, 070d9bf2 has one."""
    for prefix, full, lacks_profile in (
        ("618c5ea6", NAMED, True),
        ("070d9bf2", NAMED_WITH_PROFILE, False),
    ):
        query = f"{SESSIONS} select id::text, lacks_profile from sessions where id::text like %s"
        assert one(db, query, f"{prefix}%") == (full, lacks_profile)


def test_dates_reach_both_ends_of_the_range_and_no_two_are_equal(db: Any) -> None:
    """The edges of August, September and the range are there: off-by-one days would show."""
    rows = db.execute(f"{SESSIONS} select at::text from sessions where {CANDIDATE}").fetchall()
    at = sorted(row[0] for row in rows)
    assert at[0] == "2025-08-01 00:00:00"
    assert at[-1] == "2025-09-16 23:59:59.9"
    assert {"2025-08-31 23:59:59.9", "2025-09-01 00:00:00"} <= set(at)
    assert len(set(at)) == 39
    assert len({moment[:10] for moment in at}) > 25, "spread over days"
    assert len({moment[11:13] for moment in at}) > 12, "spread over times of the day"


def test_existing_profiles_are_of_the_engines_before_the_outage(db: Any) -> None:
    """Both versions occur, and every profile holds what the scorer would write."""
    versions = db.execute("select distinct results_version from public.profiles order by 1")
    assert [row[0] for row in versions] == ["v1.2.0", "v1.2.1"]
    payloads = db.execute("select type_code, payload from public.profiles").fetchall()
    assert {len(type_code) for type_code, _ in payloads} == {4}
    assert {payload["responses"] for _, payload in payloads} == {248}


def test_loading_again_gives_the_same_rows(db: Any) -> None:
    """Nothing is random and nothing is "now": not the ids, not the answers, not the times."""
    fingerprint = """
      select md5(string_agg(row_text, '|' order by row_text)) from (
        select session::text from public.assessment_sessions as session
        union all select score::text from public.fc_scores as score
        union all select profile::text from public.profiles as profile
        union all select answer::text from public.fc_responses as answer
        union all select concat(session_id, question_id, answer_value, created_at)
                    from public.assessment_responses
      ) as every (row_text)
    """
    before = one(db, fingerprint)
    load_again(db, 39)
    assert one(db, fingerprint) == before


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_another_time_zone_loads_the_same_moments(db: Any, zone: str) -> None:
    """Days are UTC days, whatever the session's time zone and its daylight saving."""
    moments = f"{SESSIONS} select array_agg(at order by id) from sessions"
    before = one(db, moments)
    db.execute("select set_config('TimeZone', %s, true)", [zone])
    load_again(db, 39)
    assert one(db, moments) == before


@pytest.mark.parametrize(
    ("candidates", "september", "without_profile", "others"),
    [(1, 1, 1, 30), (2, 2, 1, 30), (100, 18, 33, 77)],
)
def test_another_number_keeps_the_proportions(
    db: Any, candidates: int, september: int, without_profile: int, others: int
) -> None:
    """7 of 39 in September, a third without a profile, what must not be picked grows alike."""
    load_again(db, candidates)
    assert how_many(db, CANDIDATE) == candidates
    assert how_many(db, f"{CANDIDATE} and at >= '2025-09-01'") == september
    assert how_many(db, f"{CANDIDATE} and lacks_profile") == without_profile
    assert how_many(db, f"{CANDIDATE} and lacks_fc_scores") == candidates
    assert how_many(db, f"not ({CANDIDATE})") == others
    assert how_many(db, f"{CANDIDATE} and responses = 248 and fc_responses = 6") == candidates


def test_large_samples_have_twelve_responses_a_session(db: Any) -> None:
    """Above 1,000 candidates the questionnaire is short, so that a large sample loads."""
    load_again(db, 1001)
    assert how_many(db, f"{CANDIDATE} and responses = 12 and fc_responses = 6") == 1001


# -- the scoring


def test_score_fc_session_writes_one_row_and_says_so(db: Any) -> None:
    """The row is under the asked version and kind, and the answer names it."""
    assert score_fc(db, NAMED) == {
        "status": "ok",
        "session_id": NAMED,
        "version": "v1.2",
        "blocks_answered": 6,
    }
    query = """
      select version, fc_kind, blocks_answered from public.fc_scores where session_id = %s
    """
    assert one(db, query, NAMED) == ("v1.2", "functions", 6)


def test_scores_are_scaled_to_a_largest_of_100(db: Any) -> None:
    """All eight functions, each from 0 to 100, the strongest at 100."""
    score_fc(db, NAMED)
    scores = one(db, "select scores_json from public.fc_scores where session_id = %s", NAMED)
    assert set(scores) == FUNCTIONS
    assert max(scores.values()) == 100
    assert min(scores.values()) >= 0


def test_the_scores_are_the_summed_weights_of_the_chosen_options(db: Any) -> None:
    """Computed again outside the database."""
    score_fc(db, NAMED)
    chosen = db.execute(
        """
        select option.weights
          from public.fc_responses as response
          join public.fc_options as option on option.id = response.option_id
         where response.session_id = %s
        """,
        [NAMED],
    ).fetchall()
    totals = {name: sum(weights.get(name, 0) for (weights,) in chosen) for name in FUNCTIONS}
    largest = max(totals.values())
    scores = one(db, "select scores_json from public.fc_scores where session_id = %s", NAMED)
    assert scores == pytest.approx(
        {name: 100 * total / largest for name, total in totals.items()}, abs=0.051
    )


def test_scoring_a_session_whose_options_weigh_nothing_divides_by_nothing(db: Any) -> None:
    """All-zero totals give all-zero scores, not an error."""
    db.execute("update public.fc_options set weights = '{}' where true")
    assert score_fc(db, NAMED)["status"] == "ok"
    scores = one(db, "select scores_json from public.fc_scores where session_id = %s", NAMED)
    assert scores == dict.fromkeys(FUNCTIONS, 0)


def test_scoring_twice_leaves_one_row(db: Any) -> None:
    """The second call takes the place of the first, per version and kind."""
    for version in ("v1.2", "v1.2", "v1.3"):
        score_fc(db, NAMED, version)
    versions = db.execute(
        "select version from public.fc_scores where session_id = %s order by 1", [NAMED]
    ).fetchall()
    assert [row[0] for row in versions] == ["v1.2", "v1.3"]
    score_prism(db, NAMED, "v1.2.0")
    score_prism(db, NAMED, "v1.2.1")
    query = "select results_version from public.profiles where session_id = %s"
    assert one(db, query, NAMED) == "v1.2.1"


def test_a_session_without_fc_responses_is_answered_and_not_written(db: Any) -> None:
    """The call succeeds and has no effect: what a backfill must notice by itself."""
    session = one(
        db,
        f"{SESSIONS} select id from sessions where completed_in_range and fc_responses = 0 limit 1",
    )
    assert score_fc(db, session)["status"] == "no fc responses"
    count = "select count(*) from public.fc_scores where session_id = %s"
    assert one(db, count, session) == 0


def test_a_session_without_responses_gets_no_profile(db: Any) -> None:
    """Nothing to derive from: answered, not written."""
    session = one(
        db, f"{SESSIONS} select id from sessions where completed_in_range and responses = 0 limit 1"
    )
    assert score_prism(db, session)["status"] == "no responses"
    count = "select count(*) from public.profiles where session_id = %s"
    assert one(db, count, session) == 0


def test_score_prism_stands_on_the_newest_fc_scores(db: Any) -> None:
    """With FC scores the strongest function leads; without them the answers alone decide."""
    alone = score_prism(db, NAMED)
    assert alone["status"] == "ok"
    payload = "select type_code, payload from public.profiles where session_id = %s"
    type_code, told = one(db, payload, NAMED)
    assert (type_code, told["basis"]) == (alone["type_code"], "responses")

    db.execute(
        """
        insert into public.fc_scores (session_id, version, scores_json, blocks_answered, created_at)
        values (%(id)s, 'v1.1', %(old)s, 6, '2025-01-01'),
               (%(id)s, 'v1.2', %(new)s, 6, '2025-02-01')
        """,
        {
            "id": NAMED,
            "old": json.dumps(dict.fromkeys(FUNCTIONS, 0) | {"Se": 100, "Fi": 90}),
            "new": json.dumps(dict.fromkeys(FUNCTIONS, 0) | {"Ni": 100, "Se": 95, "Te": 80}),
        },
    )
    assert score_prism(db, NAMED)["type_code"] == "INTJ"
    type_code, told = one(db, payload, NAMED)
    assert (type_code, told["basis"], told["fc_version"]) == ("INTJ", "fc", "v1.2")
    assert told["top_functions"] == ["Ni", "Te"]


def test_an_update_of_a_profile_moves_updated_at(db: Any) -> None:
    """The trigger keeps it, as in real projects: a second writer shows."""
    moments = "select created_at, updated_at from public.profiles where session_id = %s"
    created, updated = one(db, moments, NAMED_WITH_PROFILE)
    score_prism(db, NAMED_WITH_PROFILE)
    created_after, updated_after = one(db, moments, NAMED_WITH_PROFILE)
    assert created_after == created
    assert updated_after > updated


# -- the rights


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_row_level_security_and_a_policy(db: Any, table: str) -> None:
    """RLS is on, and authenticated has exactly one policy a table."""
    query = """
      select relrowsecurity,
             (select count(*) from pg_catalog.pg_policy where polrelid = relation.oid)
        from pg_catalog.pg_class as relation
       where relation.oid = %s::regclass
    """
    assert one(db, query, f"public.{table}") == (True, 1)


def test_anon_has_no_right_on_anything(db: Any) -> None:
    """No table, no column, no sequence, no function: whatever the project granted by default."""
    held = db.execute(
        """
        select relname
          from pg_catalog.pg_class
         where relnamespace = 'public'::regnamespace
           and relname = any (%s)
           and (has_table_privilege('anon', oid, 'select, insert, update, delete, truncate')
                or has_any_column_privilege('anon', oid, 'select, insert, update'))
        union all
        select proname
          from pg_catalog.pg_proc
         where pronamespace = 'public'::regnamespace
           and proname ~ '^(score_|prism_|fc_|profiles_)'
           and has_function_privilege('anon', oid, 'execute')
        union all
        select 'assessment_responses_id_seq'
         where has_sequence_privilege('anon', 'public.assessment_responses_id_seq', 'usage, select')
        """,
        [list(TABLES)],
    ).fetchall()
    assert held == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_only_the_service_role_scores(db: Any, role: str) -> None:
    """The scoring functions are refused to those who carry a publishable key."""
    db.execute(f"set local role {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), db.transaction():
        score_fc(db, NAMED)
    with pytest.raises(psycopg.errors.InsufficientPrivilege), db.transaction():
        score_prism(db, NAMED)


def test_the_service_role_scores_and_reads_everything(db: Any) -> None:
    """What the server's key needs is granted, the sequence included."""
    db.execute("set local role service_role")
    assert score_fc(db, NAMED)["status"] == "ok"
    assert score_prism(db, NAMED)["status"] == "ok"
    assert how_many(db, "true") == 69
    db.execute(
        "insert into public.assessment_responses (session_id, question_id, answer_value)"
        " values (%s, 999, 5)",
        [NAMED],
    )


def test_people_read_their_own_sessions_and_nothing_else(db: Any) -> None:
    """Under RLS a stranger's rows are missing, not forbidden."""
    own = "select array_agg(id order by id) from public.assessment_sessions where user_id = %s"
    user = one(
        db, "select user_id from public.assessment_sessions where id = %s", NAMED_WITH_PROFILE
    )
    sessions = one(db, own, user)
    db.execute(
        "select set_config('request.jwt.claims', %s, true)",
        [json.dumps({"sub": str(user), "role": "authenticated"})],
    )
    db.execute("set local role authenticated")
    seen = "select array_agg(id order by id) from public.assessment_sessions"
    assert one(db, seen) == sessions
    for table in ("assessment_responses", "fc_responses", "fc_scores", "profiles"):
        rows = db.execute(f"select distinct session_id from public.{table}").fetchall()
        assert {row[0] for row in rows} <= set(sessions)
    assert one(db, "select count(*) from public.fc_options") == 24


# -- the loader


@pytest.mark.parametrize(
    ("asked", "candidates"), [("seed", 39), ("100", 100), (7, 7), (" 12 ", 12)]
)
def test_a_sample_is_the_seed_or_a_number(asked: str | int, candidates: int) -> None:
    """Text or number, as the command line and Python give it."""
    assert sample.candidates_of(asked) == candidates


@pytest.mark.parametrize("asked", ["", "0", 0, -3, "-3", "1.5", "many", "1_000", True, "²"])
def test_another_sample_is_refused_before_anything_is_touched(asked: str | int) -> None:
    """One sentence that says what is allowed; the database in the DSN is never asked for."""
    with pytest.raises(BadRequest, match="'seed' or a number"):
        sample.load("host=/nowhere", asked)


def test_only_a_concurrent_index_is_executed_statement_by_statement() -> None:
    """A comment about one does not count, and comments hold no statements."""
    script = """
    -- create index concurrently cannot be in a transaction;
    set lock_timeout = '3s';
    create index concurrently if not exists an_index
        on public.profiles (type_code);
    notify pgrst, 'reload schema';
    """
    assert migrations.builds_index_concurrently(script)
    assert [statement.split()[0] for statement in migrations.statements(script)] == [
        "set",
        "create",
        "notify",
    ]
    assert not migrations.builds_index_concurrently("-- create index concurrently\nselect 1;")
