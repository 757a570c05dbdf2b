"""A shop whose own code does anything: its scorer, its triggers and its checks have habits.

What an order's code does, and at which point of the call, are rows of `habits`. So one project
serves any number of them, and no definition changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

Db = psycopg.Connection[Any]

# Where user code runs: in the scorer, in triggers on its row, at the end of the transaction.
SCORING = ("scorer begins", "before insert", "check", "after insert", "scorer ends", "commit")
UNDOING = ("before delete", "after delete", "commit of a delete")

# Codes that mean something to PostgreSQL, to PostgREST, to us, or to nobody.
CODES = (
    "P0001", "P0002", "P0003", "P0004", "22P02", "22012", "23503", "23505", "23514", "25006",
    "0A000", "28000", "42501", "42883", "42P01", "42704", "42P07", "3F000", "53300", "54001",
    "55P03", "57014", "57P01", "58000", "XX000", "OB010", "OB011", "OB012", "OB016", "OB019",
    "PT403", "PT404", "PT429", "PT503", "ZZ999",
)  # fmt: skip
# PostgREST before 16 repeats a call that raises one of these until it ends.
REPEATED = ("40001", "40P01")

DECLARED = """
target = "shop"
[source]
table = "public.orders"
key = "id"
date = "placed_at"
[[component]]
name = "total"
table = "public.totals"
session = "order_id"
key = ["order_id"]
version_column = "version"
version = "1"
function = "public.score_order(bigint,text)"
arguments = { order_id = "session_id", version = "total_version" }
"""

# Names are not qualified and no path is set, as in most projects.
SHOP = b"""
create table public.orders (id bigint primary key, placed_at timestamptz not null);
create table public.habits (
  order_id bigint not null, point text not null, does text not null, code text,
  primary key (order_id, point));
create table public.elsewhere (order_id bigint not null, at timestamptz not null default now());
create table public.change_log (order_id bigint not null, what text not null, at_point text);
create table public.owed (
  order_id bigint not null references public.orders deferrable initially deferred);

create function public.habit(p_order bigint, p_point text) returns text
language plpgsql as $$
declare
  v_habit habits;
begin
  select * into v_habit from habits where order_id = p_order and point = p_point;
  case v_habit.does
    when 'raise' then
      raise exception 'not this one' using errcode = v_habit.code;
    when 'write elsewhere' then
      insert into elsewhere values (p_order);
    when 'change it again' then
      update totals set note = 'again' where order_id = p_order;
    when 'delete it' then
      delete from totals where order_id = p_order;
    when 'change another' then
      update totals set note = 'by another' where order_id = p_order + 1;
    when 'delete another' then
      delete from totals where order_id = p_order + 1;
    when 'owe' then
      insert into owed values (-p_order);
    when 'lock' then
      lock table elsewhere in share row exclusive mode;
      perform pg_advisory_xact_lock(7);
    when 'another path' then
      set local search_path = '';
    when 'another role' then
      set local role anon;
    when 'no statement' then
      set local statement_timeout = 1;
    when 'a temporary table' then
      create temporary table scratch on commit drop as select p_order as order_id;
    else null;
  end case;
  return v_habit.does;
end
$$;

create function public.is_fair(p_order bigint, p_cents integer) returns boolean
language plpgsql as $$
begin
  return coalesce(habit(p_order, 'check') <> 'nothing', true) and p_cents >= 0;
end
$$;

create table public.totals (
  order_id bigint primary key, version text not null, cents integer not null, note text,
  constraint is_fair check (public.is_fair(order_id, cents)));

create function public.before_change() returns trigger language plpgsql as $$
declare
  v_did text;
begin
  if tg_op = 'UPDATE' then return new; end if;
  insert into change_log
  values (coalesce(new.order_id, old.order_id), tg_op, current_setting('search_path'));
  v_did := habit(coalesce(new.order_id, old.order_id), 'before ' || lower(tg_op));
  if v_did = 'nothing' then return null; end if;
  return coalesce(new, old);
end
$$;
create function public.after_change() returns trigger language plpgsql as $$
begin
  perform habit(coalesce(new.order_id, old.order_id), 'after ' || lower(tg_op));
  return null;
