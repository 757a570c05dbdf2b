"""Who may approve, under which policy; and what an approval is good for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb
from pytest_postgresql import factories

import backfill
from backfill.local.servers import PostgresServer
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.outsider import UNHURRIED, Outsider, code_of, running
from tests.kit.seed import SEED

APPROVER = "ada@example.org"
REFUSED = "OB005"


def set_policy(project: Project, policy: str) -> None:
    project.db.execute(
        "update public.backfill_settings set approval_policy = %s where only_row", (policy,)
    )


def planned_by(api: Outsider) -> tuple[str, str]:
    """Plan as somebody with a token does; the run and its digest."""
    run: str = api.rpc("backfill_open", p_request=UNHURRIED)
    while api.rpc("backfill_collect", p_run_id=run) is not True:
        pass
    assert api.rpc("backfill_seal", p_run_id=run)["state"] == "awaiting_approval"
    found = api.send("GET", f"/backfill_runs?run_id=eq.{run}&select=digest").json()
    return run, found[0]["digest"]


def approve(api: Outsider, run: str, digest: str, **more: Any) -> httpx.Response:
    return api.send("POST", "/rpc/backfill_approve", {"run": run, "digest": digest, **more})


def in_sql(project: Project, run: str, digest: str, claims: str = "") -> str:
    """Approve in the SQL editor; the state, or the SQLSTATE of a refusal."""
    try:
        with project.db.transaction():
            project.value("select set_config('request.jwt.claims', %s, true)", claims)
            answer = project.value("select public.backfill_approve(%s, %s, 'Ada')", run, digest)
    except psycopg.Error as refused:
        return refused.sqlstate or ""
    return str(answer["state"])


def with_role(role: str | None) -> Callable[[Project], str]:
    """Approve the service's plan as an Auth user with a role."""

    def by(project: Project) -> str:
        run, digest = planned_by(Outsider(project))
        return code_of(approve(Outsider(project, project.user(role)), run, digest))

    return by


def requester(project: Project) -> str:
    him = Outsider(project, project.user("approver"))
    return code_of(approve(him, *planned_by(him)))


def colleague(project: Project) -> str:
    run, digest = planned_by(Outsider(project, project.user("operator")))
    return code_of(approve(Outsider(project, project.user("approver")), run, digest))


def service_key(project: Project) -> str:
    api = Outsider(project)
    return code_of(approve(api, *planned_by(api), approver="Ada"))


def anonymous(project: Project) -> str:
    run, digest = planned_by(Outsider(project))
    return code_of(approve(Outsider(project, project.keys.anon), run, digest))


def sql_editor(project: Project) -> str:
    return in_sql(project, *planned_by(Outsider(project)))


def sql_editor_for_a_user(project: Project) -> str:
    """The dashboard's way of looking at the database as one of the users."""
    run, digest = planned_by(Outsider(project))
    return in_sql(project, run, digest, '{"role": "authenticated"}')


CALLERS: dict[str, Callable[[Project], str]] = {
    "an approver": with_role("approver"),
    "an approver of a colleague's plan": colleague,
    "the requester, an approver": requester,
    "an operator": with_role("operator"),
    "a viewer": with_role("viewer"),
    "a user without a role": with_role(None),
    "a user with a role of another's making": with_role("admin"),
    "the service key": service_key,
    "anon": anonymous,
    "the SQL editor": sql_editor,
    "the SQL editor as a user": sql_editor_for_a_user,
}
NEVER = {
    "an operator": REFUSED,
    "a viewer": REFUSED,
    "a user without a role": REFUSED,
    "a user with a role of another's making": REFUSED,
    "anon": "42501",
    "the SQL editor": "approved",
    "the SQL editor as a user": REFUSED,
}
EXPECTED = {
    "second_person": {
        **NEVER,
        "an approver": "200",
        "an approver of a colleague's plan": "200",
        "the requester, an approver": REFUSED,
        "the service key": REFUSED,
    },
    "postgres_only": {
        **NEVER,
        "an approver": REFUSED,
        "an approver of a colleague's plan": REFUSED,
        "the requester, an approver": REFUSED,
        "the service key": REFUSED,
    },
    "any": {
        **NEVER,
        "an approver": "200",
        "an approver of a colleague's plan": "200",
        "the requester, an approver": "200",
        "the service key": "200",
    },
}


