-- The rule of outcomes: what a session becomes, from the rows that are there and what the worker saw.

-- Did any of these calls come to a known end? If so, the API is alive, and an outcome that stays unknown is the
-- session's own trouble.
create function backfill_private.has_known_outcome(p_outcomes jsonb)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from jsonb_array_elements(p_outcomes) as o
    where o ->> 'outcome' in ('answered', 'failed', 'again'))
$$;

-- The rule: what an item becomes, from the rows that are there and what the worker saw.
--
-- p_crowded_out  with this one. A call that was rolled back because of others is made five times
-- p_unknowns     with this one, if it is unknown. An outcome may stay unknown eight times. 0 while nobody knows whether
--                the API is alive, because its trouble is not a session's
create function backfill_private.outcome(
  p_is_complete boolean, p_lacks_receipt boolean, p_without_row text,
  p_outcome text, p_step text, p_code text, p_message text, p_crowded_out integer, p_unknowns integer,
  out state text, out step text, out code text, out message text, out is_critical boolean
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  is_critical := p_lacks_receipt or coalesce(p_code = 'OB018', false);
  if p_is_complete then
    state := 'done';
  elsif p_lacks_receipt then
    state := 'failed'; step := p_step; code := 'OB016';
    message :=
      'the row is there and has no receipt: the triggers were off, the Edge Function does not hand our headers on, '
      'or somebody else wrote it during the call';
  elsif p_outcome = 'answered' or p_code = 'OB020' then
    state := 'failed'; step := p_without_row; code := 'OB017';
    message := 'no effect: the function answered and left no row of the wanted version';
  elsif p_outcome in ('released', 'stop', 'slow') or (backfill_private.fault(p_code)).direct = 'released' then
    state := 'pending';
  else
    step := p_step; code := left(p_code, 20);
    message := backfill_private.kept_message(p_code, p_message);
    state := case
      when p_outcome = 'failed' then 'failed'
      when p_outcome = 'again' and p_crowded_out >= 5 then 'failed'
      when p_outcome in ('unknown', 'lost') and p_unknowns >= 8 then 'failed'
      else 'pending' end;
    if state = 'failed' and p_outcome in ('unknown', 'lost') then
      message := left(format('the outcome stayed unknown %s times: %s', p_unknowns, message), 500);
    end if;
  end if;
end
$$;
