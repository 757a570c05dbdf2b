"""Undo on the command line: what is confirmed is what was previewed, and said once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.seed import CANARY

PLAN = (
    "plan",
    "--since",
    "2025-09-01",
    "--throttle",
    "60000",
    "--batch-size",
    "10",
    "--rehearse",
    "0",
    "--json",
)
SCOPE = ("--until", "2025-09-10")


@pytest.fixture
def run(project: Project, shell: Shell) -> str:
    """A completed run's id."""
    made = shell(*PLAN).json
    project.db.execute("select public.backfill_approve(%s, %s)", (made["run_id"], made["digest"]))
    assert shell("apply", made["run_id"]).code == 0
    return str(made["run_id"])


def confirm(shell: Shell, run: str, preview: dict[str, Any], *scope: str, json: bool = True) -> Any:
    words = ("--confirm", preview["digest"], "--reason", "t", *(("--json",) if json else ()))
    return shell("rollback", run, *scope, *words)


def test_another_scope_than_the_previews_is_refused(shell: Shell, run: str) -> None:
    """Nothing is taken back; without a scope, or with the same, it is."""
    preview = shell("rollback", run, *SCOPE, "--json").json
    for scope in (
        ("--until", "2025-09-11"),
        ("--since", "2025-09-01", *SCOPE),
        ("--session", CANARY, *SCOPE),
        ("--session", CANARY),
    ):
        ran = confirm(shell, run, preview, *scope)
        assert (ran.code, ran.err.strip()) == (2, ""), scope
        assert "another scope" in ran.json["error"]["message"]
        assert ran.json["error"]["next"].startswith("the same command without its scope")
    assert confirm(shell, run, preview, *SCOPE).json["deletes"] == preview["deletes"]


def test_the_sessions_of_a_scope_are_a_set(shell: Shell, run: str) -> None:
    """In any order, as ids or prefixes, named twice or once."""
    others = [s["sessions"] for s in shell("show", run, "--json").json["batches"]]
    other = next(s for batch in others for s in batch if s != CANARY)
    preview = shell("rollback", run, "--session", CANARY, "--session", other, "--json").json
    again = ("--session", other, "--session", CANARY[:13], "--session", other)
    assert confirm(shell, run, preview, *again).json["sessions"] == 2


def test_a_confirmed_undo_counts_its_sessions(shell: Shell, run: str) -> None:
    """The same number as its preview's."""
    preview = shell("rollback", run, *SCOPE, "--json").json
    assert preview["sessions"] > 0
    undone = confirm(shell, run, preview).json
    assert undone["sessions"] == preview["sessions"]
    assert undone["was_finished"] is False


def test_an_undo_that_was_carried_out_says_so_when_confirmed_again(shell: Shell, run: str) -> None:
    """When, and by whom; it is no failure."""
    preview = shell("rollback", run, *SCOPE, "--json").json
    first = confirm(shell, run, preview).json
    again = confirm(shell, run, preview)
    assert again.code == 0
    assert again.json == {**first, "was_finished": True}
    said = confirm(shell, run, preview, json=False).out
    assert "already carried out at 20" in said
    assert f"by {first['confirmed_by']}" in said


def test_a_preview_of_nothing_offers_no_confirm(shell: Shell, run: str) -> None:
    """There is nothing to confirm."""
    nothing = ("rollback", run, "--until", "2025-01-01")
    ran = shell(*nothing)
    assert (ran.code, ran.out) == (0, "nothing to undo\n")
    assert shell(*nothing, "--json").json["next"] is None
    assert "--confirm" in shell("rollback", run, *SCOPE, "--json").json["next"]


def test_a_digest_that_is_like_the_previews_is_shown_in_full(shell: Shell, run: str) -> None:
    """The first characters would not tell them apart."""
    digest = shell("rollback", run, *SCOPE, "--json").json["digest"]
    like = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    ran = confirm(shell, run, {"digest": like})
    assert ran.code == 3
    assert ran.json["error"]["message"] == (
        f"{like} is not the digest of the newest preview, which is {digest}"
    )


def test_a_retry_of_nothing_says_so(shell: Shell, run: str) -> None:
    """One sentence, and no failure."""
    ran = shell("retry", run)
    assert ran.code == 0
    assert "no session of this run has failed: nothing to retry" in ran.out
    assert shell("retry", run, "--json").json["retried"] == 0
