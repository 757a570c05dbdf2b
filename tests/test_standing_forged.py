"""Ways to widen or to forge a standing approval, each refused.

The policy is `second_person`. With the secret key and with an operator's token one may propose and
ask, and revoke. Nobody decides so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest

from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.outsider import Outsider, code_of
from tests.kit.verbs import as_service
from tests.test_standing import planned, rule

DENIED = "42501"
NOT_AN_APPROVER = "OB005"
NOT_COVERED = "OB003"
NO_SCHEMA = "PGRST106"
NONE = "00000000-0000-0000-0000-000000000000"


@dataclass
class Forger:
    """Somebody with the secret key: rules that stand in every way, and a run that none covers."""

    project: Project
    rules: dict[str, dict[str, Any]]
    run: str
    digest: str
    tokens: dict[str, str] = field(repr=False)

    def send(self, method: str, path: str, body: object = None, who: str | None = None) -> str:
        """The code of what PostgREST answers to the key, or to a token."""
        api = Outsider(self.project, self.tokens[who] if who else None)
        return code_of(api.send(method, path, body))

    def approve(self, which: str, who: str | None = None, **forged: Any) -> str:
        """Approve a rule."""
        told = self.rules[which]
        asked = {"run": told["standing_id"], "digest": told["digest"], **forged}
        return self.send("POST", "/rpc/backfill_approve", asked, who)

    def change(self, which: str, who: str | None = None, **columns: Any) -> str:
        """Write a rule's row."""
        path = f"/backfill_standing?standing_id=eq.{self.rules[which]['standing_id']}"
        return self.send("PATCH", path, columns, who)

    def decide(self, which: str, who: str | None = None, **forged: Any) -> str:
        """Write a decision by standing approval."""
        named = {"run_id": self.run, "digest": self.digest, "decision": "approved"}
        named |= {"standing_id": self.rules[which]["standing_id"], **forged}
        return self.send("POST", "/backfill_approvals", named, who)

    def ask(self, who: str | None = None, **plan: Any) -> str:
        """Plan what no rule covers, or ask for the run that waits. Where the run stands then."""
        api = Outsider(self.project, self.tokens[who] if who else None)
        if plan:
            return str(planned(api, **plan)["state"])
        return str(api.rpc("backfill_ask_standing", run=self.run)["state"])

    def in_sql(self, statement: str, *values: object, as_key: bool = False) -> str:
        """The code of a statement of postgres, or of a login that has become the service's role."""
        db = self.project.db
        try:
            with db.transaction(force_rollback=True):
                if as_key:
                    with as_service(db):
                        db.execute(statement.encode(), values)
                else:
                    db.execute(statement.encode(), values)
        except psycopg.Error as refused:
            return str(refused.sqlstate)
        return "ok"

    def id(self, which: str) -> str:
        return str(self.rules[which]["standing_id"])


@pytest.fixture(scope="module")
def forger(shared_project: Project) -> Forger:
    """In a project that no attempt changes."""
    project = shared_project
    own = Outsider(project, project.user("approver", "own@example.org"))
    until = "2999-12-31"
    rules = {
        "narrow": rule(project, until=until, max_sessions=5, max_per_day=5, throttle=20),
        "wide": rule(project, until=until, max_sessions=500),
        "proposed": rule(project, until=until, is_approved=False),
        "other": rule(project, until=until, max_sessions=7, is_approved=False),
        "own": own.rpc("backfill_propose_standing", until=until, max_sessions=9),
        "revoked": rule(project, until=until, max_sessions=3),
    }
    project.value(
        "select public.backfill_revoke_standing(%s, 'too wide')", rules["revoked"]["standing_id"]
    )
    project.db.execute(
        "update public.backfill_settings set approval_policy = 'second_person' where only_row"
    )
    sealed = planned(Outsider(project))
    assert sealed["state"] == "awaiting_approval", sealed
    tokens = {role: project.user(role) for role in ("viewer", "operator", "approver")}
    tokens |= {"nobody": project.user(None), "anon": project.keys.anon, "own": own._token}
    return Forger(project, rules, sealed["run_id"], sealed["digest"], tokens)


PRIVATE = {"Content-Profile": "backfill_private"}


def private(forger: Forger, method: str, path: str, body: object) -> str:
    """Ask for the private schema by its name."""
    return code_of(Outsider(forger.project).send(method, path, body, PRIVATE))


