"""The commands, snippets and tables of the pages do what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import platformdirs
import psycopg
import pytest

from backfill.cli.exit_codes import ExitCode
from backfill.local import stack
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.readme import PAGES, claim
from tests.test_help import VERBS, options

Db = psycopg.Connection[Any]

PRISM = "PRISM, one example"
PLANS = claim("In a program", "import backfill", "executed")
APPLIES = claim("In a program", "outcome = bf.apply", "executed")
ARROWS = claim("How a run goes", "stateDiagram-v2", "held to backfill_transitions")
INSTALL = claim(PRISM, "backfill install", "executed; the push is in tests/test_readme_way.py")
SETTINGS = claim("Settings", "update public.backfill_settings", "executed")
PLAN = claim(PRISM, "backfill plan --since", "executed")
APPLY = claim(PRISM, "backfill apply RUN", "executed")
VIEWS = claim("The views", "postgres=> select * from backfill_candidates", "executed")
STACK = claim("The embedded stack", "backfill local start", "executed")
COMMANDS = PAGES["backfill/README.md"]
ROWS = re.search(r"(?ms)^## The verbs.*?^(?=Exit codes)", COMMANDS)


def words_of(block: str) -> list[list[str]]:
    """The words of each `backfill` command of a block."""
    joined = block.replace("\\\n", " ").splitlines()
    lines = [shlex.split(line, comments=True) for line in joined]
    return [line[1:] for line in lines if line[:1] == ["backfill"]]


def test_the_program_goes_the_whole_way(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both blocks, in order, with an approval in between, on a clock of their own pace."""
    monkeypatch.setenv("SUPABASE_URL", project.url)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", project.keys.service_role)
    monkeypatch.delenv("SUPABASE_SECRET_KEY", raising=False)
    names: dict[str, Any] = {}
    # The throttle of the text would take two minutes.
    exec(PLANS.replace("throttle_per_minute=20", "throttle_per_minute='none'"), names)  # noqa: S102
    with names["bf"]:
        project.approve(names["plan"])
        exec(APPLIES, names)  # noqa: S102 - our own page
        assert names["outcome"].is_complete
        assert names["bf"].status(names["plan"].run_id).counts["rolled_back"] > 0


def test_prism_goes_as_written(project: Project, shell: Shell) -> None:
    """The throttle is let go, since nobody waits here."""
    Path("supabase").mkdir()
    Path("supabase/config.toml").write_text("")
    [install] = words_of(INSTALL)
    assert shell(*install, "--yes").code == ExitCode.DONE
    project.db.execute(SETTINGS.encode())
    assert project.value("select environment from backfill_settings") == "staging"
    project.db.execute("update public.backfill_settings set max_throttle_per_minute = null")
    [plan] = words_of(PLAN)
    plan[plan.index("--throttle") + 1] = "none"
    made = shell(*plan, "--json").json
    run_id = made["run_id"]
    approved = shell(
        *("approve", run_id, "--digest", made["digest"]),
        BACKFILL_ACCESS_TOKEN=project.user("approver"),
    )
    assert approved.code == ExitCode.DONE, approved
    for command in words_of(APPLY):
        ran = shell(*[run_id if word == "RUN" else word for word in command])
        assert ran.code == ExitCode.DONE, (command, ran)


def test_the_embedded_stacks_commands_run_as_written(tmp_path: Path) -> None:
    """In a real shell, in an empty folder: started, planned on, and stopped."""
    scripts = Path(sys.executable).parent
    own = {"HOME": str(tmp_path), "PATH": f"{scripts}{os.pathsep}{os.defpath}"}
    kept = {n: os.environ[n] for n in os.environ if n.startswith(("BACKFILL_POST", "PYTHONPATH"))}
    kept |= {"XDG_CACHE_HOME": str(platformdirs.user_cache_path())}
    ran = subprocess.run(
        ["/bin/bash", "-euc", STACK],
        cwd=tmp_path,
        env=own | kept,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == ExitCode.DONE, ran.stderr
    assert "HALTED FOR APPROVAL" in ran.stdout
    assert not stack.stop(tmp_path / stack.DEFAULT_DIR)


@pytest.mark.parametrize("query", re.findall(r"postgres=> (.+)", VIEWS))
def test_a_query_of_the_page_runs(project_db: Db, query: str) -> None:
    """And its columns and rows are those that the text shows."""
    answer = project_db.execute(query.encode())
    assert answer.description is not None
    shown = re.search(re.escape(query) + r"\n( .+)\n-.+\n((?: .+\n)+)", VIEWS)
    if shown is None:
        return
    header, *rows = [
        [cell.strip() for cell in line.split("|")]
        for line in (shown.group(1), *shown.group(2).splitlines())
    ]
    assert [column.name for column in answer.description] == header
    assert answer.pgresult is not None
    values = [
        [answer.pgresult.get_value(r, c) for c in range(len(header))] for r in range(len(rows))
    ]
    assert [[(value or b"").decode() for value in row] for row in values] == rows


def test_every_arrow_of_the_picture_is_legal(project_db: Db) -> None:
    """The picture leaves some out; it draws none that is not there."""
    drawn = set(re.findall(r"^\s*(\w+) --> (\w+):", ARROWS, re.MULTILINE))
    legal = project_db.execute("select from_state, to_state from backfill_transitions").fetchall()
    assert drawn
    assert drawn <= {(row["from_state"], row["to_state"]) for row in legal}


def test_the_table_names_every_verb_and_no_option_that_is_none() -> None:
    """A verb and its options stand in the first column."""
    assert ROWS is not None
    named: set[str] = set()
    for cell in re.findall(r"^\| (`.+?`) \|", ROWS.group().replace(r"\|", "/"), re.MULTILINE):
        for usage in re.findall(r"`([^`]+)`", cell):
            verb, *rest = usage.split(" ", 1)
            if verb in ("target", "standing"):
                verb = " ".join(usage.split()[:2])
            if verb == "local":
                named |= {f"local {part}" for part in rest[0].split("/")}
                continue
            named.add(verb)
            assert set(re.findall(r"--[\w-]+", usage)) <= options(verb), usage
    assert named == set(VERBS)


def test_the_exit_codes_are_those_of_the_library() -> None:
    """The sentence names each number once."""
    sentence = re.search(r"Exit codes: .+?\.\n\n", COMMANDS, re.DOTALL)
    assert sentence is not None
    assert [int(n) for n in re.findall(r"\b\d\b", sentence.group())] == sorted(ExitCode)
