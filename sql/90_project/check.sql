-- Check: is this project ready? One line per check: what was checked, how it stands, what to do about it.
--
-- A missing object raises no error here: names are looked up in the catalog, never used.

-- Our tables and views.
create function backfill_private.our_relations()
returns table (oid regclass, kind "char", is_public boolean, has_rls boolean)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select c.oid::regclass, c.relkind, n.nspname = 'public', c.relrowsecurity
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'v')
    and (n.nspname = 'backfill_private' or n.nspname = 'public' and c.relname like 'backfill\_%')
$$;

-- The statements that give a role exactly the rights on a table of ours that the migrations give it: revoked and
-- granted in one step, since a right on the whole table goes with those on its columns.
create function backfill_private.rights_cure(p_table regclass, p_role text, p_reads boolean)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(' ',
    format('revoke all on %s from public, %I;', p_table, p_role),
    case when p_reads then format('grant select%s on %s to %I;', hidden.others, p_table, p_role) end,
    case
      when p_reads and p_table = to_regclass('public.backfill_approvals')
      then format('grant insert (run_id, digest, decision, approver, note) on %s to %I;', p_table, p_role)
    end)
  from (
    select case
      when bool_or(a.attname in ('before', 'after_columns', 'fence_hash'))
      then format(' (%s)', string_agg(quote_ident(a.attname), ', ' order by a.attnum)
        filter (where a.attname not in ('before', 'after_columns', 'fence_hash')))
      else ''
    end as others
    from pg_attribute as a
    where a.attrelid = p_table
      and a.attnum > 0
      and not a.attisdropped
  ) as hidden
$$;

