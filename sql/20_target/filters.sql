-- Filters: which rows of a source are its sessions. A filter is what `where` of a declaration says about one column:
--   {column, values: [text]}        one of the values
--   {column, is_null: boolean}
--   {column, op, values: [text]}    op: not, <, <=, > or >=. Only `not` has several values
--   {column, op, other: column}     another column of the row. op: also =
--   {any: [[filter, …], …]}         all filters of one of the lists
--
-- `not` means every other row, also one without a value: (… = …) is not true.

-- The filters of a declaration that are about one column, also those inside of `any`.
create function backfill_private.column_filters(p_filters jsonb)
returns table (place bigint, filter jsonb)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select row_number() over (), f
  from jsonb_path_query(p_filters, 'strict $.** ? (exists (@.column))') as f
$$;

-- What may stand as a value of a type: the end of a sentence.
create function backfill_private.may_stand(p_type oid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when exists (select from pg_enum as e where e.enumtypid = p_type)
    then (
      select '. There are: ' || string_agg(e.enumlabel, ', ' order by e.enumsortorder)
      from pg_enum as e
      where e.enumtypid = p_type
    )
    else '. There may stand ' || case
      when p_type in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype) then 'a whole number'
      when p_type in ('numeric'::regtype, 'real'::regtype, 'double precision'::regtype) then 'a number'
      when p_type = 'boolean'::regtype then 'true or false'
      when p_type = 'date'::regtype then 'a day such as 2025-08-01'
      when p_type in ('timestamp'::regtype, 'timestamptz'::regtype) then 'a moment such as 2025-08-01T12:00:00Z'
      when p_type = 'uuid'::regtype then 'a uuid'
    end
  end
$$;

-- As what two columns of a row are compared: the SQL of their common form, with %s for a column. Null if they cannot
-- be.
--
-- A number is compared with any number, a date with any date or moment.
create function backfill_private.common_form(p_table text, p_column text, p_other text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  with kinds as (
    select
      t.type,
      n.name,
      case
        when t.type in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype) then 'numeric'
        when t.type in ('real'::regtype, 'double precision'::regtype) then 'float'
        when t.type in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) then 'moment'
        when t.type in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) then 'text'
      end as kind
    from unnest(array[p_column, p_other]) as n (name)
    cross join lateral (select backfill_private.value_type(p_table, n.name) as type) as t
  )
  select case
    when min(k.type) = max(k.type)
    then case
      when backfill_private.comparison(min(k.type), 3) is not null
        and not exists (select from pg_type as t where t.oid = min(k.type) and t.typcategory = 'A')
      then '%s'
    end
    when count(k.kind) = 2 and min(k.kind) = max(k.kind) and min(k.kind) <> 'moment' then '%s::' || max(k.kind)
    when min(k.kind) = 'float' and max(k.kind) = 'numeric' then '%s::float'
    when min(k.kind) = 'moment' and max(k.kind) = 'moment' and count(k.kind) = 2 then 'moment'
  end
  from kinds as k
$$;

