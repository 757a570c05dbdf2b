"""People's data stays in the receipts' before, and nowhere else of ours."""

from __future__ import annotations

import io
import json
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

import backfill
from backfill.api.faults import fault_of_api
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.outsider import Outsider, running
from tests.kit.seed import CANARY, REHEARSED

SECRET = "Zq7SECRETanswer"
SCORER = "public.score_fc_session(session_id uuid, version text, basis text)"
WRITE = (
    "insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)"
    f""" values ($1, $2, $3, '{{"answer": "{SECRET}"}}', 6)"""
    " on conflict on constraint fc_scores_pkey do update set blocks_answered = 7"
)

# How a scoring function fails with a row's content in its error: the code that is kept
LOUD = {
    "a value of the wrong type": (f"perform '{SECRET}'::integer", "22P02"),
    "a date that is none": (f"perform '{SECRET}'::date", "22007"),
    "a broken check, the row in its details": (WRITE, "23514"),
    "a doubled key, its values in the details": (
        WRITE.partition(" on conflict")[0] + "; " + WRITE.partition(" on conflict")[0],
        "23505",
    ),
    "dynamic SQL that is none": (f"execute 'select {SECRET} {SECRET} {SECRET}'", "42601"),
    "dynamic SQL that names no column": (f"execute 'select {SECRET}'", "42703"),
    "dynamic SQL that names no table": (f"execute 'table {SECRET}'", "42P01"),
    "dynamic SQL that names no function": (f"execute 'select {SECRET}()'", "42883"),
    "details and hint of an error of its own": (
        f"raise exception 'no' using detail = '{SECRET}', hint = '{SECRET}'",
        "P0001",
    ),
    "a code of PostgreSQL's with a message of its own": (
        f"raise exception '{SECRET}' using errcode = '22023'",
        "22023",
    ),
    "an internal error": (f"raise exception '{SECRET}' using errcode = 'XX000'", "XX000"),
}
CHECK = f"check (version <> 'v1.2' or scores_json ->> 'answer' is distinct from '{SECRET}')"


def replace_scorer(project: Project, body: str) -> None:
    project.db.execute(
        f"create or replace function {SCORER} returns jsonb language plpgsql set search_path = ''"
        f" as $score$ begin {body}; return '{{}}'; end $score$".encode()
    )


def in_tables(project: Project) -> list[str]:
    """The tables of ours that hold the secret anywhere but in `before`."""
    relations = project.rows(
        "select c.oid::regclass::text as name from pg_class as c where c.relkind = 'r' and"
        " (c.relname like 'backfill%%' or c.relnamespace = 'backfill_private'::regnamespace)"
    )
    return [
        r["name"]
        for r in relations
        if SECRET
        in str(project.rows(f"select to_jsonb(t) - 'before' as row from {r['name']} as t"))
    ]


def in_files(folder: Path) -> list[str]:
    return [str(f) for f in folder.rglob("*") if f.is_file() and SECRET in f.read_text()]


