-- Guards: the triggers on a target's tables. They come with its declaration and go with it.

-- The statements that put our triggers on a relation of a component, always enabled.
--
-- The condition is short on purpose: PostgreSQL reads it anew from the catalog's text for every statement. For one or
-- two rows that costs more than all the rest of the trigger. The name of the row trigger puts it before the user's,
-- which PostgreSQL runs by name: if one of these writes the row again, that receipt comes after the first.
--
-- p_is_partition  of the component's table: its row trigger comes from the table's, so it needs only the guard
create function backfill_private.guard_sql(p_relation regclass, p_target text, p_component text, p_is_partition boolean)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_is_partition then ''
    else format(
$sql$create or replace trigger "000_backfill_receipt" after insert or update or delete on %1$s for each row
  when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-%%')
  execute function backfill_private.keep_receipt(%2$L, %3$L%4$s);
$sql$, p_relation, p_target, p_component, (
      select case when count(*) > 1 then ', ''shared''' else '' end
      from backfill_private.in_table_of(p_target, p_component)))
  end || format(
$sql$create or replace trigger backfill_no_truncate before truncate on %1$s for each statement
  when (nullif(current_setting('request.headers', true), '') like '%%x-backfill-%%')
  execute function backfill_private.refuse_truncate();
alter table %1$s enable always trigger "000_backfill_receipt", enable always trigger backfill_no_truncate;
$sql$, p_relation)
$$;

-- Put our triggers on the tables of a target, and the guard against truncate on their partitions: a truncate of one
-- partition runs no trigger of its parents. A partition made later lacks the guard. Then a run holds at its next claim,
-- and check says the SQL.
create function backfill_private.guard(p_target text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_relation record;
begin
  for v_relation in
    select
      t.component,
      coalesce(part.relid, to_regclass(t.table_name)) as oid,
      coalesce(part.level, 0) > 0 as is_partition
    from public.backfill_targets as t
    left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
    where t.target = p_target
      and backfill_private.leads_table(t)
    order by t.position, part.level nulls first
  loop
    execute backfill_private.guard_sql(v_relation.oid, p_target, v_relation.component, v_relation.is_partition);
  end loop;
end
$$;

-- Take away what an earlier declaration of a target put there: our triggers on its tables, and its views.
create function backfill_private.withdraw(p_target text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_trigger record;
  v_view text;
begin
  for v_view in
    select v
    from backfill_private.sources as s
    cross join unnest(s.views) with ordinality as named (v, place)
    where s.target = p_target
    order by place desc
  loop
    execute format('drop view if exists %s', v_view);
  end loop;
  for v_trigger in
    select distinct g.tgname, g.tgrelid::regclass as relation
    from public.backfill_targets as t
    left join lateral pg_partition_tree(to_regclass(t.table_name)) as part on true
    join pg_trigger as g
      on g.tgrelid = coalesce(part.relid, to_regclass(t.table_name))
      and g.tgparentid = 0
    join pg_proc as p
      on p.oid = g.tgfoid
      and p.pronamespace = 'backfill_private'::regnamespace
    where t.target = p_target
  loop
    execute format('drop trigger %I on %s', v_trigger.tgname, v_trigger.relation);
  end loop;
end
$$;

-- The SQL that puts back the receipt triggers missing on a component's table and its partitions. Null: none is missing.
create function backfill_private.trigger_cure(p_target public.backfill_targets)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    backfill_private.guard_sql(
      to_regclass(u.name),
      p_target.target,
      p_target.component,
      to_regclass(u.name) <> to_regclass(p_target.table_name)),
    '' order by u.place)
  from backfill_private.unguarded(p_target.table_name) with ordinality as u (name, place)
$$;
