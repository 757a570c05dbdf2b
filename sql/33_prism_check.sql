-- PRISM: what detection reads beyond the target's rows, and the indexes that make it fast.

-- The index that 40_prism_index_sessions.sql declares: there, whole, and over the completed sessions by date?
create function backfill_private.prism_index_line()
returns jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line('index backfill_completed_sessions',
    case when i.fault is null then 'ok' else 'warn' end,
    coalesce(i.fault || ': detection works, slower', 'there and valid'),
    case when i.is_there
        then backfill_private.beside_writers('drop index', 'public.backfill_completed_sessions') || ' ' else '' end
      || backfill_private.beside_writers('create index', 'backfill_completed_sessions '
        'on public.assessment_sessions (created_at) where status = ''completed'''))
  from (
    select x.indexrelid is not null as is_there,
      case
        when x.indexrelid is null then 'not there'
        when not x.indisvalid then 'not valid, its creation was cut off'
        when x.indrelid is distinct from to_regclass('public.assessment_sessions')
          or a.attname is distinct from 'created_at'
          or coalesce(pg_get_expr(x.indpred, x.indrelid), '') not like '%status%completed%'
          then 'not the one that is meant' end as fault
    from (values (to_regclass('public.backfill_completed_sessions'))) as named (oid)
    left join pg_index as x on x.indexrelid = named.oid
    left join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
  ) as i
$$;

-- The lines of PRISM: the status, the answers, the indexes.
create function backfill_private.prism_check()
returns setof jsonb
language sql
stable
set search_path = ''
as $$
  select backfill_private.line(format('column %s.%s', c.name, c.attribute),
    case when c.type is null then 'fail' else 'ok' end,
    case when to_regclass(c.name) is null then c.name || ' does not exist'
      else coalesce(c.type, format('%s has no column %s', c.name, c.attribute)) end,
    format('give %s back its name, or change the views of PRISM', c.name))
  from (
    select n.*, backfill_private.column_type(n.name, n.attribute) as type
    from (values
      ('public.assessment_sessions', 'status'),
      ('public.assessment_responses', 'session_id'),
      ('public.fc_responses', 'session_id')
    ) as n (name, attribute)
  ) as c
  union all
  select backfill_private.prism_index_line()
  union all
  select line from backfill_private.index_line('public.assessment_responses', 'session_id') as line
  union all
  select line from backfill_private.index_line('public.fc_responses', 'session_id') as line
$$;

revoke all on function backfill_private.prism_index_line(), backfill_private.prism_check() from public;
