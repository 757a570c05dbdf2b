-- Blast radius: what else a plan's writes set off, read from the catalogs when the plan is sealed.

-- One effect. p_events: how often this plan would cause it, null if that cannot be told.
create function backfill_private.effect(p_kind text, p_name text, p_table regclass, p_detail text, p_events bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'kind', p_kind,
    'name', p_name,
    'table', p_table::text,
    'detail', p_detail,
    'events', p_events)
$$;

-- The tables that a run writes, with their partitions: how many rows it plans for each, and how many of them replace
-- one.
create function backfill_private.written_tables(p_run_id uuid)
returns setof backfill_private.written_table
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    coalesce(part.relid, to_regclass(p.table_name)),
    sum(p.new + p.replaced)::bigint,
    sum(p.replaced)::bigint
  from backfill_private.planned_rows(p_run_id) as p
  left join lateral pg_partition_tree(to_regclass(p.table_name)) as part on true
  where to_regclass(p.table_name) is not null
  group by 1
$$;

-- Triggers of the user's that fire for what a run or its undo does. A webhook is named only by the host that it calls,
-- since its arguments may hold secrets. A trigger that a partition has from its parent is told once, at the parent.
create function backfill_private.trigger_effects(p_written backfill_private.written_table[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.effect(
    case when is_webhook then 'webhook' else 'trigger' end,
    g.tgname,
    w.relation,
    format('%s %s %s, %s; calls %s%s%s',
      case when g.tgtype & 2 <> 0 then 'before' else 'after' end,
      concat_ws(' or ',
        case when g.tgtype & 4 <> 0 then 'insert' end,
        case when g.tgtype & 16 <> 0 then 'update' end,
        case when g.tgtype & 8 <> 0 then 'delete (an undo)' end),
      case when g.tgtype & 1 <> 0 then 'for each row' else 'for each statement' end,
      case when g.tgenabled = 'A' then 'always enabled' else 'enabled' end,
      g.tgfoid::regproc,
      case when g.tgqual is not null then ', under a condition' else '' end,
      coalesce(' at ' || substring(encode(g.tgargs, 'escape') from '://([^/:\\]+)'), '')),
    case when g.tgtype & 4 <> 0 then w.planned_rows - w.replaced_rows else 0 end
      + case when g.tgtype & 16 <> 0 then w.replaced_rows else 0 end)
  from unnest(p_written) as w
  join pg_trigger as g
    on g.tgrelid = w.relation
    and not g.tgisinternal
    and g.tgparentid = 0
    and g.tgenabled in ('O', 'A')
  join pg_proc as p on p.oid = g.tgfoid
  join pg_namespace as n on n.oid = p.pronamespace
  cross join lateral (
    select n.nspname = 'supabase_functions'
      or p.prosrc ~* '\mhttp_(get|post|put|delete|request)\s*\(' as is_webhook
  ) as k
  where n.nspname <> 'backfill_private'
  order by w.relation::text, g.tgname
$$;

-- Who else sees the rows or refers to them: publications, foreign keys, materialized views.
create function backfill_private.listener_effects(p_written backfill_private.written_table[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.effect(
    'publication',
    b.pubname,
    w.relation,
    case
      when b.pubname = 'supabase_realtime' then 'realtime: every subscriber of the table is told'
      else 'every subscriber is sent the rows'
    end,
    case when b.pubinsert then w.planned_rows - w.replaced_rows else 0 end
      + case when b.pubupdate then w.replaced_rows else 0 end)
  from unnest(p_written) as w
  join pg_class as c on c.oid = w.relation
  join pg_publication_tables as t on to_regclass(format('%I.%I', t.schemaname, t.tablename)) = w.relation
  join pg_publication as b on b.pubname = t.pubname
  union all
  select backfill_private.effect(
    'foreign key',
    k.conname,
    w.relation,
    format('%s refers to these rows, on delete %s. An undo leaves a row that is referred to, and names it',
      k.conrelid::regclass,
      case k.confdeltype
        when 'c' then 'cascade'
        when 'n' then 'set null'
        when 'd' then 'set default'
        when 'r' then 'restrict'
        else 'no action'
      end),
    null)
  from unnest(p_written) as w
  join pg_constraint as k
    on k.contype = 'f'
    and k.confrelid = w.relation
    and k.conparentid = 0
  union all
  select distinct backfill_private.effect(
    'materialized view',
    v.oid::regclass::text,
    w.relation,
    'holds what the table held when it was refreshed last',
    null)
  from unnest(p_written) as w
  join pg_depend as d
    on d.refclassid = 'pg_class'::regclass
    and d.refobjid = w.relation
    and d.classid = 'pg_rewrite'::regclass
  join pg_rewrite as r on r.oid = d.objid
  join pg_class as v on v.oid = r.ev_class and v.relkind = 'm'
$$;

-- What the tables do by themselves: generated columns, numbers from sequences, policies that bind even their owner.
create function backfill_private.column_effects(p_written backfill_private.written_table[])
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.effect(
    case when a.attgenerated <> '' then 'generated column' else 'sequence' end,
    coalesce(q.name, a.attname),
    w.relation,
    case
      when a.attgenerated <> '' then 'computed by the table. An undo does not set it'
      else format('draws %s for each row. The rehearsal and an undo give none back', a.attname)
    end,
    w.planned_rows)
  from unnest(p_written) as w
  join pg_attribute as a
    on a.attrelid = w.relation
    and a.attnum > 0
    and not a.attisdropped
  left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
  -- A default names its sequence, and the sequence of an identity column names the column.
  left join lateral (
    select s.oid::regclass::text as name
    from pg_class as s
    join pg_depend as p
      on p.classid = 'pg_class'::regclass and p.objid = s.oid
        and p.refclassid = 'pg_class'::regclass and p.refobjid = a.attrelid and p.refobjsubid = a.attnum
        and p.deptype = 'i'
      or p.classid = 'pg_attrdef'::regclass and p.objid = d.oid
        and p.refclassid = 'pg_class'::regclass and p.refobjid = s.oid
    where s.relkind = 'S'
      and a.attgenerated = ''
    limit 1
  ) as q on true
  where a.attgenerated <> ''
    or a.attidentity <> ''
    or pg_get_expr(d.adbin, d.adrelid) like 'nextval(%'
  union all
  select backfill_private.effect(
    'policy',
    p.polname,
    w.relation,
    'row level security is forced: functions with their owner''s rights are subject to it',
    null)
  from unnest(p_written) as w
  join pg_class as c on c.oid = w.relation and c.relforcerowsecurity
  join pg_policy as p on p.polrelid = w.relation
$$;

-- Scheduled jobs whose command names one of the tables. None if pg_cron is not installed.
create function backfill_private.cron_effects(p_written backfill_private.written_table[])
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('cron.job') is null then
    return;
  end if;
  return query execute '
    select backfill_private.effect(
      ''cron job'',
      coalesce(j.jobname, j.jobid::text),
      w.relation,
      format(''runs at %s and names the table'', j.schedule),
      null)
    from unnest($1) as w
    join pg_class as c on c.oid = w.relation
    join cron.job as j on j.active and position(lower(c.relname) in lower(j.command)) > 0
    order by j.jobid'
  using p_written;
end
$$;

-- The functions that a function's body names before a parenthesis. SQL that it builds as text and executes is not seen.
create function backfill_private.called_functions(p_function oid)
returns setof oid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select distinct callee.oid
  from pg_proc as caller
  cross join lateral regexp_matches(
    regexp_replace(regexp_replace(caller.prosrc, '--[^\n]*', '', 'g'), '/\*.*?\*/', '', 'g'),
    '(?:("[^"]+"|[a-z_][a-z0-9_$]*)\s*\.\s*)?("[^"]+"|[a-z_][a-z0-9_$]*)\s*\(', 'gi') as named
  join pg_proc as callee
    on callee.proname = case when named[2] like '"%' then btrim(named[2], '"') else lower(named[2]) end
  join pg_namespace as n
    on n.oid = callee.pronamespace
    and n.nspname = coalesce(
      case when named[1] like '"%' then btrim(named[1], '"') else lower(named[1]) end,
      n.nspname)
  where caller.oid = p_function
    and callee.oid <> p_function
    and n.nspname not in ('pg_catalog', 'information_schema', 'backfill_private')
    and not exists (
      select from pg_depend as d
      where d.classid = 'pg_proc'::regclass
        and d.objid = callee.oid
        and d.deptype = 'e'
    )
  union
  select d.refobjid
  from pg_depend as d
  join pg_proc as callee on callee.oid = d.refobjid
  join pg_namespace as n
    on n.oid = callee.pronamespace
    and n.nspname not in ('pg_catalog', 'information_schema')
  where d.classid = 'pg_proc'::regclass
    and d.objid = p_function
    and d.refclassid = 'pg_proc'::regclass
$$;

-- Functions that run when the target is scored: those that no digest covers, and those that build SQL while they run.
create function backfill_private.function_effects(p_run_id uuid)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with recursive covered as (
    select f.oid
    from public.backfill_runs as r
    cross join lateral backfill_private.scoring_functions(r.target) as f
    where r.run_id = p_run_id
      and f.oid is not null
    union
    select backfill_private.function_named(h)::oid
    from public.backfill_runs as r
    join public.backfill_targets as t on t.target = r.target
    cross join lateral unnest(t.helpers) as h
    where r.run_id = p_run_id
      and backfill_private.function_named(h) is not null
  ), reached as (
    select c.oid
    from covered as c
    union
    select f.oid
    from reached as r
    cross join lateral backfill_private.called_functions(r.oid) as f (oid)
  )
  select backfill_private.effect(
    'function',
    r.oid::regprocedure::text,
    null,
    concat_ws('; ',
      case when c.oid is null then 'scoring calls it and no digest covers it: list it in backfill_targets.helpers' end,
      case when p.prosrc ~* '\mexecute\M' and l.lanname = 'plpgsql'
        then 'it builds SQL while it runs, so its calls cannot be told' end),
    null)
  from reached as r
  join pg_proc as p on p.oid = r.oid
  join pg_language as l on l.oid = p.prolang
  left join covered as c on c.oid = r.oid
  where c.oid is null
    or p.prosrc ~* '\mexecute\M' and l.lanname = 'plpgsql'
  order by r.oid::regprocedure::text
$$;

-- All effects: [{kind, name, table, detail, events}].
create function backfill_private.blast_radius(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- The planned rows are counted once: a large plan takes its time.
  with w as materialized (
    select array(select t from backfill_private.written_tables(p_run_id) as t) as tables
  )
  select coalesce(jsonb_agg(e.effect order by e.place, e.number), '[]')
  from (
    select 1 as place, t.*
    from w, backfill_private.trigger_effects(w.tables) with ordinality as t (effect, number)
    union all
    select 2, t.*
    from w, backfill_private.listener_effects(w.tables) with ordinality as t (effect, number)
    union all
    select 3, t.*
    from w, backfill_private.column_effects(w.tables) with ordinality as t (effect, number)
    union all
    select 4, t.*
    from w, backfill_private.cron_effects(w.tables) with ordinality as t (effect, number)
    union all
    select 5, t.*
    from backfill_private.function_effects(p_run_id) with ordinality as t (effect, number)
  ) as e
$$;
