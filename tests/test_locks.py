"""Our advisory locks: nobody guesses their keys, and whoever holds one costs a clear sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

import backfill
from backfill.local.servers import PostgresServer
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.outsider import Outsider, running
from tests.kit.seed import SEED

SOON = """
alter function backfill_private.take_lock(bigint, boolean, text) set lock_timeout = '50ms'
"""
WHOSE = "select backfill_private.lock_key(%s, %s)"


@contextmanager
def stranger(server: PostgresServer, project: Project) -> Iterator[psycopg.Connection[Any]]:
    """A session of a role that may do nothing of ours, and can send SQL."""
    with psycopg.connect(server.dsn(project.db.info.dbname)) as connection:
        connection.execute("set role anon")
        yield connection


@pytest.fixture
def run(project: Project, bf: backfill.Backfill) -> str:
    """A running run."""
    return running(project, bf)


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_the_secret_of_the_keys_is_nobodys(shared_project: Project, role: str) -> None:
    """Neither it nor what makes a key of it."""
    with shared_project.db.transaction(force_rollback=True):
        shared_project.db.execute(f"set local role {role}".encode())
        for query in (
            "select * from backfill_private.lock_secret",
            "select backfill_private.lock_key('target', 'prism')",
        ):
            with pytest.raises(psycopg.Error) as refused, shared_project.db.transaction():
                shared_project.db.execute(query.encode())
            assert refused.value.sqlstate == "42501"


def test_a_key_hangs_on_the_secret_and_on_all_that_is_locked(shared_project: Project) -> None:
    """Another installation has other keys, and so has everything else that is locked."""
    db = shared_project.db
    named = [("run", "a"), ("run", "b"), ("session", "a")]
    keys = {shared_project.value(WHOSE, *name) for name in named}
    with db.transaction(force_rollback=True):
        db.execute("update backfill_private.lock_secret set secret = 'another'")
        others = {shared_project.value(WHOSE, *name) for name in named}
    assert len(keys | others) == 2 * len(named)
    assert shared_project.value("select length(secret) from backfill_private.lock_secret") > 70


HELD = {
    "run": ("run", "{}", "run "),
    "target": ("target", "prism", "target prism"),
}


@pytest.mark.parametrize("what", HELD)
def test_whoever_holds_a_lock_costs_a_sentence_that_names_them(
    project: Project, run: str, postgres_server: PostgresServer, what: str
) -> None:
    """Not a call at its time limit; and nothing of the call stays."""
    kind, name, called = HELD[what]
    project.db.execute(SOON.encode())
    with stranger(postgres_server, project) as holder:
        holder.execute(
            "select pg_advisory_lock(%s)", (project.value(WHOSE, kind, name.format(run)),)
        )
        answer = Outsider(project).rpc(
            "backfill_claim", p_run_id=run, p_claim_id=run, p_worker="outsider"
        )
        assert answer["code"] == "OB021", answer
        assert answer["message"].startswith(f"the lock of {called}")
        assert answer["message"].endswith(f"process {holder.info.backend_pid}")
        assert str(holder.info.backend_pid) in answer["hint"]
    assert len(Outsider(project).claim(run)) > 0


def test_apply_waits_until_the_lock_is_free(
    project: Project, bf: backfill.Backfill, postgres_server: PostgresServer
) -> None:
    """It says why, and goes on by itself."""
    plan = bf.plan(**{**SEED, "throttle_per_minute": "none"})
    project.approve(plan)
    project.db.execute(SOON.encode())
    why: list[str] = []
    with stranger(postgres_server, project) as holder:
        holder.execute("select pg_advisory_lock(%s)", (project.value(WHOSE, "run", plan.run_id),))

        def heard(event: backfill.Event) -> None:
            if event.kind == "waiting" and not why:
                why.append(str(event.details["why"]))
                holder.execute("select pg_advisory_unlock_all()")

        assert bf.apply(plan.run_id, on_event=heard).is_complete
    assert "is held by somebody else" in why[0]


def test_who_may_not_decide_waits_for_no_lock(
    project: Project, run: str, postgres_server: PostgresServer
) -> None:
    """The right is looked at first: a viewer keeps no lock waiting, and learns no state."""
    viewer = Outsider(project, project.user("viewer"))
    project.db.execute(SOON.encode())
    with stranger(postgres_server, project) as holder:
        holder.execute("select pg_advisory_lock(%s)", (project.value(WHOSE, "run", run),))
        answers = [
            viewer.rpc("backfill_approve", run=run, digest="d", approver="Ada"),
            viewer.rpc("backfill_reject", run=run, reason="why", approver="Ada"),
            viewer.rpc("backfill_approve_undo", run=run, digest="d", approver="Ada"),
        ]
    assert [answer["code"] for answer in answers] == ["OB005"] * 3


def test_a_lease_is_not_renewed_once_its_run_may_not_be_scored(project: Project, run: str) -> None:
    """Neither while the run is paused nor after the approval ran out."""
    outsider = Outsider(project)
    claim_id = outsider.claim(run)[0].claim_id

    def renewed() -> Any:
        return outsider.rpc("backfill_renew", p_run_id=run, p_claim_id=claim_id)

    assert renewed() > 0
    ends = "update public.backfill_runs set approved_until = %s"
    project.admin.execute(ends.encode(), ("-infinity",))
    assert renewed() == 0
    project.admin.execute(ends.encode(), ("infinity",))
    assert renewed() > 0
    verbs.call(project.db, "backfill_pause", run=run, reason="why")
    assert renewed() == 0
