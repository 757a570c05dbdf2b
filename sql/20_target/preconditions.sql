-- Preconditions: what has to be true of a target's tables before anything is detected or written. A declaration, a plan
-- and a check ask the same function.

-- The columns of a target that are compared with a session's key: a component's, or a need's.
create function backfill_private.session_columns(p_target text)
returns table (kind text, place integer, table_name text, column_name text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select 'session', t.position, t.table_name, t.session_column
  from public.backfill_targets as t
  where t.target = p_target
  union all
  select 'column', 1000 + n.place::integer, n.need ->> 'table', n.need ->> 'column'
  from backfill_private.sources as s
  cross join lateral jsonb_array_elements(s.needs) with ordinality as n (need, place)
  where s.target = p_target
$$;

-- The columns of a target's components that are compared with values: versions and kinds.
--
-- p_request  whose versions and kinds are wanted. Null: those of the declaration
create function backfill_private.value_columns(p_target text, p_request jsonb)
returns table (kind text, place integer, table_name text, column_name text, given text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select 'value', t.position, t.table_name, c.name, array_remove(array[c.given], null)
  from public.backfill_targets as t
  join backfill_private.sources as s on s.target = t.target
  cross join lateral (
    select t.version_column as name, coalesce(p_request ->> t.version_parameter, t.version) as given
    where t.version_column is not null
    union all
    select m.key, coalesce(p_request ->> m.value, s.defaults ->> m.value)
    from jsonb_each_text(t.matches) as m
  ) as c
  where t.target = p_target
$$;

-- Why no row of a component can have a version or a kind as it is given. Null if one can. The column's type may have no
-- such value, and its length or its precision may change it: then each call would write a row that does not count.
create function backfill_private.held_fault(p_table text, p_column text, p_values text[])
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fault text := backfill_private.value_fault(p_table, p_column, p_values);
  v_type oid := backfill_private.value_type(p_table, p_column);
  v_holds text := backfill_private.column_type(p_table, p_column);
  v_value text;
  v_is_held boolean;
begin
  if v_fault is not null or v_holds = format_type(v_type, -1) then
    return v_fault;
  end if;
  foreach v_value in array p_values loop
    v_value := backfill_private.spelled(v_type, v_value);
    begin
      execute format('select %1$L::%2$s::%3$s %4$s %1$L::%3$s',
        v_value, v_holds, format_type(v_type, -1), backfill_private.equals(v_type))
      into v_is_held;
    exception when data_exception then
      v_is_held := false;  -- such as a number that is too large
    end;
    if not v_is_held then
      return format('%s of %s is %s, which does not hold %s as it is',
        quote_ident(p_column),
        p_table,
        v_holds,
        case when length(v_value) > 40 then left(v_value, 40) || '…' else v_value end);
    end if;
  end loop;
  return null;
end
$$;

-- May a column hold null? False if there is no such column.
create function backfill_private.may_be_null(p_table text, p_column text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select exists (
      select from pg_attribute as a
      where a.attrelid = to_regclass(p_table)
        and a.attname = p_column
        and not a.attnotnull
        and not a.attisdropped));
end
$$;

-- Preconditions on the columns that are compared with a session's key, and on that key: see preconditions().
create function backfill_private.session_preconditions(p_target text)
returns setof backfill_private.precondition
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with source as (
    select
      s.source_table as name,
      s.key_column as key,
      backfill_private.key_kind(s.source_table, s.key_column) as kind,
      backfill_private.column_type(s.source_table, s.key_column) as type
    from backfill_private.sources as s
    where s.target = p_target
  )
  select
    'session',
    0,
    'session of ' || s.name,
    null,
    format('the key %s of %s is %s, but a key is uuid, a whole number or text, and a text that equals no other',
      quote_ident(s.key), s.name, s.type),
    'declare another column that is unique'
  from source as s
  where s.kind is null and s.type is not null
  union all
  select
    c.kind,
    c.place,
    case c.kind
      when 'session' then 'session of ' || c.table_name
      else format('column %s.%s', c.table_name, c.column_name)
    end,
    case c.kind
      when 'session' then format('%s is %s, %s.%s is %s', c.column_name, t.type, s.name, s.key, s.type)
      else t.type
    end,
    case
      when to_regclass(c.table_name) is null then c.table_name || ' does not exist'
      when t.type is null then format('%s has no column %s', c.table_name, quote_ident(c.column_name))
      when t.kind is distinct from s.kind
      then format('%s of %s is %s, but the key %s of %s is %s',
        quote_ident(c.column_name), c.table_name, t.type, quote_ident(s.key), s.name, s.type)
    end,
    case
      when t.type is null
      then format('give %s back its name, or correct the declaration, then: backfill install --target FILE',
        c.table_name)
      else format('alter table %s alter column %I type %s using %2$I::%3$s;',
        to_regclass(c.table_name), c.column_name, s.type)
    end
  from backfill_private.session_columns(p_target) as c
  cross join source as s
  cross join lateral (
    select
      backfill_private.column_type(c.table_name, c.column_name) as type,
      backfill_private.key_kind(c.table_name, c.column_name) as kind
  ) as t
  where s.kind is not null
$$;

-- What has to be true of a target's tables, and whether it is.
create function backfill_private.preconditions(p_target text)
returns setof backfill_private.precondition
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select * from backfill_private.session_preconditions(p_target)
  union all
  select
    'date',
    0,
    'dates of ' || s.source_table,
    coalesce(
      backfill_private.date_words(s.source_table, s.date_column),
      format('%s is %s', s.date_column, t.type))
      || case
           when backfill_private.may_be_null(s.source_table, s.date_column)
           then '; it may be null, and no plan takes a row without it'
           else ''
         end,
    case
      when t.value not in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
      then format('%s is %s: no time', quote_ident(s.date_column), t.type)
    end,
    'declare a column that is a timestamptz, a timestamp or a date, then: backfill install --target FILE'
  from backfill_private.sources as s
  cross join lateral (
    select
      backfill_private.column_type(s.source_table, s.date_column) as type,
      backfill_private.value_type(s.source_table, s.date_column) as value
  ) as t
  where s.target = p_target and t.type is not null
  union all
  select
    'column',
    f.place::integer,
    format('column %s.%s', s.source_table, f.filter ->> 'column'),
    backfill_private.column_type(s.source_table, f.filter ->> 'column'),
    backfill_private.filter_fault(s.source_table, f.filter),
    'correct the declaration, then: backfill install --target FILE'
  from backfill_private.sources as s
  cross join lateral backfill_private.column_filters(s.filters) as f
  where s.target = p_target
  union all
  select
    v.kind,
    v.place,
    'values of ' || format('%s.%s', v.table_name, v.column_name),
    null,
    backfill_private.held_fault(v.table_name, v.column_name, v.given),
    'correct the declaration, then: backfill install --target FILE'
  from backfill_private.value_columns(p_target, null) as v
  union all
  select
    'key',
    k.place,
    'key of ' || k.table_name,
    array_to_string(k.key_columns, ', ') || ' is unique',
    array_to_string(k.key_columns, ', ') || ': ' || k.fault,
    k.cure
  from backfill_private.key_standings(p_target) as k
$$;

-- Can the rows of a target's source be read, and compared as the declaration says? Whoever looks into them asks first.
--
-- p_held  all preconditions of the target
create function backfill_private.source_is_well(p_held backfill_private.precondition[])
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select from unnest(p_held) as p
    where p.fault is not null
      and (p.kind <> 'key' or p.place = 0)
  )
$$;

-- Refuse a target whose tables do not meet what has to be true of them.
--
-- p_request  also its versions and kinds have to be values of their columns. Null: those of the declaration
-- raises     OB013 the first fault, with the table and the columns
create function backfill_private.refuse_faults(p_target text, p_request jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fault record;
begin
  select
    case p.kind when 'key' then backfill_private.key_fault(p_target) else p.fault end as fault,
    p.cure || case p.kind when 'key' then ' Or declare columns that name one row' else '' end as cure
  into v_fault
  from backfill_private.preconditions(p_target) as p
  where p.fault is not null
  order by p.kind = 'key', p.place
  limit 1;
  if found then
    perform backfill_private.refuse('OB013', v_fault.fault, v_fault.cure);
  end if;
  select backfill_private.held_fault(v.table_name, v.column_name, v.given) as fault into v_fault
  from backfill_private.value_columns(p_target, p_request) as v
  where backfill_private.held_fault(v.table_name, v.column_name, v.given) is not null
  limit 1;
  if found then
    perform backfill_private.refuse('OB013', v_fault.fault, 'give one of its values');
  end if;
  select backfill_private.mixed_fault(p_target, p_request) as fault into v_fault;
  if v_fault.fault is not null then
    perform backfill_private.refuse('OB013', v_fault.fault, 'give their parameters different values');
  end if;
end
$$;

-- Every column that a target's rows name, with the statement that corrects the name. The source has place 0.
create function backfill_private.wanted_columns(p_target text)
returns table (place integer, table_name text, column_name text, correct text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    0,
    s.source_table,
    c.name,
    format('update backfill_private.sources set %I = ''…'' where target = %L;', c.field, s.target)
  from backfill_private.sources as s
  cross join lateral (values (s.key_column, 'key_column'), (s.date_column, 'date_column')) as c (name, field)
  where s.target = p_target
  union all
  select
    t.position,
    t.table_name,
    c.name,
    format('update public.backfill_targets set %I = ''…'' where target = %L and component = %L;',
      c.field, t.target, t.component)
  from public.backfill_targets as t
  cross join lateral (
    select t.session_column, 'session_column'
    union all select t.version_column, 'version_column' where t.version_column is not null
    union all select k, 'key_columns' from unnest(t.key_columns) as k
    union all select m, 'matches' from jsonb_object_keys(t.matches) as m
    union all select r, 'score_ranges' from jsonb_object_keys(t.score_ranges) as r
  ) as c (name, field)
  where t.target = p_target
$$;

-- A table of a target, or a column that it names there, that is not there any more, in words. Null if all stand. The
-- source has its view, which a new name does not break.
create function backfill_private.gone(p_target text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan  -- asked at each claim
set enable_hashjoin = off  -- nor are all columns of the database read then
set enable_mergejoin = off
as $$
begin
  return (
    select
      case
        when to_regclass(w.table_name) is null then w.table_name || ' does not exist'
        else format('%s has no column %s', w.table_name, quote_ident(w.column_name))
      end
    from backfill_private.wanted_columns(p_target) as w
    where w.place > 0
      and not exists (
        select from pg_attribute as a
        where a.attrelid = to_regclass(w.table_name)
          and a.attname = w.column_name
          and a.attnum > 0
          and not a.attisdropped)
    order by w.place
    limit 1);
end
$$;
