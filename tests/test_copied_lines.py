"""Lines to copy are whole at every width, and who decides is named by a name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

import backfill
from backfill.cli import signing
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.commands import Shell
from tests.kit.seed import SEED

WIDTHS = (60, 80, 120)
SMALL = {**SEED, "limit": 1, "priority": [], "throttle_per_minute": "none"}
Type = Callable[..., str]


@pytest.fixture
def type_at(project: Project, tmp_path: Path) -> Iterator[Type]:
    """Type a command into a terminal of so many columns, and keys while it runs.

    Returns what can be copied from it.
    """
    if not shutil.which("tmux"):
        pytest.skip("tmux is not installed")
    socket = ("tmux", "-L", f"backfill-{uuid4().hex}", "-f", "/dev/null")
    environment = {
        **os.environ,
        "SUPABASE_URL": project.url,
        "SUPABASE_SERVICE_ROLE_KEY": project.keys.service_role,
        "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    (tmp_path / "gitconfig").write_text("[user]\n  name = Ada O'Neill\n")

    def typed(columns: int, command: str, *keys: str) -> str:
        name = f"w{columns}-{uuid4().hex[:8]}"
        size = ("-x", str(columns), "-y", "40")
        ended = f"ended-{uuid4().hex}"
        subprocess.run(
            (*socket, "new-session", "-d", "-s", name, *size, "-c", str(tmp_path),
             f"{command}; tmux wait-for -S {ended}; sleep 60"),
            check=True, env=environment,
        )  # fmt: skip
        if keys:
            subprocess.run((*socket, "send-keys", "-t", name, *keys), check=True)
        subprocess.run((*socket, "wait-for", ended), check=True, timeout=60)
        # -J joins what the terminal itself has broken, as a selection by mouse does.
        shown = subprocess.run(
            (*socket, "capture-pane", "-p", "-J", "-S", "-", "-t", name),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return shown.stdout

    yield typed
    subprocess.run((*socket, "kill-server"), check=False, capture_output=True)


def copied(shown: str, begins: str) -> str:
    """The line of a terminal that begins so."""
    [line] = {line.strip() for line in shown.splitlines() if line.strip().startswith(begins)}
    return line


def test_the_approve_lines_are_copied_whole_from_every_terminal(
    project: Project, bf: backfill.Backfill, type_at: Type
) -> None:
    """At 60, 80 and 120 columns. Pasted into a shell and into psql, they approve."""
    project.db.execute("update public.backfill_settings set approval_policy = 'any'")
    first, second = bf.plan(**SMALL), bf.plan(**SMALL)
    show = f"{sys.executable} -m backfill show --summary"
    command = f"{show} {first.run_id}; {show} {second.run_id}"
    for columns in WIDTHS:
        shown = type_at(columns, command)
        line = copied(shown, f"backfill approve {first.run_id}")
        sql = copied(shown, f"select public.backfill_approve('{second.run_id}")
        assert line == f"backfill approve {first.run_id} --digest {first.digest}"
        assert sql == second.approval_sql_by("Ada O'Neill")
        assert sql.endswith("'Ada O''Neill');")
    # Who types it is asked for, and is known to git.
    asked = type_at(80, line.replace("backfill ", f"{sys.executable} -m backfill ", 1), "Enter")
    assert "Approver [Ada O'Neill]:" in asked
    assert bf.status(first.run_id).approved_by == "Ada O'Neill"
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed")
    info = project.db.info
    dsn = f"postgresql://{info.user}@{info.host}:{info.port}/{info.dbname}"
    subprocess.run(
        (psql, "-v", "ON_ERROR_STOP=1", dsn), input=sql, text=True, check=True,
        env={**os.environ, "PGPASSWORD": info.password}, capture_output=True,
    )  # fmt: skip
    assert bf.status(second.run_id).approved_by == "Ada O'Neill"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("your\n name", "line break"),
        ("Ada\r", "line break"),
        ("Ada\u2028Lovelace", "line break"),
        ("Ada\x07", "control character"),
        ("your name", "placeholder"),
        ("YOUR-NAME", "placeholder"),
        ("<your name>", "placeholder"),
        ("…", "placeholder"),
        ("NAME", "placeholder"),
    ],
)
@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_name_that_names_nobody_is_refused(
    decided: psycopg.Connection[dict[str, str]], name: str, why: str, decision: str
) -> None:
    """By the database, whoever sends it, with a sentence. Nothing is decided."""
    [run] = decided.execute("select run_id, digest from public.backfill_runs").fetchall()
    named = {"approve": run["digest"], "reject": "not now"}[decision]
    with pytest.raises(psycopg.Error, match=why) as refused, decided.transaction():
        decided.execute(
            f"select public.backfill_{decision}(%s, %s, %s)".encode(), (run["run_id"], named, name)
        )
    assert refused.value.sqlstate == "OB013"


@pytest.fixture(scope="module")
def decided(shared_project: Project) -> psycopg.Connection[dict[str, str]]:
    """A plan that awaits its approval, in a project that no test changes."""
    verbs.planned(shared_project.db, limit=1)
    return shared_project.db


def test_the_plan_s_own_placeholder_is_refused(decided: psycopg.Connection[dict[str, str]]) -> None:
    """A line that was copied from Markdown wants a name in it."""
    [run] = decided.execute("select run_id, digest from public.backfill_runs").fetchall()
    plan = backfill.Plan(str(run["run_id"]), "awaiting_approval", run["digest"], None, None, {})
    with (
        pytest.raises(psycopg.Error, match="your name is a placeholder"),
        decided.transaction(),
    ):
        decided.execute(plan.approval_sql.encode())


def test_a_refused_approval_says_the_line_with_the_name_that_was_given(
    project: Project, bf: backfill.Backfill, shell: Shell
) -> None:
    """On a line of its own, ready to paste."""
    project.db.execute("update public.backfill_settings set approval_policy = 'second_person'")
    plan = bf.plan(**SMALL)
    refused = shell("approve", plan.run_id, "--digest", plan.digest, "--approver", "Ada O'Neill")
    assert refused.code == 3
    line = copied(refused.err, "select public.")
    assert line == plan.approval_sql_by("Ada O'Neill")
    project.db.execute(line.encode())
    assert bf.status(plan.run_id).approved_by == "Ada O'Neill"


def test_the_name_is_git_s_or_the_login_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line. Who types in no repository and has no name in git is known by the login."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    config = tmp_path / "config"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    config.write_text("")
    assert signing.own_name() == "ada"
    if shutil.which("git"):
        config.write_text("[user]\n  name = Ada  Lovelace\n")
        assert signing.own_name() == "Ada Lovelace"
    monkeypatch.delenv("USER")
    config.write_text("")
    assert signing.own_name() is None
    assert signing.signed("Grace", None) == "Grace"
    assert signing.signed(None, "a token") is None


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_the_dots_of_a_copied_command_are_no_reason(
    decided: psycopg.Connection[dict[str, str]], verb: str
) -> None:
    """`--reason "…"` stands for words."""
    [run] = decided.execute("select run_id from public.backfill_runs").fetchall()
    with pytest.raises(psycopg.Error, match=f"{verb} needs a reason") as refused:
        verbs.call(decided, f"backfill_{verb}", run=run["run_id"], reason=" … ")
    assert refused.value.sqlstate == "OB013"
    assert re.search(rf"backfill {verb} \S+ --reason", refused.value.diag.message_hint or "")
