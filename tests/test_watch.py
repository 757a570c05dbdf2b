"""The watch in the database: what a look counts, how it judges, when an alert opens and closes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from backfill.targets.declaration import parse
from backfill.targets.views import target_sql
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.kinds import one_by_one
from tests.kit.songs import DECLARED, Db, as_owner, run_of, songs, songs_db
from tests.kit.watching import (
    LEVEL,
    NOON,
    alerts,
    at,
    declare_watched,
    history,
    look,
    paint,
    watched,
)

__all__ = ["songs", "songs_db", "watched"]  # fixtures of other modules
NEW = "insert into public.songs select 1000 + n, %s, 'calm', 0 from generate_series(1, %s) as n"
REACHED = "the service level is reached"
ALL_MISSING = {"2025-08-02": (1, 0, 1, 0), "2025-08-03": (1, 0, 1, 0), "2025-08-04": (1, 0, 1, 0)}


def one(db: Db, query: str, *values: object) -> Any:
    """The one value of a query."""
    row = db.execute(query.encode(), values).fetchone()
    assert row is not None
    return next(iter(row.values()))


# What is counted --------------------------------------------------------------------------------


def test_a_look_counts_what_the_days_have_and_lack(watched: Db) -> None:
    """With what was left out, and how old the oldest missing one is."""
    watched.execute("update backfill_private.sources set defaults = defaults || '{\"least\": 1}'")
    watched.execute("insert into public.credits values (2), (3)")
    paint(watched, 2)
    assert look(watched)["status"] == "breached"
    rows = watched.execute(
        "select wanted, there, missing, lacks, left_out, oldest_missing_at, oldest_missing_age"
        " from public.backfill_coverage_history order by day"
    ).fetchall()
    left_out = [{"component": None, "reason": "0 credits, at least 1 needed", "sessions": 1}]
    assert [tuple(r.values())[:5] for r in rows] == [
        (0, 0, 0, {}, left_out),
        (1, 1, 0, {}, []),
        (1, 0, 1, {"cover": 1}, []),
    ]
    assert str(rows[2]["oldest_missing_at"]) == "2025-08-04 12:00:00+00:00"
    assert rows[2]["oldest_missing_age"].total_seconds() == 7 * 3600


def test_a_component_that_is_not_wanted_is_named_with_its_reason(
    project_db: Db, clock: DatabaseClock
) -> None:
    """PRISM's sessions without forced-choice responses: what the plan says of them, by day."""
    assert look(project_db, "prism")["coverage"] == pytest.approx(0.2033)
    left_out = project_db.execute(
        "select sum((l ->> 'sessions')::int)::int as n, l ->> 'component' as component"
        " from public.backfill_coverage_history, jsonb_array_elements(left_out) as l"
        " where l ->> 'reason' = 'no forced-choice responses' group by 2"
    ).fetchall()
    planned = one(project_db, "select sum(not_wanted_fc_scores)::int from backfill_daily_coverage")
    assert left_out == [{"n": planned, "component": "fc_scores"}]
    assert planned > 0


def test_the_history_agrees_with_the_view_of_daily_coverage(
    project_db: Db, clock: DatabaseClock
) -> None:
    """There is one truth about what is present and wanted: both read it."""
    look(project_db, "prism")
    differing = project_db.execute(
        "select d.day from public.backfill_daily_coverage as d"
        " full join public.backfill_coverage_history as h on h.day = d.day"
        " where (d.complete, d.completed - d.excluded) is distinct from (h.there, h.wanted)"
    )
    assert differing.fetchall() == []
    assert one(project_db, "select count(*) from public.backfill_coverage_history") > 30


def test_a_session_is_judged_when_its_time_is_over(watched: Db) -> None:
    """Six hours after its date, and not a moment sooner."""
    paint(watched, 1, 2)
    at(watched, NOON, hours=5.99)
    assert look(watched)["status"] == "ok"
    assert history(watched)["2025-08-04"] == (0, 0, 0, 1)
    at(watched, NOON, hours=6)
    assert look(watched)["status"] == "breached"
    assert history(watched)["2025-08-04"] == (1, 0, 1, 0)


def test_looking_again_changes_nothing_and_opens_nothing_twice(watched: Db) -> None:
    """pg_cron and a job may both look, as often as they like."""
    first = look(watched)
    assert (first["status"], first["change"], first["coverage"]) == ("breached", "opened", 0)
    for _ in range(3):
        again = look(watched)
        assert (again["status"], again["change"]) == ("breached", None)
    assert history(watched) == ALL_MISSING
    assert alerts(watched) == [(True, None)]


