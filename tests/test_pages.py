"""The pages that people read: short, every block run, no link dead, nothing named that is not."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pdoc.doc
import psycopg
import pytest
from markdown_it import MarkdownIt

import backfill
from tests.kit import readme
from tests.kit.readme import PAGES, ROOT, claim
from tests.safeguards.table import SAFEGUARDS, table

MOST_LINES = 300
README = PAGES["README.md"]
BY = "tests/test_pages.py"
TASKS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["poe"]["tasks"]
POE = claim("Contributing", "pip install -e '.[test]'", BY)
CI = (ROOT / ".ci" / "run").read_text()
# The smallest pictures that still show something, and the largest that a reader waits for.
SMALLEST_BYTES, LARGEST_BYTES = 5_000, 200_000


def test_the_readme_is_short() -> None:
    """Whoever has never seen the project reads all of it."""
    assert len(README.splitlines()) <= 200
    assert len(README.split()) <= 1_500


def test_the_ten_words_are_said_before_they_are_used() -> None:
    """All but `run`, which is a word of everybody's too."""
    before, _, after = README.partition("## Ten words")
    words = re.findall(r"^- \*\*(\w+)\*\*: ", after, re.MULTILINE)
    assert len(words) == 10
    used = {word for word in words if re.search(rf"\b{word}s?\b", before)}
    assert used <= {"run"}


@pytest.mark.parametrize("page", PAGES)
def test_no_page_is_too_long(page: str) -> None:
    """But for the table of safeguards: a command prints it, and nobody reads it in one go."""
    assert len(PAGES[page].replace(table(SAFEGUARDS), "").splitlines()) <= MOST_LINES


@pytest.fixture(scope="module")
def claims_read() -> None:
    """Each module that runs blocks of a page has said which."""
    for module in readme.CLAIMING:
        import_module(module)


@pytest.mark.usefixtures("claims_read")
@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_claimed_by_a_test(page: str) -> None:
    """A block that nobody runs would rot."""
    assert readme.unclaimed(page, PAGES[page]) == []


@pytest.mark.usefixtures("claims_read")
def test_a_block_that_nobody_claims_is_seen() -> None:
    """The walk finds nested blocks too, with their heading."""
    added = README + "\n### New\n\n1. a\n\n   ```sh\n   backfill nonsense\n   ```\n"
    assert readme.unclaimed("README.md", added) == [("README.md", "New", "backfill nonsense")]


def links(text: str) -> Iterator[str]:
    """The address of every link and picture."""
    for token in MarkdownIt().enable("table").parse(text):
        for child in token.children or ():
            yield from (str(v) for k, v in child.attrs.items() if k in ("href", "src"))


def anchors(text: str) -> set[str]:
    """What the headings are linked by, as GitHub makes it of their words."""
    tokens = MarkdownIt().parse(text)
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead(page: str, text: str) -> list[str]:
    """The links of a page to a file or a heading that is not there. Other hosts are not asked."""
    found = []
    for link in links(text):
        url = urlsplit(link)
        if url.scheme:
            continue
        file = (ROOT / page).parent / url.path if url.path else ROOT / page
        if not file.exists() or (url.fragment and url.fragment not in anchors(file.read_text())):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page: str) -> None:
    assert dead(page, PAGES[page]) == []
    assert [link for link in links(PAGES[page]) if link.startswith("http:")] == []


