-- The calls of user code in bulk: many sessions in one transaction, each as if it had the transaction to itself.
--
-- A function means one session per transaction. What it leaves in the transaction would meet the next session:
-- settings, temporary tables, deferred constraints, whatever is unique per transaction. Settings and deferral are put
-- back after each call. A temporary table that stays ends the call. Everything else shows as a session that does not
-- come out well beside others. That says nothing about it, so it is rolled back, and the session is called again alone.

-- The settings that functions of this database set by name, in their source. A function's own clause `set` is not among
-- them: PostgreSQL puts those back.
create function backfill_private.loose_settings()
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- PostgreSQL's own bodies and ours go first: to search them takes most of the time.
  with theirs as materialized (
    select lower(p.prosrc) as text
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname not in ('pg_catalog', 'information_schema', 'backfill_private')
      and not (n.nspname = 'public' and starts_with(p.proname, 'backfill_'))
  ), sources as (
    select t.text from theirs as t where t.text ~ '\mset(_config)?\M'
  ), named as (
    select m[1] as name
    from sources as s
    cross join lateral regexp_matches(s.text, 'set_config\s*\(\s*''+([^'']+)''', 'g') as m
    union
    select m[1]
    from sources as s
    cross join lateral regexp_matches(
      s.text, '\mset\s+(?:local\s+|session\s+)?"?([a-z_][a-z0-9_.$]*)"?\s*(?:=|\mto\M)', 'g') as m
    union
    select 'role' from sources as s where s.text ~ '\mset\s+(local\s+|session\s+)?role\M'
    union
    select 'timezone' from sources as s where s.text ~ '\mset\s+(local\s+|session\s+)?time\s+zone\M'
  )
  select coalesce(array_agg(n.name order by n.name), '{}')
  from named as n
  where n.name like '%.%'
    or n.name = 'role'
    or exists (select from pg_settings as g where lower(g.name) = n.name and g.context in ('user', 'superuser'))
$$;

-- Those of some settings that this caller may set, with the values that they have now.
--
-- p_search_path  the path that user code runs under
create function backfill_private.settings_kept(p_names text[], p_search_path text)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text;
  v_kept jsonb := '{}'::jsonb;
begin
  foreach v_name in array p_names loop
    begin
      v_kept := v_kept || jsonb_build_object(
        v_name, set_config(v_name, coalesce(current_setting(v_name, true), ''), true));
    exception when others then
      null;  -- A caller who may not set it calls nothing that does.
    end;
  end loop;
  return v_kept || case when v_kept ? 'search_path' then jsonb_build_object('search_path', p_search_path)
    else '{}' end;
end
$$;

-- The statements that check deferred constraints now and then defer again what was deferred: the next session counts on
-- it. `set constraints` says `all` or names, so those that are checked at once are named.
create function backfill_private.checks_now()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select '["set constraints all immediate"]'::jsonb
    || case when count(*) > 0 then '["set constraints all deferred"]' else '[]' end::jsonb
    || coalesce(
      to_jsonb('set constraints '
        || string_agg(distinct format('%I.%I', n.nspname, c.conname), ', ') filter (where not c.condeferred)
        || ' immediate'),
      '[]')
  from pg_constraint as c
  join pg_namespace as n on n.oid = c.connamespace
  where c.condeferrable
    and has_schema_privilege(coalesce(nullif(current_setting('role'), 'none'), session_user), n.oid, 'usage')
$$;

