-- Bulk, inside: the sessions' calls, as the caller's role, in subtransactions.

-- What the failure of a session's calls means for it: see backfill_private.faults.
create function backfill_private.bulk_outcome(p_code text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select (backfill_private.fault(p_code)).bulk
$$;

-- Score one session of a call in bulk, in a subtransaction of its own.
--
-- p_batch  see backfill_private.bulk_begin
-- returns  its outcome, see backfill_private.decide_outcomes
create function backfill_private.bulk_one(p_run_id uuid, p_batch jsonb, p_session jsonb, p_search_path text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step text;
  v_answered jsonb := '[]'::jsonb;
  v_code text;
  v_kept text[];
begin
  perform set_config('search_path', p_search_path, true);
  foreach v_step in array array(select jsonb_array_elements_text(p_session -> 'todo')) loop
    execute p_batch -> 'calls' ->> v_step into v_kept using jsonb_build_array(p_session);
    set constraints all immediate;
    perform backfill_private.bulk_keep(p_run_id, (p_batch ->> 'claim')::uuid, jsonb_build_array(p_session), v_kept, v_step);
    v_answered := v_answered || to_jsonb(v_step);
  end loop;
  perform set_config('backfill.bulk', '', true);
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', 'answered', 'answered', v_answered);
exception when others then
  v_code := sqlstate;
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', backfill_private.bulk_outcome(v_code), 'step', v_step,
    'code', v_code, 'message', sqlerrm);
end
$$;

-- Score sessions of a call in bulk all in one go.
--
-- returns  whether all is well; where something failed, or had no effect, nothing is left of it
create function backfill_private.bulk_some(p_run_id uuid, p_batch jsonb, p_sessions jsonb, p_search_path text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_kept text[];
begin
  perform set_config('search_path', p_search_path, true);
  execute p_batch -> 'calls' ->> '' into v_kept using p_sessions;
  perform set_config('backfill.bulk', '', true);
  set constraints all immediate;
  if not backfill_private.bulk_keep(p_run_id, (p_batch ->> 'claim')::uuid, p_sessions, v_kept, null) then
    raise exception using message = 'a call answered without effect';
  end if;
  return true;
exception when others then
  return false;
end
$$;

revoke all on function
  backfill_private.bulk_outcome(text),
  backfill_private.bulk_one(uuid, jsonb, jsonb, text),
  backfill_private.bulk_some(uuid, jsonb, jsonb, text)
from public;
grant execute on function
  backfill_private.bulk_outcome(text), backfill_private.bulk_one(uuid, jsonb, jsonb, text),
  backfill_private.bulk_some(uuid, jsonb, jsonb, text)
to service_role;

-- Score a batch in bulk, fifty sessions in one go; where something of these fails, they are scored one after the other,
-- each in a subtransaction of its own, so that one failure is one failure, and the call ends with them: PostgreSQL keeps 64
-- subtransactions cheaply, and these are 59 at most.
--
-- p_sessions     at most so many, 500 at most
-- p_budget_ms    after which no further session is begun
-- p_search_path  left out, it is the caller's: a default is evaluated before this function's own path is set
-- returns        {look: true} where a claim has to look first; else {sessions, done, failed, pending, took_ms}
create function public.backfill_bulk(
  p_run_id uuid, p_worker text, p_sessions integer, p_budget_ms integer default 4000,
  p_search_path text default current_setting('search_path')
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_began timestamptz := backfill_private.clock();
  v_batch jsonb := backfill_private.bulk_begin(p_run_id, p_sessions);
  v_part jsonb;
  v_is_well boolean;
  v_answered integer[] := array[]::integer[];
  v_outcomes jsonb := '[]'::jsonb;
begin
  if v_batch ? 'look' then
    return v_batch;
  end if;
  perform set_config('request.headers', (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb
    || jsonb_build_object('x-backfill-run', p_run_id))::text, true);
  for v_part in
    select jsonb_agg(s.session order by s.place) from jsonb_array_elements(v_batch -> 'sessions') with ordinality as s (session, place)
    group by (s.place - 1) / 50 order by min(s.place)
  loop
    exit when extract(epoch from backfill_private.clock() - v_began) * 1000 >= p_budget_ms;
    v_is_well := backfill_private.bulk_some(p_run_id, v_batch, v_part, p_search_path);
    exit when not v_is_well;
    v_answered := v_answered || array(select (s ->> 'ordinal')::integer from jsonb_array_elements(v_part) as s);
  end loop;
  if not v_is_well then
    for v_part in select s from jsonb_array_elements(v_part) as s loop
      exit when extract(epoch from backfill_private.clock() - v_began) * 1000 >= p_budget_ms;
      v_outcomes := v_outcomes || backfill_private.bulk_one(p_run_id, v_batch, v_part, p_search_path);
    end loop;
  end if;
  return backfill_private.bulk_settle(p_run_id, (v_batch ->> 'claim')::uuid, p_worker, v_answered, v_outcomes, v_began)
    || jsonb_build_object('sessions', cardinality(v_answered) + jsonb_array_length(v_outcomes),
      'took_ms', round(extract(epoch from backfill_private.clock() - v_began) * 1000, 1));
end
$$;

revoke all on function public.backfill_bulk(uuid, text, integer, integer, text)
from public, anon, authenticated, service_role;
grant execute on function public.backfill_bulk(uuid, text, integer, integer, text) to service_role;

comment on function public.backfill_bulk(uuid, text, integer, integer, text) is
  'Claim, score and settle a batch of a run in bulk, in one transaction. For the client.';