def test_a_breach_is_one_alert_opened_and_closed(watched: Db) -> None:
    """And the next breach is another one."""
    look(watched)
    paint(watched, 1, 2, 3)
    closed = look(watched)
    assert (closed["status"], closed["change"], closed["coverage"]) == ("ok", "closed", 1)
    assert alerts(watched) == [(False, REACHED)]
    watched.execute("delete from public.covers where song_id = 3")
    assert look(watched)["change"] == "opened"
    assert alerts(watched) == [(False, REACHED), (True, None)]


def test_a_share_just_below_the_level_never_looks_as_if_it_reached_it(watched: Db) -> None:
    """989 of 1,000 are 0.989, and one more is enough."""
    watched.execute("delete from public.songs")
    watched.execute(NEW, (NOON, 1000))
    paint(watched, *range(1001, 1990))
    told = look(watched)
    assert (told["status"], told["coverage"], told["short_by"]) == ("breached", 0.989, 1)
    paint(watched, 1990)
    assert (look(watched)["status"], alerts(watched)) == ("ok", [(False, REACHED)])


def test_a_day_without_sessions_has_no_row_and_breaks_no_level(watched: Db) -> None:
    """Nor does a target without any."""
    watched.execute("delete from public.songs where id = 2")
    look(watched)
    assert [*history(watched)] == ["2025-08-02", "2025-08-04"]
    watched.execute("delete from public.songs")
    told = look(watched, full_count=True)
    assert (told["status"], told["coverage"], history(watched)) == ("ok", None, {})


@pytest.mark.parametrize("date", ["infinity", "-infinity", "12025-01-01", None])
def test_a_date_that_no_plan_takes_is_left_out_with_its_reason(watched: Db, date: str) -> None:
    """Nobody could reach a level with it. It stands beside the days."""
    watched.execute("alter table public.songs alter column cut_at drop not null")
    watched.execute("update public.songs set cut_at = %s where id = 1", (date,))
    paint(watched, 2, 3)
    told = look(watched)
    assert (told["status"], told["wanted"]) == ("ok", 2)
    assert [(left["sessions"], "cut_at" in left["reason"]) for left in told["undated"]] == [
        (1, True)
    ]
    assert [*history(watched)] == ["2025-08-03", "2025-08-04"]


def test_only_the_last_days_are_judged_if_that_is_declared(watched: Db) -> None:
    """So that a long history hides no new outage, nor an old one any present."""
    declare_watched(watched, f'{LEVEL}over = "1d"\n')
    paint(watched, 2, 3)
    told = look(watched)
    assert (told["status"], told["wanted"], told["over_s"]) == ("ok", 2, 86_400)
    declare_watched(watched)
    assert look(watched)["status"] == "breached"


def judged(db: Db) -> tuple[str, str | None, int, int]:
    """Status, first day, wanted and missing of a look."""
    told = look(db, full_count=True)
    return told["status"], told["judged_since"], told["wanted"], told["missing"]


def test_a_long_history_hides_no_new_outage(watched: Db) -> None:
    """The last 30 days are judged by themselves too, and the worse of both counts."""
    watched.execute(NEW, ("2020-02-29T12:00Z", 2_000))
    paint(watched, 1, 2, 3, *range(1001, 3001))
    watched.execute(NEW.replace("1000 + n", "5000 + n"), (NOON, 200))
    paint(watched, *range(5001, 5199))
    assert judged(watched) == ("ok", "2025-07-05", 203, 2)
    watched.execute("delete from public.covers where song_id = 5001")
    assert judged(watched) == ("breached", "2025-07-05", 203, 3)
    at(watched, NOON, hours=24 * 40)
    assert judged(watched) == ("ok", None, 2_203, 3)


def test_a_breach_of_all_dates_is_told_with_all_that_is_missing(watched: Db) -> None:
    """Though the last days do worse: it is how much there is to do."""
    watched.execute(NEW, ("2020-02-29T12:00Z", 100))
    watched.execute(NEW.replace("1000 + n", "5000 + n"), (NOON, 200))
    paint(watched, *range(1001, 1011))
    assert judged(watched) == ("breached", None, 303, 293)