@pytest.fixture
def heard() -> Any:
    """Everything that is logged, at every level, with the fields and the tracebacks."""
    stream = io.StringIO()

    class Everything(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{super().format(record)} {record.__dict__}"

    handler = logging.StreamHandler(stream)
    handler.setFormatter(Everything())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("how", LOUD)
def test_an_error_that_carries_a_rows_content_is_kept_without_it(
    project: Project, timed: backfill.Backfill, tmp_path: Path, heard: io.StringIO, how: str
) -> None:
    """Neither tables, files, logs, events, answers nor exceptions hold it; the code is kept."""
    body, code = LOUD[how]
    if code == "23514":
        project.db.execute(f"alter table public.fc_scores add {CHECK}".encode())
    replace_scorer(project, body)
    plan = timed.plan(**REHEARSED)
    project.approve(plan)
    events: list[backfill.Event] = []
    told = ""
    try:
        timed.apply(plan.run_id, on_event=events.append, logs_dir=tmp_path)
    except backfill.BackfillError as error:
        told = "".join(traceback.format_exception(error)) + str(error.__dict__)
    said = [told, str(events), str(timed.outcome(plan.run_id)), heard.getvalue()]
    assert code in "".join(said)
    assert [SECRET in text for text in said] == [False] * 4
    assert (in_tables(project), in_files(tmp_path)) == ([], [])


def test_what_a_function_says_of_itself_is_kept_and_cut(
    project: Project, timed: backfill.Backfill
) -> None:
    """raise exception without a code is the author's own sentence, of at most 500 characters."""
    replace_scorer(project, "raise exception '%', repeat('no answers ', 100)")
    plan = timed.plan(**REHEARSED)
    project.approve(plan)
    with pytest.raises(backfill.Paused):
        timed.apply(plan.run_id)
    messages = {f.error_message for f in timed.outcome(plan.run_id).failures}
    assert messages == {("no answers " * 100)[:500]}


def test_the_database_keeps_no_content_whoever_settles(
    project: Project, bf: backfill.Backfill
) -> None:
    """A client of one's own tells whole messages and steps: the database leaves them out."""
    api = Outsider(project)
    attempts = api.claim(running(project, bf))
    message = f'invalid input syntax for type integer: "{SECRET}"'
    api.settle(attempts[0], outcome="failed", code="22P02", message=message, step=SECRET)
    api.settle(attempts[1], outcome="unknown", code="22P02", message=message, details=SECRET)
    assert in_tables(project) == []
    [failed] = project.rows("select * from public.backfill_run_failures")
    assert (failed["error_code"], failed["failed_step"]) == ("22P02", None)
    assert "data exception" in failed["error_message"]


CODES = [
    "P0001", "P0002", "P0004", "PT404", "XY123", "OB011", "OB018", "PGRST202", "502",
    "transport", "22P02", "22007", "22023", "23502", "23503", "23505", "23514", "42501",
    "42601", "42703", "42883", "42P01", "40001", "40P01", "53300", "54001", "55P03", "57014",
    "38000", "39P01", "HV000", "XX000", "0A000", "08006", "26000", "2F005", "34000", "58030",
    "3D000", "3F000", "44000", "21000", "20000", "F0000",
]  # fmt: skip


def test_client_and_database_keep_the_same_messages(project: Project) -> None:
    """The rule stands once in Python, for logs and files, and once in SQL, for whoever settles."""
    kept = {
        code: project.value("select backfill_private.kept_message(%s, %s)", code, "a message")
        for code in CODES
    }
    assert kept == {code: fault_of_api(code, "a message", 400).message for code in CODES}
    withheld = {code for code, message in kept.items() if message != "a message"}
    assert {"22P02", "42601", "XX000"} <= withheld
    assert not {"P0001", "OB011", "23505", "42501", "57014", "PGRST202"} & withheld


def test_a_run_that_overwrites_rows_keeps_their_content_in_before_alone(
    project: Project, timed: backfill.Backfill, tmp_path: Path, heard: io.StringIO, shell: Shell
) -> None:
    """Plan, apply, verify, undo and every file and page about them, over rows with content."""
    project.db.execute(
        "update public.assessment_responses set created_at = created_at;"
        "update public.fc_blocks set prompt = %s".replace("%s", f"'{SECRET}'").encode()
    )
    replace_scorer(project, f"{WRITE}; {WRITE}")
    run = running(project, timed)
    timed.apply(run, logs_dir=tmp_path)
    answers = [timed.verify(run), timed.get(run).markdown(), timed.get(run).as_dict()]
    timed.rollback(run, sessions=[CANARY]).confirm(reason="a test")
    project.db.execute("update public.fc_scores set blocks_answered = 1 where version = 'v1.2'")
    undo = timed.rollback(run)
    answers += [undo.effect, undo.confirm(reason="a test"), timed.write_logs(run, tmp_path)]
    for command in (["show"], ["status"], ["verify"], ["rollback"], ["logs"]):
        ran = shell(*command, run, "--json")
        answers += [ran.out, ran.err, shell(*command, run).out]
    held = project.value(
        "select count(*) from public.backfill_receipts where before::text like %s", f"%{SECRET}%"
    )
    assert held >= 39, "the content is in the receipts, or this test looks for nothing"
    assert (in_tables(project), in_files(tmp_path)) == ([], [])
    assert SECRET not in str(answers) + heard.getvalue()


def test_an_undo_that_cannot_be_done_tells_no_content(
    project: Project, timed: backfill.Backfill
) -> None:
    """A constraint that came since refuses the old row: the error names it and not the row."""
    session, body = CANARY, f'{{"answer": "{SECRET}"}}'
    project.db.execute(
        "delete from public.profiles where session_id = %(id)s;".replace(
            "%(id)s", f"'{session}'"
        ).encode()
    )
    project.db.execute(
        "insert into public.profiles (session_id, results_version, type_code, payload)"
        " values (%s, 'old', 'INTJ', %s)",
        (session, Jsonb(json.loads(body))),
    )
    api = Outsider(project)
    run = running(project, timed)
    attempts = api.claim(run)
    while session not in [a.session_id for a in attempts]:
        attempts = api.claim(run)
    [mine] = [a for a in attempts if a.session_id == session]
    assert api.score(mine)["status"] == "ok"
    changed = api.send(
        "PATCH",
        f"/profiles?session_id=eq.{session}",
        {"payload": {}, "results_version": "v1.2.1"},
        mine.headers,
    )
    assert changed.status_code == 204
    project.db.execute("alter table public.profiles add check (payload ->> 'answer' is null)")
    timed.cancel(run, reason="a test")
    undo = timed.rollback(run, sessions=[session])
    told = ""
    try:
        told = str(undo.confirm(reason="a test"))
    except backfill.BackfillError as error:
        told = "".join(traceback.format_exception(error)) + str(error.__dict__)
    assert "profiles" in told
    assert SECRET not in told
    assert in_tables(project) == []


def test_prune_empties_before_and_undo_then_leaves_what_was_updated(
    project: Project, timed: backfill.Backfill
) -> None:
    """Inserted rows are still taken back; an updated one is a conflict: its old form is gone."""
    replace_scorer(project, WRITE)
    api = Outsider(project)
    run = running(project, timed)
    attempts = {a.session_id: a for a in api.claim(run)}
    filled, fresh = list(attempts)[:2]
    assert api.write(filled).status_code == 201
    for session in (filled, fresh):
        assert api.score(attempts[session]) == {}
    timed.cancel(run, reason="enough")
    before = "select count(*) from public.backfill_receipts where before is not null"
    assert project.value(before) == 1
    assert api.rpc("backfill_prune", run=run) == {"run_id": run, "emptied": 1}
    assert project.value(before) == 0
    undo = timed.rollback(run)
    assert [(c["session_id"], c["reason"]) for c in undo.effect.conflicts] == [
        (filled, "its before-image was pruned")
    ]
    done = undo.confirm(reason="a test")
    assert (done.deletes["fc_scores"], len(done.conflicts)) == (1, 1)
    assert project.value(before) == 0
    left = "select count(*) from public.fc_scores where version = 'v1.2' and session_id = %s"
    assert [project.value(left, session) for session in (filled, fresh)] == [1, 0]


def test_the_receipts_hash_in_the_chain_outlives_a_prune(
    project: Project, timed: backfill.Backfill
) -> None:
    """What prune empties is not what the chain swears to: verify goes on passing."""
    replace_scorer(project, f"{WRITE}; {WRITE}")
    plan = timed.plan(**REHEARSED)
    project.approve(plan)
    timed.apply(plan.run_id)
    assert Outsider(project).rpc("backfill_prune", run=plan.run_id)["emptied"] == 39
    verification = timed.verify(plan.run_id)
    assert (verification.verdict, verification.critical) == ("pass", ())


@pytest.mark.parametrize("role", ["viewer", "operator", "approver", "service_role"])
def test_no_api_role_reads_before(project: Project, role: str) -> None:
    """By no column list, filter, order or embedding; the other columns are there to read."""
    api = Outsider(project, None if role == "service_role" else project.user(role))
    for query in (
        "select=before",
        "select=*",
        "select=receipt_id&before=not.is.null",
        "select=receipt_id&before->>payload=like.*a*",
        "select=receipt_id&order=before->>payload",
        "select=receipt_id,before->payload",
    ):
        answer = api.send("GET", f"/backfill_receipts?{query}").json()
        assert answer["code"] == "42501", query
    assert api.send("GET", "/backfill_receipts?select=receipt_id,row_key").json() == []
