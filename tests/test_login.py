"""Deciding as oneself on the command line: login, logout, approve by sight, undo as two people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring

import backfill
from backfill.local.auth import new_secret
from tests.conftest import Project
from tests.kit.at_terminal import AtTerminal
from tests.kit.commands import Ran, Shell
from tests.kit.copies import Copy
from tests.kit.keyrings import (
    BACKEND_VARIABLE,
    FILE_VARIABLE,
    IN_A_FILE,
    NONE,
    FileKeyring,
    LockedKeyring,
)
from tests.kit.outsider import UNHURRIED
from tests.kit.seed import SEED
from tests.kit.signing import ADA, PASSWORD, add_user, code_now, with_auth

Json = dict[str, Any]


class Desk:
    """Somebody at a command line with a keyring, on a project that asks for a second person."""

    def __init__(self, project: Project, shell: Shell, folder: Path) -> None:
        self.project = project
        self.shell = shell
        self.folder = folder
        self.keyring = folder / "keyring.json"
        self.seen: list[Ran] = []

    def __call__(self, *words: str, stdin: str = "", **environment: str) -> Ran:
        """Run `backfill WORDS`, with these lines on stdin."""
        with pytest.MonkeyPatch.context() as patch:
            lines = self.folder / "stdin"
            lines.write_text(stdin)
            with lines.open() as piped:
                patch.setattr("sys.stdin", piped)
                ran = self.shell(*words, **environment)
        self.seen.append(ran)
        return ran

    def login(self, email: str = ADA, *codes: str, password: str = PASSWORD) -> Ran:
        """Sign in with what stdin says."""
        lines = "\n".join((password, *codes, ""))
        return self("login", email, "--password-stdin", "--json", stdin=lines)

    def at_terminal(self, *words: str, has_keyring: bool = True) -> AtTerminal:
        """The same on a terminal."""
        ring = {BACKEND_VARIABLE: IN_A_FILE, FILE_VARIABLE: str(self.keyring)}
        if not has_keyring:
            ring = {BACKEND_VARIABLE: NONE}
        return AtTerminal(self.folder, {**self.shell.environment, **ring}, *words)

    @property
    def kept(self) -> Json:
        """The session that the keyring keeps for the project, {} for none."""
        ring = json.loads(self.keyring.read_text()) if self.keyring.exists() else {}
        kept: Json = json.loads(ring.get(f"backfill {self.project.url}", "{}"))
        return kept

    def keep(self, **changes: Any) -> None:
        """Change what the keyring keeps."""
        told = json.dumps({**self.kept, **changes})
        self.keyring.write_text(json.dumps({f"backfill {self.project.url}": told}))

    def plan(self) -> backfill.Plan:
        """A plan that awaits approval."""
        with self.project.connect() as bf:
            return bf.plan(**SEED)

    def state(self, run: str) -> tuple[str, str | None]:
        """The state of a run, and who approved it."""
        [row] = self.project.rows(
            "select state, approved_by from public.backfill_runs where run_id = %s", run
        )
        return row["state"], row["approved_by"]


@pytest.fixture
def desk(
    project: Project,
    project_copy: Copy,
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    """With the approver Ada, who is not signed in."""
    project.db.execute(
        "update public.backfill_settings set approval_policy = 'second_person' where only_row"
    )
    desk = Desk(with_auth(project, project_copy), shell, tmp_path)
    monkeypatch.setenv(FILE_VARIABLE, str(desk.keyring))
    use(FileKeyring, monkeypatch)
    return desk


def use(ring: Callable[[], KeyringBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be the keyring of the system until the test ends."""
    monkeypatch.setattr("keyring.core._keyring_backend", ring())


def approve(desk: Desk, plan: backfill.Plan, **environment: str) -> Ran:
    return desk("approve", plan.run_id, "--digest", plan.digest, "--json", **environment)


