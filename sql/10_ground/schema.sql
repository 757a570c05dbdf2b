-- What everything stands on: the one clock, how we refuse, small pure functions.

-- The only source of time. Tests replace this function in a database of their own.
-- plpgsql keeps its plan for the session. SQL would be parsed and planned anew in every scoring transaction.
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

-- A reason or a name as somebody gave it, without blanks at its ends. Null if it says nothing, as the "…" of a command
-- that was copied as it is.
create function backfill_private.said(p_text text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case when btrim(p_text, e' \t\r\n….<>"''_-') <> '' then btrim(p_text) end
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

-- A digest in a message that names another too: its beginning, or all of it if the two begin alike.
create function backfill_private.told_apart(p_digest text, p_other text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when left(p_digest, 12) is distinct from left(p_other, 12) then left(p_digest, 12) || '…'
    when length(p_digest) > 65 then left(p_digest, 65) || '…'
    else p_digest
  end
$$;

-- One mark of a plan: ok, warn or fail.
create function backfill_private.mark(p_name text, p_status text, p_detail text)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('name', p_name, 'status', p_status, 'detail', p_detail)
$$;

-- Was a row written by a transaction that this snapshot did not see? p_xmin is the row's, 32 bits. The snapshot gives
-- the epoch.
create function backfill_private.came_after(p_xmin xid, p_snapshot pg_snapshot)
returns boolean
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_least bigint := pg_snapshot_xmin(p_snapshot)::text::bigint;
  v_delta bigint := mod(p_xmin::text::bigint - mod(v_least, 4294967296) + 4294967296, 4294967296);
begin
  return v_delta < 2147483648
    and not pg_visible_in_snapshot((v_least + v_delta)::text::xid8, p_snapshot);
end
$$;

-- Join two partial answers: numbers are added, lists joined, objects joined name by name.
create function backfill_private.added(p_one jsonb, p_other jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(
      jsonb_object_agg(key, case
        when one.value is null then other.value
        when other.value is null then one.value
        when jsonb_typeof(one.value) = 'number' then to_jsonb(one.value::numeric + other.value::numeric)
        when jsonb_typeof(one.value) = 'array' then one.value || other.value
        else backfill_private.added(one.value, other.value)
      end),
      '{}')
    from jsonb_each(p_one) as one
    full join jsonb_each(p_other) as other using (key)
  );
end
$$;

-- One line of a check: a mark, and what to do next if it is not ok.
create function backfill_private.line(p_name text, p_status text, p_detail text, p_next text)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.mark(p_name, p_status, p_detail)
    || jsonb_build_object('next', case when p_status = 'ok' then '' else coalesce(p_next, '') end)
$$;

-- How many letters have to be inserted, deleted or changed to get from one text to the other.
create function backfill_private.distance(p_from text, p_to text)
returns integer
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_above integer[] := array(select generate_series(0, length(p_to)));
  v_row integer[];
begin
  for i in 1 .. length(p_from) loop
    v_row := array[i];
    for j in 1 .. length(p_to) loop
      v_row[j + 1] := least(v_row[j] + 1, v_above[j + 1] + 1,
        v_above[j] + (substr(p_from, i, 1) <> substr(p_to, j, 1))::integer);
    end loop;
    v_above := v_row;
  end loop;
  return v_above[length(p_to) + 1];
end
$$;

-- The distance as a share of the longer text, 0 to 1, so that a shortened name is nearer than another of its length.
create function backfill_private.farness(p_from text, p_to text)
returns numeric
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.distance(lower(left(p_from, 200)), lower(left(p_to, 200)))::numeric
    / greatest(length(left(p_from, 200)), length(left(p_to, 200)), 1)
$$;

-- So many of something, in agreement: 1 session, 2 sessions.
create function backfill_private.counted(p_count bigint, p_one text)
returns text
language sql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
  select format('%s %s%s', p_count, p_one, case when p_count = 1 then '' when p_one like '%ch' then 'es' else 's' end)
$$;
