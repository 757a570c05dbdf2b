"""All that a database holds besides its rows, as lines of text, to compare two databases.

One line per object, and one per right: an object, a grantee, a privilege.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import tuple_row

# Names and texts only, no oids and no places of columns: a database made anew gives the same lines.
SNAPSHOT = """
with schemas as (
  select n.oid, n.nspname, n.nspowner, n.nspacl from pg_namespace as n
  where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
), relations as (
  select c.*, c.oid::regclass::text as name
  from pg_class as c join schemas as n on n.oid = c.relnamespace
  where c.relkind <> 'i'
), functions as (
  select p.*, p.oid::regprocedure::text as name
  from pg_proc as p join schemas as n on n.oid = p.pronamespace
), rights (object, acl) as (
  select 'schema ' || n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner)) from schemas as n
  union all
  select 'relation ' || c.name,
    coalesce(c.relacl,
      acldefault((case c.relkind when 'S' then 's' else 'r' end)::"char", c.relowner))
  from relations as c where c.relkind <> 'c'
  union all
  select format('column %s.%I', c.name, a.attname), a.attacl
  from pg_attribute as a join relations as c on c.oid = a.attrelid
  where a.attacl is not null and not a.attisdropped
  union all
  select 'function ' || p.name, coalesce(p.proacl, acldefault('f', p.proowner)) from functions as p
  union all
  select 'type ' || t.oid::regtype, coalesce(t.typacl, acldefault('T', t.typowner))
  from pg_type as t join schemas as n on n.oid = t.typnamespace
  union all
  select format('default privileges of %s in %s on %s', d.defaclrole::regrole,
      coalesce(d.defaclnamespace::regnamespace::text, 'every schema'), d.defaclobjtype), d.defaclacl
  from pg_default_acl as d
)
select format('schema %s owner %s', n.nspname, n.nspowner::regrole) from schemas as n
union all
select format('relation %s kind %s owner %s options %s rls %s/%s persistence %s', c.name, c.relkind,
  c.relowner::regrole, c.reloptions, c.relrowsecurity, c.relforcerowsecurity, c.relpersistence)
from relations as c
union all
select format('column %s.%I %s not null %s default %s identity %s generated %s collation %s',
  c.name, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
  pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated,
  nullif(a.attcollation, 0)::regcollation)
from pg_attribute as a
join relations as c on c.oid = a.attrelid
left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attnum > 0 and not a.attisdropped
union all
select format('view %s %s', c.name, pg_get_viewdef(c.oid))
from relations as c
where c.relkind in ('v', 'm')
union all
select format('constraint %I of %s %s validated %s', k.conname,
  coalesce(nullif(k.conrelid, 0)::regclass::text, nullif(k.contypid, 0)::regtype::text),
  pg_get_constraintdef(k.oid), k.convalidated)
from pg_constraint as k join schemas as n on n.oid = k.connamespace
union all
select format('index %s valid %s ready %s owner %s', pg_get_indexdef(x.indexrelid), x.indisvalid,
  x.indisready, i.relowner::regrole)
from pg_index as x
join relations as c on c.oid = x.indrelid
join pg_class as i on i.oid = x.indexrelid
union all
select format('trigger %s enabled %s', pg_get_triggerdef(g.oid), g.tgenabled)
from pg_trigger as g join relations as c on c.oid = g.tgrelid
where not g.tgisinternal
union all
select format('rule %s enabled %s', pg_get_ruledef(r.oid), r.ev_enabled)
from pg_rewrite as r join relations as c on c.oid = r.ev_class
where r.rulename <> '_RETURN'
union all
select format('policy %I on %s %s %s to %s using %s check %s', p.polname, c.name, p.polcmd,
  case when p.polpermissive then 'permissive' else 'restrictive' end,
  (select string_agg(case r when 0 then 'public' else r::regrole::text end, ', ' order by r)
   from unnest(p.polroles) as r),
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
from pg_policy as p join relations as c on c.oid = p.polrelid
union all
select format('function %s owner %s %s', p.name, p.proowner::regrole,
  case when p.prokind = 'a' then 'aggregate' else pg_get_functiondef(p.oid) end)
from functions as p
union all
select format('sequence %s %s start %s by %s from %s to %s cache %s cycle %s', c.name,
  format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
  s.seqcycle)
from pg_sequence as s join relations as c on c.oid = s.seqrelid
union all
select format('type %s kind %s owner %s %s', t.oid::regtype, t.typtype, t.typowner::regrole,
  (select string_agg(e.enumlabel, ', ' order by e.enumsortorder)
   from pg_enum as e where e.enumtypid = t.oid))
from pg_type as t join schemas as n on n.oid = t.typnamespace
union all
select format('comment on %s: %s', pg_describe_object(d.classoid, d.objoid, d.objsubid),
  d.description)
from pg_description as d
where d.objoid in (select c.oid from relations as c union all select p.oid from functions as p
    union all select n.oid from schemas as n
    union all select g.oid from pg_trigger as g
    union all select p.oid from pg_policy as p
    union all select k.oid from pg_constraint as k join schemas as n on n.oid = k.connamespace
    union all select x.indexrelid from pg_index as x join relations as c on c.oid = x.indrelid)
union all
select format('extension %s %s', e.extname, e.extversion) from pg_extension as e
union all
select format('event trigger %s on %s enabled %s', e.evtname, e.evtevent, e.evtenabled)
from pg_event_trigger as e
union all
select format('publication %s of %s', p.pubname, r.prrelid::regclass)
from pg_publication as p left join pg_publication_rel as r on r.prpubid = p.oid
union all
select format('right on %s: %s may %s%s', r.object,
  case a.grantee when 0 then 'public' else a.grantee::regrole::text end, a.privilege_type,
  case when a.is_grantable then ' and pass it on' else '' end)
from rights as r cross join lateral aclexplode(r.acl) as a
"""


def snapshot(connection: psycopg.Connection[Any]) -> list[str]:
    """Everything outside the system's schemas, every name with its schema, sorted."""
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("set local search_path = ''")
        return sorted(line for (line,) in cursor.execute(SNAPSHOT.encode()).fetchall())


def differences(left: list[str], right: list[str]) -> list[str]:
    """The lines that only one of two snapshots has: '-' the left one, '+' the right one."""
    only_left, only_right = set(left) - set(right), set(right) - set(left)
    return [f"- {line}" for line in sorted(only_left)] + [
        f"+ {line}" for line in sorted(only_right)
    ]