def refused(ran: Ran, code: int, message: str, next_step: str) -> None:
    error = ran.json["error"]
    assert (ran.code, message in error["message"]) == (code, True), error
    assert next_step in error["next"], error


# With a keyring -----------------------------------------------------------------------------------


def test_who_signed_in_approves_until_signed_out(desk: Desk) -> None:
    """The keyring keeps the session, the output never shows it, logout ends it at Auth, too."""
    first, second = desk.plan(), desk.plan()
    told = desk.login().json
    kept = desk.kept
    assert told == {
        "email": ADA,
        "role": "approver",
        "aal": "aal1",
        "expires_at": told["expires_at"],
        "kept": "keyring",
    }
    assert approve(desk, first).code == 0
    assert desk.state(first.run_id) == ("approved", ADA)
    assert desk("logout", "--json").json == {"signed_out": ADA}
    assert desk.kept == {}
    assert desk.project.value("select count(*) from auth.sessions") == 0
    assert desk("logout", "--json").json == {"signed_out": None}
    refused(approve(desk, second), 3, "the service key does not decide", "in the SQL editor")
    shown = "".join(ran.out + ran.err for ran in desk.seen)
    assert not [name for name in ("access_token", "refresh_token") if kept[name] in shown]
    assert PASSWORD not in shown


def test_a_reject_is_of_who_signed_in_too(desk: Desk) -> None:
    """The same session."""
    plan = desk.plan()
    desk.login()
    assert desk("reject", plan.run_id, "--reason", "no").code == 0
    assert desk.state(plan.run_id)[0] == "rejected"


def test_a_token_in_the_environment_wins(desk: Desk) -> None:
    """Whoever is signed in."""
    plan = desk.plan()
    add_user(desk.project, "omar@example.org", role="operator")
    desk.login("omar@example.org")
    refused(approve(desk, plan), 3, "does not have the role approver", "SQL editor")
    bob = desk.project.user("approver", "bob@example.org")
    assert approve(desk, plan, BACKFILL_ACCESS_TOKEN=bob).code == 0
    assert desk.state(plan.run_id) == ("approved", "bob@example.org")


def test_a_token_that_ran_out_is_refreshed(desk: Desk) -> None:
    """And the new one is kept."""
    plan = desk.plan()
    desk.login()
    before = desk.kept
    desk.keep(access_token="a.b.c", expires_at=int(time.time()) + 30)
    assert approve(desk, plan).code == 0
    assert desk.kept["refresh_token"] != before["refresh_token"]
    assert desk.kept["expires_at"] > time.time() + 3000


def test_a_session_that_has_ended_says_how_to_sign_in_again(desk: Desk) -> None:
    """In one sentence, and it is forgotten."""
    plan = desk.plan()
    desk.login()
    desk.keep(expires_at=0)
    desk.project.db.execute("delete from auth.sessions")
    refused(approve(desk, plan), 5, f"the session of {ADA} has ended", f"backfill login {ADA}")
    assert desk.kept == {}


def test_a_session_that_auth_ended_early_is_told_apart(desk: Desk) -> None:
    """The project does not take its token, and the next command is the same."""
    plan = desk.plan()
    desk.login()
    desk.keep(access_token="a.b.c")
    refused(approve(desk, plan), 5, "does not accept this access token", "backfill login")


def test_a_session_is_of_one_project(desk: Desk) -> None:
    """Another one is not shown its token."""
    desk.login()
    elsewhere = desk("reject", "4f2c1b9e", "--reason", "x", SUPABASE_URL="http://127.0.0.1:9")
    assert "cannot reach" in elsewhere.err
    assert desk.kept["email"] == ADA