def test_a_few_sessions_of_the_last_days_are_no_outage(watched: Db) -> None:
    """Of three the level lets none be missing. Then only all dates are judged."""
    watched.execute(NEW, ("2020-02-29T12:00Z", 2_000))
    paint(watched, *range(1001, 3001))
    assert judged(watched) == ("ok", None, 2_003, 3)


# How far a look goes ----------------------------------------------------------------------------


def test_a_look_counts_no_old_day_that_lacked_nothing(watched: Db) -> None:
    """What others delete there is found by a full count."""
    paint(watched, 1, 2, 3)
    at(watched, NOON, hours=24 * 30)
    look(watched)
    watched.execute("delete from public.covers where song_id = 1")
    assert look(watched)["status"] == "ok"
    told = look(watched, full_count=True)
    assert (told["status"], told["missing"]) == ("breached", 1)
    assert told["oldest_missing_at"] == "2025-08-02T12:00:00+00:00"


def test_a_look_counts_the_old_days_that_lacked_something(watched: Db) -> None:
    """Whoever fills them closes the alert."""
    at(watched, NOON, hours=24 * 30)
    look(watched)
    paint(watched, 1, 2, 3)
    assert look(watched)["change"] == "closed"


def test_a_look_sees_what_a_run_took_back_in_an_old_day(watched: Db) -> None:
    """Each of its days was complete, and none is any more."""
    run_id = run_of(watched)
    one_by_one(watched, run_id)
    at(watched, NOON, hours=24 * 6)
    assert (look(watched)["status"], history(watched)["2025-08-02"]) == ("ok", (1, 1, 0, 0))
    at(watched, NOON, hours=24 * 30)
    preview = verbs.call(watched, "backfill_preview_undo", p_run_id=run_id)
    verbs.call(
        watched,
        "backfill_confirm_undo",
        p_run_id=run_id,
        p_digest=preview["digest"],
        p_reason="a test",
    )
    as_owner(watched)
    assert (look(watched)["status"], history(watched)) == ("breached", ALL_MISSING)


def test_a_full_count_goes_on_where_the_last_call_stopped(watched: Db) -> None:
    """Part by part, unknown until it is whole, and then as if it had been one."""
    watched.execute(NEW, ("2020-02-29T12:00Z", 2))
    at(watched, NOON, hours=24 * 30)
    calls = [look(watched, budget_ms=0)]
    while not calls[-1]["is_over"]:
        calls.append(look(watched, budget_ms=0))
    assert len(calls) > 3
    assert {(c["status"], c["coverage"], c["change"]) for c in calls[:-1]} == {
        ("unknown", None, None)
    }
    assert (calls[-1]["status"], calls[-1]["missing"]) == ("breached", 5)
    assert history(watched) == {"2020-02-29": (2, 0, 2, 0), **ALL_MISSING}


def test_a_full_count_forgets_the_days_that_no_session_has_any_more(watched: Db) -> None:
    """They would be missing for ever."""
    watched.execute(NEW, ("2020-02-29T12:00Z", 2))
    at(watched, NOON, hours=24 * 30)
    look(watched)
    watched.execute("delete from public.songs where id > 1000")
    look(watched, full_count=True)
    assert history(watched) == ALL_MISSING


def test_a_look_finishes_a_full_count_that_was_left(watched: Db) -> None:
    """Its client died. Whoever looks next goes on with it."""
    at(watched, NOON, hours=24 * 30)
    look(watched)
    assert not look(watched, full_count=True, budget_ms=0)["is_over"]
    assert look(watched)["is_over"]
    assert one(watched, "select reach from public.backfill_watches") == "all"


def test_a_look_at_old_days_is_bounded_in_time(watched: Db) -> None:
    """The day that nobody looked at for the longest time comes first, one in any case."""
    at(watched, NOON, hours=24 * 30)
    look(watched)
    paint(watched, 1, 2, 3)
    missing = [look(watched, budget_ms=0)["missing"] for _ in range(3)]
    assert missing == [2, 1, 0]


def test_after_a_run_all_its_days_are_counted_before_anything_is_judged(watched: Db) -> None:
    """However small the parts: nobody is told of a breach that a run has just repaired."""
    at(watched, NOON, hours=24 * 30)
    look(watched)
    one_by_one(watched, run_of(watched))
    told = [look(watched, budget_ms=0) for _ in range(3)]
    assert [(t["is_over"], t["status"]) for t in told] == [
        (False, "breached"),
        (False, "breached"),
        (True, "ok"),
    ]


