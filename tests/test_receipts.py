"""Receipts: every row that a scorer writes has one, and nothing gets round it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.outsider import Outsider, code_of, running
from tests.kit.receipts import receipts

SCORER = "public.score_fc_session(session_id uuid, version text, basis text)"
INSERT = (
    "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
    " values ($1, $2, $3, '{}', 6)"
)


def replace_scorer(project: Project, body: str, options: str = "") -> None:
    """Another scoring function under the name that the target calls."""
    project.db.execute(
        f"create or replace function {SCORER}"
        f" returns jsonb language plpgsql {options} set search_path = '' as $score$ begin {body};"
        " return '{}'; end $score$".encode()
    )


# what the scorer does: its body, its options, and the operations that its receipts tell
SCORERS = {
    "is security definer": (INSERT, "security definer", ["insert"]),
    "upserts with do update": (
        INSERT + " on conflict on constraint fc_scores_pkey do update set blocks_answered = 7",
        "",
        ["insert"],
    ),
    "upserts with do nothing": (
        INSERT + " on conflict on constraint fc_scores_pkey do nothing",
        "",
        ["insert"],
    ),
    "upserts twice": (
        "for n in 1..2 loop "
        + INSERT
        + " on conflict on constraint fc_scores_pkey do update set blocks_answered = 7; end loop",
        "",
        ["insert", "update"],
    ),
    "writes several rows": (
        INSERT + "; insert into public.fc_scores select f.session_id, 'v0.9', k, '{}', 6"
        " from public.fc_scores as f, unnest(array['functions', 'other']) as k"
        " where f.session_id = $1 and f.version = $2",
        "",
        ["insert", "insert", "insert"],
    ),
    "deletes and writes anew": (
        INSERT
        + "; delete from public.fc_scores as f where f.session_id = $1 and f.version = $2; "
        + INSERT,
        "",
        ["insert", "delete", "insert"],
    ),
    "writes in a block that it undoes": (
        "begin "
        + INSERT
        + "; raise exception 'back'; exception when raise_exception then null; end; "
        + INSERT,
        "",
        ["insert"],
    ),
    "merges": (
        "merge into public.fc_scores as f using (values ($1)) as s (id)"
        " on f.session_id = s.id and f.version = $2 and f.fc_kind = $3"
        " when not matched then insert (session_id, version, fc_kind, scores_json, blocks_answered)"
        " values ($1, $2, $3, '{}', 6)",
        "",
        ["insert"],
    ),
}


@pytest.mark.parametrize("what", SCORERS)
def test_every_row_that_a_scorer_writes_has_its_receipt(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """However the function goes about it, the receipts tell each row's way; the session is done."""
    body, options, operations = SCORERS[what]
    replace_scorer(project, body, options)
    api = Outsider(project)
    attempt = next(a for a in api.claim(running(project, bf)) if len(a.steps) == 1)
    answer = api.score(attempt)
    assert answer == {}, answer
    assert receipts(project) == [(o, attempt.session_id, "fc_scores") for o in operations]
    assert [s["state"] for s in api.settle(attempt)["settled"]] == ["done"]


def test_a_receipt_keeps_what_stood_there_before(project: Project, bf: backfill.Backfill) -> None:
    """An update's receipt holds the row before, and hashes of both; an insert's has no before."""
    replace_scorer(
        project,
        INSERT + " on conflict on constraint fc_scores_pkey do update set blocks_answered = 7",
    )
    api = Outsider(project)
    attempt = next(a for a in api.claim(running(project, bf)) if len(a.steps) == 1)
    api.score(attempt)
    api.score(attempt)
    inserted, updated = project.rows("select * from public.backfill_receipts order by receipt_id")
    assert (inserted["before"], inserted["before_hash"]) == (None, None)
    assert updated["before"].startswith(f"({attempt.session_id},v1.2,functions,")
    assert updated["before_hash"] == inserted["after_hash"] != updated["after_hash"]
    assert updated["row_key"] == {
        "session_id": attempt.session_id, "version": "v1.2", "fc_kind": "functions",
    }  # fmt: skip