def test_two_factors_approve_where_the_project_asks_for_them(desk: Desk) -> None:
    """login takes the second code after the password. Without it the approval is refused."""
    plan, secret = desk.plan(), new_secret()
    desk.project.db.execute("update public.backfill_settings set require_aal2 = true")
    desk.login()
    refused(approve(desk, plan), 3, "with a second factor", "sign in with it: backfill login")
    add_user(desk.project, secret=secret)
    refused(desk.login(ADA, "000000"), 5, "second factor is wrong", "backfill login")
    assert desk.login(ADA, code_now(secret)).json["aal"] == "aal2"
    desk.keep(expires_at=0)
    assert approve(desk, plan).code == 0


def test_logout_ends_a_session_whose_token_ran_out(desk: Desk) -> None:
    """And one that has ended already is no trouble."""
    for _ in range(2):
        desk.login()
        desk.keep(access_token="a.b.c", expires_at=0)
        assert desk("logout", "--json").json == {"signed_out": ADA}
        assert desk.project.value("select count(*) from auth.sessions") == 0
    desk.login()
    desk.keep(expires_at=0)
    desk.project.db.execute("delete from auth.sessions")
    assert desk("logout", "--json").json == {"signed_out": ADA}


NOWHERE = {
    "nobody there": (
        {"SUPABASE_URL": "http://127.0.0.1:9"},
        "cannot reach Auth at 127.0.0.1:9: connection refused",
        "check SUPABASE_URL and the network",
    ),
    "another project's key": (
        {"SUPABASE_SERVICE_ROLE_KEY": "sb_secret_of_another"},
        "does not accept this key",
        "SUPABASE_SECRET_KEY",
    ),
}


@pytest.mark.parametrize("what", NOWHERE)
def test_where_nobody_can_sign_in_it_says_why(desk: Desk, what: str) -> None:
    """With the exit code of a project that is not reached."""
    environment, message, next_step = NOWHERE[what]
    words = ("login", ADA, "--password-stdin", "--json")
    refused(desk(*words, stdin=PASSWORD, **environment), 5, message, next_step)


def test_a_project_without_auth_is_told_apart(desk: Desk) -> None:
    """Its gateway knows no such way."""
    desk.project.gateway.auth = None
    refused(desk.login(), 5, "has no Auth to sign in at", "check SUPABASE_URL")


WRONG = {
    "the password": ((ADA, "wrong horse"), "no user has this e-mail address and this password"),
    "the address": (("eve@example.org", PASSWORD), "no user has this e-mail address"),
}


@pytest.mark.parametrize("what", WRONG)
def test_who_does_not_sign_in_is_told_why(desk: Desk, what: str) -> None:
    """And nothing is kept."""
    (email, password), message = WRONG[what]
    ran = desk.login(email, password=password)
    assert (ran.code, message in ran.json["error"]["message"]) == (5, True), ran.json
    assert desk.kept == {}


def test_who_is_no_approver_is_told_at_once(desk: Desk) -> None:
    """Not at the approval."""
    add_user(desk.project, "omar@example.org", role="operator")
    ran = desk("login", "omar@example.org", "--password-stdin", stdin=PASSWORD)
    assert ran.out.startswith("signed in as omar@example.org: operator, one factor\n")
    assert "only a user with the role approver decides" in ran.err


# Without one --------------------------------------------------------------------------------------


