"""Looking for what is missing only reads, and PostgreSQL itself sees to that."""

from __future__ import annotations

import pytest

import backfill
from tests.conftest import Project
from tests.kit.seed import SEED

# A detection that keeps a note of each session it looks at: convenient, and a write per session.
WRITING_VIEW = """
create table public.looked_at (session_id text);
create function public.note(session_id text) returns boolean language plpgsql as $$
begin
  {write}
  return true;
end
$$;
alter view backfill_private.prism_gaps rename to prism_gaps_only_read;
create view backfill_private.prism_gaps with (security_invoker = true) as
select * from backfill_private.prism_gaps_only_read where public.note(session_id);
"""
WRITES = {
    "a row": "insert into public.looked_at values (note.session_id);",
    "a table": "create table public.made_by_detection (x integer);",
    "a user's row": "update public.assessment_sessions set status = 'completed';",
    "its way around": (
        "set local transaction_read_only = off; insert into public.looked_at values ('x');"
    ),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_detection_that_writes_fails_and_has_written_nothing(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """The refusal is PostgreSQL's, names the view, and leaves the run where it was."""
    project.db.execute(WRITING_VIEW.replace("{write}", WRITES[what]).encode())
    with pytest.raises(backfill.BackfillError) as refused:
        bf.plan(**SEED)
    if what == "its way around":
        assert "cannot set transaction read-write mode" in refused.value.message
    else:
        assert refused.value.message.startswith("25006: backfill_private.prism_gaps writes")
        assert "Take the write out of the view" in refused.value.message
    assert project.value("select count(*) from public.looked_at") == 0
    assert project.value("select to_regclass('public.made_by_detection')") is None
    assert project.value("select count(*) from backfill_private.findings") == 0


def test_after_a_window_the_same_transaction_can_write_again(project: Project) -> None:
    """The end of the subtransaction gives writing back, also where it found nothing."""
    with project.db.transaction():
        for since in ("2025-08-01", "2031-01-01"):
            found = project.value(
                "select count(*) from unnest("
                "backfill_private.detected('prism', %s, 'infinity')) as d",
                since,
            )
            assert (found > 0) == (since < "2026")
            project.db.execute("create table public.written_after as select 1 as x")
            project.db.execute("drop table public.written_after")
