"""What README.md says of the watch: the level is read, the line for pg_cron looks."""

from __future__ import annotations

from backfill.targets.declaration import Watch, parse
from tests.conftest import Project
from tests.kit.readme import claim
from tests.kit.songs import DECLARED

BY = "tests/test_readme_watch.py"
LEVEL = claim("Keep watch", "[watch]", BY)
JOB = claim("Keep watch", "select cron.schedule", BY)
# What pg_cron offers, but for the waiting: what is scheduled is done once, as who scheduled it.
AT_ONCE = """
create schema cron;
create function cron.schedule(job_name text, schedule text, command text) returns bigint
language plpgsql as $$ begin execute command; return 1; end $$;
"""


def test_the_level_stands_in_any_target_s_file() -> None:
    """As it is written."""
    watch = parse(f"{DECLARED}{LEVEL}").watch
    assert watch == Watch(min_coverage=0.99, within=6 * 3600)


def test_the_job_looks(project: Project) -> None:
    """The command is the database's own, with the rights of who scheduled it."""
    project.db.execute(AT_ONCE.encode())
    project.db.execute(JOB.encode())
    (status,) = project.rows("select status, looked_at from public.backfill_watch_status")
    assert (status["status"], status["looked_at"] is None) == ("breached", False)