def test_without_a_keyring_login_says_what_to_do(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it asks for a password. What needs no session goes on without."""
    use(NoKeyring, monkeypatch)
    refused(desk.login(), 1, "this system has none", "backfill approve RUN --email EMAIL")
    assert desk("logout", "--json").json == {"signed_out": None}
    monkeypatch.setitem(sys.modules, "keyring", None)
    refused(desk.login(), 1, "which is not installed", "pip install 'supabase-backfill[login]'")
    refused(approve(desk, desk.plan()), 3, "the service key does not decide", "SQL editor")


def test_a_locked_keyring_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """In our words: those of the keyring may hold anything."""
    use(LockedKeyring, monkeypatch)
    refused(approve(desk, desk.plan()), 1, "the keyring did not answer (KeyringLocked)", "unlock")


def test_an_approver_without_a_keyring_signs_in_for_once(desk: Desk) -> None:
    """It shows the plan and its digest, asks, and keeps nothing."""
    plan = desk.plan()
    for answer, state in (("n", "awaiting_approval"), ("y", "approved")):
        terminal = desk.at_terminal("approve", plan.run_id, "--email", ADA, has_keyring=False)
        terminal.until("Password: ")
        terminal.type(PASSWORD)
        terminal.until(f"Approve exactly this plan as {ADA}?")
        assert f"digest {plan.digest}" in terminal.shown
        assert "Backfill plan" in terminal.shown
        terminal.type(answer)
        assert terminal.ended() == (0 if answer == "y" else 1)
        assert PASSWORD not in terminal.shown
        assert desk.state(plan.run_id)[0] == state
    assert not desk.keyring.exists()


def test_a_one_time_code_signs_in_on_a_terminal(desk: Desk) -> None:
    """The address is asked for, the code is sent, and asked for."""
    terminal = desk.at_terminal("login", "--code")
    terminal.until("E-mail")
    terminal.type(ADA)
    terminal.until(f"A code was sent to {ADA}.")
    terminal.until("Code:")
    terminal.type(desk.project.value("select auth.local_code(%s)", ADA))
    assert terminal.ended() == 0, terminal.shown
    assert f"signed in as {ADA}: approver, one factor" in terminal.shown
    assert desk.kept["email"] == ADA


NOBODY = {
    "approve without a digest": (("approve", "4f2c1b9e"), "needs the digest", "--summary"),
    "approve as": (
        ("approve", "4f2c1b9e", "--digest", "d", "--email", ADA),
        "nobody is there to type the password",
        "--password-stdin",
    ),
    "login with nothing on stdin": (
        ("login", ADA, "--password-stdin"),
        "stdin has no password",
        "on stdin",
    ),
    "login": (("login", ADA), "nobody is there to type the password", "--password-stdin"),
    "login without an address": (("login",), "needs an e-mail address", "backfill login EMAIL"),
    "login by code": (("login", ADA, "--code"), "nobody is there to type the code", "--code"),
}


@pytest.mark.parametrize("what", NOBODY)
def test_where_nobody_can_be_asked_it_says_what_to_give(desk: Desk, what: str) -> None:
    """In a pipe, in CI: exit code 2."""
    words, message, next_step = NOBODY[what]
    refused(desk(*words, "--json"), 2, message, next_step)


# Undo as two people -------------------------------------------------------------------------------


def test_two_people_undo(desk: Desk) -> None:
    """Omar asks, Ada confirms. Ada alone does not."""
    project = desk.project
    with project.connect() as bf:
        plan = bf.plan(**{**UNHURRIED, "since": "2025-09-01", "mode": "bulk"})
        project.approve(plan)
        bf.apply(plan.run_id)
    project.db.execute("update public.backfill_settings set undo_policy = 'second_person'")
    project.db.execute("update public.backfill_settings set undo_policy_rows = 1")
    add_user(project, "omar@example.org", role="operator")

    def confirm(preview: Json) -> Ran:
        words = ("--confirm", preview["digest"], "--reason", "t", "--json")
        return desk("rollback", plan.run_id, *words)

    desk.login()
    alone = desk("rollback", plan.run_id, "--until", "2025-09-10", "--json").json
    assert alone["needs_approval"]
    refused(confirm(alone), 3, "a second person has to approve this undo", "SQL editor")
    desk.login("omar@example.org")
    asked = desk("rollback", plan.run_id)
    assert "an approver who did not ask for it has to confirm" in asked.out
    preview = desk("rollback", plan.run_id, "--json").json
    refused(confirm(preview), 3, "does not have the role approver", "SQL editor")
    desk("logout")
    refused(confirm(preview), 3, "an approver who did not ask for it", "backfill login")
    desk.login()
    done = confirm(preview)
    assert (done.code, done.json["deletes"]) == (0, preview["deletes"])
