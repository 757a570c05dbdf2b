-- Check: is this project ready. A line a thing: what was looked at, how it stands, what a person does about it.
--
-- Nothing here fails over what is missing: names are looked up in the catalog, never used.

-- One line: a mark, and what to do next where it is not ok.
create function backfill_private.line(p_name text, p_status text, p_detail text, p_next text)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select backfill_private.mark(p_name, p_status, p_detail)
    || jsonb_build_object('next', case when p_status = 'ok' then '' else coalesce(p_next, '') end)
$$;

-- A statement about an index that lets writers go on. Put together here, so that no tool takes a file that only
-- speaks of such a statement for one that cannot run in a transaction.
create function backfill_private.beside_writers(p_command text, p_rest text)
returns text
language sql
immutable
set search_path = ''
as $$
  select concat_ws(' ', p_command, 'concurrently', p_rest) || ';'
$$;

-- Every column that a target's rows name, with the statement that corrects the name. Place 0 is the source.
create function backfill_private.wanted_columns(p_target text)
returns table (place integer, table_name text, column_name text, correct text)
language sql
stable
set search_path = ''
as $$
  select 0, s.source_table, c.name,
    format('update backfill_private.sources set %I = ''…'' where target = %L;', c.field, s.target)
  from backfill_private.sources as s
  cross join lateral (values (s.key_column, 'key_column'), (s.date_column, 'date_column')) as c (name, field)
  where s.target = p_target
  union all
  select t.position, t.table_name, c.name,
    format('update public.backfill_targets set %I = ''…'' where target = %L and component = %L;',
      c.field, t.target, t.component)
  from public.backfill_targets as t
  cross join lateral (
    select t.session_column, 'session_column'
    union all select t.version_column, 'version_column'
    union all select k, 'key_columns' from unnest(t.key_columns) as k
    union all select m, 'matches' from jsonb_object_keys(t.matches) as m
    union all select r, 'score_ranges' from jsonb_object_keys(t.score_ranges) as r
  ) as c (name, field)
  where t.target = p_target
$$;

-- Lines on the tables: is each there, with the columns that the target's rows name?
create function backfill_private.table_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line('table ' || w.table_name,
    case when to_regclass(w.table_name) is null or w.gone is not null then 'fail' else 'ok' end,
    case when to_regclass(w.table_name) is null then w.table_name || ' does not exist'
      else coalesce('has no column ' || w.gone, w.present) end,
    case
      when to_regclass(w.table_name) is not null then w.correct
      when w.place = 0 then
        format('update backfill_private.sources set source_table = ''…'' where target = %L;', p_target)
      else format('update public.backfill_targets set table_name = ''…'' where target = %L and position = %s;',
        p_target, w.place) end)
  from (
    select n.place, n.table_name,
      string_agg(distinct n.column_name, ', ') filter (where n.type is null) as gone,
      string_agg(distinct n.column_name || ' ' || n.type, ', ') as present,
      string_agg(distinct n.correct, ' ') filter (where n.type is null) as correct
    from (
      select c.*, backfill_private.column_type(c.table_name, c.column_name) as type
      from backfill_private.wanted_columns(p_target) as c
    ) as n
    group by n.place, n.table_name
  ) as w
  order by w.place
$$;

-- Does a unique index say that no two rows share these columns? A partial one or one over expressions does not.
create function backfill_private.is_unique(p_table regclass, p_columns text[])
returns boolean
language sql
stable
set search_path = ''
as $$
  select exists (
    select from pg_index as x
    where x.indrelid = p_table and x.indisunique and x.indisvalid and x.indpred is null and x.indexprs is null
      and (
        select array_agg(a.attname::text) from pg_attribute as a
        where a.attrelid = x.indrelid and a.attnum = any ((x.indkey::smallint[])[0:x.indnkeyatts - 1])
      ) <@ p_columns)
$$;

