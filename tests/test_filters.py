"""What `where` may say: which rows are selected, how a plan says it, and what cannot be said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill.errors import BadRequest
from backfill.targets.declaration import parse
from backfill.targets.views import index_sql, target_sql
from tests.kit.kinds import declare_text, planned
from tests.kit.songs import DECLARED, Db, gaps, songs, songs_db

__all__ = ["songs", "songs_db"]  # fixtures of another module

# The songs 1 to 3, and what they get here.
WIDER = """
create type public.tempo as enum ('slow', 'fast');
alter table public.songs
  add price numeric, add sold integer, add stock bigint, add live boolean, add pace public.tempo,
  add made date, add aired timestamp, add tags text[], add notes json, add spot point,
  add weight double precision;
update public.songs
set mood = (array['calm', 'loud', null])[id], price = (array[3.50, 4, 10])[id],
    sold = (array[1, 2, null])[id], stock = (array[1, 1, 5])[id], live = id = 1,
    pace = (array['slow', 'fast', 'fast'])[id]::public.tempo,
    made = date '2025-08-01' + id::integer,
    aired = timestamp '2025-08-02 12:00' + id * interval '1 h',
    tags = array['a'], weight = id + 0.5;
"""
# What is said, the songs that it selects, and how a plan says it.
SAID = {
    'price = 3.5': ("1", "price 3.5"),
    'price = "3.500"': ("1", "price 3.500"),
    'price = [3.5, 10]': ("1 3", "price 3.5 or 10"),
    'live = true': ("1", "live true"),
    'made = 2025-08-02': ("1", "made 2025-08-02"),
    'aired = 2025-08-02T14:00:00': ("2", "aired 2025-08-02T14:00:00"),
    'cut_at = { ge = 2025-08-03T12:00:00Z }': ("2 3", "cut_at at least 2025-08-03T12:00:00+00:00"),
    'price = { gt = 3.5 }': ("2 3", "price over 3.5"),
    'price = { ge = 3.5, lt = 10 }': ("1 2", "price at least 3.5, price under 10"),
    'price = { le = 4 }': ("1 2", "price at most 4"),
    'made = { lt = 2025-08-03 }': ("1", "made under 2025-08-03"),
    'pace = { gt = "slow" }': ("2 3", "pace over slow"),
    'mood = { not = "loud" }': ("1 3", "mood not loud"),
    'mood = { not = ["loud", "calm"] }': ("3", "mood not loud or calm"),
    'mood = { is = "not null", not = "loud" }': ("1", "mood not null, mood not loud"),
    'tags = { is = "not null" }': ("1 2 3", "tags not null"),
    'notes = { is = "null" }': ("1 2 3", "notes null"),
    'sold = { column = "stock" }': ("1", "sold the same as stock"),
    'sold = { not = { column = "stock" } }': ("2 3", "sold not the same as stock"),
    'sold = { gt = { column = "stock" } }': ("2", "sold over stock"),
    'weight = { lt = { column = "price" } }': ("1 2 3", "weight under price"),
    'made = { lt = { column = "aired" } }': ("1", "made under aired"),
    'any = [{ mood = "loud" }, { price = { gt = 4 } }]': (
        "2 3", "(mood loud) or (price over 4)"),
    'any = [{ mood = "calm", price = 4 }, { sold = { is = "null" } }]': (
        "3", "(mood calm, price 4) or (sold null)"),
    'live = false, any = [{ mood = "loud" }, { any = [{ id = 1 }, { id = 3 }] }]': (
        "2 3", "live false, (mood loud) or ((id 1) or (id 3))"),
}  # fmt: skip
# The view and the plan agree; an index with the plain part of it serves both.
SOURCE_NEEDS = DECLARED[DECLARED.index("needs = ") : DECLARED.index("[parameters]")]


def saying(where: str) -> str:
    return DECLARED.replace('mood = "calm"', where).replace(SOURCE_NEEDS, "")


@pytest.mark.parametrize("where", SAID)
def test_a_where_selects_what_it_says(songs: Db, where: str) -> None:
    """In the column's own type; the plan, its mark and the view agree."""
    selected, words = SAID[where]
    songs.execute(WIDER)
    declare_text(songs, saying(where))
    assert gaps(songs) == selected.split()
    _, plan = planned(songs, "songs")
    assert plan["candidates"]["total"] == len(selected.split())
    marks = {mark["name"]: mark["detail"] for mark in plan["checks"]}
    count = len(selected.split())
    assert marks["rows of songs"] == f"{count} of {count} {'has' if count == 1 else 'have'} {words}"
    songs.execute(index_sql(parse(saying(where))).replace("concurrently ", "").encode())
    index = songs.execute("select fault from backfill_private.detection_index('songs')").fetchall()
    assert [row["fault"] for row in index] == [None]


