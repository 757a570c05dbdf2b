"""Decisions with a second factor, undos with a second person, and the ways round them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

import backfill
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.moments import once
from tests.kit.outsider import UNHURRIED, Outsider, code_of
from tests.kit.tokens import changed, token_of

Json = dict[str, Any]

NEEDED = "OB003"
NOT_AN_APPROVER = "OB005"
NO_RIGHT = "42501"
NO_FUNCTION = "PGRST202"
NO_SCHEMA = "PGRST106"
SMALL = 2  # rows that anyone may undo alone
SETTINGS = "/backfill_settings?only_row=eq.true"


def set_policies(project: Project, **settings: Any) -> None:
    names = ", ".join(f"{name} = %s" for name in settings)
    project.db.execute(
        f"update public.backfill_settings set {names} where only_row".encode(),
        list(settings.values()),
    )


@dataclass
class Shop:
    """A project under both policies, with a completed run and a plan that awaits approval."""

    project: Project
    key: Outsider
    done: str
    plan: str
    digest: str

    def approver(self, email: str = "ada@example.org", aal: str = "aal2") -> str:
        """The token of an approver."""
        return token_of(self.project, "approver", email, aal=aal)

    def preview(self, token: str | None = None, run: str = "", **scope: Any) -> Json:
        """A preview, by the key or by a user."""
        by = Outsider(self.project, token)
        answer: Json = by.rpc("backfill_preview_undo", p_run_id=run or self.done, **scope)
        return answer

    def of_one(self, place: int, run: str = "") -> Json:
        """A preview by the key of one session's undo, by its place in the plan."""
        session = self.project.value(
            "select session_id from public.backfill_items where run_id = %s and ordinal = %s",
            run or self.done,
            place,
        )
        return self.preview(run=run, p_sessions=[session])

    def confirm(self, preview: Json, **more: Any) -> str:
        """Confirm a preview by the key. Returns the code of the answer."""
        asked = {"p_run_id": preview["run_id"], "p_digest": preview["digest"], "p_reason": "t"}
        return self.call(None, "backfill_confirm_undo", **asked, **more)

    def approve_undo(self, preview: Json, token: str | None) -> str:
        """Approve a preview. Returns the code of the answer."""
        asked = {"run": preview["run_id"], "digest": preview["digest"]}
        return self.call(token, "backfill_approve_undo", **asked)

    def approve(self, token: str | None, **headers: str) -> str:
        """Approve the plan. Returns the code of the answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = {"run": self.plan, "digest": self.digest}
        return code_of(
            Outsider(self.project, token).send("POST", "/rpc/backfill_approve", asked, named)
        )

    def call(self, token: str | None, function: str, **arguments: Any) -> str:
        """The code of what a function answers."""
        return code_of(Outsider(self.project, token).send("POST", f"/rpc/{function}", arguments))

    def send(self, method: str, path: str, body: object = None, **headers: str) -> str:
        """The code of what PostgREST answers the key."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return code_of(self.key.send(method, path, body, named))


@once
def done_and_planned(project: Project, bf: backfill.Backfill) -> tuple[str, backfill.Plan]:
    """A run that has written rows for every session since September, and a plan."""
    return completed(project, bf), bf.plan(**UNHURRIED)


def opened(project: Project, bf: backfill.Backfill) -> Shop:
    """The run has written rows for every session since September."""
    done, plan = done_and_planned(project, bf)
    set_policies(
        project,
        approval_policy="second_person",
        require_aal2=True,
        undo_policy="second_person",
        undo_policy_rows=SMALL,
    )
    return Shop(project, Outsider(project), done, plan.run_id, plan.digest)


def completed(project: Project, bf: backfill.Backfill, **request: Any) -> str:
    plan = bf.plan(**{**UNHURRIED, "since": "2025-09-01", "mode": "bulk", **request})
    project.approve(plan)
    assert bf.apply(plan.run_id).is_complete
    return plan.run_id


@pytest.fixture
def shop(project: Project, bf: backfill.Backfill) -> Shop:
    """In a project of the test's own."""
    return opened(project, bf)


@pytest.fixture(scope="module")
def shared_shop(shared_project: Project) -> tuple[Shop, Json, Json]:
    """In a project that no attempt changes, with a large preview of the key and one of Ada's."""
    with shared_project.connect() as bf:
        shop = opened(shared_project, bf)
    for who in ("ada@example.org", "bob@example.org"):
        shop.approver(who)
    token_of(shared_project, "operator", "omar@example.org")
    token_of(shared_project, None, "eve@example.org")
    return shop, shop.preview(shop.approver(), p_since="2025-09-02"), shop.preview()