-- Does a whole, valid index begin with this column?
create function backfill_private.leads_an_index(p_table regclass, p_column text)
returns boolean
language sql
stable
set search_path = ''
as $$
  select exists (
    select from pg_index as x
    join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
    where x.indrelid = p_table and a.attname = p_column and x.indisvalid and x.indpred is null)
$$;

-- The line on an index that begins with a column; without it all works, slower. No line where the column is missing.
create function backfill_private.index_line(p_table text, p_column text)
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line(format('index on %s (%s)', p_table, p_column),
    case when i.leads then 'ok' else 'warn' end,
    case when i.leads then 'there' else format('no index begins with %s: all works, slower', p_column) end,
    backfill_private.beside_writers('create index', format('on %s (%I)', to_regclass(p_table), p_column)))
  from (select backfill_private.leads_an_index(to_regclass(p_table), p_column) as leads) as i
  where backfill_private.column_type(p_table, p_column) is not null
$$;

-- Lines on the keys of the tables that are there: unique, of one type, indexed by session.
create function backfill_private.key_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  with keys as (
    select 0 as place, s.source_table as name, array[s.key_column] as columns, s.key_column as session_column
    from backfill_private.sources as s where s.target = p_target
    union all
    select t.position, t.table_name, t.key_columns, t.session_column
    from public.backfill_targets as t where t.target = p_target
  ), typed as (
    select k.*, to_regclass(k.name) as oid, backfill_private.column_type(k.name, k.session_column) as type,
      first_value(k.name || '.' || k.session_column) over (order by k.place) as source_key,
      first_value(backfill_private.column_type(k.name, k.session_column)) over (order by k.place) as source_type
    from keys as k
  )
  select l.line from (
    select k.place, 1 as rank, backfill_private.line('key of ' || k.name,
      case when backfill_private.is_unique(k.oid, k.columns) then 'ok' else 'fail' end,
      array_to_string(k.columns, ', ')
        || case when backfill_private.is_unique(k.oid, k.columns) then ' is unique' else ': no unique index covers it' end,
      backfill_private.beside_writers('create unique index', format('on %s (%s)', k.oid,
        (select string_agg(quote_ident(c), ', ') from unnest(k.columns) as c)))) as line
    from typed as k where k.oid is not null
    union all
    select k.place, 2, backfill_private.line('session of ' || k.name,
      case when k.type = k.source_type then 'ok' else 'fail' end,
      format('%s is %s, %s is %s', k.session_column, k.type, k.source_key, k.source_type),
      format('alter table %s alter column %I type %s using %2$I::%3$s;', k.oid, k.session_column, k.source_type))
    from typed as k where k.place > 0 and k.type is not null and k.source_type is not null
    union all
    select k.place, 3, i.line
    from typed as k cross join lateral backfill_private.index_line(k.name, k.session_column) as i (line)
    where k.place > 0
  ) as l
  order by l.place, l.rank
$$;

-- Lines on the source beyond its columns: what kind of time its dates are, and the objects that detect.
create function backfill_private.source_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line('dates of ' || s.source_table,
    case when d.type = 'timestamp with time zone' then 'ok' when d.type ~ '^(date|timestamp)' then 'warn' else 'fail' end,
    format('%s is %s', s.date_column, d.type)
      || case when d.type = 'timestamp with time zone' then ''
           when d.type ~ '^(date|timestamp)' then ': read in the time zone of the session, UTC unless somebody changed it'
           else ': no time' end,
    format('alter table %s alter column %I type timestamptz using %2$I at time zone ''UTC'';',
      to_regclass(s.source_table), s.date_column))
  from backfill_private.sources as s
  cross join lateral (select backfill_private.column_type(s.source_table, s.date_column) as type) as d
  where s.target = p_target and d.type is not null
  union all
  select backfill_private.line('detection of ' || s.target,
    case when o.gone is null then 'ok' else 'fail' end,
    coalesce(o.gone || ' does not exist', o.present),
    format('create it again as the migration of target %s has it: %s', s.target, o.gone))
  from backfill_private.sources as s
  cross join lateral (
    select string_agg(n.name, ', ') filter (where not n.is_there) as gone, string_agg(n.name, ', ') as present
    from (values
      (s.gaps_view, to_regclass(s.gaps_view) is not null),
      (s.quality_function || '(uuid)', to_regprocedure(s.quality_function || '(uuid)') is not null),
      (s.check_function || '()', to_regprocedure(s.check_function || '()') is not null)
    ) as n (name, is_there)
    where n.name is not null
  ) as o
  where s.target = p_target
