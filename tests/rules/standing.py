"""Where planned rows stand: as planned, missing, filled elsewhere, changed since."""

from __future__ import annotations

from tests.rules.canary import profile, score
from tests.rules.case import Case, Rule
from tests.rules.world import OTHER_RUN, RUN, item

STANDS = f"""
select coalesce(jsonb_agg(jsonb_build_array(
  s.session_id, s.bucket, s.is_wanted, s.is_lost, s.operation, s.wrote) order by s.ordinal), '[]')
from backfill_private.standing('{RUN}', %s, 0, 9) as s
"""


def receipt(
    ordinal: int,
    operation: str = "insert",
    *,
    run: str = RUN,
    component: str = "score",
    table: str = "toy_scores",
    kind: str = "score",
    undone: bool = False,
    other_row: bool = False,
    of_version: str = "v2",
) -> str:
    """A receipt of the row of a version that stands now, or of another row."""
    version = f" and t.version = '{of_version}'" if table == "toy_scores" else ""
    text = "t::text || 'x'" if other_row else "t::text"
    after = (
        f"coalesce((select sha256(convert_to({text}, 'UTF8')) from public.{table} as t"
        f" where t.session_id = 's{ordinal}'{version}), 'gone')"
    )
    named = ", 'version', '" + of_version + "'" if table == "toy_scores" else ""
    key = f"jsonb_build_object('session_id', 's{ordinal}'{named})"
    after = "null::bytea" if operation == "delete" else after
    return (
        "insert into public.backfill_receipts (run_id, ordinal, session_id, component, kind,"
        " operation, table_name, row_key, shape, after_hash, attempt, at, undone_at)"
        f" select '{run}', {ordinal}, 's{ordinal}', '{component}', '{kind}', '{operation}',"
        f" 'public.{table}', {key}, backfill_private.shape_of('public.{table}'::regclass),"
        f" {after}, 1, backfill_private.clock(),"
        f" {'backfill_private.clock()' if undone else 'null'}"
    )


def stands(
    name: str, wanted: tuple[object, ...] | None, *given: str, component: str = "score"
) -> Case:
    """A case of session s1; None: it is not looked at."""
    rows = [] if wanted is None else [["s1", *wanted]]
    return Case(name, STANDS, (component,), rows, given)