-- One filter about one column, as SQL.
--
-- p_prefix  of the columns: an alias with its dot, or nothing
create function backfill_private.column_condition(p_table text, p_filter jsonb, p_prefix text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := backfill_private.value_type(p_table, p_filter ->> 'column');
  v_column text := p_prefix || quote_ident(p_filter ->> 'column');
  v_op text := coalesce(p_filter ->> 'op', '=');
  v_place integer := coalesce(array_position(array['<', '<=', '=', '>=', '>'], v_op), 3);
  v_form text;
  v_condition text;
begin
  if p_filter ? 'is_null' then
    return v_column || case when (p_filter ->> 'is_null')::boolean then ' is null' else ' is not null' end;
  elsif p_filter ? 'other' then
    v_form := backfill_private.common_form(p_table, p_filter ->> 'column', p_filter ->> 'other');
    v_condition := case v_form
      when '%s' then format('%s %s %s', v_column, backfill_private.compares(v_type, v_place),
        p_prefix || quote_ident(p_filter ->> 'other'))
      when 'moment' then format('%s %s %s',
        backfill_private.moment(p_table, p_filter ->> 'column', v_column),
        (array['<', '<=', '=', '>=', '>'])[v_place],
        backfill_private.moment(p_table, p_filter ->> 'other', p_prefix || quote_ident(p_filter ->> 'other')))
      else format(format('%s %%s %s', v_form, v_form),
        v_column, (array['<', '<=', '=', '>=', '>'])[v_place], p_prefix || quote_ident(p_filter ->> 'other'))
    end;
  elsif jsonb_array_length(p_filter -> 'values') = 1 then
    v_condition := format('%s %s %L',
      v_column,
      backfill_private.compares(v_type, v_place),
      backfill_private.spelled(v_type, p_filter -> 'values' ->> 0));
  else
    v_condition := format('%s %s any (array[%s]::%s[])',
      v_column,
      backfill_private.compares(v_type, v_place),
      (
        select string_agg(quote_literal(backfill_private.spelled(v_type, v)), ', ')
        from jsonb_array_elements_text(p_filter -> 'values') as v
      ),
      format_type(v_type, -1));
  end if;
  return case v_op when 'not' then format('(%s) is not true', v_condition) else v_condition end;
end
$$;

-- One filter as SQL.
create function backfill_private.filter_sql(p_table text, p_filter jsonb, p_prefix text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not p_filter ? 'any' then
    return backfill_private.column_condition(p_table, p_filter, p_prefix);
  end if;
  return (
    select '(' || string_agg(all_of.condition, ' or ' order by all_of.place) || ')'
    from (
      select
        c.place,
        '(' || string_agg(backfill_private.filter_sql(p_table, f.filter, p_prefix), ' and ' order by f.place) || ')'
          as condition
      from jsonb_array_elements(p_filter -> 'any') with ordinality as c (choice, place)
      cross join lateral jsonb_array_elements(c.choice) with ordinality as f (filter, place)
      group by c.place
    ) as all_of);
end
$$;

-- One filter in words.
create function backfill_private.filter_words(p_filter jsonb)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_filter ? 'any' then
    return (
      select string_agg('(' || all_of.words || ')', ' or ' order by all_of.place)
      from (
        select c.place, string_agg(backfill_private.filter_words(f.filter), ', ' order by f.place) as words
        from jsonb_array_elements(p_filter -> 'any') with ordinality as c (choice, place)
        cross join lateral jsonb_array_elements(c.choice) with ordinality as f (filter, place)
        group by c.place
      ) as all_of);
  elsif p_filter ? 'is_null' then
    return format('%s %s',
      p_filter ->> 'column', case when (p_filter ->> 'is_null')::boolean then 'null' else 'not null' end);
  end if;
  return concat_ws(' ',
    p_filter ->> 'column',
    case coalesce(p_filter ->> 'op', '=')
      when 'not' then 'not'
      when '>' then 'over'
      when '>=' then 'at least'
      when '<' then 'under'
      when '<=' then 'at most'
    end,
    case when p_filter ? 'other' and coalesce(p_filter ->> 'op', '=') in ('=', 'not') then 'the same as' end,
    coalesce(
      p_filter ->> 'other',
      (select string_agg(v, ' or ') from jsonb_array_elements_text(p_filter -> 'values') as v)));
end
$$;

-- Is a filter one that an index of ours has as its condition? Only a value, a list of values or null: those an index
-- compares as the view does, under any settings.
create function backfill_private.is_plain(p_filter jsonb)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select p_filter ? 'column' and not p_filter ?| array['op', 'other']
$$;

-- The conditions under which a row of a target's source is selected, in words and as SQL.
--
-- p_prefix  see backfill_private.column_condition
-- is_plain  see above
create function backfill_private.filter_conditions(p_target text, p_prefix text)
returns table (words text, condition text, is_plain boolean)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    backfill_private.filter_words(f.filter),
    backfill_private.filter_sql(o.source_table, f.filter, p_prefix),
    backfill_private.is_plain(f.filter)
  from backfill_private.sources as o
  cross join lateral jsonb_array_elements(o.filters) with ordinality as f (filter, place)
  where o.target = p_target
  order by f.place
$$;

-- Why a filter about one column cannot be: what the column is, and what may stand there. Null if it can.
create function backfill_private.filter_fault(p_table text, p_filter jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text := p_filter ->> 'column';
  v_other text := p_filter ->> 'other';
  v_type oid := backfill_private.value_type(p_table, v_column);
  v_other_type oid := backfill_private.value_type(p_table, v_other);
begin
  if v_type is null or v_other is not null and v_other_type is null then
    return format('%s has no column %s', p_table, quote_ident(case when v_type is null then v_column else v_other end));
  elsif p_filter ? 'is_null' then
    return null;
  elsif exists (select from pg_type as t where t.oid = v_type and t.typcategory = 'A') then
    return format(
      '%s of %s is %s, which holds several values. There may stand { is = "null" } or { is = "not null" }',
      quote_ident(v_column), p_table, format_type(v_type, -1));
  elsif backfill_private.comparison(v_type, 3) is null then
    return format(
      '%s of %s is %s, and two values of that type cannot be compared. There may stand { is = "null" } or '
      '{ is = "not null" }',
      quote_ident(v_column), p_table, format_type(v_type, -1));
  elsif v_other is null then
    return backfill_private.value_fault(p_table, v_column, array(
      select jsonb_array_elements_text(p_filter -> 'values')));
  elsif backfill_private.common_form(p_table, v_column, v_other) is null then
    return format('%s of %s is %s and %s is %s: two columns of these types cannot be compared',
      quote_ident(v_column), p_table, format_type(v_type, -1), quote_ident(v_other), format_type(v_other_type, -1));
  end if;
  return null;
end
$$;

-- Values of filters that no row of the source has, though it has rows: a word in another case, or misspelt. Then
-- nothing is ever missing, and nobody hears of it.
--
-- p_held   the target's preconditions, if the caller has looked at them
-- details  a sentence for each. It names the nearest value that a row has only if that is nearly the same word: what
--          else the rows hold is nobody's business here
create function backfill_private.unmatched_values(
  p_target text, p_held backfill_private.precondition[] default null
)
returns table (column_name text, detail text)
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
  v_source backfill_private.sources;
  v_value record;
  v_is_met boolean;
  v_rows bigint;
  v_nearest text;
begin
  if not backfill_private.source_is_well(
    coalesce(p_held, array(select p from backfill_private.preconditions(p_target) as p)))
  then
    return;  -- told elsewhere
  end if;
  select * into strict v_source from backfill_private.sources as s where s.target = p_target;
  for v_value in
    select f.filter ->> 'column' as name, v.value, t.type
    from backfill_private.column_filters(v_source.filters) as f
    cross join lateral jsonb_array_elements_text(f.filter -> 'values') with ordinality as v (value, place)
    cross join lateral (select backfill_private.value_type(v_source.source_table, f.filter ->> 'column') as type) as t
    where coalesce(f.filter ->> 'op', '=') in ('=', 'not')
      and backfill_private.filter_fault(v_source.source_table, f.filter) is null
    order by f.place, v.place
  loop
    execute format('select exists (select from %s as s where s.%I %s %L)',
      v_source.source_table::regclass,
      v_value.name,
      backfill_private.equals(v_value.type),
      backfill_private.spelled(v_value.type, v_value.value))
    into v_is_met;
    continue when v_is_met;
    execute format('select count(*) from (select from %s limit 100000) as s', v_source.source_table::regclass)
    into v_rows;
    continue when v_rows = 0;
    execute format(
      'select k.text
       from (select distinct s.%1$I::text as text from (select %1$I from %2$s limit 10000) as s) as k
       where length(k.text) <= 40 and backfill_private.farness($1, k.text) <= 0.5
       order by backfill_private.farness($1, k.text), k.text
       limit 1',
      v_value.name, v_source.source_table::regclass)
    into v_nearest using v_value.value;
    column_name := v_value.name;
    detail := format('none of the %s of %s has %s %s%s',
      case when v_rows = 100000 then 'many rows' else backfill_private.counted(v_rows, 'row') end,
      backfill_private.bare_name(v_source.source_table),
      v_value.name,
      left(v_value.value, 40),
      '; the nearest is ' || v_nearest);
    return next;
  end loop;
end
$$;

-- The marks on values that no row has, of a check and of a plan.
create function backfill_private.unmatched_marks(
  p_target text, p_held backfill_private.precondition[] default null
)
returns setof jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.line(
    'where ' || u.column_name,
    'warn',
    u.detail,
    'correct the declaration, then: backfill install --target FILE')
  from backfill_private.unmatched_values(p_target, p_held) as u
$$;