def test_another_declaration_is_counted_anew(watched: Db) -> None:
    """Of another version no row is there, in old days too."""
    paint(watched, 1, 2, 3)
    at(watched, NOON, hours=24 * 30)
    assert look(watched)["status"] == "ok"
    declare_watched(watched, old='version = "blue"', new='version = "red"')
    part = look(watched, budget_ms=0)
    assert (part["status"], part["is_over"]) == ("unknown", False)
    assert "all days" in part["why"]
    assert (look(watched)["status"], history(watched)) == ("breached", ALL_MISSING)


# The level --------------------------------------------------------------------------------------


def test_another_level_leaves_the_digest_of_a_run(watched: Db) -> None:
    """An approved run starts under it."""
    run_id = run_of(watched)
    as_owner(watched)
    digest = one(watched, "select digest from public.backfill_runs")
    declare_watched(watched, '[watch]\nmin_coverage = 0.5\nwithin = "2d"\n')
    assert one(watched, "select backfill_private.compute_digest(%s)", run_id) == digest
    assert verbs.start(watched, run_id)["state"] == "running"
    assert one_by_one(watched, run_id) == 3


def test_without_a_level_it_is_unknown_and_counted_all_the_same(watched: Db) -> None:
    """And the alert of an earlier level is closed."""
    look(watched)
    declare_watched(watched, "")
    told = look(watched)
    assert (told["status"], told["change"], told["coverage"]) == ("unknown", "closed", 0)
    assert told["why"] == "no service level is declared: [watch] in the file of the target"
    assert alerts(watched) == [(False, "no service level is declared any more")]


def status(db: Db) -> tuple[str, str | None]:
    """Status and reason, as the dashboard shows them."""
    row = db.execute("select status, why from public.backfill_watch_status").fetchone()
    assert row is not None
    return row["status"], row["why"]


def test_nobody_has_looked(watched: Db) -> None:
    """At first, and again a day later. A breach stays one."""
    paint(watched, 1, 2, 3)
    assert status(watched) == ("unknown", "nobody has looked yet")
    look(watched)
    at(watched, NOON, hours=31)
    assert status(watched) == ("ok", None)
    at(watched, NOON, hours=32)
    assert status(watched) == ("unknown", "nobody has looked for 25 hours")
    watched.execute("delete from public.covers")
    look(watched)
    at(watched, NOON, hours=60)
    assert status(watched) == (
        "breached",
        "3 of 3 lack something; nobody has looked for 28 hours",
    )


def test_a_clock_that_was_set_back_closes_nothing_before_it_was_opened(watched: Db) -> None:
    """And looks as ever: a session whose time is not over again is not judged."""
    look(watched)
    at(watched, NOON, hours=-40)
    told = look(watched)
    assert (told["status"], told["missing"], told["unlooked_hours"]) == ("breached", 1, 0)
    paint(watched, 1, 2, 3)
    assert look(watched)["change"] == "closed"
    assert one(watched, "select closed_at = opened_at from public.backfill_alerts") is True
    at(watched, NOON, hours=7)
    assert (look(watched)["status"], look(watched)["wanted"]) == ("ok", 3)


def test_a_target_that_is_removed_is_watched_no_more(watched: Db) -> None:
    """Its alert is closed. What its days lacked stays, and counts again if it comes back."""
    look(watched)
    watched.execute("select backfill_private.remove_target('songs')")
    assert alerts(watched) == [(False, "the target was removed")]
    assert one(watched, "select count(*) from public.backfill_watch_status") == 0
    assert history(watched) == ALL_MISSING
    refusal = pytest.raises(psycopg.errors.DatabaseError, match="no target is installed")
    with refusal, watched.transaction():
        look(watched)
    declare_watched(watched)
    assert (look(watched)["status"], history(watched)) == ("breached", ALL_MISSING)


def two_targets(db: Db) -> None:
    """The songs once more, under another level: they may lack a tape too."""
    db.execute(
        "create table public.tapes (like public.covers including all);"
        "create function public.record(song_id bigint, ink text) returns void language sql as"
        " 'insert into public.tapes values ($1, $2)'"
    )
    text = DECLARED.replace('"songs"', '"tunes"', 1).replace("covers", "tapes")
    level = '[watch]\nmin_coverage = 0.5\nwithin = "1d"\n'
    text = text.replace("paint", "record").replace("[[component]]", f"{level}[[component]]")
    db.execute(target_sql(parse(text)).encode())


