"""What somebody with the secret key tries to get an unapproved run applied or an approval forged.

The policy is `second_person`: the key plans, applies and undoes, and decides on nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import jwt
import pytest

import backfill
from tests.conftest import Project
from tests.kit.outsider import UNHURRIED, Attempt, Outsider, code_of, running


@dataclass
class Thief:
    """Somebody with the secret key, a run that nobody approved, and another that runs."""

    project: Project
    api: Outsider
    run: str
    digest: str
    approved: str

    def send(self, method: str, path: str, body: object = None, **headers: str) -> str:
        """The code of what PostgREST answers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return code_of(self.api.send(method, path, body, named))

    def call(self, function: str, headers: dict[str, str] | None = None, **arguments: Any) -> str:
        """The code of what a function answers."""
        return code_of(self.api.send("POST", f"/rpc/{function}", arguments, headers))

    def approve(self, **headers: str) -> str:
        """The straight way."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("backfill_approve", named, run=self.run, digest=self.digest)

    def with_token(self, **claims: Any) -> Outsider:
        """The API under a token of one's own making, as if the signing secret had leaked too."""
        return Outsider(
            self.project, jwt.encode({"exp": 4_000_000_000, **claims}, self.project.jwt_secret)
        )


@pytest.fixture
def thief(project: Project, bf: backfill.Backfill) -> Thief:
    """In a project of the test's own."""
    return broken_in(project, bf)


@pytest.fixture(scope="module")
def shared_thief(shared_project: Project) -> Thief:
    """In a project that no attempt changes."""
    with shared_project.connect() as bf:
        return broken_in(shared_project, bf)


def broken_in(project: Project, bf: backfill.Backfill) -> Thief:
    """Under second_person; a run awaits approval, another one runs."""
    approved = running(project, bf, until="2025-08-10")
    project.db.execute(
        "update public.backfill_settings set approval_policy = 'second_person' where only_row"
    )
    project.user("approver", "ada@example.org")
    plan = bf.plan(**UNHURRIED)
    return Thief(project, Outsider(project), plan.run_id, plan.digest, approved)


NO_RIGHT = "42501"
NOT_AN_APPROVER = "OB005"
NO_FUNCTION = "PGRST202"
NO_SCHEMA = "PGRST106"
RUN = {"state": "approved", "approved_by": "Ada", "approved_until": "2030-01-01T00:00:00Z"}
SETTINGS = "/backfill_settings?only_row=eq.true"


def on_run(t: Thief) -> str:
    return f"/backfill_runs?run_id=eq.{t.run}"


def decision(t: Thief, **forged: Any) -> dict[str, Any]:
    return {"run_id": t.run, "digest": t.digest, "decision": "approved", **forged}


def session_of(t: Thief) -> str:
    """A session of the unapproved run alone."""
    session: str = t.project.value(
        "select session_id from public.backfill_items where run_id = %s order by ordinal", t.run
    )
    return session


def as_approver(t: Thief) -> dict[str, Any]:
    """The claims of a real approver."""
    user = t.project.value("select id::text from auth.users where email = 'ada@example.org'")
    return {"sub": user, "email": "ada@example.org", "app_metadata": {"backfill_role": "approver"}}


