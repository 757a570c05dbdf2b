"""A project whose scorers are Edge Functions as they are, with clients of the module."""

from __future__ import annotations

import json
import re
import shutil
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest

import backfill
from backfill.targets.declaration import parse
from tests.conftest import Project
from tests.kit import lessons
from tests.kit.commands import Shell
from tests.kit.edge import declare, served


def letters(project: Project) -> list[dict[str, Any]]:
    """The letters as they stand."""
    return project.rows("select lesson_id, edition, said from public.letters order by lesson_id")


def test_untouched_functions_go_the_whole_way(project: Project, timed: backfill.Backfill) -> None:
    """With inferred receipts, to the undo that brings back what was overwritten."""
    lessons.install(project, "inferred")
    before = letters(project)
    plan = timed.plan(**lessons.ASKED, inferred="lessons")
    assert plan.expected_calls == {"mark_lesson": 3, "write_letter": 3, "total": 6}
    project.approve(plan)
    with served(project, lessons.FUNCTIONS):
        assert timed.apply(plan.run_id).is_complete
    seen = timed.verify(plan.run_id)
    assert (seen.verdict, seen.inferred, seen.without_headers) == ("pass", 6, None)
    undone = timed.rollback(plan.run_id).confirm(reason="a test")
    assert (undone.deletes, undone.restores) == (
        {"marks": 3, "letters": 2},
        {"marks": 0, "letters": 1},
    )
    assert letters(project) == before
    assert project.value("select count(*) from public.marks") == 0


def test_a_plan_like_a_run_of_another_declaration_says_how_to_go_on(
    project: Project, timed: backfill.Backfill, shell: Shell
) -> None:
    """Inferred receipts are accepted by name, and the command is whole.

    A parameter that the target no longer has is not taken over.
    """
    lessons.install(project, "exact")
    plan = timed.plan(**lessons.ASKED, priority=["1"], parameters={"least": 2}, rehearse=0)
    inferred = lessons.DECLARED.replace("RECEIPTS", "inferred")
    declare(project, parse(inferred))
    refused = shell("plan", "--like", plan.run_id)
    command = f"backfill plan --like {plan.run_id} --inferred lessons"
    assert (refused.code, refused.err.rstrip().endswith(command)) == (2, True), refused.err
    again = shell(*command.split()[1:], "--json")
    assert (again.code, again.json["request"]["least"]) == (0, 2), again.out
    assert again.json["request"]["priority"] == ["1"]
    renamed = inferred.replace('"least"', '"fewest"').replace("\nleast", "\nfewest")
    declare(project, parse(renamed))
    again = shell(*command.split()[1:], "--json")
    assert (again.code, again.json["request"]["fewest"]) == (0, 1), again.out
    assert "least" not in again.json["request"]


def counted(project: Project) -> None:
    """Wait until the API's sessions have told PostgreSQL's counters what they wrote."""
    project.admin.execute(
        "select pg_terminate_backend(pid, 20000) from pg_stat_activity"
        " where usename = 'authenticator' and datname = current_database()"
    )


def test_a_table_that_no_component_names_is_seen_and_named(
    project: Project, timed: backfill.Backfill, shell: Shell
) -> None:
    """In verify, in the undo, which leaves it, and in the next plan."""
    lessons.install(project, "inferred")
    plan = timed.plan(**lessons.ASKED, inferred="lessons")
    assert "other tables" not in {mark.name for mark in plan.checks}
    project.approve(plan)
    # What was inserted above is counted before the run, not during it.
    project.db.execute("select pg_stat_force_next_flush()")
    with served(project, lessons.FUNCTIONS):
        timed.apply(plan.run_id)
    # People sign up meanwhile, as they always do.
    project.admin.execute("insert into auth.users (id) values (gen_random_uuid())")
    project.admin.execute("select pg_stat_force_next_flush()")
    counted(project)
    copies = {
        "table": "public.letter_copies", "inserted": 3, "updated": 0, "deleted": 0,
        "seen": "first sessions",
    }  # fmt: skip
    assert [dict(one) for one in timed.verify(plan.run_id).elsewhere] == [copies]
    said = "public.letter_copies (3 inserted). No component names it, so an undo leaves it."
    assert said in shell("verify", plan.run_id).out
    undo = timed.rollback(plan.run_id)
    assert [dict(one) for one in undo.effect.elsewhere] == [copies]
    assert said in shell("rollback", plan.run_id).out
    timed.rollback(plan.run_id).confirm(reason="a test")
    assert project.value("select count(*) from public.letter_copies") == 3
    marks = {mark.name: mark for mark in timed.plan(**lessons.ASKED, inferred="lessons").checks}
    assert marks["other tables"].status == "warn"
    assert "wrote to public.letter_copies" in marks["other tables"].detail


