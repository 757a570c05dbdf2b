"""Who is trusted with what: what sql/README.md says of those who hold more than a role."""

from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg.types.json import Jsonb

import backfill
from backfill.local.keys import mint_user_token
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock
from tests.kit.named import missing, named_tests
from tests.kit.outsider import Outsider, code_of, running
from tests.kit.readme import PAGES, ROOT
from tests.kit.seed import SEED

SECTION = (
    PAGES["sql/README.md"].partition("\n## Who is trusted with what\n")[2].partition("\n## ")[0]
)
ROWS = [line for line in SECTION.splitlines() if line.startswith("| ")][2:]
ADA = "ada@example.org"


def test_each_line_of_the_page_names_a_test_that_is_there() -> None:
    """What nothing shows is no promise."""
    page = ROOT / "sql" / "README.md"
    assert len(ROWS) >= 8
    assert [row for row in ROWS if not named_tests(page, row)] == []
    assert missing(named_tests(page, SECTION)) == []


def ada(project: Project) -> str:
    """The id of an approver, who does nothing here."""
    project.user("approver", ADA)
    found: str = project.value("select id::text from auth.users where email = %s", ADA)
    return found


@pytest.mark.parametrize(("policy", "code"), [("second_person", "200"), ("postgres_only", "OB005")])
def test_who_has_the_jwt_secret_signs_as_any_approver(
    project: Project, bf: backfill.Backfill, policy: str, code: str
) -> None:
    """A token says who its holder is, and the secret makes tokens."""
    project.db.execute("update public.backfill_settings set approval_policy = %s", (policy,))
    plan = bf.plan(**SEED)
    forged = mint_user_token(project.jwt_secret, ada(project), ADA, {})
    decision = {"run": plan.run_id, "digest": plan.digest}
    answer = Outsider(project, forged).send("POST", "/rpc/backfill_approve", decision)
    assert code_of(answer) == code


# A rehearsal in which all went well.
WELL: dict[str, Any] = {
    "calls": [], "error": None, "tables": {}, "undecidable": {}, "receipts": ["fc_scores"],
    "elsewhere": {}, "second": {"tables": {}}, "undone": {"conflicts": [], "tables": {}},
}  # fmt: skip


def test_who_sends_sql_as_the_service_says_what_a_rehearsal_saw(project: Project) -> None:
    """A rehearsal runs with its caller's rights, so what it saw comes from its caller."""
    run_id = verbs.collected(project.db, rehearse=1)
    (session,) = verbs.call(project.db, "backfill_rehearsal", p_run_id=run_id)
    with verbs.as_service(project.db):
        project.value(
            "select backfill_private.keep_rehearsal(%s, %s, %s)", run_id, session, Jsonb(WELL)
        )
    verbs.call(project.db, "backfill_seal", p_run_id=run_id)
    marks = project.rows(
        "select c ->> 'status' as status from public.backfill_runs as r,"
        " jsonb_array_elements(r.plan -> 'checks') as c"
        " where r.run_id = %s and c ->> 'name' = 'rehearsal: scoring calls'",
        run_id,
    )
    assert marks == [{"status": "ok"}]


def test_who_is_postgres_decides_under_anyones_claims(
    project: Project, bf: backfill.Backfill
) -> None:
    """The audit then names that person, who did nothing: claims are settings of a transaction."""
    plan, user = bf.plan(**SEED), ada(project)
    claims = json.dumps({"role": "authenticated", "sub": user})
    with project.db.transaction():
        project.value("select set_config('request.jwt.claims', %s, true)", claims)
        project.db.execute(b"set local role authenticated")
        project.value("select public.backfill_approve(%s, %s)", plan.run_id, plan.digest)
    event = "select actor, details ->> 'approver' as approver from public.backfill_events"
    assert project.rows(f"{event} where kind = 'approved'") == [
        {"actor": f"user:{user}", "approver": ADA}
    ]


COPIED = """
create or replace function backfill_private.server_identity() returns text
language sql stable set search_path = pg_catalog, pg_temp as $$ select 'a copy' $$
"""


def test_a_fence_that_was_live_writes_in_a_copy_until_its_lease_ends(
    project: Project, timed: backfill.Backfill, clock: DatabaseClock
) -> None:
    """The gate does not ask on which server it is: it would for every row. No lease is renewed."""
    api = Outsider(project)
    run_id = running(project, timed)
    first, *others = api.claim(run_id)
    project.db.execute(COPIED.encode())
    assert api.score(first)["status"] == "ok"
    assert api.rpc("backfill_renew", p_run_id=run_id, p_claim_id=first.claim_id) == 0
    clock.advance(60)
    assert api.score(others[0])["code"] == "OB011"
