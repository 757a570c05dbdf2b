"""The stories of supabase/tests, a role each, told to PostgreSQL 15 with pgTAP."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from backfill.local.servers import PostgresServer
from tests.kit.debian import BIN, running_project

STORIES = Path(__file__).parent.parent / "supabase" / "tests"
ROLES = {
    "anon",
    "authenticated_without_role",
    "viewer",
    "operator",
    "approver",
    "service_role",
    "postgres",
}


@dataclass(frozen=True)
class Told:
    """What a story printed and how psql ended."""

    exit_code: int
    output: str
    errors: str

    @property
    def is_true(self) -> bool:
        """Whether psql came to the end, and to as many claims as the plan says, all of them ok."""
        results = re.findall(r"^(ok|not ok) \d+", self.output, re.MULTILINE)
        plan = re.findall(r"^1\.\.(\d+)$", self.output, re.MULTILINE)
        is_whole = self.exit_code == 0 and plan == [str(len(results))] and bool(results)
        return is_whole and "not ok" not in results


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """The project on Debian's PostgreSQL 15."""
    with running_project() as running:
        yield running


def tell(server: PostgresServer, role: str) -> Told:
    """Run the story of a role with psql, as `pg_prove` and `supabase test db` do."""
    ran = subprocess.run(
        [str(BIN / "psql"), "-X", "-q", "-d", server.dsn(), "-f", str(STORIES / f"{role}.sql")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Told(ran.returncode, ran.stdout, ran.stderr)


def test_every_role_has_its_story() -> None:
    """A file a role, and no file that nobody tells."""
    assert {story.stem for story in STORIES.glob("*.sql")} == ROLES


@pytest.mark.parametrize("role", sorted(ROLES))
def test_the_story_of_a_role_is_true(server: PostgresServer, role: str) -> None:
    """Every claim of it holds on a database with the platform, the migrations and the seed."""
    told = tell(server, role)
    assert told.is_true, told.output + told.errors


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_story_leaves_nothing(server: PostgresServer, role: str) -> None:
    """It rolls back: no run, no user, no policy, no extension stays."""
    before = _traces(server)
    tell(server, role)
    assert _traces(server) == before == (0, 0, 0, "any")


def _traces(server: PostgresServer) -> tuple[object, ...] | None:
    with psycopg.connect(server.superuser_dsn()) as connection:
        return connection.execute(
            """
            select (select count(*) from public.backfill_runs), (select count(*) from auth.users),
              (select count(*) from pg_extension where extname = 'pgtap'),
              (select approval_policy from public.backfill_settings)
            """
        ).fetchone()


@pytest.mark.parametrize(
    ("role", "change", "undo"),
    [
        (
            "anon",
            "grant select on public.backfill_events to anon",
            "revoke select on public.backfill_events from anon",
        ),
        (
            "postgres",
            "alter table public.backfill_items disable trigger backfill_items_guard",
            "alter table public.backfill_items enable trigger backfill_items_guard",
        ),
        (
            "service_role",
            "alter table public.backfill_approvals disable trigger backfill_approvals_decide",
            "alter table public.backfill_approvals enable trigger backfill_approvals_decide",
        ),
    ],
)
def test_one_guard_too_few_makes_a_story_untrue(
    server: PostgresServer, role: str, change: str, undo: str
) -> None:
    """A story that could not fail would tell nothing."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(change.encode())
        try:
            assert not tell(server, role).is_true
        finally:
            connection.execute(undo.encode())
