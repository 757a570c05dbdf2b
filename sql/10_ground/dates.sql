-- Dates of a request: whole UTC days, both ends included. A timestamp with an offset is taken as it is.

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
  -- Planning walks from one to the other, window by window. It would never get past an infinity.
  if v_moment not between '0001-01-01' and '9999-12-31' then
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
    + case when p_text ~ '^\s*\d{4}-\d{2}-\d{2}\s*$' then interval '1 day' else interval '1 microsecond' end
$$;