# A way: what it does, and the code that answers it. Nothing may have changed afterwards.
REFUSED: dict[str, tuple[Callable[[Thief], str], str]] = {
    # decide
    "approve": (lambda t: t.approve(), NOT_AN_APPROVER),
    "approve under an approver's name": (
        lambda t: t.call("backfill_approve", run=t.run, digest=t.digest, approver="Ada"),
        NOT_AN_APPROVER,
    ),
    "reject": (lambda t: t.call("backfill_reject", run=t.run, reason="no"), NOT_AN_APPROVER),
    "insert a decision": (
        lambda t: t.send("POST", "/backfill_approvals", decision(t)),
        NOT_AN_APPROVER,
    ),
    "insert a decision and ignore duplicates": (
        lambda t: t.send(
            "POST", "/backfill_approvals", decision(t), Prefer="resolution=ignore-duplicates"
        ),
        NOT_AN_APPROVER,
    ),
    "insert a decision with who and how": (
        lambda t: t.send(
            "POST", "/backfill_approvals", decision(t, via="auth", approver_id=str(uuid4()))
        ),
        NO_RIGHT,
    ),
    "insert a decision with its time": (
        lambda t: t.send(
            "POST", "/backfill_approvals", decision(t, valid_until="2030-01-01T00:00:00Z")
        ),
        NO_RIGHT,
    ),
    "upsert a decision": (
        lambda t: t.send(
            "POST",
            "/backfill_approvals?on_conflict=run_id",
            decision(t),
            Prefer="resolution=merge-duplicates",
        ),
        NO_RIGHT,
    ),
    "turn another run's decision to this one": (
        lambda t: t.send("PATCH", f"/backfill_approvals?run_id=eq.{t.approved}", {"run_id": t.run}),
        NO_RIGHT,
    ),
    "delete a decision": (
        lambda t: t.send("DELETE", f"/backfill_approvals?run_id=eq.{t.approved}"),
        NO_RIGHT,
    ),
    "insert many decisions as CSV": (
        lambda t: t.send(
            "POST",
            "/backfill_approvals",
            f"run_id,digest,decision\n{t.run},{t.digest},approved\n",
            Content_Type="text/csv",
        ),
        NOT_AN_APPROVER,
    ),
    # tables
    "update the run": (lambda t: t.send("PATCH", on_run(t), RUN), NO_RIGHT),
    "insert an approved run": (
        lambda t: t.send(
            "POST",
            "/backfill_runs",
            {**RUN, "target": "prism", "request": {}, "requested_via": "x"},
        ),
        NO_RIGHT,
    ),
    "upsert the run": (
        lambda t: t.send("PUT", on_run(t), {"run_id": t.run, **RUN}),
        NO_RIGHT,
    ),
    "delete the run": (lambda t: t.send("DELETE", on_run(t)), NO_RIGHT),
    "put sessions into the approved run": (
        lambda t: t.send(
            "PATCH", f"/backfill_items?run_id=eq.{t.run}", {"run_id": t.approved, "state": "leased"}
        ),
        NO_RIGHT,
    ),
    "add a session to the approved run": (
        lambda t: t.send(
            "POST",
            "/backfill_items",
            {"run_id": t.approved, "ordinal": 99, "source": "prism", "session_id": str(uuid4())},
        ),
        NO_RIGHT,
    ),
    "set a fence of one's own": (
        lambda t: t.send("PATCH", f"/backfill_items?run_id=eq.{t.run}", {"fence_hash": "\\x00"}),
        NO_RIGHT,
    ),
    "read the hashes of the fences": (
        lambda t: t.send("GET", "/backfill_items?select=fence_hash"),
        NO_RIGHT,
    ),
    "guess at the hashes of the fences": (
        lambda t: t.send("GET", "/backfill_items?select=ordinal&fence_hash=gt.\\x00"),
        NO_RIGHT,
    ),
    "read the rows before": (
        lambda t: t.send("GET", "/backfill_receipts?select=before"),
        NO_RIGHT,
    ),
    "guess at the rows before": (
        lambda t: t.send("GET", "/backfill_receipts?select=receipt_id&before->>type_code=eq.INTJ"),
        NO_RIGHT,
    ),
    "sort by the rows before": (
        lambda t: t.send("GET", "/backfill_receipts?select=receipt_id&order=before"),
        NO_RIGHT,
    ),
    "insert a receipt": (
        lambda t: t.send("POST", "/backfill_receipts", {"run_id": t.run, "ordinal": 1}),
        NO_RIGHT,
    ),
    "delete receipts": (
        lambda t: t.send("DELETE", f"/backfill_receipts?run_id=eq.{t.approved}"),
        NO_RIGHT,
    ),
    "write an event": (
        lambda t: t.send(
            "POST", "/backfill_events", {"run_id": t.run, "seq": 2, "kind": "approved"}
        ),
        NO_RIGHT,
    ),
    "write through a view": (
        lambda t: t.send("PATCH", f"/backfill_run_failures?run_id=eq.{t.run}", {"attempts": 0}),
        NO_RIGHT,
    ),
    # settings and targets
    "set the policy": (lambda t: t.send("PATCH", SETTINGS, {"approval_policy": "any"}), NO_RIGHT),
    "add settings": (
        lambda t: t.send("POST", "/backfill_settings", {"approval_policy": "any"}),
        NO_RIGHT,
    ),
    "upsert the settings": (
        lambda t: t.send("PUT", SETTINGS, {"only_row": True, "approval_policy": "any"}),
        NO_RIGHT,
    ),
    "delete the settings": (lambda t: t.send("DELETE", SETTINGS), NO_RIGHT),
    "change what the approved run calls": (
        lambda t: t.send(
            "PATCH",
            "/backfill_targets?component=eq.profile",
            {"function_signature": "public.backfill_approve(uuid,text,text,text)"},
        ),
        NO_RIGHT,
    ),
    "delete the targets": (
        lambda t: t.send("DELETE", "/backfill_targets?target=eq.prism"),
        NO_RIGHT,
    ),
    # other doors
    "write to the private schema": (
        lambda t: t.send("POST", "/undos", {"run_id": t.run}, Content_Profile="backfill_private"),
        NO_SCHEMA,
    ),
    "read the private schema": (
        lambda t: t.send("GET", "/findings", Accept_Profile="backfill_private"),
        NO_SCHEMA,
    ),
    "call a private function": (
        lambda t: code_of(
            t.api.send(
                "POST",
                "/rpc/move",
                {"p_run_id": t.run, "p_to": "approved"},
                {"Content-Profile": "backfill_private"},
            )
        ),
        NO_SCHEMA,
    ),
    "call a private function by its name": (
        lambda t: t.call("move", p_run_id=t.run, p_to="approved"),
        NO_FUNCTION,
    ),
    "call the deciding trigger": (lambda t: t.call("decide"), NO_FUNCTION),
    "replace the clock": (lambda t: t.call("clock"), NO_FUNCTION),
    "set a setting": (
        lambda t: t.call("set_config", setting_name="role", new_value="postgres", is_local=True),
        NO_FUNCTION,
    ),
    "set a setting in its own schema": (
        lambda t: code_of(
            t.api.send(
                "POST",
                "/rpc/set_config",
                {"setting_name": "role", "new_value": "postgres", "is_local": True},
                {"Content-Profile": "pg_catalog"},
            )
        ),
        NO_SCHEMA,
    ),
    "make an approver of a user": (
        lambda t: t.send(
            "POST",
            "/users",
            {"id": str(uuid4()), "raw_app_meta_data": {"backfill_role": "approver"}},
            Content_Profile="auth",
        ),
        NO_SCHEMA,
    ),
    # another identity
    "the claims in a header": (
        lambda t: t.approve(request_jwt_claims='{"role": "authenticated"}', role="postgres"),
        NOT_AN_APPROVER,
    ),
    "the key with an approver's claims": (
        lambda t: code_of(
            t.with_token(role="service_role", **as_approver(t)).send(
                "POST", "/rpc/backfill_approve", {"run": t.run, "digest": t.digest}
            )
        ),
        NOT_AN_APPROVER,
    ),
    "a token of role postgres": (
        lambda t: code_of(
            t.with_token(role="postgres").send(
                "POST", "/rpc/backfill_approve", {"run": t.run, "digest": t.digest}
            )
        ),
        NO_RIGHT,
    ),
    "a token of the login's role": (
        lambda t: code_of(
            t.with_token(role="authenticator").send(
                "POST", "/rpc/backfill_approve", {"run": t.run, "digest": t.digest}
            )
        ),
        NO_RIGHT,
    ),
    "a token of nobody with an approver's claims in it": (
        lambda t: code_of(
            t.with_token(role="authenticated", app_metadata={"backfill_role": "approver"}).send(
                "POST", "/rpc/backfill_approve", {"run": t.run, "digest": t.digest}
            )
        ),
        NOT_AN_APPROVER,
    ),
    # apply without an approval
    "start": (lambda t: t.call("backfill_start", p_run_id=t.run, p_worker="x"), "OB003"),
    "resume": (lambda t: t.call("backfill_resume", run=t.run), "OB002"),
    "retry": (lambda t: t.call("backfill_retry", p_run_id=t.run), "OB002"),
    "write under the unapproved run": (
        lambda t: code_of(
            t.api.write(session_of(t), {"x-backfill-run": t.run, "x-backfill-fence": "x"})
        ),
        "OB011",
    ),
    # the running run
    "undo while it runs": (
        lambda t: t.call(
            "backfill_confirm_undo", p_run_id=t.approved, p_digest="0" * 64, p_reason="x"
        ),
        "OB002",
    ),
    "prune while it runs": (lambda t: t.call("backfill_prune", run=t.approved), "OB002"),
    "collect into the running run": (
        lambda t: t.call("backfill_collect", p_run_id=t.approved),
        "OB002",
    ),
    "seal the running run again": (lambda t: t.call("backfill_seal", p_run_id=t.approved), "OB002"),
    "open a run under a taken id": (
        lambda t: t.call(
            "backfill_open", p_request={**UNHURRIED, "since": "2025-01-01"}, p_run_id=t.approved
        ),
        "OB013",
    ),
    "read by GET what writes": (
        lambda t: t.send("GET", f"/rpc/backfill_start?p_run_id={t.approved}&p_worker=x"),
        "25006",
    ),
}


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("way", REFUSED)
def test_the_service_key_is_refused_and_changes_nothing(shared_thief: Thief, way: str) -> None:
    """Each way out ends with its refusal, and no table is other than it was."""
    attack, code = REFUSED[way]
    assert attack(shared_thief) == code


