"""A team installs it into a project of its own, uses it, and removes it without a trace."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

import backfill
from backfill.local.gateway import gateway_in_thread
from backfill.local.keys import ApiKeys
from backfill.local.servers import PostgresServer, RestServer
from backfill.targets import install, migrations
from backfill.targets.declaration import PRISM, declared
from backfill.targets.migrations import builds_index_concurrently, statements
from tests.kit.catalog import snapshot
from tests.kit.seed import SEED


@pytest.fixture
def user_project(
    postgres_server: PostgresServer, sample_db: psycopg.Connection[Any]
) -> Iterator[tuple[str, str]]:
    """Somebody's project without ours: URL and service key."""
    jwt_secret = secrets.token_urlsafe(48)
    keys = ApiKeys.new(jwt_secret)
    rest = RestServer.start(postgres_server.authenticator_dsn(sample_db.info.dbname), jwt_secret)
    try:
        with gateway_in_thread(rest.url, keys) as gateway:
            yield gateway.url, keys.service_role
    finally:
        rest.stop()


def apply_files(db: psycopg.Connection[Any], folder: Path) -> None:
    """What psql or the Supabase CLI does with a folder of migrations."""
    for file in sorted(folder.glob("*.sql")):
        script = file.read_text()
        for statement in statements(script) if builds_index_concurrently(script) else [script]:
            db.execute(statement.encode())


def test_install_use_and_uninstall_leave_the_users_tables_as_they_were(
    user_project: tuple[str, str], sample_db: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """Install, apply the files, check, plan, approve by SQL, apply, verify, undo, uninstall."""
    before = snapshot(sample_db)
    (tmp_path / "config.toml").write_text('project_id = "somebody"\n')
    install.carry_out(install.plan_install(tmp_path, datetime.now(UTC), [declared(PRISM)]))
    apply_files(sample_db, tmp_path / "migrations")
    with backfill.connect(*user_project) as bf:
        _wait_until_installed(bf)
        assert [c for c in bf.check() if c.status == "fail"] == []
        plan = bf.plan(**{**SEED, "throttle_per_minute": 60_000})
        with pytest.raises(backfill.ApprovalNeeded, match="the service key does not decide"):
            bf.approve(plan.run_id, digest=plan.digest)
        sample_db.execute(plan.approval_sql_by("Ada").encode())
        assert bf.apply(plan.run_id).is_complete
        assert bf.verify(plan.run_id).verdict == "pass"
        bf.rollback(plan.run_id).confirm(reason="test")
    with sample_db.transaction():
        sample_db.execute(migrations.uninstall_file().read_bytes())
    assert snapshot(sample_db) == before


def _wait_until_installed(bf: backfill.Backfill) -> None:
    """PostgREST hears of new functions a moment after they are there."""
    for _ in range(400):
        if all(c.name != "migrations" or c.status == "ok" for c in bf.check()):
            return
    raise AssertionError("PostgREST never saw the migrations")
