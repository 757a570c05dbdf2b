"""Who may do what, asked from outside: every function, every column, every role, over HTTP.

The matrices below are complete: what the catalog has and they do not name makes a test fail. Both
worlds are asked: in projects from before 2026-10-30 whatever is new in public starts open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pytest_postgresql import factories

from backfill.local import sample
from backfill.local.gateway import gateway_in_thread
from backfill.local.keys import ApiKeys
from backfill.local.servers import PostgresServer, RestServer
from tests.conftest import SERVER, Project

Json = dict[str, Any]

ROLES = ("anon", "nobody", "viewer", "operator", "approver", "service_role")
DENIED = "42501"

# What each role gets when it calls, in the order of ROLES; nobody is a user without a role. `ok`:
# it is done. `none`: an answer without a row. Else the SQLSTATE: 42501 no right to call at all,
# OB010 not this role, OB005 not an approver.
CALLS = {
    "backfill_open": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_collect": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_seal": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_pace": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_pause": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_resume": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_cancel": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_approve": (DENIED, "OB005", "OB005", "OB005", "ok", "OB005"),
    "backfill_reject": (DENIED, "OB005", "OB005", "OB005", "ok", "OB005"),
    "backfill_propose_standing": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_standings": (DENIED, "OB010", "ok", "ok", "ok", "ok"),
    "backfill_revoke_standing": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_ask_standing": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_verify_part": (DENIED, "OB010", "ok", "ok", "ok", "ok"),
    "backfill_check": (DENIED, "OB010", "ok", "ok", "ok", "ok"),
    "backfill_calls": (DENIED, "OB010", "ok", "ok", "ok", "ok"),
    "backfill_coverage": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_heal_next": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_watch": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_catalog": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_check_target": (DENIED, DENIED, DENIED, DENIED, DENIED, "OB013"),
    "backfill_installed": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_freshness": (DENIED, "OB010", "ok", "ok", "ok", "ok"),
    "backfill_history": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_find_runs": (DENIED, "none", "ok", "ok", "ok", "ok"),
    "backfill_plan_sessions": (DENIED, "none", "ok", "ok", "ok", "ok"),
    "backfill_written": (DENIED, "none", "ok", "ok", "ok", "ok"),
    "backfill_left_behind": (DENIED, "OB010", "none", "none", "none", "none"),
    "backfill_undo_conflicts": (DENIED, "OB010", "OB010", "OB013", "OB013", "OB013"),
    "backfill_rehearsal": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_rehearse": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_start": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_claim": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_claim_apart": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_bulk": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_renew": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_settle": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_retry": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_preview_undo": (DENIED, "OB010", "OB010", "ok", "ok", "ok"),
    "backfill_approve_undo": (DENIED, "OB005", "OB005", "OB005", "ok", "OB005"),
    "backfill_confirm_undo": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    "backfill_prune": (DENIED, DENIED, DENIED, DENIED, DENIED, "ok"),
    # pg_cron's jobs are postgres's own.
    "backfill_drive": (DENIED,) * 6,
    "backfill_drive_every": (DENIED,) * 6,
    "backfill_drive_stop": (DENIED,) * 6,
}
# Further forms of these, which the API cannot call: their arguments have no names.
OVERLOADS = ("backfill_drive_every",)
# The API calls no procedure at all.
PROCEDURES = {"backfill_drive_step"}

BY_ROLE = (DENIED, "none", "ok", "ok", "ok", "ok")
BY_THE_SERVICE = (DENIED, DENIED, DENIED, DENIED, DENIED, "ok")
# What each role gets when it reads any one column.
READS = {
    "backfill_settings": BY_ROLE,
    "backfill_targets": BY_ROLE,
    "backfill_runs": BY_ROLE,
    "backfill_items": BY_ROLE,
    "backfill_receipts": BY_ROLE,
    "backfill_approvals": BY_ROLE,
    "backfill_standing": BY_ROLE,
    "backfill_events": BY_ROLE,
    "backfill_run_progress": BY_ROLE,
    "backfill_run_failures": BY_ROLE,
    "backfill_watches": BY_ROLE,
    "backfill_watch_status": BY_ROLE,
    "backfill_coverage_history": BY_ROLE,
    "backfill_alerts": BY_ROLE,
    # The legal moves are the same in every project; they tell nothing about this one.
    "backfill_transitions": (DENIED, "ok", "ok", "ok", "ok", "ok"),
    "backfill_candidates": BY_THE_SERVICE,
    "backfill_missing_profiles": BY_THE_SERVICE,
    "backfill_missing_fc_scores": BY_THE_SERVICE,
    "backfill_daily_coverage": BY_THE_SERVICE,
}
# The columns that no API role reads.
HIDDEN = {
    ("backfill_items", "fence_hash"),
    ("backfill_receipts", "before"),
    ("backfill_receipts", "after_columns"),
}

# The only columns that anybody may hand in; whether the decision counts is another question.
HANDED_IN = {
    ("backfill_approvals", name) for name in ("run_id", "digest", "decision", "approver", "note")
}
# No right; a view that takes no rows; what a view computes; a number that only the database gives.
UNWRITABLE = {DENIED, "55000", "0A000", "428C9"}

# What postgres gets in SQL: inserting a copy of a row, updating every row to itself, deleting
# every row, truncating. 23505 is the key that the copy has already, 23502 what the copy of a view's
# row lacks, 23503 and 0A000 are foreign keys (0A000 also: what a view computes), 55000 and 42809
# views; the rest are our guards.
AS_POSTGRES = {
    "backfill_settings": ("23505", "ok", "ok", "ok"),
    "backfill_targets": ("23505", "ok", "ok", "ok"),
    "backfill_runs": ("23505", "ok", "23503", "0A000"),
    "backfill_items": ("23505", "ok", "OB007", "OB007"),
    "backfill_receipts": ("23505", "ok", "ok", "OB007"),
    "backfill_approvals": ("OB002", "ok", "ok", "OB007"),
    "backfill_standing": ("23505", "ok", "OB007", "0A000"),
    "backfill_events": ("23505", "ok", "ok", "OB007"),
    "backfill_run_progress": ("55000", "55000", "55000", "42809"),
    "backfill_run_failures": ("23502", "ok", "OB007", "42809"),
    "backfill_watches": ("23505", "ok", "ok", "ok"),
    "backfill_watch_status": ("55000", "55000", "55000", "42809"),
    # A copy has the age too, which only the database works out.
    "backfill_coverage_history": ("428C9", "ok", "ok", "ok"),
    "backfill_alerts": ("23505", "ok", "ok", "ok"),
    "backfill_transitions": ("55000", "55000", "55000", "42809"),
    "backfill_candidates": ("0A000", "55000", "55000", "42809"),
    "backfill_missing_profiles": ("55000", "55000", "55000", "42809"),
    "backfill_missing_fc_scores": ("0A000", "55000", "55000", "42809"),
    "backfill_daily_coverage": ("55000", "55000", "55000", "42809"),
}


@dataclass
class World:
    """A project with a run in every state that a right is about, and a token for each role."""

    project: Project
    tokens: dict[str, str] = field(repr=False)
    runs: dict[str, str]
    arguments: dict[str, Json]
    http: httpx.Client = field(repr=False)

    def ask(self, role: str, method: str, path: str, body: Any = None, **headers: str) -> str:
        """Ask as a role, and take it back. Returns ok, none, or the SQLSTATE."""
        sent = {"Authorization": f"Bearer {self.tokens[role]}", "Prefer": "tx=rollback", **headers}
        answer = self.http.request(method, path, headers=sent, json=body)
        if answer.is_success:
            is_taken_back = "tx=rollback" in answer.headers.get("Preference-Applied", "")
            assert is_taken_back or method == "GET", "a question that stays is no question"
            return "none" if answer.text == "[]" and method != "PATCH" else "ok"
        code: str = answer.json()["code"]
        return code

    def columns(self) -> list[tuple[str, str]]:
        """Every column of every table and view of ours in public."""
        found = self.project.rows("""
            select c.relname, a.attname
            from pg_class as c
            join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            where c.relnamespace = 'public'::regnamespace and c.relname like 'backfill\\_%%'
              and c.relkind in ('r', 'p', 'v', 'm', 'f')
            order by c.relname, a.attnum
        """)
        return [(row["relname"], row["attname"]) for row in found]


def _load_with_old_privileges(*, dbname: str, **_: Any) -> None:
    server = SERVER["it"]
    server.install_platform(dbname, old_privileges=True)
    with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute(f'alter database "{dbname}" owner to postgres'.encode())
    sample.load(server.dsn(dbname), "seed")


rights_old_template = factories.postgresql_noproc(
    depends_on="cluster", dbname="rights_old", load=[_load_with_old_privileges]
)


@pytest.fixture(
    scope="module", params=["project_template", "rights_old_template"], ids=["closed", "open"]
)
def world(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[World]:
    """The same project where what is new in public starts closed, and where it starts open."""
    template = request.getfixturevalue(request.param).template_dbname
    name = f"rights_{request.param}"
    postgres_server.create_database(name, template)
    with (
        psycopg.connect(postgres_server.superuser_dsn(name), autocommit=True) as admin,
        psycopg.connect(postgres_server.dsn(name), autocommit=True, row_factory=dict_row) as db,
    ):
        jwt_secret = uuid4().hex * 2
        keys = ApiKeys.new(jwt_secret)
        rest = RestServer.start(
            postgres_server.authenticator_dsn(name),
            jwt_secret,
            extra_env={"PGRST_DB_TX_END": "commit-allow-override"},
        )
        try:
            with (
                gateway_in_thread(rest.url, keys) as gateway,
                httpx.Client(base_url=rest.url, timeout=30) as http,
            ):
                project = Project(gateway.url, rest.url, keys, jwt_secret, db, admin, gateway)
                yield _populated(project, http)
        finally:
            rest.stop()
    postgres_server.drop_database(name)


# -- the runs, made as postgres


def _populated(project: Project, http: httpx.Client) -> World:
    db = project.db
    db.execute("update public.backfill_settings set approval_policy = 'second_person'")
    runs = {
        "planning": _opened(project),
        "collected": _collected(project),
        "awaiting": _sealed(project),
        "approved": _approved(project),
        "paused": _started(project),
        "running": _started(project),
        "completed": _started(project, since="2025-09-01", until=None),
    }
    db.execute("select public.backfill_pause(%s, 'to look')", (runs["paused"],))
    _work(project, runs["completed"])
    claim_id = str(uuid4())
    granted = _claim(project, runs["running"], claim_id)
    db.execute("select public.backfill_watch()")
    failed = {"ordinal": granted[0]["ordinal"], "outcome": "failed", "code": "P0001"}
    _settle(project, runs["running"], claim_id, [failed])
    return World(project, _tokens(project), runs, _arguments(project, runs, claim_id), http)


def _tokens(project: Project) -> dict[str, str]:
    users = {role: project.user(role) for role in ("viewer", "operator", "approver")}
    keys = {"anon": project.keys.anon, "service_role": project.keys.service_role}
    return {"nobody": project.user(None), **users, **keys}


def _request(since: str = "2025-08-01", until: str | None = "2025-08-10") -> Json:
    return {"since": since, "until": until, "environment": "staging"}


def _opened(project: Project, **dates: Any) -> str:
    run = project.value("select public.backfill_open(%s)", Jsonb(_request(**dates)))
    return str(run)


def _collected(project: Project, **dates: Any) -> str:
    run = _opened(project, **dates)
    while not project.value("select public.backfill_collect(%s)", run):
        pass
    return run


def _sealed(project: Project, **dates: Any) -> str:
    run = _collected(project, **dates)
    assert project.value("select public.backfill_seal(%s)", run)["state"] == "awaiting_approval"
    return run


def _digest(project: Project, run: str) -> str:
    return str(project.value("select digest from public.backfill_runs where run_id = %s", run))


def _approved(project: Project, **dates: Any) -> str:
    run = _sealed(project, **dates)
    project.value("select public.backfill_approve(%s, %s)", run, _digest(project, run))
    return run


def _started(project: Project, **dates: Any) -> str:
    run = _approved(project, **dates)
    assert project.value("select public.backfill_start(%s, 'w')", run)["state"] == "running"
    return run


def _claim(project: Project, run: str, claim_id: str) -> list[Json]:
    answer = project.value("select public.backfill_claim(%s, %s, 'w')", run, claim_id)
    granted: list[Json] = answer["granted"]
    return granted


def _settle(project: Project, run: str, claim_id: str, outcomes: list[Json]) -> None:
    project.value("select public.backfill_settle(%s, %s, %s)", run, claim_id, Jsonb(outcomes))


def _work(project: Project, run: str) -> None:
    """Score every session of a run, as a worker does."""
    claim_id = str(uuid4())
    while granted := _claim(project, run, claim_id):
        for grant in granted:
            for step in grant["steps"]:
                _score(project, run, grant["fence"], step)
        _settle(
            project,
            run,
            claim_id,
            [{"ordinal": grant["ordinal"], "outcome": "answered"} for grant in granted],
        )
        claim_id = str(uuid4())


def _score(project: Project, run: str, fence: str, step: Json) -> None:
    header = {"x-backfill-run": run, "x-backfill-fence": fence}
    with project.db.transaction():
        project.value("select set_config('request.headers', %s, true)", json.dumps(header))
        named = ", ".join(f"{name} => %s" for name in step["arguments"])
        project.value(f"select public.{step['function']}({named})", *step["arguments"].values())


def _arguments(project: Project, runs: dict[str, str], claim_id: str) -> dict[str, Json]:
    """Arguments under which each function does its work, if it is let."""
    preview = project.value("select public.backfill_preview_undo(%s)", runs["completed"])
    sampled = project.value("select public.backfill_rehearsal(%s)", runs["collected"])[0]
    running, completed = {"p_run_id": runs["running"]}, {"p_run_id": runs["completed"]}
    awaiting = {"run": runs["awaiting"]}
    rule = {"until": "2999-12-31", "max_sessions": 1}
    proposed = project.value(
        "select public.backfill_propose_standing(until => %s, max_sessions => %s)", *rule.values()
    )
    return {
        "backfill_open": {"p_request": _request()},
        "backfill_collect": {"p_run_id": runs["planning"]},
        "backfill_seal": {"p_run_id": runs["collected"]},
        "backfill_rehearsal": {"p_run_id": runs["collected"]},
        "backfill_rehearse": {"p_run_id": runs["collected"], "p_session_id": sampled},
        "backfill_pace": {"run": runs["running"], "per_minute": 1},
        "backfill_pause": {"run": runs["running"], "reason": "to look"},
        "backfill_resume": {"run": runs["paused"]},
        "backfill_cancel": {"run": runs["running"], "reason": "no more"},
        "backfill_approve": {**awaiting, "digest": _digest(project, runs["awaiting"])},
        "backfill_reject": {**awaiting, "reason": "too many"},
        "backfill_propose_standing": rule,
        "backfill_standings": {},
        "backfill_revoke_standing": {"standing": proposed["standing_id"], "reason": "no more"},
        "backfill_ask_standing": awaiting,
        "backfill_verify_part": completed,
        "backfill_check": {},
        "backfill_calls": {},
        "backfill_coverage": {},
        "backfill_heal_next": {"target": "prism"},
        "backfill_watch": {},
        "backfill_catalog": {},
        "backfill_check_target": {"p_declaration": []},
        "backfill_installed": {},
        "backfill_freshness": {"p_run_id": runs["awaiting"]},
        "backfill_history": {"p_versions": "{20251101000000}"},
        "backfill_find_runs": {"p_prefix": runs["running"][:8]},
        "backfill_plan_sessions": running,
        "backfill_written": completed,
        "backfill_left_behind": completed,
        "backfill_undo_conflicts": {**completed, "p_undo_id": 0},
        "backfill_start": {"p_run_id": runs["approved"], "p_worker": "w"},
        "backfill_claim": {**running, "p_claim_id": str(uuid4()), "p_worker": "w"},
        "backfill_claim_apart": {**running, "p_claim_id": str(uuid4()), "p_worker": "w"},
        "backfill_bulk": {**running, "p_worker": "w", "p_sessions": 1},
        "backfill_renew": {**running, "p_claim_id": claim_id},
        "backfill_settle": {**running, "p_claim_id": claim_id, "p_outcomes": []},
        "backfill_retry": completed,
        "backfill_preview_undo": completed,
        "backfill_approve_undo": {"run": runs["completed"], "digest": preview["digest"]},
        "backfill_confirm_undo": {
            **completed,
            "p_digest": preview["digest"],
            "p_reason": "wrong version",
        },
        "backfill_prune": {"run": runs["completed"]},
        "backfill_drive": {"run": runs["running"]},
        "backfill_drive_every": {"every": "10 seconds"},
        "backfill_drive_stop": {},
    }


# -- the matrices name everything


def test_every_function_in_public_is_in_the_matrix(world: World) -> None:
    """A new function is classified for every role before it lands; so is an overload."""
    found = world.project.rows("""
        select p.proname, p.prokind = 'p' as is_procedure, p.proargnames is null as is_nameless,
          has_function_privilege('service_role', p.oid, 'execute') as is_the_services
        from pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\\_%%'
    """)
    procedures = {row["proname"]: row for row in found if row["is_procedure"]}
    assert procedures.keys() == PROCEDURES
    assert not any(row["is_the_services"] for row in procedures.values())
    functions = [row["proname"] for row in found if not row["is_procedure"]]
    assert sorted(functions) == sorted([*CALLS, *OVERLOADS])
    assert {"backfill_drive_every"} == {
        row["proname"] for row in found if row["proname"] in OVERLOADS and row["is_nameless"]
    }
    assert set(world.arguments) == set(CALLS)


def test_every_relation_in_public_is_in_the_matrices(world: World) -> None:
    """A new table or view is classified for every role before it lands."""
    relations = {relation for relation, _ in world.columns()}
    assert relations == set(READS) == set(AS_POSTGRES)
    assert set(world.columns()) >= HIDDEN | HANDED_IN


# -- through the API


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_calls(world: World, role: str) -> None:
    """Every function, with arguments under which it would do its work."""
    place = ROLES.index(role)
    got = {name: world.ask(role, "POST", f"/rpc/{name}", world.arguments[name]) for name in CALLS}
    assert got == {name: outcomes[place] for name, outcomes in CALLS.items()}


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_reads(world: World, role: str) -> None:
    """Every column by itself; there is a row to see in every relation."""
    place = ROLES.index(role)
    got = {
        (relation, column): world.ask(role, "GET", f"/{relation}?select={column}&limit=1")
        for relation, column in world.columns()
    }
    assert got == {
        (relation, column): DENIED if (relation, column) in HIDDEN else READS[relation][place]
        for relation, column in world.columns()
    }


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_inserts(world: World, role: str) -> None:
    """Every column by itself: those of a decision come in, nothing else anywhere does."""
    let_in = {
        (relation, column)
        for relation, column in world.columns()
        if world.ask(role, "POST", f"/{relation}?columns={column}", {column: None})
        not in UNWRITABLE
    }
    assert let_in == (set() if role == "anon" else HANDED_IN)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_updates_anything(world: World, role: str) -> None:
    """Every column by itself."""
    got = {
        (relation, column): world.ask(role, "PATCH", f"/{relation}", {column: None})
        for relation, column in world.columns()
    }
    assert {place: code for place, code in got.items() if code not in UNWRITABLE} == {}


@pytest.mark.parametrize("role", ROLES)
def test_no_role_deletes_anything(world: World, role: str) -> None:
    """Every table and view."""
    got = {relation: world.ask(role, "DELETE", f"/{relation}") for relation in READS}
    assert {relation: code for relation, code in got.items() if code not in UNWRITABLE} == {}


@pytest.mark.parametrize("role", ROLES)
def test_a_decision_written_past_the_function_counts_as_much(world: World, role: str) -> None:
    """backfill_approve is an insert under the same trigger: who may not call may not insert."""
    arguments = world.arguments["backfill_approve"]
    decision = {"run_id": arguments["run"], "digest": arguments["digest"], "decision": "approved"}
    got = world.ask(role, "POST", "/backfill_approvals", decision)
    assert got == CALLS["backfill_approve"][ROLES.index(role)]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("path", ["/runs", "/findings", "/rpc/claim", "/rpc/may"])
def test_the_private_schema_is_not_there(world: World, role: str, path: str) -> None:
    """No key and no token asks for it by name: the API does not expose it."""
    got = world.ask(role, "POST", path, {}, **{"Content-Profile": "backfill_private"})
    assert got == "PGRST106"


def test_a_role_that_was_taken_away_is_gone_at_once(world: World) -> None:
    """The token still names it; what counts is what auth.users says now."""
    token = world.project.user("approver", "gone@example.org")
    world.tokens["gone"] = token
    approve = world.arguments["backfill_approve"]
    assert world.ask("gone", "POST", "/rpc/backfill_approve", approve) == "ok"
    world.project.db.execute(
        "update auth.users set raw_app_meta_data = '{}' where email = 'gone@example.org'"
    )
    assert world.ask("gone", "POST", "/rpc/backfill_approve", approve) == "OB005"
    assert world.ask("gone", "GET", "/backfill_runs?limit=1") == "none"


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("banned_until = now() + interval '1 hour'", "none"),
        ("banned_until = now() - interval '1 hour'", "ok"),
        ("deleted_at = now()", "none"),
    ],
)
def test_a_barred_user_has_no_role(world: World, change: str, seen: str) -> None:
    """Auth leaves the row of who is banned or deleted, and his tokens live on."""
    email = f"{uuid4()}@example.org"
    world.tokens["barred"] = world.project.user("viewer", email)
    assert world.ask("barred", "GET", "/backfill_runs?limit=1") == "ok"
    world.project.db.execute(f"update auth.users set {change} where email = %s".encode(), (email,))
    assert world.ask("barred", "GET", "/backfill_runs?limit=1") == seen


@pytest.mark.parametrize(
    ("right", "method", "path", "body"),
    [
        ("insert", "POST", "/backfill_settings?columns=only_row", {"only_row": None}),
        ("update", "PATCH", "/backfill_runs", {"reason": None}),
        ("delete", "DELETE", "/backfill_targets", None),
    ],
)
def test_one_right_too_many_shows(
    world: World, right: str, method: str, path: str, body: Json | None
) -> None:
    """The questions above would see it: the same ones with the right granted are let in."""
    table = path[1:].split("?")[0]
    world.project.db.execute(f"grant {right} on public.{table} to service_role".encode())
    try:
        assert world.ask("service_role", method, path, body) not in UNWRITABLE
    finally:
        world.project.db.execute(f"revoke {right} on public.{table} from service_role".encode())


# -- in SQL


def _as_postgres(
    world: World, statement: str, values: Sequence[object] | Mapping[str, object] = ()
) -> str:
    """Run it as postgres and take it back. Returns ok, or the SQLSTATE."""
    try:
        with world.project.db.transaction(force_rollback=True):
            world.project.db.execute(statement.encode(), values)
    except psycopg.Error as refused:
        return str(refused.sqlstate)
    return "ok"


def test_postgres_calls_everything(world: World) -> None:
    """The SQL editor: no role needed, and it is the second person for every plan."""
    got = {}
    for name, given in world.arguments.items():
        values = [Jsonb(v) if isinstance(v, dict | list) else v for v in given.values()]
        named = ", ".join(f"{argument} => %s" for argument in given)
        got[name] = _as_postgres(world, f"select public.{name}({named})", values)
    # An empty list is no declaration, no undo has the number 0, and there is no pg_cron here.
    without = (
        *("backfill_check_target", "backfill_undo_conflicts"),
        *("backfill_drive", "backfill_drive_every"),
    )
    assert got == {**dict.fromkeys(CALLS, "ok"), **dict.fromkeys(without, "OB013")}


def test_what_postgres_does_to_the_tables(world: World) -> None:
    """It owns them, and still the guards keep a sealed plan and refuse to empty a table at once."""
    last = dict(world.columns())
    got = {
        relation: (
            _as_postgres(
                world,
                f"insert into public.{relation} overriding system value"
                f" select * from public.{relation} limit 1",
            ),
            _as_postgres(world, f"update public.{relation} set {column} = {column}"),
            _as_postgres(world, f"delete from public.{relation}"),
            _as_postgres(world, f"truncate public.{relation}"),
        )
        for relation, column in last.items()
    }
    assert got == AS_POSTGRES


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        (
            "update public.backfill_runs set digest = repeat('0', 64) where run_id = %(run)s",
            "OB007",
        ),
        ("update public.backfill_runs set request = '{}' where run_id = %(run)s", "OB007"),
        ("update public.backfill_runs set environment = 'other' where run_id = %(run)s", "OB007"),
        ("update public.backfill_runs set state = 'running' where run_id = %(run)s", "OB002"),
        ("update public.backfill_items set session_id = 'x' where run_id = %(run)s", "OB007"),
        ("update public.backfill_items set batch = batch + 1 where run_id = %(run)s", "OB007"),
        (
            "insert into public.backfill_items (run_id, ordinal, source, session_id, session_at,"
            " components, category, phase, batch)"
            " select run_id, ordinal + 100, source, session_id || 'x', session_at, components,"
            " category, phase, batch from public.backfill_items where run_id = %(run)s",
            "OB007",
        ),
        ("truncate public.backfill_runs cascade", "OB007"),
        (
            "insert into public.backfill_approvals (run_id, digest, decision)"
            " values (%(run)s, repeat('0', 64), 'approved')",
            "OB004",
        ),
    ],
)
def test_what_postgres_cannot_do_to_a_sealed_plan(
    world: World, statement: str, sqlstate: str
) -> None:
    """Who wants another plan makes another plan."""
    assert _as_postgres(world, statement, {"run": world.runs["awaiting"]}) == sqlstate
