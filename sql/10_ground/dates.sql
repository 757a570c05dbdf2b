-- Dates. Those of a request are whole UTC days, both ends included. A timestamp with an offset is taken as it is.

-- The first moment that a session may have, and the first that is too late: the years 1 to 9999. Clients' calendars
-- know no others, and a search that walks from date to date never reaches infinity.
create function backfill_private.first_moment()
returns timestamptz
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select timestamptz '0001-01-01 00:00:00+00'
$$;

create function backfill_private.after_all_moments()
returns timestamptz
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select timestamptz '10000-01-01 00:00:00+00'
$$;

-- Why no plan can take a session of this date. Null: one can.
--
-- p_column  the date's column
create function backfill_private.date_fault(p_column text, p_at timestamptz)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_at is null then format('it has no %s', p_column)
    when not isfinite(p_at) then format('its %s is %s', p_column, p_at)
    -- A date may be later than any moment. Then it is read as the last of these.
    when p_at >= timestamptz '294276-12-31 23:59:59.999999+00' then format('its %s is after the year 294276', p_column)
    when p_at >= backfill_private.after_all_moments()
    then format('its %s is in the year %s, and plans end with 9999',
      p_column, extract(year from p_at at time zone 'UTC'))
    when p_at < backfill_private.first_moment()
    then format('its %s is before the year 1, with which plans begin', p_column)
  end
$$;

-- How many rows no plan can take for their date, in words. Null for none.
--
-- p_called             how people call one of the rows, and several
-- p_without, p_beyond  how many have none, and how many have one that no plan can take
create function backfill_private.no_plan_takes(p_called text[], p_column text, p_without bigint, p_beyond bigint)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    case n.rows
      when 1 then format('1 %s has %s: no plan takes it', p_called[1], n.what)
      else format('%s %s have %s: no plan takes them', n.rows, p_called[2], n.what)
    end,
    '; ' order by n.place)
  from (values
    (1, p_without, 'no ' || p_column),
    (2, p_beyond, format('a %s that is infinite or of a year outside 1 to 9999', p_column))
  ) as n (place, rows, what)
  where n.rows > 0
$$;

-- The first moment that a since includes. A date is the start of its UTC day.
--
-- raises  OB013 the text is neither a date nor a timestamp
create function backfill_private.since_bound(p_name text, p_text text)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
as $$
declare
  v_moment timestamptz;
begin
  v_moment := p_text::timestamptz;
  if p_text is not null and backfill_private.date_fault(p_name, v_moment) is not null then
    raise datetime_field_overflow;
  end if;
  return v_moment;
exception
  when invalid_datetime_format
    or datetime_field_overflow
    or invalid_parameter_value
    or invalid_time_zone_displacement_value
  then
    perform backfill_private.refuse('OB013',
      format('%s is no date: %s', p_name, left(p_text, 40)),
      'give a day such as 2025-08-01, or a timestamp with an offset');
    return null;
end
$$;

-- Does a date name a whole day? If so, it can be given a time, in whatever form it is written.
create function backfill_private.names_day(p_text text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
as $$
begin
  return (p_text || ' 00:00:00')::timestamptz is not null;
exception when data_exception then
  return false;
end
$$;

-- The first moment after what an until includes: the next UTC day for a date, a microsecond later for a timestamp.
-- A day of another zone may have 23 or 25 hours.
create function backfill_private.until_bound(p_name text, p_text text)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select backfill_private.since_bound(p_name, p_text)
    + case when backfill_private.names_day(p_text) then interval '1 day' else interval '1 microsecond' end
$$;