# A way: what it does, and the code that answers it. Nothing may have changed afterwards.
WAYS: dict[str, tuple[Callable[[Forger], str], str]] = {
    # approve
    "approve it with the key": (lambda f: f.approve("proposed"), NOT_AN_APPROVER),
    "approve it with the key under an approver's name": (
        lambda f: f.approve("proposed", approver="Ada"), NOT_AN_APPROVER,
    ),
    "approve it as an operator": (lambda f: f.approve("proposed", "operator"), NOT_AN_APPROVER),
    "approve it as a viewer": (lambda f: f.approve("proposed", "viewer"), NOT_AN_APPROVER),
    "approve it without a key": (lambda f: f.approve("proposed", "anon"), DENIED),
    "approve one's own": (lambda f: f.approve("own", "own"), NOT_AN_APPROVER),
    "approve it by another's digest": (
        lambda f: f.approve("proposed", "approver", digest=f.rules["other"]["digest"]), "OB004",
    ),
    "approve it by the run's digest": (
        lambda f: f.approve("proposed", "approver", digest=f.digest), "OB004",
    ),
    "approve the run by its digest": (
        lambda f: f.approve("wide", "approver", run=f.run), "OB004",
    ),
    "approve one that is revoked": (lambda f: f.approve("revoked", "approver"), "OB002"),
    "approve it once more": (lambda f: f.approve("narrow", "approver"), "OB002"),
    "approve one that is not there": (
        lambda f: f.approve("wide", "approver", run=NONE), "OB001",
    ),
    # rewrite the rule
    "insert a rule": (
        lambda f: f.send("POST", "/backfill_standing", {"target": "prism", "max_sessions": 900}),
        DENIED,
    ),
    "insert an approved rule as an operator": (
        lambda f: f.send("POST", "/backfill_standing", {"approved_by": "Ada"}, "operator"), DENIED,
    ),
    "allow more sessions": (lambda f: f.change("narrow", max_sessions=900), DENIED),
    "allow more per day": (lambda f: f.change("narrow", max_per_day=None), DENIED),
    "let it end later": (lambda f: f.change("narrow", valid_until="3999-01-01"), DENIED),
    "let it replace rows": (lambda f: f.change("narrow", replaces=True), DENIED),
    "write an approval into it": (
        lambda f: f.change("proposed", approved_by="Ada", approved_at="2025-09-01T00:00:00Z"),
        DENIED,
    ),
    "take its revocation back": (lambda f: f.change("revoked", revoked_at=None), DENIED),
    "take its revocation back as an operator": (
        lambda f: f.change("revoked", "operator", revoked_at=None), DENIED,
    ),
    "give it the definitions of now": (lambda f: f.change("narrow", fingerprint={}), DENIED),
    "delete the narrow one, so that the wide one counts": (
        lambda f: f.send("DELETE", f"/backfill_standing?standing_id=eq.{f.id('narrow')}"), DENIED,
    ),
    "revoke the narrow one, so that the wide one counts": (
        lambda f: f.send("POST", "/rpc/backfill_revoke_standing",
                         {"standing": f.id("narrow"), "reason": "in the way"}),
        NOT_AN_APPROVER,
    ),
    "revoke it so as an operator": (
        lambda f: f.send("POST", "/rpc/backfill_revoke_standing",
                         {"standing": f.id("narrow"), "reason": "in the way"}, "operator"),
        NOT_AN_APPROVER,
    ),
    "propose a wider one under its id": (
        lambda f: f.send("POST", "/rpc/backfill_propose_standing",
                         {"standing": f.id("narrow"), "until": "2999-12-31", "max_sessions": 900}),
        "OB002",
    ),
    "propose one as a viewer": (
        lambda f: f.send("POST", "/rpc/backfill_propose_standing",
                         {"until": "2999-12-31", "max_sessions": 9}, "viewer"),
        "OB010",
    ),
    # forge its use
    "insert a decision by the wide one": (lambda f: f.decide("wide"), DENIED),
    "insert a decision by the narrow one": (lambda f: f.decide("narrow"), DENIED),
    "insert one as an operator": (lambda f: f.decide("wide", "operator"), DENIED),
    "insert one as an approver": (lambda f: f.decide("wide", "approver"), DENIED),
    "insert one that says how": (lambda f: f.decide("wide", via="standing"), DENIED),
    "turn a decision into one": (
        lambda f: f.send("PATCH", f"/backfill_approvals?run_id=eq.{f.run}",
                         {"standing_id": f.id("wide")}),
        DENIED,
    ),
    "write the approval into the run": (
        lambda f: f.send("PATCH", f"/backfill_runs?run_id=eq.{f.run}",
                         {"approved_via": "standing", "state": "approved"}),
        DENIED,
    ),
    "give the day its sessions back": (
        lambda f: private(f, "PATCH", "/standing_days?target=eq.prism", {"sessions": 0}), NO_SCHEMA,
    ),
    "reserve less than none": (
        lambda f: private(f, "POST", "/rpc/reserve_today", {"p_target": "prism", "p_sessions": -9}),
        NO_SCHEMA,
    ),
    "call what approves": (
        lambda f: private(f, "POST", "/rpc/carried_out", {}), NO_SCHEMA,
    ),
    "call it in SQL": (
        lambda f: f.in_sql("select backfill_private.reserve_today('prism', -9)", as_key=True),
        DENIED,
    ),
    "write the day in SQL": (
        lambda f: f.in_sql("delete from backfill_private.standing_days", as_key=True), DENIED,
    ),
    "ask in SQL for a run as another role": (
        lambda f: f.in_sql("select backfill_private.ask_standing(%s)", NONE, as_key=True), "OB001",
    ),
    # pass for what is covered
    "ask again": (lambda f: f.ask(), "awaiting_approval"),
    "ask as an operator": (lambda f: f.ask("operator"), "awaiting_approval"),
    # what even postgres does not do in passing
    "decide in the SQL editor by one that does not cover": (
        lambda f: f.in_sql(
            "insert into public.backfill_approvals (run_id, digest, decision, standing_id)"
            " values (%s, '', 'approved', %s)", f.run, f.id("narrow")),
        NOT_COVERED,
    ),
    "decide there by one that does not count": (
        lambda f: f.in_sql(
            "insert into public.backfill_approvals (run_id, digest, decision, standing_id)"
            " values (%s, '', 'approved', %s)", f.run, f.id("wide")),
        NOT_COVERED,
    ),
    "reject there by one": (
        lambda f: f.in_sql(
            "insert into public.backfill_approvals (run_id, digest, decision, standing_id)"
            " values (%s, '', 'rejected', %s)", f.run, f.id("narrow")),
        NOT_COVERED,
    ),
    "widen a rule there": (
        lambda f: f.in_sql(
            "update public.backfill_standing set max_sessions = 900 where standing_id = %s",
            f.id("narrow")),
        "OB007",
    ),
    "sign an approval anew there": (
        lambda f: f.in_sql(
            "update public.backfill_standing set approved_by = 'Eve' where standing_id = %s",
            f.id("narrow")),
        "OB007",
    ),
    "take a revocation back there": (
        lambda f: f.in_sql(
            "update public.backfill_standing set revoked_at = null where standing_id = %s",
            f.id("revoked")),
        "OB007",
    ),
    "delete a rule there": (
        lambda f: f.in_sql(
            "delete from public.backfill_standing where standing_id = %s", f.id("other")),
        "OB007",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_way_to_widen_or_forge_one_is_refused_and_changes_nothing(
    forger: Forger, nothing_changes: None, way: str
) -> None:
    """Whoever tries: the rules, the days and the run stay as they are."""
    does, code = WAYS[way]
    assert does(forger) == code


PLANS: dict[str, dict[str, Any]] = {
    "more sessions": {},
    "no throttle": {"until": "2025-08-05"},
    "a higher throttle": {"until": "2025-08-05", "throttle_per_minute": 21},
    "another version": {
        "until": "2025-08-05", "throttle_per_minute": 20, "engine_version": "v0",
    },
    "a need that is lower": {
        "until": "2025-08-05", "throttle_per_minute": 20, "parameters": {"min_responses": 0},
    },
}  # fmt: skip
FEW = {"until": "2025-08-05", "throttle_per_minute": 20}


@pytest.mark.parametrize("what", PLANS)
def test_a_plan_for_more_than_the_rule_waits(forger: Forger, what: str) -> None:
    """Whatever the key asks for."""
    assert forger.ask(**PLANS[what]) == "awaiting_approval"


# Two at once -------------------------------------------------------------------------------------


def at_once(*doing: Callable[[], object]) -> None:
    """Do things in threads of their own, which all begin together."""
    together = Barrier(len(doing))

    def begin(one: Callable[[], object]) -> None:
        together.wait()
        one()

    threads = [Thread(target=begin, args=(one,)) for one in doing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_at_once_do_not_pass_a_days_sessions(project: Project) -> None:
    """Of two runs that both fit the day alone, one is approved."""
    told = rule(project, until="2999-12-31", max_per_day=50, hours="00-24", is_approved=False)
    api = Outsider(project)
    runs = [planned(api)["run_id"] for _ in range(2)]
    project.value(
        "select public.backfill_approve(%s, %s, 'Ada')", told["standing_id"], told["digest"]
    )
    at_once(*(lambda run=run: Outsider(project).rpc("backfill_ask_standing", run=run)
              for run in runs))  # fmt: skip
    states = project.rows("select state from public.backfill_runs order by state")
    assert [row["state"] for row in states] == ["approved", "awaiting_approval"]
    assert project.value("select sessions from backfill_private.standing_days") == 39


def test_a_snapshot_of_before_does_not_help(project: Project) -> None:
    """Who reads what was left of the day before the other took it is refused by PostgreSQL."""
    told = rule(project, until="2999-12-31", max_per_day=50, is_approved=False)
    runs = [planned(Outsider(project))["run_id"] for _ in range(2)]
    project.value(
        "select public.backfill_approve(%s, %s, 'Ada')", told["standing_id"], told["digest"]
    )
    with psycopg.connect(project.db.info.dsn, password=project.db.info.password) as late:
        late.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        late.execute("select count(*) from public.backfill_runs")
        asking = "select public.backfill_ask_standing(%s)"
        assert project.value(asking, runs[0])["state"] == "approved"
        with pytest.raises(psycopg.errors.SerializationFailure):
            late.execute(asking, (runs[1],))
        late.rollback()
    assert project.value(asking, runs[1])["state"] == "awaiting_approval"


def test_revoked_and_used_at_once_it_is_one_or_the_other(project: Project) -> None:
    """Used first, its run starts nothing. Revoked first, it covers nothing."""
    told = rule(project, until="2999-12-31", is_approved=False)
    api = Outsider(project)
    run = planned(api)["run_id"]
    project.value(
        "select public.backfill_approve(%s, %s, 'Ada')", told["standing_id"], told["digest"]
    )
    revoking = {"standing": told["standing_id"], "reason": "stop"}
    at_once(
        lambda: Outsider(project).rpc("backfill_ask_standing", run=run),
        lambda: Outsider(project).rpc("backfill_revoke_standing", **revoking),
    )
    api.rpc("backfill_start", p_run_id=run, p_worker="w")
    claimed = api.rpc("backfill_claim", p_run_id=run, p_claim_id=NONE, p_worker="w")
    assert not claimed.get("granted"), claimed
    assert project.value("select count(*) from backfill_private.starts") == 0


# Who may not approve any more --------------------------------------------------------------------


def test_an_approval_needs_a_second_factor_where_plans_do(
    project: Project, clock: DatabaseClock
) -> None:
    """As for a plan: a session of one factor decides nothing."""
    told = rule(project, is_approved=False)
    project.db.execute(
        "update public.backfill_settings set require_aal2 = true, approval_policy = 'any'"
        " where only_row"
    )
    asked = {"run": told["standing_id"], "digest": told["digest"]}
    for token in (project.user("approver"), None):
        answer = Outsider(project, token).send("POST", "/rpc/backfill_approve", asked)
        assert code_of(answer) == NOT_AN_APPROVER


def test_the_one_who_approved_the_rule_does_not_plan_by_it(
    project: Project, clock: DatabaseClock
) -> None:
    """That would be one person: a plan of theirs takes a second one, as ever."""
    told = rule(project, is_approved=False)
    project.db.execute(
        "update public.backfill_settings set approval_policy = 'second_person' where only_row"
    )
    ada = Outsider(project, project.user("approver", "ada@example.org"))
    approved = ada.rpc("backfill_approve", run=told["standing_id"], digest=told["digest"])
    assert approved["approved_by"] == "ada@example.org"
    own = planned(ada)
    assert own["state"] == "awaiting_approval"
    assert "takes a second person" in own["standing"]["reason"]
    operator = Outsider(project, project.user("operator"))
    assert planned(operator)["state"] == "approved"