def unwritten(thief: Thief) -> list[Attempt]:
    """Leased sessions of the running run that nobody has scored."""
    attempts = thief.api.claim(thief.approved)
    assert attempts
    return attempts


def states(thief: Thief) -> set[str]:
    """The states of the running run's sessions."""
    return {
        row["state"]
        for row in thief.project.rows(
            "select state from public.backfill_items where run_id = %s", thief.approved
        )
    }


HALTED = {
    "nobody approved it": lambda t: t.run,
    "it is paused": lambda t: (t.call("backfill_pause", run=t.approved, reason="x"), t.approved)[1],
    "it is cancelled": lambda t: (
        t.call("backfill_cancel", run=t.approved, reason="x"),
        t.approved,
    )[1],
    "its approval ran out": lambda t: (
        t.project.db.execute(
            "update public.backfill_runs set approved_until = now() where run_id = %s",
            (t.approved,),
        ),
        t.approved,
    )[1],
}


@pytest.mark.parametrize("why", HALTED)
def test_a_run_takes_no_lease_when(thief: Thief, why: str) -> None:
    """The claim answers with the state and without a session."""
    run = HALTED[why](thief)
    assert thief.api.claim(run) == []
    assert (
        thief.project.value(
            "select count(*) from public.backfill_items where run_id = %s and state <> 'pending'",
            run,
        )
        == 0
    )


