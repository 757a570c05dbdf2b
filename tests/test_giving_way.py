"""What can be left out is, once others wait for the rows that it has locked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from backfill.local.servers import PostgresServer
from tests.kit import verbs
from tests.kit.at_once import more_connections
from tests.kit.clocks import DatabaseClock

Db = psycopg.Connection[Any]

DEFINITION = (
    "select pg_get_functiondef('public.score_fc_session(uuid, text, text)'::regprocedure) as sql"
)
# A scorer that is slow by the clock, and goes on once somebody waits for its table.
KEEPS_OTHERS_WAITING = """
grant select, update on public.test_clock to service_role;
create or replace function public.score_fc_session(session_id uuid, version text, basis text)
returns jsonb language plpgsql as $$
declare
  v_answer jsonb := public.score_fc_session_real($1, $2, $3);
begin
  perform pg_advisory_xact_lock(7);
  while not exists (
    select from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid))
  ) loop
    perform pg_sleep(0.005);
  end loop;
  update public.test_clock set now_at = now_at + interval '1 s';
  return v_answer;
end $$;
"""
WRITES = "select from pg_locks where locktype = 'advisory' and objid = 7 and granted"


def test_a_rehearsal_gives_way_to_who_waits_for_its_rows(
    project_db: Db, clock: DatabaseClock, postgres_server: PostgresServer
) -> None:
    """One pass is the least. The second and the undo are left, and their marks say so."""
    run_id = verbs.collected(project_db, rehearse=1)
    (session,) = verbs.call(project_db, "backfill_rehearsal", p_run_id=run_id)
    row = project_db.execute(DEFINITION).fetchone()
    assert row is not None
    project_db.execute(row["sql"].replace("score_fc_session", "score_fc_session_real").encode())
    project_db.execute(KEEPS_OTHERS_WAITING.encode())
    with more_connections(postgres_server.dsn(project_db.info.dbname), 1) as (other,):

        def writes_too() -> None:
            while not other.execute(WRITES).fetchall():
                pass
            other.execute("lock table public.fc_scores in share mode")

        with ThreadPoolExecutor(1) as pool, other.transaction():
            waiting = pool.submit(writes_too)
            seen = verbs.call(
                project_db, "backfill_rehearse", p_run_id=run_id, p_session_id=session
            )
            waiting.result()
    assert seen["error"] is None
    assert not {"second", "undone", "beside"} & seen.keys()
    verbs.call(project_db, "backfill_seal", p_run_id=run_id)
    marks = project_db.execute(
        "select c ->> 'name' as name, c ->> 'detail' as detail from public.backfill_runs as r,"
        " jsonb_array_elements(r.plan -> 'checks') as c where r.run_id = %s",
        (run_id,),
    ).fetchall()
    said = {mark["name"]: mark["detail"] for mark in marks}
    left = "the time limit came first, or somebody waited for the rows"
    assert said["rehearsal: second call"] == f"not measured: {left}"
    assert said["rehearsal: undo"] == f"not rehearsed: {left}"