$$;

-- What puts the receipt triggers of a component's table and its partitions in place, enabled for good. A partition
-- needs the guard against truncate alone: its trigger of rows hangs on that of the table.
create function backfill_private.trigger_cure(p_target public.backfill_targets)
returns text
language sql
stable
set search_path = ''
as $$
  select string_agg(case when to_regclass(u.name) = to_regclass(p_target.table_name) then format(
$sql$create or replace trigger backfill_receipt after insert or update or delete on %1$s for each row
  when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-run%%')
  execute function backfill_private.keep_receipt(%2$L, %3$L);
$sql$, to_regclass(u.name), p_target.target, p_target.component) else '' end || format(
$sql$create or replace trigger backfill_no_truncate before truncate on %1$s for each statement
  when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-run%%')
  execute function backfill_private.refuse_truncate();
alter table %1$s enable always trigger backfill_receipt, enable always trigger backfill_no_truncate;
$sql$, to_regclass(u.name)), '' order by u.place)
  from backfill_private.unguarded(p_target.table_name) with ordinality as u (name, place)
$$;

-- The marks on the tables that are there, each with what to do about it.
create function backfill_private.table_mark_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select m.mark || jsonb_build_object('next', case when m.mark ->> 'status' = 'ok' then '' else cure.next end)
  from backfill_private.table_marks(p_target) with ordinality as m (mark, place)
  cross join lateral (
    select n.next
    from public.backfill_targets as t
    cross join lateral (values
      ('service_role writes ' || t.table_name,
        format('grant select, insert, update, delete on %s to service_role;', to_regclass(t.table_name))),
      ('row level security of ' || t.table_name, case when m.mark ->> 'status' = 'warn'
        then format('alter table %s enable row level security;', to_regclass(t.table_name))
        else 'alter role service_role bypassrls;' end),
      ('receipts of ' || t.table_name, backfill_private.trigger_cure(t))
    ) as n (name, next)
    where t.target = p_target and to_regclass(t.table_name) is not null and n.name = m.mark ->> 'name'
    limit 1
  ) as cure
  order by m.place
$$;

-- Lines on what the marks leave out: who reads, and whether an undo could write.
create function backfill_private.rights_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line('rights on ' || n.name,
    case when r.missing is null then 'ok' else 'fail' end,
    coalesce(r.missing, format('service_role reads, %s %s', current_user, n.verbs)),
    r.cure)
  from (
    select 0 as place, s.source_table as name, 'reads' as verbs, array['select'] as privileges
    from backfill_private.sources as s where s.target = p_target
    union all
    select t.position, t.table_name, 'undoes', array['select', 'insert', 'update', 'delete']
    from public.backfill_targets as t where t.target = p_target
  ) as n
  cross join lateral (
    select string_agg(format('%s has not %s', w.role, w.privilege), '; ') as missing,
      string_agg(format('grant %s on %s to %I;', w.privilege, to_regclass(n.name), w.role), ' ') as cure
    from (
      select 'service_role' as role, 'select' as privilege
      union all select current_user, unnest(n.privileges)
    ) as w
    where not has_table_privilege(w.role, to_regclass(n.name), w.privilege)
  ) as r
  where to_regclass(n.name) is not null
  order by n.place
$$;