INVENTED: dict[str, dict[str, Any]] = {
    "answered": {"outcome": "answered"},
    "done": {"outcome": "done"},
    "complete": {
        "outcome": "answered",
        "is_complete": True,
        "state": "done",
        "filled": ["profile"],
    },
    "skipped": {"outcome": "skipped", "state": "skipped"},
    "nothing at all": {"outcome": None},
    "a refusal of the gate's": {"outcome": "failed", "code": "OB012"},
    "without effect": {"outcome": "unknown", "code": "OB020"},
}


@pytest.mark.parametrize("what", INVENTED)
def test_no_invented_outcome_makes_an_unwritten_session_done(thief: Thief, what: str) -> None:
    """Rows and receipts decide: what was not written is failed or pending, whatever is told."""
    attempts = unwritten(thief)
    thief.api.settle(*attempts, **INVENTED[what])
    assert states(thief) <= {"pending", "failed"}


def test_a_row_written_without_the_headers_makes_no_session_done(thief: Thief) -> None:
    """A row by hand plus a claim that the call answered is critical: the run pauses."""
    attempt = next(a for a in unwritten(thief) if len(a.steps) == 1)
    assert thief.api.write(attempt.session_id).status_code == 201
    ended = thief.api.settle(attempt)
    assert (ended["state"], ended["settled"][0]["state"]) == ("paused", "failed")
    assert ended["settled"][0]["error_code"] == "OB016"


def test_outcomes_of_sessions_that_are_not_of_the_claim_are_passed_over(thief: Thief) -> None:
    """Another claim's sessions, pending ones and unknown ones stay as they are."""
    mine = unwritten(thief)
    theirs = thief.api.claim(thief.approved)
    told = [
        {"ordinal": n, "outcome": "failed", "code": "P0001"}
        for n in [*(a.ordinal for a in theirs), *range(90, 99)]
    ]
    answer = thief.call(
        "backfill_settle", p_run_id=thief.approved, p_claim_id=mine[0].claim_id, p_outcomes=told
    )
    assert answer == "200"
    assert "failed" not in states(thief)
    assert thief.api.score(theirs[0])["status"] == "ok"


def test_a_session_told_twice_in_one_settling_is_not_settled(thief: Thief) -> None:
    """Two could contradict each other; told once, the batch's event counts it once."""
    attempt = unwritten(thief)[0]
    told_of = {"outcome": "failed", "code": "P0001", "step": "fc_scores"}
    assert thief.api.settle(attempt, attempt, **told_of)["code"] == "OB013"
    thief.api.settle(attempt, **told_of)
    told = thief.project.value(
        "select details -> 'states' from public.backfill_events"
        " where run_id = %s and kind = 'batch_settled'",
        thief.approved,
    )
    assert told == {"failed": 1}


def test_a_claim_needs_an_id(thief: Thief) -> None:
    """Without one its attempts could be neither counted nor settled."""
    assert (
        thief.call("backfill_claim", p_run_id=thief.approved, p_claim_id=None, p_worker="x")
        == "OB013"
    )
    assert states(thief) == {"pending"}


