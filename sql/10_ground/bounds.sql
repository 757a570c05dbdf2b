-- Bounds: how much one call may be given. What is longer is refused before anything is done with it, so that no caller
-- keeps the project busy with one call, and no constraint answers in PostgreSQL's own words.
--
-- Ids, dates and names that have to be found need no row: what is not found is refused, with the beginning of it.

-- The bounds of everything that the doors are given.
--
-- kind  characters, bytes or entries: of these at most so many. Else it is a number, and kind is its unit
create view backfill_private.bounds with (security_invoker = true) as
select * from (values
  ('the approver''s name', 'characters', 0, 200),
  ('the note', 'characters', 0, 500),
  ('the reason', 'characters', 0, 500),
  ('the digest', 'characters', 0, 200),
  ('the name of the worker', 'characters', 0, 200),
  ('the host of the project', 'characters', 0, 255),
  ('the session', 'characters', 0, 4000),
  ('the request', 'bytes', 0, 1000000),
  ('the declaration', 'bytes', 0, 1000000),
  ('the answers of the API', 'bytes', 0, 1000000),
  ('so_far', 'bytes', 0, 1000000),
  ('the list of migrations', 'entries', 0, 10000),
  ('the list of migrations', 'bytes', 0, 1000000),
  ('the list of sessions', 'entries', 0, 1000),
  ('the list of sessions', 'bytes', 0, 1000000),
  -- One for each session of the largest batch, with a message of 500 characters.
  ('the list of outcomes', 'entries', 0, 1000),
  ('the list of outcomes', 'bytes', 0, 4000000),
  ('the list of marks', 'entries', 0, 100),
  ('a run by standing approval', 'sessions', 1, 1000000),
  ('a run by standing approval', 'calls', 1, 1000000),
  ('a day of standing approval', 'sessions', 1, 1000000),
  ('the throttle of a standing approval', 'starts per minute', 1, 100000),
  ('the round trip', 'milliseconds', 0, 600000),
  -- A look goes on in the next call.
  ('a look', 'milliseconds', 0, 20000),
  -- What a call in bulk has written stays locked until it ends.
  ('a call in bulk', 'milliseconds', 0, 1000),
  ('a call in bulk', 'sessions', 1, 500),
  ('a part of an undo', 'sessions', 1, 10000)
) as bound (what, kind, least, most);

-- Refuse what is more than a call may be given.
--
-- p_given  {what: value}, or {"what, kind": value} if it has several bounds of which one is meant. A text, list or JSON
--          may be null, a number may not
-- raises   OB013 the first that is out of bounds
create function backfill_private.check_bounds(p_given jsonb)
returns void
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_beyond record;
begin
  select b.what, b.kind, b.least, b.most, m.size into v_beyond
  from jsonb_each(p_given) as g
  join backfill_private.bounds as b on g.key in (b.what, concat_ws(', ', b.what, b.kind))
  cross join lateral (
    select case b.kind
      when 'characters' then length(g.value #>> '{}')
      when 'bytes' then octet_length(g.value::text)
      when 'entries' then case when jsonb_typeof(g.value) = 'array' then jsonb_array_length(g.value) end
      else case when jsonb_typeof(g.value) = 'number' then g.value::numeric end
    end as size) as m
  where m.size between b.least and b.most is not true
    and (g.value <> 'null' or b.kind not in ('characters', 'bytes', 'entries'))
  limit 1;
  if found then
    perform backfill_private.refuse('OB013',
      case
        when v_beyond.kind = 'entries'
        then concat(v_beyond.what, ' has at most ', v_beyond.most, ' entries', ', not ' || v_beyond.size)
        when v_beyond.kind in ('characters', 'bytes')
        then format('%s has at most %s %s, not %s', v_beyond.what, v_beyond.most, v_beyond.kind, v_beyond.size)
        else format('%s takes %s to %s %s, not %s',
          v_beyond.what, v_beyond.least, v_beyond.most, v_beyond.kind, coalesce(v_beyond.size::text, 'null'))
      end,
      case
        when v_beyond.kind in ('characters', 'bytes', 'entries') then format('make %s shorter', v_beyond.what)
        else format('give a number from %s to %s', v_beyond.least, v_beyond.most)
      end);
  end if;
end
$$;
