"""Lessons, whose marks and letters Edge Functions make that know nothing of us."""

from __future__ import annotations

from typing import Any

from backfill.targets.declaration import Receipts, parse
from tests.conftest import Project
from tests.kit.edge import OF_TESTS, declare

FUNCTIONS = OF_TESTS / "lessons"
# Lessons 1 to 3 have tasks. The first has a letter of an older edition, which is overwritten.
TABLES = """
create table public.lessons (id bigint primary key, held_at timestamptz not null, state text);
create table public.tasks (
  lesson_id bigint not null, number integer, points integer, primary key (lesson_id, number));
create table public.marks (
  lesson_id bigint not null, edition text not null, points integer,
  primary key (lesson_id, edition));
create table public.letters (
  lesson_id bigint primary key, edition text not null, said text,
  written_at timestamptz default now());
create table public.letter_copies (lesson_id bigint primary key, said text);
insert into public.lessons
select n, timestamptz '2025-08-01 12:00+00' + n * interval '1 day', 'held'
from generate_series(1, 5) as n;
insert into public.tasks
select n, i, n from generate_series(1, 3) as n, generate_series(1, 2) as i;
insert into public.letters values (1, 'e1', 'once', '2025-01-01');
grant select, insert, update, delete
  on public.lessons, public.tasks, public.marks, public.letters, public.letter_copies
  to service_role;
"""
DECLARED = """
target = "lessons"
[source]
table = "public.lessons"
key = "id"
date = "held_at"
where = { state = "held" }
needs = [{ name = "tasks", table = "public.tasks", column = "lesson_id", at_least = "least" }]
[parameters]
least = 1
[[component]]
name = "mark"
table = "public.marks"
session = "lesson_id"
key = ["lesson_id", "edition"]
version_column = "edition"
version = "e1"
transport = "edge"
receipts = "RECEIPTS"
function = "mark_lesson"
function_version = "1"
arguments = { lesson_id = "session_id", edition = "mark_version" }
[[component]]
name = "letter"
table = "public.letters"
session = "lesson_id"
key = ["lesson_id"]
version_column = "edition"
version = "e2"
transport = "edge"
receipts = "RECEIPTS"
function = "write_letter"
function_version = "1"
arguments = { lesson_id = "session_id" }
"""
ASKED: dict[str, Any] = {"since": "2025-08-01", "target": "lessons", "throttle_per_minute": None}


def install(project: Project, receipts: Receipts, tables: str = TABLES) -> None:
    """Make the tables in a project and declare the target."""
    project.db.execute(tables.encode())
    declare(project, parse(DECLARED.replace("RECEIPTS", receipts)))