end
$$;
create function public.at_commit() returns trigger language plpgsql as $$
begin
  perform habit(
    coalesce(new.order_id, old.order_id),
    case tg_op when 'DELETE' then 'commit of a delete' else 'commit' end);
  return null;
end
$$;
create trigger before_change before insert or update or delete on public.totals
  for each row execute function public.before_change();
create trigger after_change after insert or delete on public.totals
  for each row execute function public.after_change();
create constraint trigger at_commit after insert or delete on public.totals
  deferrable initially deferred for each row execute function public.at_commit();

create function public.score_order(order_id bigint, version text) returns jsonb
language plpgsql as $$
begin
  if habit(score_order.order_id, 'scorer begins') = 'nothing' then
    return jsonb_build_object('status', 'nothing to score');
  end if;
  insert into totals values (score_order.order_id, score_order.version, 100, null)
  on conflict do nothing;
  perform habit(score_order.order_id, 'scorer ends');
  return jsonb_build_object('status', 'scored');
end
$$;
revoke all on function public.score_order from public, anon, authenticated;
grant execute on function public.score_order to service_role;
grant execute on function public.habit, public.is_fair, public.before_change, public.after_change,
  public.at_commit to service_role, anon;
grant select on public.orders, public.habits to service_role, anon;
grant select, insert, update, delete on public.totals, public.elsewhere, public.change_log,
  public.owed to service_role;
"""

# A superuser's: it sees each write under a run's or an undo's header that is committed.
WITNESS = b"""
create table public.witnessed (header text not null, order_id bigint not null, what text not null);
create function public.witness() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_headers jsonb := nullif(current_setting('request.headers', true), '');
begin
  insert into public.witnessed
  select h.key, coalesce(new.order_id, old.order_id), lower(tg_op)
  from jsonb_each_text(v_headers) as h where h.key in ('x-backfill-run', 'x-backfill-undo');
  return null;
end
$$;
create trigger zz_witness after insert or update or delete on public.totals
  for each row execute function public.witness();
"""

OF_RUNS = b"""
select c.oid::regclass::text
from pg_class as c join pg_attribute as a on a.attrelid = c.oid
where a.attname = 'run_id'
  and c.relkind = 'r'
  and c.relnamespace in ('public'::regnamespace, 'backfill_private'::regnamespace)
"""
OF_SHOP = (
    "public.orders", "public.totals", "public.habits", "public.elsewhere", "public.change_log",
    "public.owed", "public.witnessed",
)  # fmt: skip
ORDERS = range(1, 9)
WITH_ROWS = (4, 8)  # scored by live traffic, long ago


@dataclass(frozen=True)
class Habit:
    """What the code of one order does at one point. code: the SQLSTATE that it raises."""

    order_id: int
    point: str
    does: str
    code: str | None = None


def begin_again(admin: Db, habits: list[Habit]) -> None:
    """Forget every run, put the orders back, and give their code these habits."""
    with admin.transaction():
        admin.execute("set local session_replication_role = replica")
        of_runs = admin.execute(OF_RUNS).fetchall()
        for table in (*(name for (name,) in of_runs), *OF_SHOP):
            admin.execute(f"delete from {table}".encode())
        admin.execute(
            "insert into public.orders select n, timestamptz '2025-08-01 00:00+00'"
            " + n * interval '1 day' from unnest(%s::bigint[]) as n",
            (list(ORDERS),),
        )
        admin.execute(
            "insert into public.totals select n, '1', 7, 'live' from unnest(%s::bigint[]) as n",
            (list(WITH_ROWS),),
        )
        for habit in habits:
            admin.execute(
                "insert into public.habits values (%s, %s, %s, %s)",
                (habit.order_id, habit.point, habit.does, habit.code),
            )


def forget_habits(admin: Db) -> None:
    """From now on the code does what it is there for, and nothing else."""
    admin.execute("delete from public.habits")


def totals(admin: Db) -> dict[int, str]:
    """Each row of the derived table, by its order."""
    found = admin.execute("select order_id, t::text from public.totals as t").fetchall()
    return dict(found)
