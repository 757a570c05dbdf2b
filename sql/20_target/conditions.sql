-- Conditions: how values are compared, and when a row of a component's table counts. Each condition is made once, in
-- the columns' own types. The views, the core, the marks and the undo all use what is made here.
--
-- Every function here that reads or writes a value as text pins the settings that such a text depends on. They look
-- single rows of the catalogs up, which takes less time than planning to, so a session plans each once.

-- The type of a column's values. A domain is looked through, and a length left away: a cast to varchar(3) would cut a
-- value, and the cut value might be another one. Null if there is no such column.
create function backfill_private.value_type(p_table text, p_column text)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_type oid := (
    select a.atttypid
    from pg_attribute as a
    where a.attrelid = to_regclass(p_table)
      and a.attname = p_column
      and not a.attisdropped
  );
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type as t where t.oid = v_type and t.typtype = 'd';
    exit when not found;
    v_type := v_base;
  end loop;
  return v_type;
end
$$;

-- An operator of a type's usual order, that of `distinct` and of a unique index. A type of an extension has it in a
-- schema that is not on our path. Null if two values cannot be compared.
--
-- p_place  1 <, 2 <=, 3 =, 4 >=, 5 >
create function backfill_private.comparison(p_type oid, p_place integer)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_operator oid := (
    -- Most types have an order of their own.
    select o.amopopr
    from pg_opclass as c
    join pg_amop as o
      on o.amopfamily = c.opcfamily
      and o.amoplefttype = p_type
      and o.amoprighttype = p_type
      and o.amopstrategy = p_place
    where c.opcintype = p_type
      and c.opcdefault
      and c.opcmethod = (select m.oid from pg_am as m where m.amname = 'btree')
  );
begin
  return coalesce(v_operator, (
    -- The others have that of the type that they are cast to, or of their kind.
    select o.amopopr
    from pg_opclass as c
    join pg_am as m
      on m.oid = c.opcmethod
      and m.amname = 'btree'
    join pg_amop as o
      on o.amopfamily = c.opcfamily
      and o.amoplefttype = c.opcintype
      and o.amoprighttype = c.opcintype
      and o.amopstrategy = p_place
    join pg_type as t on t.oid = p_type
    left join pg_cast as k
      on k.castsource = p_type
      and k.casttarget = c.opcintype
      and k.castmethod = 'b'
      and k.castcontext = 'i'
    join pg_type as i on i.oid = c.opcintype
    where c.opcdefault
      and (k.oid is not null
        or i.typname = case t.typtype
          when 'e' then 'anyenum'
          when 'r' then 'anyrange'
          when 'm' then 'anymultirange'
          when 'c' then 'record'
          else case when t.typsubscript = 'array_subscript_handler'::regproc then 'anyarray' end
        end)
    order by k.oid is null, i.typispreferred desc
    limit 1));
end
$$;

-- The equality of a type, as above.
create function backfill_private.equality(p_type oid)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select backfill_private.comparison(p_type, 3));
end
$$;

-- The same as SQL writes it between two values.
create function backfill_private.equals(p_type oid)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select backfill_private.compares(p_type, 3));
end
$$;

create function backfill_private.compares(p_type oid, p_place integer)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  -- The usual types need no look into the catalogs.
  if p_place = 3
    and p_type in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'integer'::regtype, 'bigint'::regtype)
  then
    return '=';
  end if;
  return (
    select case
      when n.nspname = 'pg_catalog' then o.oprname::text
      else format('operator(%I.%s)', n.nspname, o.oprname)
    end
    from pg_operator as o
    join pg_namespace as n on n.oid = o.oprnamespace
    where o.oid = backfill_private.comparison(p_type, p_place));
end
$$;

-- A value of a type in the one spelling that its type gives it, under any settings of the session.
--
-- raises  the error of the type's input if it is no value of the type
create function backfill_private.spelled(p_type oid, p_text text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_spelled text;
begin
  if p_type is null or p_type in ('text'::regtype, 'varchar'::regtype) then
    return p_text;
  end if;
  execute format('select %L::%s::text', p_text, format_type(p_type, -1)) into v_spelled;
  return v_spelled;
end
$$;

-- Why a column cannot be compared with these values. Null if it can.
create function backfill_private.value_fault(p_table text, p_column text, p_values text[])
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type oid := backfill_private.value_type(p_table, p_column);
  v_value text;
begin
  if v_type is null then
    return format('%s has no column %s', p_table, quote_ident(p_column));
  elsif backfill_private.equality(v_type) is null then
    return format('%s of %s is %s, and two values of that type cannot be compared',
      quote_ident(p_column), p_table, format_type(v_type, -1));
  end if;
  foreach v_value in array p_values loop
    perform backfill_private.spelled(v_type, v_value);
  end loop;
  return null;
exception when others then  -- a type's input may raise anything
  return format('%s of %s is %s, and %s is no such value%s',
    quote_ident(p_column),
    p_table,
    format_type(v_type, -1),
    case when length(v_value) > 40 then left(v_value, 40) || '…' else v_value end,
    backfill_private.may_stand(v_type));
end
$$;

-- What a session's key is: uuid, number or text. Columns of one kind are compared alike by every part, and each value
-- has one spelling. Null for anything else, also for a text that equals another one (a nondeterministic collation).
create function backfill_private.key_kind(p_table text, p_column text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select case
      when t.type = 'uuid'::regtype then 'uuid'
      when t.type in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype) then 'number'
      when t.type in ('text'::regtype, 'varchar'::regtype) and coalesce(l.collisdeterministic, true) then 'text'
    end
    from (select backfill_private.value_type(p_table, p_column) as type) as t
    left join pg_attribute as a
      on a.attrelid = to_regclass(p_table)
      and a.attname = p_column
    left join pg_collation as l on l.oid = a.attcollation);