DONE = item(1, state="done")
GONE = "delete from public.toy_sessions where id = 's1'"
UNSELECTED = item(1, state="skipped", unselected="the target no longer selects it")
FILLED = item(1, state="skipped", filled=["score"])
STANDING = Rule(
    "where a planned row stands",
    ("standing",),
    (
        stands(
            "as we wrote it",
            ("as_planned", True, False, "insert", None),
            DONE, score(1, 5), receipt(1),
        ),
        stands(
            "as we changed it",
            ("as_planned", True, False, "update", None),
            DONE, score(1, 5), receipt(1, "update"),
        ),
        stands(
            "as we wrote it, and then again",
            ("as_planned", True, False, "insert", None),
            DONE, score(1, 5), receipt(1, other_row=True), receipt(1, "update"),
        ),
        stands(
            "somebody changed it after us",
            ("changed_since", True, False, "insert", None),
            DONE, score(1, 5), receipt(1, other_row=True),
        ),
        stands("nothing stands", ("missing", False, False, None, None), DONE),
        stands("ours is gone", ("missing", False, True, "insert", None), DONE, receipt(1)),
        stands(
            "we wrote another version",
            ("missing", False, False, "insert", "v1"),
            DONE, score(1, 5, "v1"), receipt(1, of_version="v1"),
        ),
        stands(
            "we wrote another version, and somebody changed it",
            ("changed_since", False, False, "insert", None),
            DONE, score(1, 5, "v1"), receipt(1, of_version="v1", other_row=True),
        ),
        stands(
            "we wrote the wanted version and another one",
            ("as_planned", True, False, "insert", None),
            DONE, score(1, 5), score(1, 5, "v1"), receipt(1, of_version="v1"), receipt(1),
        ),
        stands(
            "we wrote another version after it",
            ("as_planned", True, False, "insert", None),
            DONE, score(1, 5), score(1, 5, "v1"), receipt(1), receipt(1, of_version="v1"),
        ),
        stands(
            "any version counts, and we wrote another one",
            ("missing", False, False, "insert", "v1"),
            DONE, profile(1, "v1"), receipt(1, component="profile", table="toy_profiles"),
            component="profile",
        ),
        stands(
            "ours is gone with its session",
            ("no_longer_selected", False, False, "insert", None),
            DONE, receipt(1), GONE,
        ),
        stands("its session is gone", ("no_longer_selected", False, False, None, None), DONE, GONE),
        stands(
            "its session is gone, and the row stands",
            ("as_planned", True, False, "insert", None),
            DONE, score(1, 5), receipt(1), GONE,
        ),
        stands("it was unselected", ("no_longer_selected", False, False, None, None), UNSELECTED),
        stands(
            "it was unselected, and somebody else wrote it",
            ("filled_elsewhere", True, False, None, None),
            UNSELECTED, score(1, 5),
        ),
        stands(
            "we wrote it, it was unselected, and then it was lost",
            ("no_longer_selected", False, True, "insert", None),
            UNSELECTED, receipt(1),
        ),
        stands(
            "we took it away",
            ("missing", False, False, "insert", None),
            DONE, receipt(1), receipt(1, "delete"),
        ),
        stands(
            "somebody else wrote it",
            ("filled_elsewhere", True, False, None, None),
            DONE, score(1, 5),
        ),
        stands(
            "somebody else had filled it",
            ("filled_elsewhere", True, False, None, None),
            FILLED, score(1, 5),
        ),
        stands("and took it away", ("missing", False, False, None, None), FILLED),
        stands(
            "another version alone",
            ("missing", False, False, None, None),
            DONE, score(1, 5, "v1"),
        ),
        stands(
            "our write was undone",
            ("filled_elsewhere", True, False, None, None),
            DONE, score(1, 5), receipt(1, undone=True),
        ),
        stands(
            "a receipt of an undo",
            ("filled_elsewhere", True, False, None, None),
            DONE, score(1, 5), receipt(1, kind="undo"),
        ),
        stands(
            "a receipt of another run",
            ("filled_elsewhere", True, False, None, None),
            DONE, score(1, 5), receipt(1, run=OTHER_RUN),
        ),
        stands(
            "a receipt of another component",
            ("filled_elsewhere", True, False, None, None),
            DONE, score(1, 5), receipt(1, component="profile"),
        ),
        stands(
            "a receipt of another session",
            ("filled_elsewhere", True, False, None, None),
            DONE, score(1, 5), receipt(2),
        ),
        stands(
            "two rows where the key allows them",
            ("filled_elsewhere", True, False, None, None),
            "alter table public.toy_scores drop constraint toy_scores_pkey",
            DONE, score(1, 5), score(1, 6),
        ),
        stands(
            "two rows as we left them where the key allows them",
            ("missing", False, False, "insert", "v1"),
            "alter table public.toy_scores drop constraint toy_scores_pkey",
            DONE, score(1, 5, "v1"), receipt(1, of_version="v1"), score(1, 5, "v1"),
        ),
        stands("it was rolled back", None, item(1, state="rolled_back"), score(1, 5)),
        stands("it was not planned", None, item(1, components=["profile"]), score(1, 5)),
        stands("another run's", None, item(1, run=OTHER_RUN), score(1, 5)),
        stands("another session's row", ("missing", False, False, None, None), DONE, score(2, 5)),
        stands(
            "any version counts, and another one is there",
            ("missing", False, False, None, None),
            DONE, profile(1, "v1"), component="profile",
        ),
        stands(
            "any version counts, and it was filled by another one",
            ("filled_elsewhere", True, False, None, None),
            item(1, state="skipped", filled=["profile"]), profile(1, "v1"), component="profile",
        ),
        stands(
            "any version counts, and ours became another one",
            ("changed_since", False, False, "insert", None),
            DONE, profile(1, "v1"),
            receipt(1, component="profile", table="toy_profiles", other_row=True),
            component="profile",
        ),
        *(
            Case(
                f"after {after}, up to {until}",
                "select array_agg(s.ordinal order by s.ordinal)"
                " from backfill_private.standing(%s, 'score', %s, %s) as s",
                (RUN, after, until),
                wanted,
                tuple(item(n) for n in (3, 1, 2, 4)),
            )
            for after, until, wanted in ((0, 9, [1, 2, 3, 4]), (1, 3, [2, 3]), (4, 9, None))
        ),
        *(
            Case(
                f"receipts after {after}, up to {until}",
                "select array_agg(s.operation order by s.ordinal)"
                " from backfill_private.standing(%s, 'score', %s, %s) as s",
                (RUN, after, until),
                wanted,
                tuple(s for n in (1, 2, 3) for s in (item(n), score(n, 1), receipt(n))),
            )
            for after, until, wanted in ((0, 3, ["insert"] * 3), (1, 2, ["insert"]))
        ),
    ),
)  # fmt: skip