-- The marks on the scoring functions, each with what to do about it, and a line on the helpers where there are any.
create function backfill_private.function_lines(p_target text)
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select m.mark || jsonb_build_object('next', case when m.mark ->> 'status' = 'ok' then '' else (
    select case
        when p.signature is null then format('create it, or: update public.backfill_targets set function_signature = ''…'''
          ' where target = %L and component = %L;', t.target, t.component)
        when has_function_privilege('service_role', p.signature, 'execute') then
          format('name its arguments: update public.backfill_targets set arguments = ''{"argument": "parameter", …}'''
          ' where target = %L and component = %L;', t.target, t.component)
        else format('grant execute on function %s to service_role;', p.signature) end
    from public.backfill_targets as t, to_regprocedure(t.function_signature) as p (signature)
    where t.target = p_target
      and 'function ' || backfill_private.bare_name(split_part(t.function_signature, '(', 1)) = m.mark ->> 'name'
    limit 1) end)
  from backfill_private.function_marks(p_target) as m (mark)
  union all
  select backfill_private.line('helpers of ' || t.component,
    case when h.gone is null then 'ok' else 'fail' end,
    coalesce(h.gone || ' does not exist', h.present),
    format('create it, or: update public.backfill_targets set helpers = ''{…}'' where target = %L and component = %L;',
      t.target, t.component))
  from public.backfill_targets as t
  cross join lateral (
    select string_agg(n, ', ') filter (where to_regprocedure(n) is null) as gone, string_agg(n, ', ') as present
    from unnest(t.helpers) as n
  ) as h
  where t.target = p_target and cardinality(t.helpers) > 0
$$;

-- The lines of a target's own check function; none where it has none.
create function backfill_private.own_lines(p_target text)
returns setof jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  v_check regprocedure := (
    select to_regprocedure(s.check_function || '()') from backfill_private.sources as s where s.target = p_target);
begin
  if v_check is not null then
    return query execute format('select l from %s() as l', v_check::regproc);
  end if;
end
$$;

-- Everything of ours that is a table or a view.
create function backfill_private.our_relations()
returns table (oid regclass, kind "char", is_public boolean, has_rls boolean)
language sql
stable
set search_path = ''
as $$
  select c.oid::regclass, c.relkind, n.nspname = 'public', c.relrowsecurity
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'v')
    and (n.nspname = 'backfill_private' or n.nspname = 'public' and c.relname like 'backfill\_%')
$$;

-- What an API role may do with a table of ours and should not, or should and may not.
create function backfill_private.relation_faults()
returns table (fault text, cure text)
language sql
stable
set search_path = ''
as $$
  with reach as (
    select o.*, r.role, has_any_column_privilege(r.role, o.oid, 'select') as reads,
      has_table_privilege(r.role, o.oid, 'insert, update, delete, truncate, trigger')
        or has_any_column_privilege(r.role, o.oid, 'update')
        or has_any_column_privilege(r.role, o.oid, 'insert') and o.oid <> to_regclass('public.backfill_approvals') as writes
    from backfill_private.our_relations() as o
    cross join unnest(array['anon', 'authenticated', 'service_role']) as r (role)
  )
  select format('%s may %s %s', r.role, case when r.writes then 'write' else 'read' end, r.oid),
    format('revoke %s on %s from public, %I;',
      case when r.role = 'anon' then 'all' else 'insert, update, delete, truncate, trigger' end, r.oid, r.role)
  from reach as r
  where r.writes or r.reads and r.role = 'anon'
  union all
  select format('%s may not read %s', r.role, r.oid), format('grant select%s on %s to %I;',
    (select ' (' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) || ')' from pg_attribute as a
     where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped and a.attname not in ('before', 'fence_hash')),
    r.oid, r.role)
  from reach as r
  where not r.reads and r.is_public and (r.role = 'service_role' or r.role = 'authenticated' and r.kind = 'r')
  union all
  select format('%s may read %s.%s', r.role, r.oid, a.attname),
    format('revoke select on %s from public, %I;', r.oid, r.role)
  from reach as r
  join pg_attribute as a on a.attrelid = r.oid and a.attname in ('before', 'fence_hash')
  where has_column_privilege(r.role, r.oid, a.attnum, 'select')
  union all
  select format('%s may not hand in decisions', r.role),
    format('grant insert (run_id, digest, decision, approver, note) on public.backfill_approvals to %I;', r.role)
  from reach as r
  join pg_attribute as a on a.attrelid = r.oid and a.attname = 'decision'
  where r.oid = to_regclass('public.backfill_approvals') and r.role <> 'anon'
    and not has_column_privilege(r.role, r.oid, a.attnum, 'insert')
