"""Dates that calendars do not know, or that are far away: left out with the reason, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import backfill
from backfill.moments import moment
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.jars import PLAN, jars, labelled

ODD = {
    "infinity": "its filled_at is infinity",
    "-infinity": "its filled_at is -infinity",
    "20250-03-01": "its filled_at is in the year 20250, and plans end with 9999",
    "0044-03-15 BC": "its filled_at is before the year 1, with which plans begin",
    None: "it has no filled_at",
}
FAR = ("0001-01-01", "9999-12-31")
VERBS = ("show", "status", "apply", "verify", "logs", "rollback")
LEFT_OUT = (
    "1 session has no filled_at: no plan takes it; 4 sessions have a filled_at that is infinite or"
    " of a year outside 1 to 9999: no plan takes them"
)


def filled(project: Project, first: int, *dates: str | None) -> None:
    for jar, date in enumerate(dates, start=first):
        project.db.execute("insert into public.jars values (%s, null, %s)", (jar, date))


LATER = {"300000-01-01": "its filled_at is after the year 294276"}


@pytest.mark.parametrize("date", ["timestamptz", "timestamp", "date"])
def test_dates_that_no_plan_can_take_are_left_out_with_the_reason(
    project: Project, bf: backfill.Backfill, shell: Shell, date: str
) -> None:
    """In every verb, whatever the column's type; the others are planned and scored."""
    jars(project, 1, 2, date=date)
    # Only a date may be later than any moment.
    odd = ODD | (LATER if date == "date" else {})
    filled(project, 10, *odd)
    windows = count_windows(project)
    plan = bf.plan(**PLAN)
    assert windows() <= 3
    assert {s.session_id for s in plan.sessions} == {"1", "2"}
    assert {e["session_id"]: e["reason"] for e in plan.excluded} == {
        str(jar): why for jar, why in enumerate(odd.values(), start=10)
    }
    assert plan.as_dict()["undated"] == len(odd)
    seen = bf.freshness(plan.run_id)
    assert seen is not None
    assert seen.is_fresh
    project.approve(plan)
    for verb in VERBS:
        for words in ((verb, plan.run_id), (verb, plan.run_id, "--json")):
            ran = shell(*words)
            assert (ran.code, "Traceback" in ran.err) == (0, False), ran
    assert all(why in shell("show", plan.run_id).out for why in odd.values())
    assert "infinity" in bf.page(plan.run_id)
    assert labelled(project) == {"1", "2"}
    assert bf.verify(plan.run_id).new_candidates_total == 0