def test_a_dead_link_is_seen() -> None:
    """A file, a heading of another page, and one of its own; in tables too."""
    text = "[a](nowhere.md) [b](sql/README.md#no-such) [c](#none) [d](#try-it)\n\n## Try it\n\n"
    text += "| a |\n| --- |\n| [e](none.sql) |\n"
    gone = ["nowhere.md", "sql/README.md#no-such", "#none", "none.sql"]
    assert dead("README.md", text) == gone


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    """Paths are from the repository's root, or beside the page."""
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|sql|toml))`", PAGES[page]))
    beside = (ROOT / page).parent
    # A run's file, the user's own, and two names that many folders have.
    named -= {"rollback.sql", "backfill.toml", "orders.toml", "_schema.sql", "_tables.sql"}
    missing = [n for n in named if not ((ROOT / n).exists() or (beside / n).exists())]
    assert missing == []


def test_every_sql_folder_is_named() -> None:
    """In sql/README.md, with the file that stands beside them."""
    folders = [p.name for p in (ROOT / "sql").iterdir() if p.is_dir()]
    assert [f for f in [*folders, "uninstall.sql"] if f"`{f}`" not in PAGES["sql/README.md"]] == []


def test_the_package_is_the_one_that_is_imported() -> None:
    """The library's names in the prose are the library's."""
    text = "\n".join(PAGES.values())
    assert all(hasattr(backfill, n) for n in re.findall(r"`backfill\.([A-Za-z]+_?\w*)\(", text))


def test_every_task_that_is_named_exists() -> None:
    """`poe NAME`, in blocks and in sentences."""
    named = set(re.findall(r"\bpoe (\w+)", "\n".join(PAGES.values())))
    assert {"quick", "lint", "test", "api", "pictures"} <= named <= {*TASKS}
    assert "pip install -e '.[test]'" in POE


def test_ci_runs_the_two_commands_as_written() -> None:
    """And the first is enough for the demonstration."""
    for part in ("pip install '.[local]'", "pip install -e '.[test]'"):
        assert f"{part} && " in README
        assert re.search(rf"^{re.escape(part)}$", CI, re.MULTILINE)
    assert "backfill demo" in CI
    assert re.search(r"^pytest$", CI, re.MULTILINE)


claim("Try it", "pip install '.[local]' && backfill demo", "tests/test_wheel.py and .ci/run")
claim("Try it", "pip install -e '.[test]' && pytest", "this very suite")


def test_the_api_reference_tells_of_every_public_name() -> None:
    """What `poe api` renders: every name, and each but a type's other name with a docstring."""
    assert TASKS["api"]["cmd"] == "pdoc backfill --output-directory build/api"
    module = pdoc.doc.Module(backfill)
    assert {*backfill.__all__} <= {*module.members}
    told = [m for m in module.members.values() if not isinstance(m, pdoc.doc.Variable)]
    assert len(told) > 50
    assert [member.name for member in told if not member.docstring] == []


@pytest.mark.parametrize("name", ["plan.png", "terminal.svg"])
def test_a_picture_is_there_and_small(name: str) -> None:
    """Made by `poe pictures`, which is too dear for each run of the suite."""
    assert f".github/{name}" in README
    assert SMALLEST_BYTES < (ROOT / ".github" / name).stat().st_size < LARGEST_BYTES


OURS = """
select
  count(*) filter (where c.relkind = 'r' and n.nspname = 'public') as tables,
  (
    select count(*)
    from pg_proc as p
    where p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\\_%'
  ) as functions
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.relname like 'backfill\\_%'
"""


def test_the_facts_are_what_the_catalog_says(
    project_db: psycopg.Connection[Any],
) -> None:
    """How many tables and functions of ours are in `public`."""
    said = re.search(r"In `public` (\d+) tables, some views and (\d+) functions", README)
    assert said is not None
    found = project_db.execute(OURS.encode()).fetchone()
    assert found is not None
    assert tuple(map(int, said.groups())) == (found["tables"], found["functions"])


def test_the_size_is_what_it_was_measured_at() -> None:
    """To a tenth of a megabyte, since every change of the core changes it a little."""
    said = re.search(r"One migration of ([\d.]+) MB", README)
    [core] = (ROOT / "supabase" / "migrations").glob("*_backfill_core.sql")
    assert said is not None
    assert abs(float(said.group(1)) - core.stat().st_size / 1e6) < 0.1
