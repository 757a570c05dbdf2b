-- Foundation: the private schema, the one clock, how we refuse.
--
-- public holds what people see; backfill_private is not exposed through the API and holds the rest.
-- Every function that needs the owner's rights lives there and asks who calls before it does anything.

create schema backfill_private;
revoke all on schema backfill_private from public;
grant usage on schema backfill_private to authenticated, service_role;

-- The only source of time. Tests replace this function in a database of their own.
-- plpgsql keeps its plan for the session; SQL would be parsed and planned anew in every scoring transaction.
create function backfill_private.clock()
returns timestamptz
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return pg_catalog.clock_timestamp();
end
$$;

-- Refuse: one SQLSTATE of class OB, one sentence, the next thing to do.
create function backfill_private.refuse(p_code text, p_message text, p_hint text default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using
    errcode = p_code,
    message = p_message,
    hint = coalesce(p_hint, '');
end
$$;

-- Hex SHA-256 of a text, UTF-8.
create function backfill_private.sha256_hex(p_text text)
returns text
language sql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
  select encode(sha256(convert_to(p_text, 'UTF8')), 'hex')
$$;

revoke all on function
  backfill_private.clock(),
  backfill_private.refuse(text, text, text),
  backfill_private.sha256_hex(text)
from public;
-- Views with the reader's rights read the clock.
grant execute on function backfill_private.clock() to authenticated, service_role;