REFUSED = {
    'tags = ["a"]': "tags of public.songs is text[], which holds several values. There may stand"
    ' { is = "null" } or { is = "not null" }',
    "spot = \"1,2\"": "spot of public.songs is point, and two values of that type cannot be"
    ' compared. There may stand { is = "null" } or { is = "not null" }',
    'price = "dear"': "price of public.songs is numeric, and dear is no such value. There may stand"
    " a number",
    "sold = 3.5": "sold of public.songs is integer, and 3.5 is no such value. There may stand a"
    " whole number",
    'live = "perhaps"': "live of public.songs is boolean, and perhaps is no such value. There may"
    " stand true or false",
    'made = { ge = "soon" }': "made of public.songs is date, and soon is no such value. There may"
    " stand a day such as 2025-08-01",
    'pace = "slw"': "pace of public.songs is public.tempo, and slw is no such value. There are:"
    " slow, fast",
    'price = { lt = { column = "mood" } }': "price of public.songs is numeric and mood is text: two"
    " columns of these types cannot be compared",
    'sold = { lt = { column = "stck" } }': "public.songs has no column stck; the nearest is stock",
    'any = [{ mood = "calm" }, { tags = "a" }]': "tags of public.songs is text[], which holds"
    ' several values. There may stand { is = "null" } or { is = "not null" }',
}  # fmt: skip


@pytest.mark.parametrize("where", REFUSED)
def test_what_a_column_cannot_be_is_refused_with_its_type(songs: Db, where: str) -> None:
    """And with what may stand there, before anything is made."""
    songs.execute(WIDER)
    with pytest.raises(Exception) as refused, songs.transaction():
        declare_text(songs, saying(where))
    assert str(refused.value).startswith(REFUSED[where])
    assert songs.execute("select from backfill_private.sources").fetchall() == []


FORM = (
    'is a value, a list of values, { is = "null" }, { not = … }, { gt = … } or ge, lt, le, or '
    '{ column = "…" }'
)
MALFORMED = {
    "mood = []": f"where: mood {FORM}",
    "mood = {}": f"where: mood {FORM}",
    "mood = [[1]]": f"where: mood {FORM}",
    "mood = { gte = 1 }": "where: mood has gte, which is none of is, not, gt, ge, lt, le, column;"
    " the nearest is gt",
    'mood = { is = "nothing" }': 'where: mood is { is = "null" } or { is = "not null" }',
    "mood = { gt = [1, 2] }": "where: mood gt takes one value that has an order",
    "mood = { gt = { is = 1 } }": 'where: mood gt takes a value, or { column = "…" }',
    "mood = { column = 1 }": "where: mood names another column by a text",
    "mood = [{ a = 1 }]": f"where: mood {FORM}. Tables stand in a list only under any",
    "any = [{}]": "where: any is a list of tables, and each says something",
    "any = [{ a = [] }]": f"where: any has a choice in which a {FORM}",
}  # fmt: skip


@pytest.mark.parametrize("where", MALFORMED)
def test_what_a_where_cannot_say_is_refused_with_the_forms(where: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(saying(where))
    assert refused.value.message == MALFORMED[where]


# -- a value that no row has


def test_a_value_that_no_row_has_is_said_with_the_nearest(songs: Db) -> None:
    """By the plan though it is empty, by check, and beside the coverage."""
    declare_text(songs, saying('mood = "Calm"'))
    _, plan = planned(songs, "songs")
    said = "none of the 3 rows of songs has mood Calm; the nearest is calm"
    assert said in [mark["detail"] for mark in plan["checks"] if mark["status"] == "warn"]
    lines = songs.execute(
        "select backfill_private.need_lines('songs', array("
        "select p from backfill_private.preconditions('songs') as p)) as line"
    ).fetchall()
    assert said in [row["line"]["detail"] for row in lines]
    row = songs.execute("select public.backfill_coverage('songs') as found").fetchone()
    assert row is not None
    assert row["found"]["notes"] == [said]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ('mood = ["calm", "blue"]', "none of the 3 rows of songs has mood blue"),
        (
            'mood = { not = "CALM" }',
            "none of the 3 rows of songs has mood CALM; the nearest is calm",
        ),
        ("any = [{ plays = 7 }, { plays = 1 }]", "none of the 3 rows of songs has plays 7"),
    ],
)
def test_a_far_word_of_the_rows_is_not_told(songs: Db, where: str, said: str) -> None:
    """What the rows hold is not ours to tell, unless it is nearly what was declared."""
    declare_text(songs, saying(where))
    found = songs.execute(
        "select detail from backfill_private.unmatched_values('songs')"
    ).fetchall()
    assert [row["detail"] for row in found] == [said]