-- Rights that an API role has on our tables and should not have, or lacks and should have.
create function backfill_private.relation_faults()
returns table (fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with reach as (
    select
      o.*,
      r.role,
      has_any_column_privilege(r.role, o.oid, 'select') as reads,
      r.role <> 'anon' and o.is_public and (r.role = 'service_role' or o.kind = 'r' or o.oid in (
        to_regclass('public.backfill_run_progress'),
        to_regclass('public.backfill_run_failures'),
        to_regclass('public.backfill_transitions'))) as should_read,
      has_table_privilege(r.role, o.oid, 'insert, update, delete, truncate, trigger')
        or has_any_column_privilege(r.role, o.oid, 'update')
        or has_any_column_privilege(r.role, o.oid, 'insert')
          and o.oid <> to_regclass('public.backfill_approvals') as writes,
      o.oid = to_regclass('backfill_private.faults') and r.role = 'service_role' as reads_faults
    from backfill_private.our_relations() as o
    cross join unnest(array['anon', 'authenticated', 'service_role']) as r (role)
  )
  select f.fault, backfill_private.rights_cure(r.oid, r.role, r.should_read or r.reads_faults)
  from reach as r
  cross join lateral (
    select format('%s may %s %s', r.role, case when r.writes then 'write' else 'read' end, r.oid)
    where r.writes
      or r.reads and r.role = 'anon'
    union all
    select format('%s may not read %s', r.role, r.oid)
    where not r.reads
      and r.should_read
    union all
    select format('%s may read %s.%s', r.role, r.oid, a.attname)
    from pg_attribute as a
    where a.attrelid = r.oid
      and a.attname in ('before', 'after_columns', 'fence_hash')
      and has_column_privilege(r.role, r.oid, a.attnum, 'select')
    union all
    select format('%s may not hand in decisions', r.role)
    from pg_attribute as a
    where a.attrelid = r.oid
      and a.attname = 'decision'
      and r.oid = to_regclass('public.backfill_approvals')
      and r.role <> 'anon'
      and not has_column_privilege(r.role, r.oid, a.attnum, 'insert')
  ) as f (fault)
$$;

-- Functions of ours that an API role may call and should not, or may not call and should. A door is a function in
-- public. A role that may call a door must be able to call the functions that the door names. The doors of drivers are
-- the owner's alone.
create function backfill_private.function_faults()
returns table (fault text, cure text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with ours as (
    select
      p.oid::regprocedure as signature,
      p.proname,
      p.prosrc,
      p.pronamespace = 'public'::regnamespace as is_door,
      p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\_drive%' as is_owners
    from pg_proc as p
    where p.pronamespace = 'backfill_private'::regnamespace
      or p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\_%'
  ), named as (
    select o.signature as door, n.found[1] as name
    from ours as o
    cross join lateral regexp_matches(o.prosrc, 'backfill_private\.(\w+)\(', 'g') as n (found)
    where o.is_door
  )
  select
    format('anon may call %s', o.signature),
    format('revoke all on routine %s from public, anon;', o.signature)
  from ours as o
  where has_function_privilege('anon', o.signature, 'execute')
  union all
  select
    format('service_role may not call %s', o.signature),
    format('grant execute on function %s to service_role;', o.signature)
  from ours as o
  where o.is_door
    and not o.is_owners
    and not has_function_privilege('service_role', o.signature, 'execute')
  union all
  select
    format('%s may call %s', r.role, o.signature),
    format('revoke all on routine %s from public, %I;', o.signature, r.role)
  from ours as o
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where o.is_owners
    and has_function_privilege(r.role, o.signature, 'execute')
  union all
  select distinct
    format('%s may not call %s', r.role, o.signature),
    format('grant execute on function %s to %I;', o.signature, r.role)
  from named as n
  join ours as o
    on o.proname = n.name
    and not o.is_door
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where has_function_privilege(r.role, n.door, 'execute')
    and not has_function_privilege(r.role, o.signature, 'execute')
  union all
  select
    format('anon may use the schema %s', n.nspname),
    format('revoke all on schema %I from public, anon;', n.nspname)
  from pg_namespace as n
  where n.nspname = 'backfill_private'
    and has_schema_privilege('anon', n.oid, 'usage')
  union all
  select
    format('%s may not use the schema %s', r.role, n.nspname),
    format('grant usage on schema %I to %I;', n.nspname, r.role)
  from pg_namespace as n
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where n.nspname = 'backfill_private'
    and not has_schema_privilege(r.role, n.oid, 'usage')
$$;

-- Lines on our own tables and functions: row level security, guards, rights.
create function backfill_private.our_lines()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    f.name,
    case when count(f.fault) = 0 then 'ok' else 'fail' end,
    coalesce(string_agg(f.fault, '; ' order by f.fault), f.well),
    string_agg(distinct f.cure, ' ' order by f.cure))
  from (
    select 1 as place, 'row level security of our tables' as name, 'on for every table' as well, o.fault, o.cure
    from (values (true)) as always
    left join lateral (
      select
        format('off for %s', t.oid) as fault,
        format('alter table %s enable row level security;', t.oid) as cure
      from backfill_private.our_relations() as t
      where t.kind = 'r'
        and not t.has_rls
    ) as o on true
    union all
    select 2, 'guards of our tables', 'every trigger is enabled', o.fault, o.cure
    from (values (true)) as always
    left join lateral (
      select
        format('%s of %s is disabled', g.tgname, t.oid) as fault,
        format('alter table %s enable trigger %I;', t.oid, g.tgname) as cure
      from backfill_private.our_relations() as t
      join pg_trigger as g on g.tgrelid = t.oid
      where not g.tgisinternal
        and g.tgenabled not in ('O', 'A')
    ) as o on true
    union all
    select 3, 'rights on our tables', 'as the migrations grant them', o.fault, o.cure
    from (values (true)) as always
    left join backfill_private.relation_faults() as o on true
    union all
    select 4, 'rights on our functions', 'as the migrations grant them', o.fault, o.cure
    from (values (true)) as always
    left join backfill_private.function_faults() as o on true
  ) as f
  group by f.place, f.name, f.well
  order by f.place
$$;

-- Lines on the settings, even if their one row is missing.
create function backfill_private.setting_lines()
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.environment_mark()
  union all
  select backfill_private.approval_policy_mark()
  union all
  select backfill_private.line('limits', 'ok',
    format('%s per minute, %s per plan, approvals valid %s',
      coalesce('at most ' || backfill_private.counted(s.max_throttle_per_minute, 'session start'),
        'any number of session starts'),
      coalesce('at most ' || backfill_private.counted(s.max_sessions, 'session'), 'any number of sessions'),
      s.approval_ttl),
    '')
  from public.backfill_settings as s
  union all
  select backfill_private.line('settings', 'fail',
    'their row is gone',
    'insert into public.backfill_settings default values;')
  where not exists (select from public.backfill_settings)
$$;

-- All checks, in the order in which a person fixes things.
--
-- p_probed  how the API answered about the calls, see backfill_private.function_marks
-- returns   [{name, status: ok | warn | fail, detail, next}]
-- raises    OB010 the caller may not read
create function backfill_private.check_project(p_probed jsonb)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set intervalstyle = 'postgres'
set quote_all_identifiers = off
as $$
declare
  v_target text;
  v_known text := (select string_agg(distinct target, ', ' order by target) from public.backfill_targets);
  v_held backfill_private.precondition[];
  v_lines jsonb;
begin
  perform backfill_private.authorize('read');
  perform backfill_private.check_bounds(jsonb_build_object('the answers of the API', p_probed));
  v_lines := jsonb_build_array(backfill_private.line('targets',
    case when v_known is null then 'fail' else 'ok' end,
    coalesce(v_known, 'no target is installed'),
    backfill_private.first_target()))
    || (select coalesce(jsonb_agg(line), '[]') from backfill_private.api_line() as line);
  for v_target in select distinct t.target from public.backfill_targets as t order by t.target loop
    v_held := array(select p from backfill_private.preconditions(v_target) as p);
    v_lines := v_lines || (
      select coalesce(jsonb_agg(l.line order by l.part, l.place), '[]') from (
        -- What is said of a table that components share is said once.
        select distinct on (a.line) a.* from (
          select 1 as part, row_number() over () as place, line from backfill_private.table_lines(v_target) as line
          union all select 2, row_number() over (), line from backfill_private.source_lines(v_target, v_held) as line
          union all select 3, row_number() over (), line from backfill_private.key_lines(v_target, v_held) as line
          union all select 4, row_number() over (), line from backfill_private.table_marks(v_target) as line
          union all
          select 4, row_number() over () + 1000, line from backfill_private.image_marks(v_target, null) as line
          union all select 5, row_number() over (), line from backfill_private.rights_lines(v_target) as line
          union all
          select 6, row_number() over (), line from backfill_private.function_marks(v_target, p_probed) as line
          union all select 7, row_number() over (), line from backfill_private.helper_lines(v_target) as line
          union all select 8, row_number() over (), line from backfill_private.need_lines(v_target, v_held) as line
          union all select 9, row_number() over (), line from backfill_private.detection_index_line(v_target) as line
        ) as a
        order by a.line, a.part, a.place
      ) as l);
  end loop;
  return v_lines
    || (select jsonb_agg(line) from backfill_private.our_lines() as line)
    || (select jsonb_agg(line) from backfill_private.setting_lines() as line);
end
$$;
