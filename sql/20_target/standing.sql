-- Standing: where each session of a target stands.

-- The view of a target that says which rows of its source are sessions, and why one cannot be scored.
create function backfill_private.standing_view(p_target text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select format('backfill_private.%I', p_target || '_standing')
$$;