@pytest.mark.parametrize("policy", EXPECTED)
@pytest.mark.parametrize("who", CALLERS)
def test_who_may_approve_under_which_policy(project: Project, policy: str, who: str) -> None:
    """And where it is refused, no decision is left and the run goes on waiting."""
    set_policy(project, policy)
    expected = EXPECTED[policy][who]
    assert CALLERS[who](project) == expected
    decisions = project.value("select count(*) from public.backfill_approvals")
    state = project.value("select state from public.backfill_runs")
    accepted = expected in {"200", "approved"}
    assert (decisions, state) == ((1, "approved") if accepted else (0, "awaiting_approval"))


@pytest.mark.parametrize("policy", EXPECTED)
def test_who_may_not_approve_may_not_reject(project: Project, policy: str) -> None:
    """Rejecting is deciding: the same policy, the same people."""
    set_policy(project, policy)
    run, _ = planned_by(Outsider(project))
    callers = {
        "the service key": Outsider(project),
        "an operator": Outsider(project, project.user("operator")),
        "an approver": Outsider(project, project.user("approver")),
    }
    for who, api in callers.items():
        answer = api.send("POST", "/rpc/backfill_reject", {"run": run, "reason": "not now"})
        expected = EXPECTED[policy][who]
        assert code_of(answer) == expected, who
        if expected == "200":
            break


# Live roles ---------------------------------------------------------------------------------------

AFTERWARDS = {
    "the role was taken away": ("update auth.users set raw_app_meta_data = '{}'", REFUSED),
    "another role was given": (
        'update auth.users set raw_app_meta_data = \'{"backfill_role": "operator"}\'',
        REFUSED,
    ),
    "the user was banned": (
        "update auth.users set banned_until = now() + interval '100 years'",
        REFUSED,
    ),
    "the ban is over": ("update auth.users set banned_until = now() - interval '1 minute'", "200"),
    "the user was marked as deleted": ("update auth.users set deleted_at = now()", REFUSED),
    "the user is gone": ("delete from auth.users", REFUSED),
    "the role stands in the user's own metadata": (
        "update auth.users set raw_app_meta_data = null,"
        ' raw_user_meta_data = \'{"backfill_role": "approver"}\'',
        REFUSED,
    ),
}


@pytest.mark.parametrize("what", AFTERWARDS)
def test_the_role_is_read_when_deciding_not_when_the_token_was_made(
    project: Project, what: str
) -> None:
    """A token that says approver decides as the user stands now."""
    set_policy(project, "second_person")
    run, digest = planned_by(Outsider(project))
    him = Outsider(project, project.user("approver", APPROVER))
    change, expected = AFTERWARDS[what]
    project.db.execute(f"{change} where email = '{APPROVER}'".encode())
    assert code_of(approve(him, run, digest)) == expected


def test_a_role_given_after_the_token_was_made_counts(project: Project) -> None:
    """Nobody has to sign in again."""
    set_policy(project, "second_person")
    run, digest = planned_by(Outsider(project))
    him = Outsider(project, project.user(None, APPROVER))
    assert code_of(approve(him, run, digest)) == REFUSED
    project.db.execute(
        'update auth.users set raw_app_meta_data = \'{"backfill_role": "approver"}\''
    )
    assert code_of(approve(him, run, digest)) == "200"


def test_a_token_of_another_kind_of_id_is_nobody(project: Project) -> None:
    """A third party's token names no user of this project: it reads nothing and decides nothing."""
    run, digest = planned_by(Outsider(project))
    claims = {"role": "authenticated", "sub": "user_2abc", "exp": 4_000_000_000}
    foreigner = Outsider(project, jwt.encode(claims, project.jwt_secret))
    assert foreigner.send("GET", "/backfill_runs?select=run_id").json() == []
    assert code_of(approve(foreigner, run, digest)) == REFUSED


# What is recorded ---------------------------------------------------------------------------------