REFUSED = {
    "writes another session": (
        INSERT + "; update public.fc_scores as f set blocks_answered = 1 where f.session_id <> $1",
        "OB018",
    ),
    "deletes another session's rows": (
        INSERT + "; delete from public.fc_scores as f where f.session_id <> $1",
        "OB018",
    ),
    "deletes another session": (
        INSERT + "; delete from public.assessment_sessions as s where s.id ="
        " (select f.session_id from public.fc_scores as f where f.session_id <> $1 limit 1)",
        "OB018",
    ),
    "truncates a target": ("truncate public.fc_scores", "OB018"),
    "truncates through a cascade": ("truncate public.assessment_sessions cascade", "OB018"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_scorer_that_reaches_beyond_its_session_is_refused_and_pauses_the_run(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """The call fails as a whole and the run holds with a critical event."""
    body, code = REFUSED[what]
    replace_scorer(project, body, "security definer")
    api = Outsider(project)
    attempt = api.claim(running(project, bf))[0]
    before = project.rows("select * from public.fc_scores order by session_id, version, fc_kind")
    assert api.score(attempt)["code"] == code
    assert (
        project.rows("select * from public.fc_scores order by session_id, version, fc_kind")
        == before
    )
    assert receipts(project) == []
    ended = api.settle(attempt, outcome="failed", step="fc_scores", code=code, message="refused")
    assert ended["state"] == "paused"
    assert "critical" in ended["reason"]
    assert bf.verify(attempt.run_id).verdict == "fail"


def test_a_row_and_its_receipt_commit_together_or_not_at_all(
    project: Project, bf: backfill.Backfill
) -> None:
    """A scorer that raises after it wrote leaves neither row nor receipt."""
    replace_scorer(project, INSERT + "; raise exception 'after the write'")
    api = Outsider(project)
    attempt = api.claim(running(project, bf))[0]
    assert api.score(attempt)["code"] == "P0001"
    assert receipts(project) == []
    assert (
        project.value(
            "select count(*) from public.fc_scores where session_id = %s and version = 'v1.2'",
            attempt.session_id,
        )
        == 0
    )


@pytest.mark.parametrize(
    ("again", "told"),
    [
        ("update public.fc_scores as f set blocks_answered = 7", ["insert", "update"]),
        ("delete from public.fc_scores as f", ["insert", "delete"]),
    ],
)
def test_a_trigger_that_writes_the_row_again_leaves_its_receipt_second(
    project_db: psycopg.Connection[Any], again: str, told: list[str]
) -> None:
    """PostgreSQL runs triggers by name, and ours comes first. The undo then knows the row."""
    project_db.execute(
        "create function public.again() returns trigger language plpgsql as $$ begin"
        f" {again} where (f.session_id, f.version) = (new.session_id, new.version);"
        " return null; end $$;"
        "create trigger again after insert on public.fc_scores"
        " for each row execute function public.again()".encode()
    )
    run_id = verbs.started(project_db, throttle_per_minute="none")
    claim_id = str(uuid4())
    grant = verbs.claim(project_db, run_id, claim_id)["granted"][0]
    verbs.score(project_db, run_id, grant["fence"], grant["steps"][0])
    found = project_db.execute(
        "select array_agg(operation order by receipt_id) as told from public.backfill_receipts"
    ).fetchone()
    assert found is not None
    assert found["told"] == told
    answered = {"ordinal": grant["ordinal"], "outcome": "answered", "answered": ["fc_scores"]}
    verbs.settle(project_db, run_id, claim_id, [answered])
    verbs.call(project_db, "backfill_pause", run=run_id, reason="a test")
    preview = verbs.call(project_db, "backfill_preview_undo", p_run_id=run_id)
    assert preview["conflicts"] == []


def test_a_scorer_that_hides_its_header_pauses_the_run(
    project: Project, bf: backfill.Backfill
) -> None:
    """A call of ours that leaves its row without a receipt is critical."""
    replace_scorer(project, "perform set_config('request.headers', '', true); " + INSERT)
    api = Outsider(project)
    attempt = next(a for a in api.claim(running(project, bf)) if len(a.steps) == 1)
    assert api.score(attempt) == {}
    ended = api.settle(attempt)
    assert ended["settled"][0]["error_code"] == "OB016"
    assert ended["state"] == "paused"


def test_a_row_without_a_session_is_not_the_leased_sessions(
    project: Project, bf: backfill.Backfill
) -> None:
    """Where the session column may be null, a null is another session than the leased one."""
    project.db.execute(
        "alter table public.fc_scores drop constraint fc_scores_pkey;"
        "alter table public.fc_scores alter session_id drop not null;"
        "create unique index on public.fc_scores (session_id, version, fc_kind)"
    )
    project.reload()
    api = Outsider(project)
    attempt = api.claim(running(project, bf))[0]
    refused = api.send(
        "POST",
        "/fc_scores",
        {"session_id": None, "version": "v1.2", "scores_json": {}, "blocks_answered": 1},
        attempt.headers,
    )
    assert code_of(refused) == "OB018"


def test_session_replication_role_does_not_get_around_the_receipts(
    project: Project, bf: backfill.Backfill
) -> None:
    """A superuser who switches ordinary triggers off still meets the gate and leaves receipts."""
    attempt = Outsider(project).claim(running(project, bf))[0]
    write = project.admin.execute
    write("set session_replication_role = replica")
    write("select set_config('request.headers', %s, false)", (json.dumps(attempt.headers),))
    write(
        "insert into public.fc_scores (session_id, version, scores_json, blocks_answered)"
        " values (%s, 'v1.2', '{}', 6)",
        (attempt.session_id,),
    )
    assert receipts(project) == [("insert", attempt.session_id, "fc_scores")]
    forged = json.dumps({**attempt.headers, "x-backfill-fence": "0"})
    write("select set_config('request.headers', %s, false)", (forged,))
    with pytest.raises(psycopg.errors.DatabaseError) as refused:
        write("delete from public.fc_scores")
    assert refused.value.sqlstate == "OB011"


DISABLED = {
    "disabled": 'alter table public.fc_scores disable trigger "000_backfill_receipt"',
    "no longer always enabled": (
        'alter table public.fc_scores enable trigger "000_backfill_receipt"'
    ),
    "enabled for replicas alone": (
        'alter table public.fc_scores enable replica trigger "000_backfill_receipt"'
    ),
    "dropped": 'drop trigger "000_backfill_receipt" on public.profiles',
    "without its guard against truncate": "drop trigger backfill_no_truncate on public.profiles",
    "another function under its name": (
        'drop trigger "000_backfill_receipt" on public.profiles;'
        'create trigger "000_backfill_receipt" after insert or update or delete on public.profiles'
        " for each row execute function backfill_private.refuse_truncate();"
        'alter table public.profiles enable always trigger "000_backfill_receipt"'
    ),
    "blind to updates": (
        'drop trigger "000_backfill_receipt" on public.profiles;'
        'create trigger "000_backfill_receipt" after insert or delete on public.profiles'
        " for each row execute function backfill_private.keep_receipt('prism', 'profile');"
        'alter table public.profiles enable always trigger "000_backfill_receipt"'
    ),
    "blind by its condition": (
        'drop trigger "000_backfill_receipt" on public.profiles;'
        'create trigger "000_backfill_receipt" after insert or update or delete on public.profiles'
        " for each row when (current_setting('request.headers', true) = 'x-backfill-run')"
        " execute function backfill_private.keep_receipt('prism', 'profile');"
        'alter table public.profiles enable always trigger "000_backfill_receipt"'
    ),
    "blind to most columns": (
        'drop trigger "000_backfill_receipt" on public.profiles;'
        'create trigger "000_backfill_receipt" after insert or update of type_code or delete'
        " on public.profiles"
        " for each row execute function backfill_private.keep_receipt('prism', 'profile');"
        'alter table public.profiles enable always trigger "000_backfill_receipt"'
    ),
}


@pytest.mark.parametrize("what", DISABLED)
def test_a_trigger_that_does_not_stand_pauses_the_run_at_its_next_claim(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """No session starts while a written row could be without a receipt."""
    run = running(project, bf)
    project.db.execute(DISABLED[what].encode())
    assert Outsider(project).claim(run) == []
    status = bf.status(run)
    assert status.state == "paused"
    assert "receipt triggers" in (status.reason or "")
