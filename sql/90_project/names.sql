-- Names that the database does not have: which of those that it has may be meant.

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

-- The nearest of the names that exist. Functions are compared by name, then by arguments.
--
-- returns  null if none is so near that it may be meant: half of its letters are others, and neither holds the other
create function backfill_private.nearest(p_wanted text, p_known text[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select k.name
  from (
    select
      known as name,
      split_part(known, '(', 1) as path,
      split_part(p_wanted, '(', 1) as wanted_path,
      regexp_replace(split_part(known, '(', 1), '^.*\.', '') as bare,
      regexp_replace(split_part(p_wanted, '(', 1), '^.*\.', '') as wanted
    from unnest(p_known) as known
  ) as k
  where backfill_private.farness(k.wanted, k.bare) <= 0.5
    or strpos(lower(k.bare), lower(k.wanted)) > 0
    or strpos(lower(k.wanted), lower(k.bare)) > 0
  order by
    backfill_private.farness(k.wanted_path, k.path),
    backfill_private.farness(p_wanted, k.name),
    k.name
  limit 1
$$;

-- Refuse a name that does not exist, and say which is nearest.
--
-- p_else  what else may be meant, as a sentence of its own
-- raises  OB013 always
create function backfill_private.refuse_name(p_sentence text, p_wanted text, p_known text[], p_else text default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.refuse('OB013',
    concat(p_sentence, '; the nearest is ' || backfill_private.nearest(p_wanted, p_known), '. ' || p_else),
    'correct the declaration, then: backfill install --target FILE');
end
$$;
