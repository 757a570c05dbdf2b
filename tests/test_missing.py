"""What is missing: days, shares, and the days of which there is no share."""

from __future__ import annotations

import pytest

import backfill
from tests.conftest import Project
from tests.kit.commands import Shell

ALONE = "2027-03-01"


@pytest.fixture
def unscorable(project: Project) -> None:
    """A session without any response, on a day of its own."""
    project.db.execute(
        "with alone as (update public.assessment_sessions set created_at = %s"
        " where id = (select session_id::uuid from public.backfill_candidates limit 1)"
        " returning id) delete from public.assessment_responses"
        " where session_id = (select id from alone)",
        (f"{ALONE} 12:00+00",),
    )


@pytest.mark.usefixtures("unscorable")
def test_a_day_of_sessions_that_cannot_be_scored_has_no_coverage(shell: Shell) -> None:
    """Neither 100 % nor 0 %: there is nothing to be a share of."""
    found = shell("missing", "--since", ALONE, "--json").json
    assert [(d["day"], d["excluded"], d["coverage"]) for d in found["days"]] == [(ALONE, 1, None)]
    assert (found["coverage"], found["excluded"]) == (None, 1)
    shown = shell("missing", "--since", ALONE).out
    assert "n/a" in shown
    assert "no session that can be scored" in shown


@pytest.mark.usefixtures("unscorable")
def test_what_cannot_be_scored_is_not_below_any_coverage(shell: Shell) -> None:
    """Nobody could do anything about it; the days that can be scored count as ever."""
    assert shell("missing", "--since", ALONE, "--min-coverage", "1").code == 0
    assert shell("missing", "--since", "2025-08-01", "--min-coverage", "1").code == 4


def test_a_time_without_sessions_is_not_below_any_coverage(shell: Shell) -> None:
    """No day, no share."""
    ran = shell("missing", "--since", "2030-01-01", "--min-coverage", "1", "--json")
    assert (ran.code, ran.json["days"], ran.json["coverage"]) == (0, [], None)


def test_sessions_without_a_date_count_in_any_range(project: Project, shell: Shell) -> None:
    """No plan can take them, so a gate does not pass by leaving them out."""
    project.db.execute(
        "alter table public.assessment_sessions alter column created_at drop not null;"
        "update public.assessment_sessions set created_at = null"
        " where id = (select session_id::uuid from public.backfill_candidates limit 1)"
    )
    found = shell("missing", "--since", "2030-01-01", "--json").json
    assert [(d["day"], d["completed"]) for d in found["days"]] == [(None, 1)]
    shown = shell("missing", "--since", "2030-01-01", "--min-coverage", "1")
    assert ("no date" in shown.out, shown.code) == (True, 4)


@pytest.mark.usefixtures("nothing_changes")
def test_a_range_of_days_ends_with_its_last(shared_project: Project) -> None:
    """Both ends are in it, as in a plan's. A moment means its day."""
    with shared_project.connect() as bf:
        days = [d.day for d in bf.missing(since="2025-08-01").days]
        first, last = days[1], days[3]
        assert [d.day for d in bf.missing(since=first, until=last).days] == days[1:4]
        assert [d.day for d in bf.missing(since=first, until=f"{last}T00:00Z").days] == days[1:4]
        assert bf.missing(until="2000-01-01").days == ()
        with pytest.raises(backfill.BadRequest) as refused:
            bf.missing(since="2025-08-02", until="2025-08-01")
    assert refused.value.message == "since 2025-08-02 is after until 2025-08-01"
    assert refused.value.next_step == "backfill missing … --until …, with a day from 2025-08-02 on"


def test_sessions_without_a_date_count_in_a_range_that_ends(project: Project, shell: Shell) -> None:
    """As in one that does not."""
    project.db.execute(
        "alter table public.assessment_sessions alter column created_at drop not null;"
        "update public.assessment_sessions set created_at = null"
        " where id = (select session_id::uuid from public.backfill_candidates limit 1)"
    )
    found = shell("missing", "--since", "2029-01-01", "--until", "2029-12-31", "--json").json
    assert [(d["day"], d["completed"]) for d in found["days"]] == [(None, 1)]
    assert found["undated"] == 1
