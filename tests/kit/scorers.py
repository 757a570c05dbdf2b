"""Scoring functions that misbehave, put in the place of the sample's."""

from __future__ import annotations

from typing import Any

import psycopg

# The real scorer is copied aside. The new one asks a table what to do with each session.
MISBEHAVING = b"""
create table public.misbehaviour (session_id uuid primary key, how text not null);
grant select on public.misbehaviour to service_role;
create or replace function public.score_fc_session(session_id uuid, version text, basis text)
returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_how text := (select m.how from public.misbehaviour as m where m.session_id = $1);
begin
  if v_how = 'fail' then
    raise exception 'no score for this one' using errcode = 'P0001';
  elsif v_how = 'nothing' then
    return jsonb_build_object('status', 'no fc responses');
  elsif v_how = 'right' then
    raise exception 'permission denied for table fc_scores' using errcode = '42501';
  elsif v_how = 'tenant' then
    execute format('select from %I.visits', 'tenant_new');
  elsif v_how = 'quota' then
    raise sqlstate 'PT429' using message = 'over its quota';
  elsif v_how = 'slow' then
    perform pg_sleep(60);
  elsif v_how = 'foreign' then
    update public.fc_scores set created_at = now() where fc_scores.session_id <> $1;
  end if;
  return public.score_fc_session_real($1, $2, $3);
end
$$;
revoke all on function public.score_fc_session(uuid, text, text) from public;
grant execute on function public.score_fc_session(uuid, text, text) to service_role;
"""


def misbehave(db: psycopg.Connection[Any], how: dict[str, list[str]]) -> None:
    """Install the new scorer. how: what it does, see MISBEHAVING: [session id]."""
    row = db.execute(
        "select pg_get_functiondef('public.score_fc_session(uuid,text,text)'::regprocedure) as text"
    ).fetchone()
    assert row is not None
    db.execute(row["text"].replace("score_fc_session", "score_fc_session_real").encode())
    db.execute(MISBEHAVING)
    for kind, sessions in how.items():
        for session_id in sessions:
            db.execute("insert into public.misbehaviour values (%s, %s)", (session_id, kind))
