"""Fifteen minutes with your own tables, as the README tells: from an empty project to an undo.

The Supabase CLI pushes, and the commands are the README's. What a person decides meanwhile is here
decided by a test: which orders count, and that the plan is approved.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backfill.local.servers import PostgresServer
from backfill.request import DEFAULTS
from backfill.targets.declaration import parse
from backfill.targets.migrations import builds_index_concurrently as alone
from backfill.targets.migrations import statements
from tests.conftest import Project, _served
from tests.kit.commands import Shell
from tests.kit.edge import OF_TESTS, served
from tests.kit.readme import ROOT, claim
from tests.kit.supabase_cli import run_cli
from tests.test_readme_commands import words_of

HEADING = "Fifteen minutes with your own tables"
BY = "tests/test_readme_way.py"
WAY = claim(HEADING, "export SUPABASE_URL", BY)
APPROVE = claim(HEADING, "select public.backfill_approve", BY)
APPLY = claim(HEADING, "backfill apply RUN", BY)
UNDO = claim(HEADING, "backfill rollback RUN", BY)
PROGRAM = claim(HEADING, "import backfill", BY)
EXAMPLE = ROOT / "supabase" / "examples" / "orders"
# What the draft has as a comment or as a guess where nobody was asked, and what a person says.
DECIDED = {
    '# where = { status = ["cart", ': "where = { status = [",
    'version = "v1"': 'version = "r2"',
}
WRITTEN = "select version, count(*) as n from public.invoices group by version order by version"
Push = Callable[..., None]


@pytest.fixture
def shop(
    postgres_server: PostgresServer,
    bare_db: psycopg.Connection[Any],
    bare_admin: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Project]:
    """A project of somebody's with the example's tables and nothing of ours, in its folder."""
    bare_db.execute((EXAMPLE / "schema.sql").read_bytes())
    monkeypatch.chdir(tmp_path)
    Path("supabase").mkdir()
    Path("supabase/config.toml").write_text('project_id = "shop"\n')
    # A plan that says nothing of a throttle waits for none: nobody waits here.
    monkeypatch.setitem(DEFAULTS, "throttle_per_minute", 60_000)
    with _served(postgres_server, bare_db, bare_admin) as project:
        monkeypatch.setenv("SUPABASE_URL", project.url)
        monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", project.keys.service_role)
        yield project


@pytest.fixture
def shop_shell(plain_shell: Shell, shop: Project) -> Shell:
    """The command line with the URL and the key that the README exports first."""
    plain_shell.environment |= {
        "SUPABASE_URL": shop.url,
        "SUPABASE_SECRET_KEY": shop.keys.service_role,
    }
    return plain_shell


@pytest.fixture
def pushed(shop: Project, cli_home: dict[str, str], request: pytest.FixtureRequest) -> Push:
    """Push what is new in the folder: as `supabase db push` does, or by that very command."""
    info = shop.db.info
    at = f"postgresql://{info.user}:{info.password}@{info.host}:{info.port}/{info.dbname}"
    done: set[Path] = set()

    def push(*, by_cli: bool) -> None:
        if by_cli:
            script = request.getfixturevalue("cli_script")
            run_cli(script, cli_home, "db", "push", f"--remote={at}", "--yes")
        else:
            for file in sorted({*Path("supabase/migrations").iterdir()} - done):
                script = file.read_text()
                for statement in statements(script) if alone(script) else [script]:
                    shop.db.execute(statement.encode())
                done.add(file)
        shop.wait_for_function("backfill_check")
        shop.reload()

    return push


def decide(file: Path) -> None:
    """Which orders count, and which version is wanted if no default of the function says so."""
    text = file.read_text()
    assert next(iter(DECIDED)) in text
    for drafted, wanted in DECIDED.items():
        text = text.replace(drafted, wanted)
    file.write_text(text)


def is_the_example_s(file: Path) -> bool:
    """Whether the draft says what the example's file says."""
    return parse(file.read_text()) == parse((EXAMPLE / "orders.toml").read_text())


def newest(shop: Project) -> dict[str, str]:
    """RUN and DIGEST of the newest plan, by the words of the README."""
    [run] = shop.rows("select run_id, digest from backfill_runs order by created_at desc limit 1")
    return {"RUN": str(run["run_id"]), "DIGEST": run["digest"]}


def with_names(text: str, names: dict[str, str]) -> str:
    for word, value in names.items():
        text = text.replace(word, value)
    return text


@pytest.mark.parametrize("over_edge", [False, True], ids=["sql", "edge"])
def test_the_way_goes_as_written(
    shop: Project, shop_shell: Shell, pushed: Push, over_edge: bool
) -> None:
    """By a SQL function with the Supabase CLI, and by an Edge Function as it is without it."""

    def typed(line: str, *more: str) -> str:
        ran = shop_shell(*words_of(line)[0], *more)
        assert ran.code == 0, f"{line}\n{ran.out}{ran.err}"
        return ran.out

    with ExitStack() as stack:
        if over_edge:
            shop.db.execute(b"drop function public.make_invoice")
            shutil.copytree(OF_TESTS / "invoices", "supabase/functions")
            stack.enter_context(served(shop, Path("supabase/functions")))
        export, *lines, plan = WAY.strip().splitlines()
        assert export.startswith("export SUPABASE_URL=")
        for line in lines:
            if line == "supabase db push":
                pushed(by_cli=not over_edge)
                continue
            typed(line, *["--yes"] * line.startswith("backfill install"))
            if line.startswith("backfill target new"):
                decide(Path("orders.toml"))
                assert over_edge or is_the_example_s(Path("orders.toml"))
        typed(plan, *["--inferred", "orders"] * over_edge)
        run = newest(shop)
        shop.db.execute(with_names(APPROVE, run).encode())
        for line in APPLY.splitlines():
            typed(with_names(line, run))
        assert shop.rows(WRITTEN) == [{"version": "r2", "n": 178}]
        preview, confirm = UNDO.strip().splitlines()
        digest = json.loads(typed(with_names(preview, run), "--json"))["digest"]
        typed(with_names(confirm, {**run, "DIGEST": digest}))
        assert shop.rows(WRITTEN) == [{"version": "r1", "n": 6}, {"version": "r2", "n": 172}]
    if not over_edge:
        the_same_in_a_program(shop)


def the_same_in_a_program(shop: Project) -> None:
    """The README's Python, after what was just undone, with an approval in between."""
    plans, applies = PROGRAM.split("bf.apply")
    names: dict[str, Any] = {}
    exec(plans, names)  # noqa: S102 - our own README
    with names["bf"]:
        shop.approve(names["plan"])
        exec(f"bf.apply{applies}", names)  # noqa: S102 - our own README
        assert names["bf"].status(names["plan"].run_id).counts["rolled_back"] == 6