# A second factor ----------------------------------------------------------------------------------


def test_an_approver_with_a_second_factor_approves(shop: Shop) -> None:
    """And one without is told what to do."""
    refused = Outsider(shop.project, shop.approver(aal="aal1")).rpc(
        "backfill_approve", run=shop.plan, digest=shop.digest
    )
    assert refused["code"] == NOT_AN_APPROVER
    assert "second factor" in refused["message"]
    assert refused["hint"].startswith("sign in with it: backfill login, or in the SQL editor:\n")
    assert shop.approve(shop.approver()) == "200"


def test_without_the_setting_one_factor_is_enough(shop: Shop) -> None:
    """As in a project that never heard of it."""
    set_policies(shop.project, require_aal2=False)
    assert shop.approve(shop.approver(aal="aal1")) == "200"


def test_the_key_has_no_second_factor_even_if_the_policy_is_any(shop: Shop) -> None:
    """Or the setting would mean nothing there. The SQL editor decides as ever."""
    set_policies(shop.project, approval_policy="any")
    assert shop.approve(None) == NOT_AN_APPROVER
    assert shop.call(None, "backfill_reject", run=shop.plan, reason="no") == NOT_AN_APPROVER
    shop.project.db.execute("select public.backfill_approve(%s, %s)", (shop.plan, shop.digest))


def test_without_settings_nobody_but_the_sql_editor_decides(shop: Shop) -> None:
    """A row that is gone opens nothing."""
    preview = shop.preview()
    shop.project.db.execute("delete from public.backfill_settings")
    assert shop.approve(None) == NOT_AN_APPROVER
    assert shop.approve(shop.approver(aal="aal1")) == NOT_AN_APPROVER
    assert shop.confirm(preview) == NEEDED
    approve = "select public.backfill_approve(%s, %s, 'Ada')"
    with pytest.raises(psycopg.Error, match="row of backfill_settings is gone") as refused:
        shop.project.db.execute(approve, (shop.plan, shop.digest))
    put_back = (refused.value.diag.message_hint or "").split("\n")[-1]
    with pytest.raises(psycopg.Error, match="row of backfill_settings is gone"):
        verbs.collected(shop.project.db)
    shop.project.db.execute(put_back.encode())
    shop.project.db.execute(approve, (shop.plan, shop.digest))
    until = "select valid_until from public.backfill_approvals where run_id = %s"
    assert shop.project.value(until, shop.plan) is not None


# A second person for an undo ----------------------------------------------------------------------


def test_a_large_undo_needs_an_approver_who_did_not_ask(shop: Shop) -> None:
    """Refused with what to do. Granted once a second person has approved it, and recorded."""
    omar = token_of(shop.project, "operator", "omar@example.org", aal="aal1")
    preview = shop.preview(omar)
    assert preview["needs_approval"]
    refused = shop.key.rpc(
        "backfill_confirm_undo", p_run_id=shop.done, p_digest=preview["digest"], p_reason="t"
    )
    assert refused["code"] == NEEDED
    assert f"backfill rollback {shop.done} --confirm {preview['digest']}" in refused["hint"]
    assert shop.approve_undo(preview, shop.approver(aal="aal1")) == NOT_AN_APPROVER
    assert shop.approve_undo(preview, shop.approver()) == "200"
    assert not shop.preview()["needs_approval"]
    assert shop.confirm(preview) == "200"
    [approved, confirmed] = shop.project.rows(
        "select details, actor from public.backfill_events"
        " where kind in ('undo_approved', 'undo_confirmed') order by seq"
    )
    rows = sum(preview["deletes"].values())
    named = {"digest": preview["digest"], "rows": rows, "approver": "ada@example.org"}
    assert approved["details"] == {**named, "via": "auth", "note": None}
    assert approved["actor"].startswith("user:")
    assert confirmed["details"]["approved_by"] == "ada@example.org"
    assert (confirmed["details"]["rows"], confirmed["actor"]) == (rows, "service_role")


