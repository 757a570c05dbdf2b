-- The mark on dates: how they are read, and which rows have none that a plan can take.

-- The mark on the dates of a source, of a plan and of a check, if there is something to know: how a column without a
-- time zone is read, how many selected rows have no date, and how many have one that no plan can take.
create function backfill_private.date_marks(p_source backfill_private.sources)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
as $$
declare
  v_words text := backfill_private.date_words(p_source.source_table, p_source.date_column);
  v_moment text := backfill_private.moment(
    p_source.source_table, p_source.date_column, format('s.%I', p_source.date_column));
  v_without bigint;
  v_beyond bigint;
begin
  execute format(
    'select count(*) filter (where s.%1$I is null), count(s.%1$I) from %2$s as s where %3$s',
    p_source.date_column,
    p_source.source_table::regclass,
    array_to_string(
      array(select f.condition from backfill_private.filter_conditions(p_source.target, 's.') as f)
        || format('(s.%1$I is null or %2$s < %3$L or %2$s >= %4$L)',
          p_source.date_column,
          v_moment,
          backfill_private.first_moment(),
          backfill_private.after_all_moments()),
      ' and '))
  into v_without, v_beyond;
  if v_without + v_beyond > 0 or v_words is not null then
    return next backfill_private.line(
      'dates of ' || backfill_private.bare_name(p_source.source_table),
      case when v_without + v_beyond > 0 then 'warn' else 'ok' end,
      concat_ws('; ',
        v_words,
        backfill_private.no_plan_takes(p_source.called, p_source.date_column, v_without, v_beyond)),
      format('give each a %s of the years 1 to 9999', p_source.date_column));
  end if;
end
$$;