def test_two_targets_over_one_source_are_judged_each_by_its_level(watched: Db) -> None:
    """One call looks at both."""
    two_targets(watched)
    paint(watched, 1, 2)
    watched.execute("insert into public.tapes values (1, 'blue')")
    told = one(watched, "select public.backfill_watch()")["targets"]
    assert [(t["target"], t["status"], t["wanted"], t["missing"]) for t in told] == [
        ("songs", "breached", 3, 1),
        ("tunes", "ok", 2, 1),
    ]


def test_a_target_that_cannot_be_looked_at_keeps_nobody_from_the_others(watched: Db) -> None:
    """It says why, without a value of a row."""
    two_targets(watched)
    watched.execute(
        "create or replace view backfill_private.songs_standing with (security_invoker = true) as"
        " select s.id, s.created_at, s.is_incomplete, s.missing_cover,"
        " (s.missing_cover::text || ' secret')::integer::text as excluded"
        " from backfill_private.tunes_standing as s"
    )
    told = one(watched, "select public.backfill_watch()")["targets"]
    assert [(t["target"], t["status"]) for t in told] == [
        ("songs", "unknown"),
        ("tunes", "breached"),
    ]
    assert told[0]["why"].startswith("nobody could look: ")
    assert "secret" not in str(told)


def test_a_view_that_writes_is_not_counted(watched: Db) -> None:
    """A look reads, whatever the user's functions do."""
    watched.execute(
        "create function public.noted(t text) returns text language plpgsql as"
        " 'begin insert into public.credits values (1); return t; end';"
        "create or replace view backfill_private.songs_standing with (security_invoker = true) as"
        " select s.id, s.cut_at as created_at, true as is_incomplete, true as missing_cover,"
        " public.noted(null) as excluded from public.songs as s"
    )
    told = look(watched)
    assert (told["status"], "writes while it is counted" in told["why"]) == ("unknown", True)
    assert one(watched, "select count(*) from public.credits") == 0


def test_a_level_over_rows_that_nothing_selects_is_unknown(watched: Db) -> None:
    """It would be kept for ever, whatever happens."""
    declare_watched(watched, old='"calm"', new='"calmm"')
    told = look(watched)
    assert (told["status"], told["coverage"]) == ("unknown", None)
    assert "no row has a value that the declaration selects" in told["why"]
    declare_watched(watched)
    assert look(watched)["status"] == "breached"


@pytest.mark.parametrize("budget_ms", [-1, 20_001])
def test_a_budget_out_of_bounds_is_refused(watched: Db, budget_ms: int) -> None:
    """In one sentence, and nothing is counted."""
    refusal = pytest.raises(psycopg.errors.DatabaseError, match="takes 0 to 20000 milliseconds")
    with refusal, watched.transaction():
        look(watched, budget_ms=budget_ms)
    assert history(watched) == {}


def test_a_request_of_the_session_does_not_change_what_is_wanted(watched: Db) -> None:
    """A plan made in the same transaction has versions of its own."""
    paint(watched, 1, 2, 3)
    watched.execute("select set_config('backfill.request', '{\"cover_version\": \"red\"}', true)")
    assert look(watched)["status"] == "ok"


def test_two_looks_come_one_after_another(
    project_db: Db, project_admin: Db, clock: DatabaseClock
) -> None:
    """Who waits too long is told so, and it is no reason why nobody could look."""
    with project_admin.transaction(force_rollback=True):
        project_admin.execute("select public.backfill_watch('prism')")
        project_db.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            look(project_db, "prism")
    project_db.execute("reset lock_timeout")
    assert look(project_db, "prism")["status"] == "breached"


def test_a_look_means_the_same_under_any_settings(watched: Db) -> None:
    """Those of the database or of who looks."""
    first = look(watched)
    counted = history(watched)
    for setting in (
        "timezone = 'Pacific/Kiritimati'",
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "extra_float_digits = -15",
        "quote_all_identifiers = on",
    ):
        watched.execute(f"set local {setting}".encode())
    again = look(watched, full_count=True)
    watched.execute("set local datestyle = 'ISO'")
    assert again == {**first, "change": None}
    assert history(watched) == counted
