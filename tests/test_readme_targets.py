"""What supabase/README.md says of targets: the file is the example's, the commands work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from backfill.targets.declaration import parse
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.edge import served
from tests.kit.readme import claim

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "supabase" / "examples" / "documents"
BY = "tests/test_readme_targets.py"
FILE = claim("A target of your own", 'target = "orders"', BY)
COMMANDS = claim("A target of your own", "backfill install --supabase-path", BY)
CLIENT = claim("Edge Functions", "import { handOn }", BY)


def test_the_file_is_the_example_s() -> None:
    """But for its first line of comment."""
    shipped = (EXAMPLE.parent / "orders" / "orders.toml").read_text()
    assert FILE in shipped
    assert parse(FILE) == parse(shipped)


@pytest.mark.parametrize("name", ["score_fc_session", "score_prism", "embed_document"])
def test_the_samples_hand_the_headers_on_as_the_page_says(name: str) -> None:
    """The first lines and the wrapped handler, word for word."""
    text = (EXAMPLE.parent.parent / "functions" / name / "index.ts").read_text()
    lines = [line for line in CLIENT.strip().splitlines() if not line.startswith("  ")]
    assert len(lines) == 7
    for line in lines:
        assert line in text


def test_the_commands_install_check_and_plan(
    project: Project, shell: Shell, tmp_path: Path
) -> None:
    """As written, but for the push, which psql's ways stand for."""
    project.db.execute((EXAMPLE / "schema.sql").read_bytes())
    (tmp_path / "supabase").mkdir()
    (tmp_path / "supabase" / "config.toml").touch()
    (tmp_path / "documents.toml").write_text((EXAMPLE / "documents.toml").read_text())
    install, push, check, plan = (
        line.partition("#")[0].split() for line in COMMANDS.splitlines() if line
    )
    assert push == ["supabase", "db", "push"]
    assert shell(*install[1:], "--yes").code == 0
    apply_new(project.db, tmp_path / "supabase" / "migrations")
    project.reload()
    with served(project):
        checked = shell(*check[1:])
        assert checked.code == 0, checked.out
        planned = shell(*plan[1:])
    assert "**Total candidates**: 40 documents" in planned.out
    assert "HALTED FOR APPROVAL" in planned.out


def apply_new(db: psycopg.Connection[Any], folder: Path) -> None:
    """The project has the core already; what is left are the target's own."""
    for file in sorted(folder.glob("*_backfill_documents*.sql")):
        db.execute(file.read_text().partition("notify")[0].encode())
