"""The Supabase CLI makes a project, `backfill install` fills it, and the CLI applies it."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backfill.local.servers import PostgresServer
from backfill.targets.migrations import our_files
from tests.conftest import behind_gateway
from tests.kit.commands import Shell
from tests.kit.copies import Copy
from tests.kit.supabase_cli import home_of_cli, run_cli

APPLY = [("db", "push"), ("migration", "up")]
VERBS = [" ".join(words) for words in APPLY]
INDEX = "backfill_completed_sessions"

INSTALL = ("install", "--supabase-path", "supabase", "--target", "prism", "--yes")
Supabase = Callable[..., str]


@pytest.fixture(scope="module")
def made(cli_script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the CLI has made a project, and its settings."""
    home = tmp_path_factory.mktemp("made")
    for words in (("telemetry", "disable"), ("init",)):
        run_cli(cli_script, home_of_cli(home), *words)
    return home


@pytest.fixture
def supabase(
    made: Path, cli_script: Path, cli_home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Supabase:
    """The CLI in a folder where it has made a project."""
    shutil.copytree(made, cli_home["HOME"], dirs_exist_ok=True)
    monkeypatch.chdir(cli_home["HOME"])

    def run(*words: str) -> str:
        return run_cli(cli_script, cli_home, *words)

    return run


@pytest.fixture
def user_db(sample_db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Somebody's project without ours."""
    return sample_db


@pytest.fixture
def remote(postgres_server: PostgresServer, user_db: psycopg.Connection[Any]) -> str:
    """How the CLI is told of that database."""
    return f"--remote={postgres_server.dsn(user_db.info.dbname)}"


def migrations() -> list[str]:
    return sorted(f.name for f in Path("supabase/migrations").glob("*.sql"))


def applied(db: psycopg.Connection[Any]) -> list[str]:
    """The versions that the CLI has noted as applied."""
    rows = db.execute("select version from supabase_migrations.schema_migrations order by 1")
    return [version for (version,) in rows.fetchall()]


def versions(names: list[str]) -> list[str]:
    return [name.split("_", 1)[0] for name in names]


def index_is_valid(db: psycopg.Connection[Any]) -> bool:
    """Whether the index that is built beside the writers is there and whole."""
    row = db.execute(
        "select indisvalid from pg_index where indexrelid = to_regclass(%s)", (f"public.{INDEX}",)
    ).fetchone()
    return row is not None and bool(row[0])


def failing(db: psycopg.Connection[Any]) -> list[Any]:
    """What the database's own part of `backfill check` says fails."""
    rows = db.execute("""
        select found ->> 'status', found
        from jsonb_path_query(public.backfill_check(), 'strict $.** ? (exists (@.status))') as found
    """).fetchall()
    assert rows
    return [found for status, found in rows if status == "fail"]


@pytest.mark.parametrize("words", APPLY, ids=VERBS)
def test_the_cli_applies_what_install_copied(
    supabase: Supabase,
    user_db: psycopg.Connection[Any],
    remote: str,
    plain_shell: Shell,
    words: tuple[str, ...],
) -> None:
    """From an empty folder to a whole project; the index that takes no transaction is built."""
    assert plain_shell(*INSTALL).code == 0
    supabase(*words, remote, "--yes")
    assert applied(user_db) == versions(migrations())
    assert len(applied(user_db)) == len(our_files())
    assert index_is_valid(user_db)
    assert failing(user_db) == []


def test_a_second_install_adds_nothing(supabase: Supabase, plain_shell: Shell) -> None:
    """Whoever installs again has the files that he had."""
    plain_shell(*INSTALL)
    before = migrations()
    again = plain_shell(*INSTALL, "--json")
    assert again.code == 0
    assert migrations() == before


def test_an_upgrade_adds_new_files_and_push_applies_only_these(
    supabase: Supabase,
    user_db: psycopg.Connection[Any],
    remote: str,
    plain_shell: Shell,
) -> None:
    """An earlier version had one file less: what was applied is left alone."""
    plain_shell(*INSTALL)
    last = migrations()[-1]
    (Path("supabase/migrations") / last).unlink()
    supabase("db", "push", remote, "--yes")
    earlier = applied(user_db)
    assert earlier == versions(migrations())
    assert not index_is_valid(user_db)
    plain_shell(*INSTALL)
    supabase("db", "push", remote, "--yes")
    new = migrations()[-1]
    assert applied(user_db) == [*earlier, *versions([new])]
    assert index_is_valid(user_db)


def test_a_target_that_was_refused_says_why_and_never_blocks_a_push(
    supabase: Supabase,
    user_db: psycopg.Connection[Any],
    remote: str,
    sample_copy: Copy,
    plain_shell: Shell,
) -> None:
    """The sentence stands before our SQL, and the corrected file takes the refused one's place."""
    mine, prism = Path("mine.toml"), (files("backfill.targets") / "prism.toml").read_text()
    install = (*INSTALL[:4], "mine.toml", "--yes")
    mine.write_text(prism.replace("public.score_prism(", "public.grade_visit("))
    assert plain_shell(*install).code == 0
    with pytest.raises(AssertionError) as refused:
        supabase("db", "push", remote, "--yes")
    sentence = "no function public.grade_visit(uuid,text). Is it an Edge Function?"
    told = str(refused.value)
    assert 0 < told.index(sentence) < told.index(". Next: ") < told.index("declare_target(")
    before = migrations()
    mine.write_text(prism)
    with behind_gateway(
        sample_copy.served(), sample_copy.jwt_secret, user_db, sample_copy.keeper
    ) as project:
        project.wait_for_function("backfill_check")
        again = plain_shell(
            *install,
            SUPABASE_URL=project.url,
            SUPABASE_SERVICE_ROLE_KEY=project.keys.service_role,
        )
    assert again.code == 0
    assert f"removed {before[1]}" in again.out
    supabase("db", "push", remote, "--yes")
    assert applied(user_db) == versions(migrations())
    assert len(migrations()) == len(our_files())


def test_the_types_that_the_cli_makes_name_what_is_ours(
    supabase: Supabase, postgres_server: PostgresServer, project_db: psycopg.Connection[Any]
) -> None:
    """They need no Docker, and they are Python; every table and view of ours is in them."""
    remote = f"--remote={postgres_server.dsn(project_db.info.dbname)}"
    made = supabase("gen", "types", "--lang=python", "--schema=public", remote)
    source = made[made.index("from __future__") :]
    classes = {n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef)}
    relations = project_db.execute("""
        select relname from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')
          and relname like 'backfill\\_%'
    """).fetchall()
    assert relations
    named = [f"Public{r['relname'].title().replace('_', '')}" for r in relations]
    assert [name for name in named if name not in classes] == []