def test_an_auth_users_approval_records_who_when_and_how(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """The database fills in id, email, way and times; a name given by him is not taken."""
    set_policy(project, "second_person")
    plan = timed.plan(**SEED)
    token = project.user("approver", APPROVER)
    status = timed.approve(
        plan.run_id, digest=plan.digest, access_token=token, approver="Grace", note="go"
    )
    assert (status.state, status.approved_by) == ("approved", APPROVER)
    [decision] = project.rows("select * from public.backfill_approvals")
    user = project.value("select id from auth.users where email = %s", APPROVER)
    named = ("decision", "digest", "approver", "approver_id", "via", "note")
    assert {name: decision[name] for name in named} == {
        "decision": "approved", "digest": plan.digest, "approver": APPROVER, "approver_id": user,
        "via": "auth", "note": "go",
    }  # fmt: skip
    assert decision["decided_at"] == clock.now()
    assert decision["valid_until"] == status.approved_until == clock.now() + timedelta(days=7)
    event = project.rows(
        "select actor, details from public.backfill_events where kind = 'approved'"
    )
    assert event[0]["actor"] == f"user:{user}"
    assert event[0]["details"]["digest"] == plan.digest


def test_an_approval_in_the_sql_editor_records_the_name_given_or_the_login(
    project: Project, bf: backfill.Backfill
) -> None:
    """There the database knows the login alone, so the name is what was typed."""
    for name, recorded in (
        ("'Ada'", "Ada"),
        ("'  '", "postgres:postgres"),
        ("null", "postgres:postgres"),
    ):
        plan = bf.plan(**SEED)
        project.db.execute(
            f"select public.backfill_approve(%s, %s, {name})", (plan.run_id, plan.digest)
        )
        decision = project.rows(
            "select approver, via, approver_id from public.backfill_approvals where run_id = %s",
            plan.run_id,
        )
        assert decision == [{"approver": recorded, "via": "sql", "approver_id": None}]


def test_the_service_keys_approval_is_told_apart(project: Project, bf: backfill.Backfill) -> None:
    """Under any the key may approve under any name: the way says that it was the key."""
    plan = bf.plan(**SEED)
    bf.approve(plan.run_id, digest=plan.digest, approver="Ada")
    assert project.rows("select approver, via from public.backfill_approvals") == [
        {"approver": "Ada", "via": "service_key"}
    ]


def test_a_rejection_keeps_its_reason_and_ends_the_run(
    project: Project, timed: backfill.Backfill
) -> None:
    """A rejected plan is neither approved nor applied any more."""
    plan = timed.plan(**SEED)
    status = timed.reject(
        plan.run_id, reason="too many", access_token=project.user("approver", APPROVER)
    )
    assert (status.state, status.reason) == ("rejected", "too many")
    assert project.rows("select decision, approver, note from public.backfill_approvals") == [
        {"decision": "rejected", "approver": APPROVER, "note": "too many"}
    ]
    with pytest.raises(backfill.BackfillError) as again:
        timed.approve(plan.run_id, digest=plan.digest)
    assert again.value.code == "OB002"
    with pytest.raises(backfill.BackfillError) as applied:
        timed.apply(plan.run_id)
    assert applied.value.code == "OB002"


@pytest.mark.parametrize("reason", ["", "   ", None])
def test_a_rejection_needs_a_reason(
    project: Project, bf: backfill.Backfill, reason: str | None
) -> None:
    """Without one nothing is decided."""
    plan = bf.plan(**SEED)
    answer = Outsider(project).rpc("backfill_reject", run=plan.run_id, reason=reason)
    assert answer["code"] == "OB013"
    assert bf.status(plan.run_id).state == "awaiting_approval"


# What an approval is good for ---------------------------------------------------------------------


def test_an_approval_serves_one_run_even_where_another_has_the_same_digest(
    project: Project, bf: backfill.Backfill
) -> None:
    """The same request on the same state has the same digest, and needs an approval of its own."""
    first, second = bf.plan(**SEED), bf.plan(**SEED)
    assert first.digest == second.digest
    project.approve(first)
    assert bf.status(second.run_id).state == "awaiting_approval"
    with pytest.raises(backfill.ApprovalNeeded):
        bf.apply(second.run_id)


def test_a_plan_is_approved_once(project: Project, bf: backfill.Backfill) -> None:
    """A second approval would be a way to prolong the first."""
    plan = bf.plan(**SEED)
    project.approve(plan)
    answer = code_of(approve(Outsider(project), plan.run_id, plan.digest))
    assert answer == "OB002"


@pytest.mark.parametrize("digest", ["", "0" * 64, "null"])
def test_an_approval_names_the_digest_of_its_plan(
    project: Project, bf: backfill.Backfill, digest: str
) -> None:
    """Another digest, an empty one or none approves nothing."""
    plan = bf.plan(**SEED)
    answer = Outsider(project).rpc(
        "backfill_approve", run=plan.run_id, digest=None if digest == "null" else digest
    )
    assert answer["code"] == "OB004"
    assert bf.status(plan.run_id).state == "awaiting_approval"


def test_an_approval_of_an_unknown_run_is_refused(project: Project) -> None:
    """By its name, and not as a broken reference."""
    assert code_of(approve(Outsider(project), str(uuid4()), "0" * 64)) == "OB001"


def test_resume_and_retry_use_the_same_approval_again(
    project: Project, timed: backfill.Backfill
) -> None:
    """Neither asks anybody, and neither prolongs it."""
    api = Outsider(project)
    run = running(project, timed)
    approval = "select approved_at, approved_until from public.backfill_runs where run_id = %s"
    before = project.rows(approval, run)
    timed.pause(run, reason="lunch")
    assert timed.resume(run).state == "running"
    api.settle(*api.claim(run), outcome="failed", code="P0001")
    assert api.rpc("backfill_retry", p_run_id=run)["sessions"] == 5
    assert timed.apply(run).is_complete
    assert project.rows(approval, run) == before
    assert project.value("select count(*) from public.backfill_approvals") == 1


def test_an_approval_that_ran_out_starts_nothing(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """To the second: valid until its last moment, and then the run is expired for good."""
    last, late = timed.plan(**SEED), timed.plan(**{**SEED, "priority": []})
    for plan in (last, late):
        project.approve(plan)
    api = Outsider(project)
    clock.advance(7 * 86400 - 1)
    assert api.rpc("backfill_start", p_run_id=last.run_id, p_worker="x")["state"] == "running"
    clock.advance(1)
    assert api.claim(last.run_id) == []
    started = api.rpc("backfill_start", p_run_id=late.run_id, p_worker="x")
    assert started["state"] == "expired"
    assert [timed.status(p.run_id).state for p in (last, late)] == ["expired", "expired"]
    with pytest.raises(backfill.BackfillError) as applied:
        timed.apply(late.run_id)
    assert applied.value.code == "OB002"


def test_an_approval_that_ran_out_in_a_pause_resumes_nothing(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """Neither resume nor retry brings it back, and the next claim or apply ends it."""
    api = Outsider(project)
    run = running(project, timed)
    api.settle(*api.claim(run), outcome="failed", code="P0001")
    timed.pause(run, reason="holidays")
    clock.advance(7 * 86400)
    assert api.rpc("backfill_resume", run=run)["code"] == "OB006"
    assert api.rpc("backfill_retry", p_run_id=run)["code"] == "OB006"
    assert api.claim(run) == []
    assert timed.status(run).state == "expired"


def test_the_time_that_an_approval_is_valid_is_the_projects(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """A change of the setting afterwards changes no approval that was given."""
    project.db.execute("update public.backfill_settings set approval_ttl = '1 hour' where only_row")
    plan = timed.plan(**SEED)
    project.approve(plan)
    project.db.execute("update public.backfill_settings set approval_ttl = '9 days' where only_row")
    assert timed.status(plan.run_id).approved_until == clock.now() + timedelta(hours=1)


CHANGED = {
    "a scoring function": ("alter function public.score_prism(uuid, text) cost 7", "OB007"),
    "its owner": ("alter function public.score_prism(uuid, text) owner to supabase_admin", "OB007"),
    "its rights": (
        "grant execute on function public.score_prism(uuid, text) to authenticated",
        "OB007",
    ),
    "a target row": (
        "update public.backfill_targets set version = 'v9' where component = 'profile'",
        "OB007",
    ),
    "a planned session": (
        "alter table public.backfill_items disable trigger user;"
        "update public.backfill_items set session_id = gen_random_uuid()::text where ordinal = 3;"
        "alter table public.backfill_items enable trigger user",
        "OB007",
    ),
    "a session taken out": (
        "alter table public.backfill_items disable trigger user;"
        "delete from public.backfill_items where ordinal = 39;"
        "alter table public.backfill_items enable trigger user",
        "OB007",
    ),
    "a parameter": (
        "alter table public.backfill_runs disable trigger user;"
        "update public.backfill_runs set request = request || '{\"throttle_per_minute\": 6000}';"
        "alter table public.backfill_runs enable trigger user",
        "OB007",
    ),
    "the environment": (
        "update public.backfill_settings set environment = 'production' where only_row",
        "OB008",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_changed_since_the_plan_is_not_approved(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """The digest is computed anew from the rows and definitions as they stand."""
    plan = bf.plan(**SEED)
    change, code = CHANGED[what]
    project.admin.execute(change.encode())
    assert in_sql(project, plan.run_id, plan.digest) == code
    assert bf.status(plan.run_id).state == "awaiting_approval"


@pytest.mark.parametrize("what", CHANGED)
def test_what_changed_since_the_approval_is_not_started(
    project: Project, bf: backfill.Backfill, what: str
) -> None:
    """Every apply looks again: the run is paused with the reason, and resume does not lift it."""
    plan = bf.plan(**SEED)
    project.approve(plan)
    project.admin.execute(CHANGED[what][0].encode())
    with pytest.raises(backfill.Paused):
        bf.apply(plan.run_id)
    with pytest.raises(backfill.PlanChanged):
        bf.resume(plan.run_id)
    assert project.value("select count(*) from public.backfill_receipts") == 0


# Environment and server ---------------------------------------------------------------------------


def test_a_run_of_another_environment_takes_no_lease(
    project: Project, bf: backfill.Backfill
) -> None:
    """Renamed while it runs: the next claim pauses it with the reason."""
    run = running(project, bf)
    project.db.execute(
        "update public.backfill_settings set environment = 'production' where only_row"
    )
    assert Outsider(project).claim(run) == []
    status = bf.status(run)
    assert (status.state, "environment" in (status.reason or "")) == ("paused", True)


def test_an_environment_that_is_not_set_is_a_warning_with_the_sql_to_set_it(
    project: Project, bf: backfill.Backfill
) -> None:
    """And once it is set as the SQL says, the next plan for it has no such warning."""
    project.db.execute("update public.backfill_settings set environment = null where only_row")
    [mark] = [c for c in bf.plan(**SEED).checks if c.name == "environment"]
    assert mark.status == "warn"
    project.db.execute(mark.next_step.encode())
    here = {**SEED, "environment": "production"}
    [mark] = [c for c in bf.plan(**here).checks if c.name == "environment"]
    assert mark.status == "ok"


def test_a_plan_from_before_the_project_had_a_name_is_not_carried_out(
    project: Project, bf: backfill.Backfill
) -> None:
    """For all we know it was made for another project: neither approved nor, if it was, started."""
    name = "update public.backfill_settings set environment = %s where only_row"
    project.db.execute(name, (None,))
    unnamed = {k: v for k, v in SEED.items() if k != "environment"}
    early, late = bf.plan(**unnamed), bf.plan(**{**unnamed, "priority": []})
    project.approve(early)
    project.db.execute(name, ("production",))
    with pytest.raises(psycopg.Error, match="this project is production, not unnamed"):
        project.approve(late)
    with pytest.raises(backfill.Paused, match="environment"):
        bf.apply(early.run_id)


def test_a_plan_for_another_environment_is_refused(project: Project, bf: backfill.Backfill) -> None:
    """Where the project has a name, no plan for another is made."""
    project.db.execute(
        "update public.backfill_settings set environment = 'production' where only_row"
    )
    with pytest.raises(backfill.BackfillError) as refused:
        bf.plan(**SEED)
    assert refused.value.code == "OB008"


# Copied by the test in its turn, so nobody else may be connected to it.
original_admin = factories.postgresql("project_template")


def test_a_copy_of_the_database_does_not_run_what_was_approved_in_the_original(
    postgres_server: PostgresServer, original_admin: psycopg.Connection[Any]
) -> None:
    """Approved on one server, applied on another: the digest names the database."""
    original, copy = original_admin.info.dbname, f"copy_{uuid4().hex}"
    original_admin.close()
    with psycopg.connect(postgres_server.dsn(original), row_factory=scalar_row) as db:
        run = db.execute("select public.backfill_open(%s)", (Jsonb(UNHURRIED),)).fetchone()
        while not db.execute("select public.backfill_collect(%s)", (run,)).fetchone():
            pass
        db.execute("select public.backfill_seal(%s)", (run,))
        db.execute(
            "select public.backfill_approve(run_id, digest, 'Ada') from public.backfill_runs"
        )
    postgres_server.create_database(copy, template=original)
    states = []
    try:
        for name in (copy, original):
            with psycopg.connect(postgres_server.dsn(name), row_factory=scalar_row) as there:
                states.append(
                    there.execute(
                        "select public.backfill_start(%s, 'x') ->> 'state'", (run,)
                    ).fetchone()
                )
    finally:
        postgres_server.drop_database(copy)
    assert states == ["paused", "running"]