# -- any of it


COLUMNS = {"price": "{}", "sold": "{}", "stock": "{}"}
NUMBERS = st.integers(0, 11)
COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
Said = tuple[str, str]  # as TOML, and as SQL


def _compared(column: str) -> st.SearchStrategy[Said]:
    by_number = st.tuples(st.sampled_from(sorted(COMPARISONS)), NUMBERS).map(
        lambda said: (
            f"{column} = {{ {said[0]} = {said[1]} }}",
            f"{column} {COMPARISONS[said[0]]} {said[1]}",
        )
    )
    by_column = st.tuples(
        st.sampled_from(sorted(COMPARISONS)), st.sampled_from(sorted(COLUMNS))
    ).map(
        lambda said: (
            f'{column} = {{ {said[0]} = {{ column = "{said[1]}" }} }}',
            f"{column} {COMPARISONS[said[0]]} {said[1]}",
        )
    )
    listed = st.lists(NUMBERS, min_size=1, max_size=3).map(
        lambda of: (f"{column} = {of}", f"{column} in ({', '.join(map(str, of))})")
    )
    unlisted = st.lists(NUMBERS, min_size=1, max_size=3).map(
        lambda of: (
            f"{column} = {{ not = {of} }}",
            f"({column} in ({', '.join(map(str, of))})) is not true",
        )
    )
    null = st.sampled_from(["null", "not null"]).map(
        lambda of: (f'{column} = {{ is = "{of}" }}', f"{column} is {of}")
    )
    return by_number | by_column | listed | unlisted | null


def _all_of(parts: list[Said]) -> Said:
    return ", ".join(toml for toml, _ in parts), " and ".join(f"({sql})" for _, sql in parts)


ALL_OF = st.fixed_dictionaries({}, optional={c: _compared(c) for c in COLUMNS}).filter(bool)
ONE = ALL_OF.map(lambda parts: _all_of([*parts.values()]))
ANY_OF = st.lists(ONE, min_size=1, max_size=3).map(
    lambda choices: (
        f"any = [{', '.join(f'{{ {toml} }}' for toml, _ in choices)}]",
        " or ".join(f"({sql})" for _, sql in choices),
    )
)
WHERE = ONE | ANY_OF | st.tuples(ONE, ANY_OF).map(lambda parts: _all_of([*parts]))


@given(said=WHERE)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_where_selects_as_its_sql_does(songs: Db, said: Said) -> None:
    """Of whatever it is put together: view, words and index are made, and the rows are right."""
    toml, sql = said
    with songs.transaction(force_rollback=True):
        songs.execute(WIDER)
        made = parse(saying(toml))
        songs.execute(target_sql(made).encode())
        songs.execute(index_sql(made).replace("concurrently ", "").encode())
        expected: list[Any] = songs.execute(
            f"select id::text from public.songs where {sql} order by 1".encode()
        ).fetchall()
        assert gaps(songs) == [row["id"] for row in expected]
        assert songs.execute(
            "select words, condition from backfill_private.filter_conditions('songs', 's.')"
        ).fetchall()


SPELLED = {
    "1.20": "1.20",
    "1_000.50": "1000.50",
    "3": "3",
    "true": "true",
    "2025-01-01": "2025-01-01",
    "2025-01-01T06:30:00Z": "2025-01-01T06:30:00+00:00",
    '"1.20"': "1.20",
}


@pytest.mark.parametrize("said", SPELLED)
def test_a_version_or_a_kind_is_taken_as_the_file_writes_it(said: str) -> None:
    """The column's type decides what it is. In a text 1.20 is another version than 1.2."""
    text = DECLARED.replace('"blue"', said).replace('size = "s"', f"size = {said}", 1)
    declared = parse(text)
    assert declared.components[0].version == SPELLED[said]
    assert str(declared.parameters["size"]) == SPELLED[said]
    selected = parse(DECLARED.replace('"calm"', said)).source.where
    assert [f.as_dict()["values"] for f in selected] == [[SPELLED[said]]]


def test_what_is_no_value_is_no_parameter() -> None:
    with pytest.raises(BadRequest, match="size is a text, a number, true, false, a day or a mom"):
        parse(DECLARED.replace('size = "s"', "size = [1]", 1))