def test_the_first_writes_of_a_function_without_headers_can_be_undone(
    project: Project, timed: backfill.Backfill
) -> None:
    """Declared exact, and it hands none on: the run ends there, and every row comes back."""
    lessons.install(project, "exact")
    before = letters(project)
    plan = timed.plan(**lessons.ASKED, priority=["1"])
    project.approve(plan)
    with (
        served(project, lessons.FUNCTIONS),
        pytest.raises(backfill.Paused, match="mark_lesson, write_letter wrote without") as paused,
    ):
        timed.apply(plan.run_id)
    assert "_shared/backfill.ts" in paused.value.next_step
    assert {f.error_code for f in timed.outcome(plan.run_id).failures} == {"OB016"}
    assert letters(project) != before
    seen = timed.verify(plan.run_id)
    assert (seen.verdict, seen.without_headers) == ("fail", "mark_lesson, write_letter")
    for goes_on in (timed.resume, timed.retry):
        with pytest.raises(backfill.IllegalMove, match="cannot go on: mark_lesson") as refused:
            goes_on(plan.run_id)
        assert refused.value.next_step.endswith(f"backfill plan --like {plan.run_id}")
    with pytest.raises(backfill.IllegalMove):
        timed.resume(plan.run_id, because="somebody else wrote it")
    undo = timed.rollback(plan.run_id)
    assert undo.effect.inferred == 2
    assert undo.confirm(reason="a test").restores == {"marks": 0, "letters": 1}
    assert letters(project) == before
    with pytest.raises(backfill.IllegalMove, match="cannot go on"):
        timed.resume(plan.run_id)


def test_a_session_without_effect_names_function_time_and_what_to_look_at(
    project: Project, timed: backfill.Backfill
) -> None:
    """The write's error is ignored and the answer is 200: the letter of one lesson is refused."""
    lessons.install(project, "inferred")
    project.db.execute("alter table public.letters add check (lesson_id <> 2)")
    plan = timed.plan(**lessons.ASKED, inferred="lessons")
    project.approve(plan)
    with served(project, lessons.FUNCTIONS):
        (failed,) = timed.apply(plan.run_id).failures
    assert (failed.session_id, failed.failed_step, failed.error_code) == ("2", "letter", "OB017")
    assert re.fullmatch(
        r"no effect: write_letter answered by \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC and left no row"
        r" of the wanted version in public\.letters\. Look at its log of that time: .*",
        str(failed.error_message),
    )
    assert timed.verify(plan.run_id).verdict == "partial"


CONFLICTING = """
import { createClient } from "npm:@supabase/supabase-js@2";

const db = createClient(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_SERVICE_ROLE_KEY")!);
const tried = new Set();
let underWay = 0;

Deno.serve(async (request) => {
  const { lesson_id, edition } = await request.json();
  underWay += 1;
  try {
    const { error } = await db.from("days").insert({ day: "2025-08-02" });
    const isAlone = underWay === 1;
    if (tried.has(lesson_id) && !isAlone) return new Response("not alone", { status: 422 });
    if (!tried.has(lesson_id) || lesson_id === "3") {
      tried.add(lesson_id);
      return Response.json({ error: error!.message }, { status: 500 });
    }
    const mark = { lesson_id, edition, points: 1 };
    await db.from("marks").upsert(mark, { onConflict: "lesson_id,edition" });
    return Response.json(mark);
  } finally {
    underWay -= 1;
  }
});
"""