def test_renewing_what_is_not_leased_leases_nothing(thief: Thief) -> None:
    """Not the claim of another run, not one that is settled, not one that never was."""
    attempts = unwritten(thief)
    claim = attempts[0].claim_id
    other_run = thief.api.rpc("backfill_renew", p_run_id=thief.run, p_claim_id=claim)
    never = thief.api.rpc("backfill_renew", p_run_id=thief.approved, p_claim_id=str(uuid4()))
    thief.api.settle(*attempts, outcome="released")
    settled = thief.api.rpc("backfill_renew", p_run_id=thief.approved, p_claim_id=claim)
    assert (other_run, never, settled) == (0, 0, 0)


def test_a_lease_that_ran_out_is_not_renewed(
    thief: Thief, project: Project, bf: backfill.Backfill
) -> None:
    """A worker that slept through its lease cannot have it back."""
    claim = unwritten(thief)[0].claim_id
    project.db.execute(
        "update public.backfill_items set lease_until = now() where state = 'leased'"
    )
    assert thief.api.rpc("backfill_renew", p_run_id=thief.approved, p_claim_id=claim) == 0


def games(thief: Thief, mine: Attempt) -> dict[str, list[tuple[str, str]]]:
    """Headers that try to bring the unapproved run's name through with a live fence."""
    run, fence = "x-backfill-run", "x-backfill-fence"
    return {
        "its id beside a live one": [(run, mine.run_id), (run, thief.run), (fence, mine.fence)],
        "a live one beside its id": [(run, thief.run), (run, mine.run_id), (fence, "0")],
        "both in one": [(run, f"{thief.run}, {mine.run_id}"), (fence, mine.fence)],
        "mixed case": [("X-Backfill-Run", thief.run), ("X-BACKFILL-FENCE", mine.fence)],
        "upper case id": [(run, mine.run_id.upper()), (fence, mine.fence)],
        "blanks inside": [(run, f"{mine.run_id} x"), (fence, mine.fence)],
        "a wildcard": [(run, "%"), (fence, "%")],
        "two fences": [(run, thief.run), (fence, mine.fence), (fence, "0")],
    }


def test_no_game_with_headers_opens_the_gate(thief: Thief) -> None:
    """Run and fence must be the pair of one live attempt, told once."""
    mine = unwritten(thief)[0]
    answers = {
        game: code_of(thief.api.write(session_of(thief), headers))
        for game, headers in games(thief, mine).items()
    }
    # PostgREST takes one of two headers of a name: which one decides only which refusal it is.
    assert set(answers.values()) <= {"OB011", "OB018"}, answers
    assert thief.project.value("select count(*) from public.backfill_receipts") == 0


def test_the_functions_that_the_key_may_call_are_these(thief: Thief) -> None:
    """A new door for the secret key is a decision, so this list changes with it."""
    callable_by_key = {
        row["name"].removeprefix("backfill_")
        for row in thief.project.rows(
            "select p.proname as name from pg_proc as p"
            " where p.pronamespace = 'public'::regnamespace and p.proname like 'backfill%%'"
            " and has_function_privilege('service_role', p.oid, 'execute')"
        )
    }
    assert callable_by_key == {
        "approve", "approve_undo", "ask_standing", "bulk", "calls", "cancel", "catalog", "check",
        "check_target", "claim", "claim_apart", "collect", "confirm_undo", "coverage",
        "find_runs", "freshness", "heal_next", "history", "installed", "left_behind", "open",
        "pace", "pause", "plan_sessions", "preview_undo", "propose_standing", "prune",
        "rehearsal", "rehearse", "reject", "renew", "resume", "retry", "revoke_standing", "seal",
        "settle", "standings", "start", "undo_conflicts", "verify_part", "watch", "written",
    }  # fmt: skip


def test_the_key_writes_no_table_of_ours_but_decisions(thief: Thief) -> None:
    """And those through a trigger that decides; it updates, deletes and truncates nothing."""
    granted = thief.project.rows(
        "select c.oid::regclass::text as relation, p.name as privilege"
        " from pg_class as c"
        " cross join unnest(array['insert', 'update', 'delete', 'truncate']) as p (name)"
        " where c.relname like 'backfill%%' and c.relkind in ('r', 'v', 'p') and case"
        " when p.name in ('insert', 'update')"
        " then has_any_column_privilege('service_role', c.oid, p.name)"
        " else has_table_privilege('service_role', c.oid, p.name) end"
    )
    assert granted == [{"relation": "backfill_approvals", "privilege": "insert"}]
