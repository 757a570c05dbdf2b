-- Before-images: would an undo give back every value that stands in a target's tables now?

-- The columns of a table with a value that does not come back bit by bit from how its type writes it, or not at all.
--
-- Only values can tell, so some rows are looked at. Types of which it is known are left out.
-- p_run_id  null: any 1,000 rows. Else the rows of the run's first 1,000 sessions, which it may overwrite
create function backfill_private.lossy_columns(p_target public.backfill_targets, p_run_id uuid)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
declare
  v_column record;
  v_is_exact boolean;
  v_lossy text[] := array[]::text[];
  v_rows text := case
    when p_run_id is null then format('(select * from %s limit 1000) as t', p_target.table_name::regclass)
    else format(
      '(select i.session_id from public.backfill_items as i where i.run_id = %L order by i.ordinal limit 1000) as item
       join %s as t on t.%I = %s',
      p_run_id,
      p_target.table_name::regclass,
      p_target.session_column,
      backfill_private.session_key(p_target.target))
  end;
begin
  for v_column in
    select
      a.attname as name,
      format_type(a.atttypid, a.atttypmod) as type,
      backfill_private.base_type(a.atttypid, a.atttypmod) as base
    from pg_attribute as a
    where a.attrelid = to_regclass(p_target.table_name)
      and a.attnum > 0
      and not a.attisdropped
      and a.attgenerated = ''
      and a.atttypid <> all (array['boolean', 'smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision',
        'uuid', 'text', 'character varying', 'character', 'date', 'timestamptz', 'timestamp', 'jsonb', 'json',
        'bytea']::regtype[])
    order by a.attnum
  loop
    begin
      execute format(
        'select bool_and(record_image_eq(row(s.was), row(format(''%%s'', s.was)::%1$s)))
         from (select t.%2$I::%1$s as was from %3$s) as s
         where s.was is not null',
        v_column.base,
        v_column.name,
        v_rows)
      into v_is_exact;
    exception when assert_failure or others then
      v_is_exact := false;
    end;
    if not v_is_exact then
      v_lossy := v_lossy || format('%s (%s)', v_column.name, v_column.type);
    end if;
  end loop;
  return v_lossy;
end
$$;

-- The marks on before-images, of a check and of a plan. None if every value comes back.
--
-- p_run_id  null in a check
create function backfill_private.image_marks(p_target text, p_run_id uuid)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    'before-images of ' || t.table_name,
    case when planned.columns <> '{}' then 'fail' else 'warn' end,
    'an undo cannot restore exactly what is overwritten in '
      || array_to_string(coalesce(nullif(planned.columns, '{}'), standing.columns), ', '),
    'keep a copy of these rows before the run, or let the scoring function leave them as they are')
  from public.backfill_targets as t
  cross join lateral (select backfill_private.lossy_columns(t, null) as columns) as standing
  cross join lateral (
    select case when p_run_id is not null then backfill_private.lossy_columns(t, p_run_id) else '{}' end as columns
  ) as planned
  where t.target = p_target
    and to_regclass(t.table_name) is not null
    and backfill_private.leads_table(t)
    and standing.columns || planned.columns <> '{}'
  order by t.position
$$;