end
$$;

-- The moment that a date of the source means, as SQL. A column without a time zone is read as UTC, whatever the
-- session's zone is.
--
-- p_value  SQL: the column, or its greatest value
create function backfill_private.moment(p_table text, p_column text, p_value text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select case
      when t.type = 'timestamp'::regtype then format('(%s at time zone ''UTC'')', p_value)
      when t.type = 'date'::regtype then format(
        -- A date may be later than any moment.
        '(case when %1$s >= ''294277-01-01'' and isfinite(%1$s) then ''294276-12-31 23:59:59.999999'''
        ' else %1$s::timestamp end at time zone ''UTC'')',
        p_value)
      else p_value
    end
    from (select backfill_private.value_type(p_table, p_column) as type) as t);
end
$$;

-- How a date of the source is read, in words. Null if it has a time zone of its own.
create function backfill_private.date_words(p_table text, p_column text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case t.type
    when 'timestamp'::regtype then p_column || ' has no time zone and is read as UTC'
    when 'date'::regtype then p_column || ' is a date and is read as the start of its UTC day'
  end
  from (select backfill_private.value_type(p_table, p_column) as type) as t
$$;

-- The value of a parameter as SQL, of a type: a literal if there is a request, else what holds when the view is read.
create function backfill_private.value_sql(p_target text, p_name text, p_type oid, p_request jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select case
      when p_request is not null then quote_nullable(backfill_private.spelled(p_type, p_request ->> p_name))
      -- In a subquery of its own, so that it is read once.
      when p_type in ('text'::regtype, 'varchar'::regtype)
      then format('(select backfill_private.parameter(%L, %L))', p_target, p_name)
      else format('(select backfill_private.spelled(%L::regtype, backfill_private.parameter(%L, %L))::%s)',
        p_type::regtype, p_target, p_name, format_type(p_type, -1))
    end);
end
$$;

-- The conditions on version and kind under which a row of a component's table counts.
--
-- p_alias    of the table
-- p_request  whose versions are wanted. Null: those that hold when a view is read
-- p_wanted   true: rows of the wanted version. False: any row that counts as present
create function backfill_private.kind_conditions(
  p_target public.backfill_targets, p_alias text, p_request jsonb, p_wanted boolean
)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select array(
      select format('%s.%I %s %s',
        p_alias,
        c.name,
        coalesce(backfill_private.equals(t.type), '='),
        backfill_private.value_sql(p_target.target, c.parameter, t.type, p_request))
      from (
        select 0 as place, p_target.version_column as name, p_target.version_parameter as parameter
        where p_target.version_column is not null and (p_wanted or not p_target.any_version_counts)
        union all
        select 1, m.key, m.value
        from jsonb_each_text(p_target.matches) as m
      ) as c
      cross join lateral (select backfill_private.value_type(p_target.table_name, c.name) as type) as t
      order by c.place, c.name));
end
$$;

-- Do two values of a type mean the same? Both as text.
create function backfill_private.is_same(p_type oid, p_one text, p_other text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
as $$
declare
  v_is_same boolean;
begin
  if p_type in ('text'::regtype, 'varchar'::regtype) then
    return p_one = p_other;
  end if;
  execute format('select %L::%s %s %L::%2$s',
    p_one, format_type(p_type, -1), backfill_private.equals(p_type), p_other)
  into v_is_same;
  return v_is_same;
end
$$;

-- A planned session's key, item.session_id, as SQL of the type that the source's key has. Of the derived column's type
-- it might be cut or out of range.
create function backfill_private.session_key(p_target text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select 'item.session_id::' || coalesce(
      format_type(backfill_private.value_type(s.source_table, s.key_column), -1),
      'text')
    from backfill_private.sources as s
    where s.target = p_target);
end
$$;

-- The condition under which a row t of a component's table belongs to the session item.session_id and counts.
--
-- p_wanted  see backfill_private.kind_conditions
-- returns   SQL text over the aliases t and item, with every name quoted and every value a literal
create function backfill_private.row_condition(
  p_target public.backfill_targets, p_request jsonb, p_wanted boolean
)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select array_to_string(
      format('t.%I = %s', p_target.session_column, backfill_private.session_key(p_target.target))
        || backfill_private.kind_conditions(p_target, 't', p_request, p_wanted),
      ' and '));
end
$$;