def test_a_date_that_no_timestamp_holds_is_left_out(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """A date may lie beyond the last timestamp. Every verb that reads it goes on."""
    jars(project, 1, date="date")
    filled(project, 10, "294277-01-01", "5000000-01-01", "infinity", None)
    plan = bf.plan(**PLAN)
    beyond = "its filled_at is after the year 294276"
    assert [e["reason"] for e in plan.excluded] == [beyond, beyond, ODD["infinity"], ODD[None]]
    assert bf.missing(since="2025-08-01", target="jars").undated == 4
    said = (
        "1 session has no filled_at: no plan takes it; 3 sessions have a filled_at that is infinite"
        " or of a year outside 1 to 9999: no plan takes them"
    )
    (mark,) = (c for c in plan.checks if c.name == "dates of jars")
    assert (mark.status, said in mark.detail, said in plan.markdown()) == ("warn", True, True)
    (line,) = (c for c in bf.check() if c.name == "dates of public.jars")
    assert (line.status, line.detail, line.next_step) == ("warn", mark.detail, mark.next_step)
    project.db.execute("delete from public.jars where id > 1")
    assert (
        "dates of public.jars: filled_at is a date and is read as"
        in shell("check", "--verbose").out
    )


def count_windows(project: Project) -> Callable[[], int]:
    """How often planning has looked at the target since."""
    began = "select collect_from from public.backfill_runs"
    project.db.execute(
        "create table public.looks_of_planning (at timestamptz);"
        "create function public.note_look() returns trigger language plpgsql as $$ begin"
        " insert into public.looks_of_planning values (new.collect_from); return new; end $$;"
        "create trigger note_look after update of collect_from on public.backfill_runs"
        " for each row execute function public.note_look()"
    )
    assert project.rows(began) == []
    return lambda: int(project.value("select count(*) from public.looks_of_planning"))


def test_missing_shows_them_whatever_the_first_day(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """A gate on coverage does not say that all is well while rows are out of every plan's reach."""
    jars(project, 1)
    filled(project, 10, *ODD)
    project.value("select public.label_jar(1, 'ink')")
    for since in ((), ("--since", "2025-08-01")):
        ran = shell("missing", "--target", "jars", *since, "--min-coverage", "1")
        assert ran.code == 4
        assert LEFT_OUT in ran.out
        assert "no date" in ran.out
        shown = shell("missing", "--target", "jars", *since, "--json").json
        assert shown["undated"] == 5
        assert [d["day"] for d in shown["days"]] == [
            "-infinity", "0044-03-15 BC", "2025-08-02", "20250-03-01", "infinity", None,
        ]  # fmt: skip
    assert bf.missing(since="2025-08-01", target="jars").coverage == pytest.approx(1 / 6)


def test_a_first_day_is_one_of_utc(project: Project, bf: backfill.Backfill) -> None:
    """A moment late in a day of another zone is of the next."""
    jars(project, 1)
    filled(project, 2, "2025-08-01 10:00Z")
    days = bf.missing(since="2025-08-01T23:00:00-05:00", target="jars").days
    assert [d.day for d in days] == ["2025-08-02"]


def test_a_plan_with_nothing_else_says_why(project: Project, shell: Shell) -> None:
    """Only such dates, and then not even these."""
    jars(project)
    filled(project, 1, None, "infinity")
    asked = ("plan", "--target", "jars", "--since", "2025-08-01", "--throttle", "none")
    ran = shell(*asked)
    assert ran.code == 0
    assert "Nothing to do" in ran.out
    assert all(ODD[date] in ran.out for date in (None, "infinity"))
    project.db.execute("delete from public.jars")
    assert shell(*asked, "--json").json["undated"] == 0


def test_the_far_past_and_the_far_future_are_planned_at_once(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """The first and the last day that a plan can take, and nothing in between."""
    jars(project, 1, 2)
    filled(project, 3, *FAR)
    name = project.db.info.dbname
    project.db.execute(f"alter database {name} set timezone = 'America/Lima'".encode())
    project.db.execute("set timezone = 'America/Lima'")
    windows = count_windows(project)
    plan = bf.plan(**PLAN | {"since": FAR[0], "until": FAR[1]})
    assert windows() <= 8
    assert [s.session_id for s in plan.sessions] == ["4", "2", "1", "3"]
    project.approve(plan)
    for verb in VERBS:
        ran = shell(verb, plan.run_id)
        assert (ran.code, "Traceback" in ran.err) == (0, False), ran
    assert "0001-01-01T00:00:00Z" in shell("show", plan.run_id).out
    assert "Sessions by the UTC century" in bf.page(plan.run_id)
    undo = bf.rollback(plan.run_id, since=FAR[1], until=FAR[1]).as_dict()
    assert undo["session_ids"] == ["4"]
    undo = bf.rollback(plan.run_id, until="0001-01-01").as_dict()
    assert undo["session_ids"] == ["3"]


def test_a_named_session_without_a_usable_date_says_so(
    project: Project, bf: backfill.Backfill
) -> None:
    """Its own reason, not that it was named in vain."""
    jars(project, 1)
    filled(project, 2, "infinity")
    plan = bf.plan(**PLAN, priority=["2"])
    assert plan.excluded == ({"session_id": "2", "reason": ODD["infinity"]},)


def test_a_whole_day_is_included_in_whatever_form(project: Project) -> None:
    """From SQL, where PostgreSQL reads many forms of one day."""
    jars(project, 1)
    for until in ("2025-8-2", "20250802", "2025-08-02"):
        run = project.value(
            "select public.backfill_open(%s)",
            f'{{"target": "jars", "since": "2025-08-01", "until": "{until}"}}',
        )
        project.db.execute("select public.backfill_collect(%s)", (run,))
        found = project.value(
            "select count(*) from backfill_private.findings where run_id = %s", run
        )
        assert found == 1, until


OUTSIDE: dict[str, Any] = {
    "infinity": "9999-12-31", "-infinity": "0001-01-01",
    "20250-03-01T10:00:00+00:00": "9999-12-31", "0044-03-15T00:00:00+00:00 BC": "0001-01-01",
    "0001-12-31T19:00:00-05:00 BC": "0001-01-01", "10000-01-01T00:00:00+00:00": "9999-12-31",
}  # fmt: skip


@pytest.mark.parametrize("text", OUTSIDE)
def test_python_reads_a_moment_that_it_cannot_hold_as_its_nearest(text: str) -> None:
    """No verb ends with a traceback because of a year."""
    assert f"{moment(text).date().isoformat()}" == OUTSIDE[text]


def test_a_text_that_is_no_moment_is_none() -> None:
    """Only what PostgreSQL writes is read."""
    with pytest.raises(ValueError, match="month"):
        moment("2025-13-45")
