"""`backfill target new` over a team's tables: what it asks, writes, refuses and leaves alone."""

# ruff: noqa: E501 - the table of cases is read across.

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import backfill
from backfill.targets.schema import SCHEMA_FILE
from tests.conftest import Project
from tests.kit.at_terminal import AtTerminal
from tests.kit.commands import Shell
from tests.kit.readme import ROOT, claim
from tests.test_readme_commands import words_of
from tests.test_target_new import BIGINT

COMMANDS = claim(
    "A target of your own", "backfill target new documents", "tests/test_target_new_command.py"
)


@pytest.fixture(scope="module")
def sales(shared_project: Project) -> Project:
    """The shared project, with a team's tables that stay for the module."""
    shared_project.db.execute(BIGINT.sql.encode())
    return shared_project


@pytest.fixture
def sales_shell(
    sales: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys, environment_of(sales))


def environment_of(project: Project) -> dict[str, str]:
    return {
        "SUPABASE_URL": project.url,
        "SUPABASE_SERVICE_ROLE_KEY": project.keys.service_role,
    }


NEW = ("target", "new", "sales", "--source", "sales", "--derived", "bills")


def test_the_command_writes_a_file_that_passes(sales_shell: Shell, tmp_path: Path) -> None:
    """With the schema that its first line names, and what to look at."""
    answer = sales_shell(*NEW)
    assert (answer.code, answer.err) == (0, "")
    assert "to be looked at: bill.version" in answer.out
    assert sorted(f.name for f in tmp_path.iterdir()) == [SCHEMA_FILE, "sales.toml"]
    assert (tmp_path / "sales.toml").read_text().startswith(f"#:schema ./{SCHEMA_FILE}\n")
    assert sales_shell("target", "check", "sales.toml").code == 0


def test_a_file_that_is_there_is_not_replaced_unasked(sales_shell: Shell, tmp_path: Path) -> None:
    """--yes replaces it, --output writes elsewhere."""
    (tmp_path / "sales.toml").write_text("mine")
    answer = sales_shell(*NEW)
    assert (answer.code, "sales.toml is there already" in answer.err) == (2, True)
    assert (tmp_path / "sales.toml").read_text() == "mine"
    assert sales_shell(*NEW, "--output", "other.toml").code == 0
    assert sales_shell(*NEW, "--yes", "--json").json["target"] == "sales"
    assert (tmp_path / "sales.toml").read_text() == (tmp_path / "other.toml").read_text()


def test_a_folder_that_is_not_there_is_refused(sales_shell: Shell, tmp_path: Path) -> None:
    """With the reason, and nothing is written."""
    answer = sales_shell(*NEW, "--output", "none/sales.toml")
    assert (answer.code, "none/sales.toml could not be written: No such file" in answer.err) == (
        2,
        True,
    )
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "no table": (("sales", "--source", "sale"), "there is no table sale; the nearest is sales"),
    "no name of one": (("sales", "--source", "a b"), "a b is no name of a table"),
    "no function": ((*NEW[2:], "--function", "bil_sale"), "there is no function bil_sale that the API calls; the nearest is bill_sale"),
    "no target": (("Sales", "--source", "sales"), "Sales is no name of a target"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_name_that_is_none_is_refused(case: str, sales_shell: Shell, tmp_path: Path) -> None:
    """And nothing is written."""
    words, said = REFUSED[case]
    answer = sales_shell("target", "new", *words)
    assert (answer.code, said in answer.err) == (2, True), answer.err
    assert list(tmp_path.iterdir()) == []


def at_a_terminal(project: Project, folder: Path, typed: bytes, *words: str) -> tuple[int, str]:
    """Run a command on a terminal of its own. Returns how it ended, and what it showed."""
    terminal = AtTerminal(folder, environment_of(project), *words)
    terminal.type(typed.decode().removesuffix("\n"))
    return terminal.ended(), terminal.shown


def test_on_a_terminal_it_asks(sales: Project, tmp_path: Path) -> None:
    """By number, by name, several; a wrong answer is asked again; nothing means the first."""
    typed = b"paid_at\nnone\n4\n3\nv3\n"
    code, shown = at_a_terminal(sales, tmp_path, typed, *NEW)
    assert code == 0, shown
    assert "Which column dates a row of public.sales?" in shown
    file = tomllib.loads((tmp_path / "sales.toml").read_text())
    assert (file["source"]["date"], file["source"]["where"]) == ("paid_at", {"status": ["paid"]})
    assert file["component"][0]["version"] == "v3"
    assert "#" not in (tmp_path / "sales.toml").read_text().partition("\n")[2]


def test_ctrl_c_leaves_the_old_file(sales: Project, tmp_path: Path) -> None:
    """Whatever was answered before."""
    (tmp_path / "sales.toml").write_text("mine")
    code, shown = at_a_terminal(sales, tmp_path, b"y\npaid_at\n\x03", *NEW)
    assert code != 0, shown
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("sales.toml", "mine")]


def test_the_page_s_commands_work(project: Project, shell: Shell, tmp_path: Path) -> None:
    """As written, over the second example."""
    example = ROOT / "supabase" / "examples" / "documents"
    project.db.execute((example / "schema.sql").read_bytes())
    (tmp_path / "supabase" / "functions").mkdir(parents=True)
    (tmp_path / "supabase" / "config.toml").touch()
    source = ROOT / "supabase" / "functions" / "embed_document"
    (tmp_path / "supabase" / "functions" / "embed_document").symlink_to(source)
    new, check, targets, remove = words_of(COMMANDS)
    assert shell(*new).code == 0
    checked = shell(*check)
    assert checked.code == 0, (tmp_path / "documents.toml").read_text() + checked.out
    assert shell(*targets).code == 0
    assert shell(*remove, "--yes").code == 0
    made = tomllib.loads((tmp_path / "documents.toml").read_text())
    plain_text, embedding = made["component"]
    assert plain_text["function"] == "public.clean_document(bigint,text)"
    assert (embedding["function"], embedding["after"]) == ("embed_document", ["plain_text"])


def test_the_library_drafts_the_same(sales: Project) -> None:
    """Without a file."""
    with backfill.connect(sales.url, sales.keys.service_role) as bf:
        draft = bf.draft_target("sales", source="sales", derived=["bills"])
    assert draft.target == "sales"
    assert tomllib.loads(draft.text)["component"][0]["name"] == "bill"