def test_a_conflict_on_another_table_is_tried_once_more_alone(
    project: Project, timed: backfill.Backfill, tmp_path: Path
) -> None:
    """Nothing else is under way then. What meets it alone too has failed, with its own words."""
    shutil.copytree(lessons.FUNCTIONS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mark_lesson" / "index.ts").write_text(CONFLICTING)
    lessons.install(project, "inferred")
    project.db.execute("create table public.days (day date primary key)")
    project.db.execute("insert into public.days values ('2025-08-02')")
    project.db.execute("grant select, insert on public.days to service_role")
    project.reload()
    plan = timed.plan(**lessons.ASKED, inferred="lessons")
    project.approve(plan)
    told: list[str] = []
    with served(project, tmp_path):
        outcome = timed.apply(
            plan.run_id,
            on_event=lambda event: told.extend(
                settled["error_message"] or "" for settled in event.details.get("settled", ())
            ),
        )
    (failed,) = outcome.failures
    assert (failed.session_id, failed.failed_step) == ("3", "mark")
    assert failed.error_message == ('duplicate key value violates unique constraint "days_pkey"')
    assert outcome.status.counts["done"] == 2
    assert {s.attempts for s in timed.get(plan.run_id).sessions} == {2}
    assert len([line for line in told if "With apply --concurrency 1 each is" in line]) == 3


# With the file that hands the headers on --------------------------------------------------------

RELAY = """
import { handOn } from "../_shared/backfill.ts";

const project = Deno.env.get("SUPABASE_URL")!;

Deno.serve(handOn(async (request) => {
  const Authorization = request.headers.get("Authorization")!;
  const body = await request.text();
  const init = { method: "POST", headers: { Authorization }, body };
  return await fetch(`${project}/functions/v1/FUNCTION`, init);
}));
"""
ECHO = """
import { handOn } from "../_shared/backfill.ts";

const ours = (headers: Headers) => [...headers].filter(([name]) => name.startsWith("x-backfill-"));

Deno.serve(handOn(async (request) => {
  const elsewhere = await request.text();
  if (!elsewhere) return Response.json(ours(request.headers));
  const Authorization = request.headers.get("Authorization")!;
  await new Promise((resolve) => setTimeout(resolve, 5));
  return await fetch(new Request(elsewhere, { method: "POST", headers: { Authorization } }));
}));
"""


def two_lines_more(source: str) -> str:
    """A function with the two lines that the installed file asks for."""
    wrapped = re.sub(r"serve\((async .*)\);\s*$", r"serve(handOn(\1));", source, flags=re.DOTALL)
    return f'import {{ handOn }} from "../_shared/backfill.ts";\n{wrapped}'


@pytest.fixture
def handing_on(tmp_path: Path, plain_shell: Shell) -> Path:
    """The lessons' functions, each with two lines more, and the file that install adds."""
    (tmp_path / "config.toml").touch()
    shutil.copytree(lessons.FUNCTIONS, tmp_path / "functions")
    ran = plain_shell("install", "--supabase-path", str(tmp_path), "--functions", "--yes")
    assert ran.code == 0
    assert "two lines" in ran.out
    for source in (tmp_path / "functions").glob("*/index.ts"):
        source.write_text(two_lines_more(source.read_text()))
    return tmp_path / "functions"


def test_two_lines_a_function_make_its_receipts_exact(
    project: Project, timed: backfill.Backfill, handing_on: Path
) -> None:
    """Clients of the module, std's serve, and a function that another one calls."""
    (handing_on / "write_letter").rename(handing_on / "letters")
    (handing_on / "write_letter").mkdir()
    (handing_on / "write_letter" / "index.ts").write_text(RELAY.replace("FUNCTION", "letters"))
    lessons.install(project, "exact")
    plan = timed.plan(**lessons.ASKED)
    project.approve(plan)
    with served(project, handing_on):
        assert timed.apply(plan.run_id, concurrency=3).is_complete
    kept = project.rows(
        "select component, is_inferred, count(*) as n, count(distinct session_id) as sessions"
        " from public.backfill_receipts group by 1, 2 order by 1"
    )
    assert kept == [
        {"component": name, "is_inferred": False, "n": 3, "sessions": 3}
        for name in ("letter", "mark")
    ]
    assert timed.verify(plan.run_id).verdict == "pass"


def test_the_headers_go_to_the_project_alone(project: Project, handing_on: Path) -> None:
    """To its own address through any time and any form of request, to no other."""
    (handing_on / "echo").mkdir()
    (handing_on / "echo" / "index.ts").write_text(ECHO)
    with served(project, handing_on):
        own = f"{project.url}/functions/v1/echo"
        foreign = own.replace("127.0.0.1", "localhost")
        headers = {"Authorization": f"Bearer {project.keys.service_role}", "x-backfill-run": "r"}
        given = {
            name: httpx.post(own, headers=headers, content=address, timeout=30).json()
            for name, address in {"own": own, "foreign": foreign}.items()
        }
    assert given == {"own": [["x-backfill-run", "r"]], "foreign": []}


def test_the_file_is_shown_asked_for_and_never_overwritten(
    tmp_path: Path, plain_shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied once, skipped when it is there, left and refused when it is another."""
    install = ("install", "--supabase-path", str(tmp_path), "--functions")
    refused = plain_shell(*install, "--yes")
    assert (refused.code, "no Supabase project folder" in refused.err) == (2, True)
    (tmp_path / "config.toml").touch()
    file = tmp_path / "functions" / "_shared" / "backfill.ts"
    monkeypatch.setattr(sys, "stdin", StringIO("n\n"))
    assert plain_shell(*install).code == 1
    assert not file.exists()
    for state in ("copied", "same"):
        told = plain_shell(*install, "--yes", "--json").out
        assert json.loads(told) == {"functions": {"file": str(file), "state": state}}
    assert not (tmp_path / "migrations").exists()
    file.write_text("mine")
    refused = plain_shell(*install, "--yes")
    assert (refused.code, "left as is" in refused.err) == (2, True)
    assert file.read_text() == "mine"


def test_with_a_target_it_is_one_answer(tmp_path: Path, plain_shell: Shell) -> None:
    """JSON alone under --json. A target that is refused leaves no file."""
    install = ("install", "--supabase-path", str(tmp_path), "--functions", "--yes", "--json")
    (tmp_path / "config.toml").touch()
    file = tmp_path / "functions" / "_shared" / "backfill.ts"
    assert plain_shell(*install, "--target", "none.toml").json["error"]
    assert not file.exists()
    told = plain_shell(*install, "--target", "prism-edge").json
    assert told["functions"] == {"file": str(file), "state": "copied"}
    assert told["migrations"]