BESIDES = f"""
select coalesce(jsonb_agg(jsonb_build_array(
  u.session_id, u.row_key ->> 'version', u.operation, u.why, u.is_new) order by u.receipt), '[]')
from backfill_private.unplanned('{RUN}', %s, 0, 9) as u
"""
NOT_LACKED = "the session did not lack it"
ANOTHER = "it is another row than the planned one"
AS_NEW = "it was planned as a new row"


def besides(name: str, wanted: list[object], *given: str, component: str = "score") -> Case:
    """A case of what the run wrote besides its plan."""
    return Case(name, BESIDES, (component,), wanted, given)


OF_PROFILES = item(1, state="done", components=["profile"])
REPLACING = item(1, state="done", replaces={"score": "v1"})
UNPLANNED = Rule(
    "what a run wrote besides its plan",
    ("unplanned",),
    (
        besides("nothing", [], DONE),
        besides("what was planned", [], DONE, receipt(1)),
        besides(
            "a component that the session did not lack",
            [["s1", "v2", "update", NOT_LACKED, False]],
            OF_PROFILES, receipt(1, "update"),
        ),
        besides(
            "one that it took away",
            [["s1", "v2", "delete", NOT_LACKED, False]],
            OF_PROFILES, receipt(1, "update"), receipt(1, "delete"),
        ),
        besides("one that came and went", [], OF_PROFILES, receipt(1), receipt(1, "delete")),
        besides(
            "a row of another version",
            [["s1", "v1", "insert", ANOTHER, False]],
            DONE, receipt(1), receipt(1, of_version="v1"),
        ),
        besides("a row that it replaces", [], REPLACING, receipt(1, "update")),
        besides(
            "a row that stood where it planned a new one",
            [["s1", "v2", "update", AS_NEW, True]],
            DONE, receipt(1, "update"),
        ),
        besides("its own row, written again", [], DONE, receipt(1), receipt(1, "update")),
        besides("what was undone", [], OF_PROFILES, receipt(1, "update", undone=True)),
        besides("what an undo wrote", [], OF_PROFILES, receipt(1, "update", kind="undo")),
        besides("another run's", [], DONE, receipt(1, "update", run=OTHER_RUN)),
        besides("a session that was rolled back", [], item(1, state="rolled_back"),
                receipt(1, "update")),
        besides(
            "a component whose key has no version",
            [["s1", None, "update", AS_NEW, True]],
            DONE, receipt(1, "update", component="profile", table="toy_profiles"),
            component="profile",
        ),
        Case(
            "it names the newest receipt of a row",
            "select u.receipt = (select max(r.receipt_id) from public.backfill_receipts as r)"
            f" from backfill_private.unplanned('{RUN}', 'score', 0, 9) as u",
            (), True, (OF_PROFILES, receipt(1), receipt(1, "update")),
        ),
        Case(
            "after one place, up to another",
            "select array_agg(u.session_id order by u.receipt)"
            f" from backfill_private.unplanned('{RUN}', 'score', 1, 3) as u",
            (), ["s2", "s3"],
            tuple(
                s for n in (1, 2, 3, 4)
                for s in (item(n, state="done"), receipt(n, "update"))
            ),
        ),
    ),
)  # fmt: skip

RULES = (STANDING, UNPLANNED)