-- The statements that score sessions one after the other, each in its turn. Each component names the statement that
-- makes its calls, and '' the one that makes all, each only if its row is missing. Components that share a call are
-- filled by that of the first whose row is missing. While a session has its turn, the setting backfill.bulk holds its
-- place in the plan, for the gate. After each call the settings are put back.
--
-- $1       the sessions, see backfill_private.bulk_take
-- $2       the settings, see backfill_private.settings_kept
-- $3       no turn begins from then on
-- selects  how many sessions had their turn
create function backfill_private.bulk_calls(p_run public.backfill_runs)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with parts as (
    select t.position, t.component,
      -- A call in the place of a value costs half of one in the place of a table, which a set needs.
      format(
        case when p.proretset then 'case when x -> ''todo'' ? %L%s then (select count(*) from %I.%I(%s)) end'
          else 'case when x -> ''todo'' ? %L%s then num_nulls(%I.%I(%s)) end' end,
        t.component,
        ' and not x -> ''todo'' ?| ' || quote_literal((
          select array_agg(before.component)
          from backfill_private.calls_of(p_run.target, p_run.request) as mine
          join backfill_private.calls_of(p_run.target, p_run.request) as before
            on before.call = mine.call and before.position < mine.position
          where mine.component = t.component)::text),
        n.nspname, p.proname, (
          select string_agg(format('%I => %s::%s', a.key,
              case a.value
                when 'session_id' then '(x ->> ''session_id'')'
                else quote_nullable(p_run.request ->> a.value) end,
              format_type(p.proargtypes[array_position(p.proargnames, a.key) - 1], null)), ', ')
          from jsonb_each_text(t.arguments) as a))
      || case when p_run.loose_settings <> '{}'
           then ', (select count(set_config(s.key, s.value, true)) from jsonb_each_text($2) as s)'
           else '' end as call
    from public.backfill_targets as t
    join backfill_private.scoring_functions(p_run.target) as f on f.component = t.component
    join pg_proc as p on p.oid = f.oid
    join pg_namespace as n on n.oid = p.pronamespace
    where t.target = p_run.target
  ), named as (
    select p.component as name, p.call from parts as p
    union all
    select '', string_agg(p.call, ', ' order by p.position) from parts as p
  )
  select jsonb_object_agg(n.name, format(
    'select count(*) from (
       select set_config(''backfill.bulk'', x ->> ''ordinal'', true), %s
       from jsonb_array_elements($1) as x
       where backfill_private.clock() < $3) as turn', n.call))
  from named as n
$$;

-- How many sessions the first call in bulk of a worker asks for: as many as the rehearsal would have scored while a
-- call may begin any. Ten if there was none. Whatever it asks for, a call ends in time.
create function backfill_private.first_in_bulk(p_run public.backfill_runs)
returns integer
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when r.p50_ms is null then 10
    else greatest(least(800 / greatest(r.p50_ms, 0.1), b.most), b.least)
  end::integer
  from backfill_private.bounds as b
  cross join (select (p_run.plan #>> '{rehearsal,took_ms,p50}')::numeric as p50_ms) as r
  where (b.what, b.kind) = ('a call in bulk', 'sessions')
$$;

-- Check deferred constraints now, as the end of a session's own transaction would.
create function backfill_private.bulk_check(p_batch jsonb, p_settings jsonb, p_search_path text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_check text;
begin
  perform set_config('search_path', p_search_path, true);
  for v_check in select jsonb_array_elements_text(p_batch -> 'checks') loop
    execute v_check;
  end loop;
  perform set_config(s.key, s.value, true) from jsonb_each_text(p_settings) as s;
end
$$;

-- Has this transaction made a temporary table, or anything else of the kind, that is still there?
create function backfill_private.leaves_behind()
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select pg_my_temp_schema() <> 0 and exists (
    select from pg_class as c
    where c.relnamespace = pg_my_temp_schema() and backfill_private.is_written_here(c.xmin))
$$;

-- Score one session of a call in bulk, in a subtransaction of its own.
--
-- p_batch      see backfill_private.bulk_begin
-- p_settings   see backfill_private.settings_kept
-- p_is_beside  another session was scored before in this transaction. Then only success counts
-- returns      its outcome, see backfill_private.decide_outcomes
create function backfill_private.bulk_one(
  p_batch jsonb, p_session jsonb, p_settings jsonb, p_search_path text, p_is_beside boolean
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step text;
  v_answered jsonb := '[]'::jsonb;
  v_written text[] := array[]::text[];
  v_code text;
begin
  perform set_config('search_path', p_search_path, true);
  foreach v_step in array array(select jsonb_array_elements_text(p_session -> 'todo')) loop
    execute p_batch -> 'calls' ->> v_step
    using jsonb_build_array(p_session), p_settings, 'infinity'::timestamptz;
    perform backfill_private.bulk_check(p_batch, p_settings, p_search_path);
    v_written := v_written || backfill_private.bulk_keep((p_batch ->> 'claim')::uuid, v_step);
    v_answered := v_answered || to_jsonb(v_step);
  end loop;
  perform set_config('backfill.bulk', '', true);
  if p_is_beside and not backfill_private.bulk_owed(jsonb_build_array(p_session), 1) <@ v_written then
    raise exception using message = 'a call answered without effect';
  end if;
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', 'answered', 'answered', v_answered);
exception when assert_failure or others then  -- others leaves assertions out
  if p_is_beside then
    return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', 'beside');
  end if;
  v_code := sqlstate;
  return jsonb_build_object('ordinal', p_session -> 'ordinal', 'outcome', backfill_private.bulk_outcome(v_code),
    'step', v_step, 'code', v_code, 'message', sqlerrm);
end
$$;

-- What the first sessions of a call in bulk lack: see backfill_private.bulk_keep.
create function backfill_private.bulk_owed(p_sessions jsonb, p_first integer)
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(concat_ws(' ', x.session ->> 'ordinal', c)), '{}')
  from jsonb_array_elements(p_sessions) with ordinality as x (session, place)
  cross join lateral jsonb_array_elements_text(x.session -> 'todo') as c
  where x.place <= p_first
$$;

-- Score sessions of a call in bulk all in one go.
--
-- p_is_beside  see backfill_private.bulk_one
-- p_until      no session starts from then on
-- returns      how many are well, the first ones. Null if something failed, had no effect or stays behind: then nothing
--              is left of it
create function backfill_private.bulk_some(
  p_batch jsonb, p_sessions jsonb, p_settings jsonb, p_search_path text, p_is_beside boolean, p_until timestamptz
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_begun integer;
begin
  perform set_config('search_path', p_search_path, true);
  execute p_batch -> 'calls' ->> '' into v_begun using p_sessions, p_settings, p_until;
  perform set_config('backfill.bulk', '', true);
  perform backfill_private.bulk_check(p_batch, p_settings, p_search_path);
  if exists (
    select unnest(backfill_private.bulk_owed(p_sessions, v_begun))
    except
    select unnest(backfill_private.bulk_keep((p_batch ->> 'claim')::uuid, null))
  ) then
    raise exception using message = 'a call answered without effect';
  elsif (p_is_beside or v_begun > 1) and backfill_private.leaves_behind() then
    raise exception using message = 'a call left a temporary table behind';
  end if;
  return v_begun;
exception when assert_failure or others then  -- others leaves assertions out
  return null;
end
$$;
