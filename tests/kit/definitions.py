"""Definitions that a test left in a database, taken back.

What the test made is dropped; functions that it replaced, and triggers that it turned off, are made
anew. That is enough only if each catalog then holds the same rows as before, which is compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg

Admin = psycopg.Connection[Any]

# A session's first temporary table makes its schema, which then stays.
TEMPORARY = "nspname !~ '^pg_(toast_)?temp_'"
# Written by VACUUM and ANALYZE.
ESTIMATES = ("relpages", "reltuples", "relallvisible", "relallfrozen", "relfrozenxid", "relminmxid")

# Objects get ever higher numbers.
NEWEST = """
select max(oid::bigint) from (
  select oid from pg_class union all select oid from pg_proc union all select oid from pg_type
  union all select oid from pg_trigger union all select oid from pg_constraint
  union all select oid from pg_namespace union all select oid from pg_policy) as made
"""
# Those that stand on older tables first. The rest goes with whatever depends on it.
DROPS = """
with made as materialized (select %s::bigint as before)
select format('drop trigger if exists %%I on %%s', t.tgname, t.tgrelid::regclass)
from pg_trigger as t, made
where t.oid > before and t.tgrelid <= before and not t.tgisinternal and t.tgparentid = 0
union all
select format('drop policy if exists %%I on %%s', p.polname, p.polrelid::regclass)
from pg_policy as p, made where p.oid > before and p.polrelid <= before
union all
select format('alter table %%s drop constraint if exists %%I cascade',
  c.conrelid::regclass, c.conname)
from pg_constraint as c, made
where c.oid > before and c.conrelid between 1 and before and c.conparentid = 0 and c.contype <> 't'
union all
select format('drop %%s if exists %%s cascade', case c.relkind
  when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
  when 'i' then 'index' when 'c' then 'type' when 'f' then 'foreign table' else 'table' end,
  c.oid::regclass)
from pg_class as c, made
where c.oid > before and c.relkind in ('r', 'p', 'v', 'm', 'S', 'c', 'f', 'i')
  and c.relnamespace not in ('pg_toast'::regnamespace, 'pg_catalog'::regnamespace)
  and (c.relkind = 'c' or not exists (
    select from pg_depend as d
    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('i', 'a', 'P', 'S')
      and d.refobjid > before))
  and not exists (select from pg_constraint as k where k.conindid = c.oid)
union all
select format('drop routine if exists %%s cascade', p.oid::regprocedure)
from pg_proc as p, made where p.oid > before
union all
select format('drop type if exists %%s cascade', t.oid::regtype)
from pg_type as t, made where t.oid > before and t.typtype in ('d', 'e', 'r')
union all
select format('drop schema if exists %%I cascade', n.nspname)
from pg_namespace as n, made where n.oid > before and {temporary}
""".format(temporary=TEMPORARY.replace("%", "%%"))
FUNCTIONS = """
select oid, pg_get_functiondef(oid)
from pg_proc
where prokind in ('f', 'p') and pronamespace <> 'pg_catalog'::regnamespace
"""
TRIGGERS = """
select oid, format('alter table %s %s trigger %I', tgrelid::regclass, case tgenabled
  when 'D' then 'disable' when 'A' then 'enable always' when 'R' then 'enable replica'
  else 'enable' end, tgname)
from pg_trigger
where not tgisinternal
"""
CHANGED = "select oid from {} where oid <= %s and age(xmin) < age(%s::xid)"
COLUMNS = """
select string_agg(quote_ident(attname), ', ' order by attnum)
from pg_attribute
where attrelid = %s::regclass and attnum > 0 and not attisdropped and attname <> all(%s)
"""


@dataclass(frozen=True)
class Definitions:
    """What the catalogs of a template hold.

    newest: the highest number of an object. sums: by catalog, of its rows. made: by catalog and
    number, the statement that makes a function or the state of a trigger.
    """

    newest: int
    sums: dict[str, Any]
    made: dict[str, dict[int, str]]

    @classmethod
    def read(cls, admin: Admin, catalogs: Iterable[str]) -> Definitions:
        """Read them from an unused copy."""
        made = {
            "pg_proc": dict(admin.execute(FUNCTIONS).fetchall()),
            "pg_trigger": dict(admin.execute(TRIGGERS).fetchall()),
        }
        [(newest,)] = admin.execute(NEWEST).fetchall()
        return cls(newest, {name: _sum(admin, name) for name in catalogs}, made)

    def put_back(self, admin: Admin, since: str) -> None:
        """Take back what can be. since: the transaction in which they were as they should be."""
        for (statement,) in admin.execute(DROPS.encode(), (self.newest,)).fetchall():
            admin.execute(statement.encode())
        for catalog, made in self.made.items():
            changed = admin.execute(CHANGED.format(catalog).encode(), (self.newest, since))
            for (number,) in changed.fetchall():
                if number in made:
                    admin.execute(made[number].encode())

    def are_in(self, admin: Admin, catalogs: Iterable[str]) -> bool:
        """Whether these catalogs hold the rows of the template's."""
        return all(self.sums.get(name) == _sum(admin, name) for name in catalogs)


def _sum(admin: Admin, catalog: str) -> Any:
    """A figure that differs if any row does."""
    [(columns,)] = admin.execute(COLUMNS, (catalog, list(ESTIMATES))).fetchall()
    where = TEMPORARY if catalog == "pg_namespace" else "true"
    summed = (
        "select count(*), sum(hashtextextended(t::text, 0)::numeric)"
        f" from (select {columns} from {catalog} where {where}) as t"
    )
    return admin.execute(summed.encode()).fetchone()