$$;

-- What an API role may call of ours and should not, or should and may not. A door is a function in public; who may
-- call a door has to be able to call what it names.
create function backfill_private.function_faults()
returns table (fault text, cure text)
language sql
stable
set search_path = ''
as $$
  with ours as (
    select p.oid::regprocedure as signature, p.proname, p.prosrc, p.pronamespace = 'public'::regnamespace as is_door
    from pg_proc as p
    where p.pronamespace = 'backfill_private'::regnamespace
      or p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\_%'
  )
  select format('anon may call %s', o.signature),
    format('revoke all on function %s from public, anon;', o.signature)
  from ours as o
  where has_function_privilege('anon', o.signature, 'execute')
  union all
  select format('service_role may not call %s', o.signature),
    format('grant execute on function %s to service_role;', o.signature)
  from ours as o
  where o.is_door and not has_function_privilege('service_role', o.signature, 'execute')
  union all
  select distinct format('%s may not call %s', r.role, o.signature),
    format('grant execute on function %s to %I;', o.signature, r.role)
  from ours as door
  join ours as o on door.is_door and not o.is_door
    and strpos(door.prosrc, format('backfill_private.%I(', o.proname)) > 0
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where has_function_privilege(r.role, door.signature, 'execute')
    and not has_function_privilege(r.role, o.signature, 'execute')
  union all
  select format('anon may use the schema %s', n.nspname), format('revoke all on schema %I from public, anon;', n.nspname)
  from pg_namespace as n
  where n.nspname = 'backfill_private' and has_schema_privilege('anon', n.oid, 'usage')
  union all
  select format('%s may not use the schema %s', r.role, n.nspname), format('grant usage on schema %I to %I;', n.nspname, r.role)
  from pg_namespace as n
  cross join unnest(array['authenticated', 'service_role']) as r (role)
  where n.nspname = 'backfill_private' and not has_schema_privilege(r.role, n.oid, 'usage')
$$;

-- Lines on our own tables and functions: row level security, guards, rights.
create function backfill_private.our_lines()
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line(f.name, case when count(f.fault) = 0 then 'ok' else 'fail' end,
    coalesce(string_agg(f.fault, '; ' order by f.fault), f.well), string_agg(f.cure, ' ' order by f.fault))
  from (
    select 1 as place, 'row level security of our tables' as name, 'on for every table' as well, o.fault, o.cure
    from (values (true)) as always
    left join lateral (
      select format('off for %s', t.oid) as fault, format('alter table %s enable row level security;', t.oid) as cure
      from backfill_private.our_relations() as t where t.kind = 'r' and not t.has_rls
    ) as o on true
    union all
    select 2, 'guards of our tables', 'every trigger is enabled', o.fault, o.cure
    from (values (true)) as always
    left join lateral (
      select format('%s of %s is disabled', g.tgname, t.oid) as fault,
        format('alter table %s enable trigger %I;', t.oid, g.tgname) as cure
      from backfill_private.our_relations() as t
      join pg_trigger as g on g.tgrelid = t.oid
      where not g.tgisinternal and g.tgenabled not in ('O', 'A')
    ) as o on true
    union all
    select 3, 'rights on our tables', 'as the migrations grant them', o.fault, o.cure
    from (values (true)) as always left join backfill_private.relation_faults() as o on true
    union all
    select 4, 'rights on our functions', 'as the migrations grant them', o.fault, o.cure
    from (values (true)) as always left join backfill_private.function_faults() as o on true
  ) as f
  group by f.place, f.name, f.well
  order by f.place
$$;