def test_the_sql_editor_confirms_and_approves_any_undo(shop: Shop) -> None:
    """It is the second person for every undo, as for every plan."""
    preview = shop.preview()
    given = (shop.done, preview["digest"])
    with pytest.raises(psycopg.Error, match="your name is a placeholder"):
        shop.project.value("select public.backfill_approve_undo(%s, %s, 'your name')", *given)
    approved = shop.project.value("select public.backfill_approve_undo(%s, %s, 'Ada')", *given)
    assert (approved["approver"], approved["via"]) == ("Ada", "sql")
    assert shop.confirm(preview) == "200"
    preview = shop.preview()
    shop.project.value(
        "select public.backfill_confirm_undo(%s, %s, 't')", *given[:1], preview["digest"]
    )


def test_an_undo_below_the_bound_needs_nobody(shop: Shop) -> None:
    """And under `any` none does."""
    small = shop.of_one(1)
    assert (small["needs_approval"], shop.confirm(small)) == (False, "200")
    set_policies(shop.project, undo_policy="any", undo_policy_rows=0)
    large = shop.preview()
    assert (large["needs_approval"], shop.confirm(large)) == (False, "200")


def test_an_approval_of_an_undo_runs_out(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """As that of a plan does, after approval_ttl."""
    shop = opened(project, timed)
    preview = shop.preview()
    assert shop.approve_undo(preview, shop.approver()) == "200"
    clock.advance(7 * 86400)
    assert shop.confirm(preview) == NEEDED


def test_under_postgres_only_the_sql_editor_alone_approves_an_undo(shop: Shop) -> None:
    """A stricter policy for plans is no looser one for undos, and `any` does not loosen it."""
    preview = shop.preview()
    set_policies(shop.project, approval_policy="any")
    assert shop.approve_undo(preview, None) == NOT_AN_APPROVER
    set_policies(shop.project, approval_policy="postgres_only")
    assert shop.approve_undo(preview, shop.approver()) == NOT_AN_APPROVER


def test_check_and_plan_say_what_the_project_asks_for(
    shared_shop: tuple[Shop, Json, Json],
) -> None:
    """In the line of the approval policy."""
    [line] = [
        line
        for line in shared_shop[0].key.rpc("backfill_check")
        if line["name"] == "approval policy"
    ]
    assert line["detail"] == (
        "second_person, with a second factor."
        " An undo of more than 2 rows needs an approver who did not ask for it"
    )


# Undo in parts ------------------------------------------------------------------------------------


def test_the_parts_of_one_run_count_together_for_ever(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """One session after the other, a week between them: it ends where the whole would."""
    shop = opened(project, timed)
    assert shop.confirm(shop.of_one(1)) == "200"
    clock.advance(7 * 86400)
    second = shop.of_one(2)
    assert (second["needs_approval"], shop.confirm(second)) == (True, NEEDED)
    assert shop.approve_undo(second, shop.approver()) == "200"
    assert shop.confirm(second) == "200"
    assert shop.confirm(shop.of_one(3)) == NEEDED, "what was approved lifts nothing else"


def test_the_parts_of_many_runs_count_together_for_a_day(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """A row of each of many runs is a large undo, too."""
    other = completed(project, timed, until="2025-09-10")
    shop = opened(project, timed)
    first = shop.of_one(1, other)
    assert shop.confirm(first) == "200"
    assert shop.confirm(shop.of_one(1)) == NEEDED
    clock.advance(86400 - 1)
    assert shop.confirm(shop.of_one(1)) == NEEDED
    clock.advance(1)
    assert shop.confirm(shop.of_one(1)) == "200"


def test_parts_that_are_confirmed_at_once_are_counted_one_after_the_other(
    project: Project, bf: backfill.Backfill
) -> None:
    """Two runs, two transactions that do not see each other: the second waits, then is refused."""
    other = completed(project, bf, until="2025-09-10")
    shop = opened(project, bf)
    held, small = shop.of_one(1, other), shop.of_one(1)
    with psycopg.connect(project.db.info.dsn, password=project.db.info.password) as db:
        db.execute("select set_config('role', 'service_role', true)")
        db.execute("""select set_config('request.jwt.claims', '{"role": "service_role"}', true)""")
        confirming = "select public.backfill_confirm_undo(%s, %s, 't')"
        db.execute(confirming, (other, held["digest"]))
        answers: list[str] = []
        late = threading.Thread(target=lambda: answers.append(shop.confirm(small)))
        late.start()
        waiting = "select exists (select from pg_locks where not granted)"
        while not project.value(waiting):
            assert late.is_alive()
        db.commit()
        late.join()
    assert answers == [NEEDED]


def test_rows_that_are_conflicts_count(shop: Shop) -> None:
    """Changed before the preview and put back after it, they would be undone with the others."""
    shop.project.db.execute(
        "create table public.kept as table public.fc_scores;"
        "update public.fc_scores set blocks_answered = -1"
    )
    preview = shop.preview()
    left = sum(preview["deletes"].values()) + sum(preview["restores"].values())
    assert left < len(preview["conflicts"]) + left
    set_policies(shop.project, undo_policy_rows=left)
    assert shop.confirm(preview) == NEEDED


def test_an_approver_does_not_approve_what_the_key_previewed_again_for_her(shop: Shop) -> None:
    """The same rows have the same digest, so she is known to have asked for them."""
    ada = shop.approver()
    mine = shop.preview(ada)
    again = shop.preview()
    assert again["digest"] == mine["digest"]
    assert shop.approve_undo(again, ada) == NOT_AN_APPROVER
    assert shop.approve_undo(again, shop.approver("bob@example.org")) == "200"


def test_who_goes_on_with_a_preview_has_begun_it(shop: Shop) -> None:
    """Or nobody could say who asked."""
    ada = shop.approver()
    mine, theirs = shop.preview(ada), shop.preview()
    assert shop.preview(ada, p_undo_id=mine["undo_id"])["digest"] == mine["digest"]
    assert shop.preview(ada, p_undo_id=theirs["undo_id"])["code"] == "OB013"
    assert shop.preview(p_undo_id=mine["undo_id"])["code"] == "OB013"


# The ways round -----------------------------------------------------------------------------------

Way = Callable[[Shop, Json, Json], str]


def ways_to_write(name: str, value: object) -> dict[str, tuple[Way, str]]:
    """Each way to write a setting through the API."""
    body = {name: value}
    return {
        f"set {name}": (lambda s, _m, _k: s.send("PATCH", SETTINGS, body), NO_RIGHT),
        f"add settings with {name}": (
            lambda s, _m, _k: s.send("POST", "/backfill_settings", body),
            NO_RIGHT,
        ),
        f"upsert {name}": (
            lambda s, _m, _k: s.send("PUT", SETTINGS, {"only_row": True, **body}),
            NO_RIGHT,
        ),
        f"merge {name}": (
            lambda s, _m, _k: s.send(
                "POST",
                "/backfill_settings?on_conflict=only_row",
                {"only_row": True, **body},
                Prefer="resolution=merge-duplicates",
            ),
            NO_RIGHT,
        ),
    }


def decision(s: Shop, token: str) -> str:
    """A decision that is inserted past the function."""
    body = {"run_id": s.plan, "digest": s.digest, "decision": "approved"}
    return code_of(Outsider(s.project, token).send("POST", "/backfill_approvals", body))


REFUSED: dict[str, tuple[Way, str]] = {
    **ways_to_write("require_aal2", False),
    **ways_to_write("undo_policy", "any"),
    **ways_to_write("undo_policy_rows", 1_000_000),
    "delete the settings": (lambda s, _m, _k: s.send("DELETE", SETTINGS), NO_RIGHT),
    # a decision with a second factor
    "approve with the key": (lambda s, _m, _k: s.approve(None), NOT_AN_APPROVER),
    "approve with one factor": (
        lambda s, _m, _k: s.approve(s.approver(aal="aal1")),
        NOT_AN_APPROVER,
    ),
    "insert a decision with one factor": (
        lambda s, _m, _k: decision(s, s.approver(aal="aal1")),
        NOT_AN_APPROVER,
    ),
    "two factors without the role": (
        lambda s, _m, _k: s.approve(token_of(s.project, None, "eve@example.org")),
        NOT_AN_APPROVER,
    ),
    "two factors of an operator": (
        lambda s, _m, _k: s.approve(token_of(s.project, "operator", "omar@example.org")),
        NOT_AN_APPROVER,
    ),
    "the level in the user's metadata": (
        lambda s, _m, _k: s.approve(
            changed(
                s.project,
                s.approver(aal="aal1"),
                user_metadata={"aal": "aal2"},
                app_metadata={"aal": "aal2", "backfill_role": "approver"},
            )
        ),
        NOT_AN_APPROVER,
    ),
    "a level that does not exist": (
        lambda s, _m, _k: s.approve(changed(s.project, s.approver(), aal=["aal2"])),
        NOT_AN_APPROVER,
    ),
    "no level": (
        lambda s, _m, _k: s.approve(changed(s.project, s.approver(), aal=None)),
        NOT_AN_APPROVER,
    ),
    "the level in headers": (
        lambda s, _m, _k: s.approve(
            s.approver(aal="aal1"), request_jwt_claims='{"aal": "aal2"}', aal="aal2", x_aal="aal2"
        ),
        NOT_AN_APPROVER,
    ),
    "the key with two factors in its token": (
        lambda s, _m, _k: s.approve(changed(s.project, s.approver(), role="service_role")),
        NOT_AN_APPROVER,
    ),
    "a token of another project": (
        lambda s, _m, _k: s.approve(changed(s.project, s.approver(), secret="f" * 64)),
        "PGRST301",
    ),
    "a token that ran out": (
        lambda s, _m, _k: s.approve(changed(s.project, s.approver(), exp=1_700_000_000)),
        "PGRST301",
    ),
    "a token without a signature": (
        lambda s, _m, _k: s.approve(s.approver().rsplit(".", 1)[0] + "."),
        "PGRST301",
    ),
    # an undo with a second person
    "confirm a large undo": (lambda s, _m, k: s.confirm(k), NEEDED),
    "confirm it in pieces": (lambda s, _m, k: s.confirm(k, p_sessions=1), NEEDED),
    "confirm it as a smaller one": (
        lambda s, _m, k: s.confirm(k, p_scope={"until": "2025-09-05"}),
        "OB013",
    ),
    "confirm it in an approver's name": (
        lambda s, _m, k: s.confirm(k, p_approver="ada@example.org"),
        NO_FUNCTION,
    ),
    "confirm it as the approver": (
        lambda s, _m, k: s.call(
            s.approver(),
            "backfill_confirm_undo",
            p_run_id=s.done,
            p_digest=k["digest"],
            p_reason="t",
        ),
        NO_RIGHT,
    ),
    "approve it with the key": (lambda s, _m, k: s.approve_undo(k, None), NOT_AN_APPROVER),
    "approve it with one factor": (
        lambda s, _m, k: s.approve_undo(k, s.approver("bob@example.org", aal="aal1")),
        NOT_AN_APPROVER,
    ),
    "approve it as an operator": (
        lambda s, _m, k: s.approve_undo(k, token_of(s.project, "operator", "omar@example.org")),
        NOT_AN_APPROVER,
    ),
    "approve it with a token of another project": (
        lambda s, _m, k: s.approve_undo(k, changed(s.project, s.approver(), secret="f" * 64)),
        "PGRST301",
    ),
    "approve one's own": (lambda s, m, _k: s.approve_undo(m, s.approver()), NOT_AN_APPROVER),
    "approve a preview that is not the newest": (
        lambda s, m, _k: s.approve_undo(m, s.approver("bob@example.org")),
        "OB019",
    ),
    "approve another digest": (
        lambda s, _m, k: s.approve_undo({**k, "digest": "0" * 64}, s.approver("bob@example.org")),
        "OB019",
    ),
    "approve in the private schema": (
        lambda s, _m, k: s.send(
            "POST",
            "/rpc/approve_undo",
            {"p_run_id": s.done, "p_digest": k["digest"], "p_approver": "Ada", "p_note": None},
            Content_Profile="backfill_private",
        ),
        NO_SCHEMA,
    ),
    "write the approval": (
        lambda s, _m, _k: s.send(
            "PATCH",
            "/undos?undo_id=gt.0",
            {"approved_by": "Ada", "approved_until": "2030-01-01"},
            Content_Profile="backfill_private",
        ),
        NO_SCHEMA,
    ),
    "write the event of an approval": (
        lambda s, _m, _k: s.send(
            "POST", "/backfill_events", {"run_id": s.done, "seq": 99, "kind": "undo_approved"}
        ),
        NO_RIGHT,
    ),
    "read the previews": (
        lambda s, _m, _k: s.send("GET", "/undos", Accept_Profile="backfill_private"),
        NO_SCHEMA,
    ),
}


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("way", REFUSED)
def test_a_way_round_is_refused_and_changes_nothing(
    shared_shop: tuple[Shop, Json, Json], way: str
) -> None:
    """With the secret key in hand, and with tokens of one's own making."""
    attack, code = REFUSED[way]
    assert attack(*shared_shop) == code