-- Lines on the settings, whether their one row is there or not.
create function backfill_private.setting_lines()
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select l.line
  from (values (true)) as always
  left join public.backfill_settings as s on true
  cross join lateral (values
    (1, backfill_private.line('environment', case when s.environment is null then 'warn' else 'ok' end,
      coalesce('this project is ' || s.environment, 'not set: a plan for another environment is not noticed'),
      'update public.backfill_settings set environment = ''staging'' where only_row;')),
    (2, backfill_private.line('approval policy', case when s.approval_policy = 'any' then 'warn' else 'ok' end,
      s.approval_policy || case when s.approval_policy = 'any' then ': the service key may approve its own plan' else '' end,
      'update public.backfill_settings set approval_policy = ''second_person'' where only_row;')),
    (3, backfill_private.line('limits', 'ok', format('%s session starts a minute, %s sessions a plan, approvals valid %s',
      coalesce('at most ' || s.max_throttle_per_minute, 'any number of'),
      coalesce('at most ' || s.max_sessions, 'any number of'), s.approval_ttl), ''))
  ) as l (place, line)
  where s.only_row
  union all
  select backfill_private.line('settings', 'fail', 'their row is gone', 'insert into public.backfill_settings default values;')
  where not exists (select from public.backfill_settings)
$$;

-- Everything, in the order in which a person puts it right.
--
-- returns  [{name, status: ok | warn | fail, detail, next}]
-- raises   OB010 the caller may not read
create function backfill_private.check_project()
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  v_target text;
  v_known text := (select string_agg(distinct target, ', ' order by target) from public.backfill_targets);
  v_lines jsonb;
begin
  perform backfill_private.authorize('read');
  v_lines := jsonb_build_array(backfill_private.line('targets', case when v_known is null then 'fail' else 'ok' end,
    coalesce(v_known, 'no target is installed'), 'backfill install, apply the migrations, then backfill check'));
  for v_target in select distinct t.target from public.backfill_targets as t order by t.target loop
    v_lines := v_lines || (
      select coalesce(jsonb_agg(l.line order by l.part, l.place), '[]') from (
        select 1 as part, row_number() over () as place, line from backfill_private.table_lines(v_target) as line
        union all select 2, row_number() over (), line from backfill_private.source_lines(v_target) as line
        union all select 3, row_number() over (), line from backfill_private.key_lines(v_target) as line
        union all select 4, row_number() over (), line from backfill_private.table_mark_lines(v_target) as line
        union all select 5, row_number() over (), line from backfill_private.rights_lines(v_target) as line
        union all select 6, row_number() over (), line from backfill_private.function_lines(v_target) as line
        union all select 7, row_number() over (), line from backfill_private.own_lines(v_target) as line
      ) as l);
  end loop;
  return v_lines
    || (select jsonb_agg(line) from backfill_private.our_lines() as line)
    || (select jsonb_agg(line) from backfill_private.setting_lines() as line);
end
$$;

revoke all on function
  backfill_private.line(text, text, text, text),
  backfill_private.beside_writers(text, text),
  backfill_private.wanted_columns(text),
  backfill_private.table_lines(text),
  backfill_private.is_unique(regclass, text[]),
  backfill_private.leads_an_index(regclass, text),
  backfill_private.index_line(text, text),
  backfill_private.key_lines(text),
  backfill_private.source_lines(text),
  backfill_private.trigger_cure(public.backfill_targets),
  backfill_private.table_mark_lines(text),
  backfill_private.rights_lines(text),
  backfill_private.function_lines(text),
  backfill_private.own_lines(text),
  backfill_private.our_relations(),
  backfill_private.relation_faults(),
  backfill_private.function_faults(),
  backfill_private.our_lines(),
  backfill_private.setting_lines(),
  backfill_private.check_project()
from public;
grant execute on function backfill_private.check_project() to authenticated, service_role;

-- Is this project ready? A line a thing, each with what to do about it.
create function public.backfill_check()
returns jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.check_project()
$$;

revoke all on function public.backfill_check() from public, anon, authenticated, service_role;
grant execute on function public.backfill_check() to authenticated, service_role;

comment on function public.backfill_check() is
  'Is this project ready: a line a thing, each with what to do.';
