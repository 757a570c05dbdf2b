-- Trouble: what the database does when calls go wrong. Back-off of a session and of a run, and the circuit breaker.
--
-- A call without a known end is looked up, not guessed: settling takes the fence away, then asks the receipts.
-- This file says only how long to wait before another try, and when to stop trying. How many tries a session has is in
-- outcome.sql, which code or status means slow or unknown in 30_run/faults.sql. The client repeats none of these calls.
-- Its own (start, claim, settle) it asks again with a back-off of the library stamina: backfill/api/retries.py.

-- How long to wait after this many troubles in a row: 1 s, 2 s, 4 s … 60 s. Up to half of it is random, so that
-- sessions and workers that ran into the same trouble do not come back together.
create function backfill_private.back_off(p_troubles integer)
returns interval
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select least(60, power(2, least(p_troubles, 10) - 1)) * (0.5 + random() / 2) * interval '1 second'
$$;

-- When a session that is pending again may be tried. Null: at once.
--
-- p_outcome        see backfill_private.decide_outcomes
-- p_unknowns       how often its outcome was unknown, with this one
-- p_crowded_out    how often it was rolled back or told to wait while others were not, with this one
-- p_retry_after_s  as a 429 said. At most an hour of it is heeded
create function backfill_private.tried_again_at(
  p_outcome text, p_unknowns integer, p_crowded_out integer, p_retry_after_s numeric
)
returns timestamptz
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.clock() + case p_outcome
    when 'unknown' then backfill_private.back_off(p_unknowns)
    when 'again' then backfill_private.back_off(p_crowded_out)
    when 'slow' then greatest(
      backfill_private.back_off(greatest(p_crowded_out, 1)),
      case when p_retry_after_s > 0 then least(p_retry_after_s, 3600) end * interval '1 second')
  end
$$;

-- Note that calls are answered: the run is in no trouble, and does not back off.
create function backfill_private.note_answers(p_run_id uuid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  update public.backfill_runs
  set troubled_batches = 0, back_off_until = null
  where run_id = p_run_id
    and (troubled_batches, back_off_until) is distinct from (0, null)
$$;

-- Note what a batch ran into. A run that gets no answer backs off, and is paused after eight batches without one. A run
-- that is told to slow down by a 429 waits as long as it was told: the worker begins no other session of the batch, and
-- no claim and no call in bulk is granted before back_off_until. A session that is told so again while others are not
-- waits by itself, as long as tried_again_at says. Trouble that may hit every session is tried on another one, see
-- trial.sql.
--
-- p_outcomes  as the worker told them
-- p_settled   as decided, see backfill_private.decide_outcomes
create function backfill_private.note_trouble(p_run_id uuid, p_outcomes jsonb, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_trouble record;
  v_is_known boolean := backfill_private.has_known_outcome(p_outcomes)
    or exists (select from jsonb_array_elements(p_settled) as s where s ->> 'state' = 'done');
  v_batches integer;
  v_what text;
begin
  select
    o ->> 'outcome' as kind,
    (o ->> 'retry_after_s')::numeric as retry_after_s,
    concat_ws(' ', left(o ->> 'code', 20), backfill_private.kept_message(o ->> 'code', o ->> 'message')) as what
  into v_trouble
  from jsonb_array_elements(p_outcomes) as o
  where o ->> 'outcome' in ('slow', 'unknown')
    and not (o ->> 'outcome' = 'slow' and exists (
      select from public.backfill_items as i
      where i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer and i.crowded_out > 1))
  order by
    o ->> 'outcome' = 'slow' desc,
    (o ->> 'retry_after_s')::numeric desc nulls last
  limit 1;
  if v_trouble.kind is distinct from 'slow' and v_is_known then
    perform backfill_private.note_answers(p_run_id);
  elsif v_trouble.kind in ('slow', 'unknown') then
    v_what := left(v_trouble.what, 300);
    update public.backfill_runs
    set troubled_batches = troubled_batches + (not v_is_known)::integer,
        back_off_reason = v_what,
        back_off_until = backfill_private.clock() + coalesce(
          case when v_trouble.retry_after_s > 0 then least(v_trouble.retry_after_s, 3600) end * interval '1 second',
          backfill_private.back_off(troubled_batches + 1))
    where run_id = p_run_id
    returning troubled_batches into v_batches;
  end if;
  -- In an `if` of its own: PostgreSQL would look for what is pending each time, through all that is done.
  if v_trouble.kind = 'unknown' and v_batches >= 8 then
    if exists (
      select from public.backfill_items as i
      where i.run_id = p_run_id
        and i.state = 'pending'
        and i.ordinal not in (select (o ->> 'ordinal')::integer from jsonb_array_elements(p_outcomes) as o)
    ) then
      perform backfill_private.hold(p_run_id, 'no_outcome',
        format('no known outcome in %s batches in a row, the last: %s', v_batches, v_what));
    end if;
  end if;
end
$$;

-- The circuit breaker pauses the run if more than half failed after twenty sessions, or five in a row in the canary.
-- It counts since the run was started or resumed, so that a repaired run can finish.
--
-- p_settled  see backfill_private.decide_outcomes
create function backfill_private.break_circuit(p_run_id uuid, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.run_now(p_run_id);
  v_is_canary boolean;
  v_settled integer;
  v_failed integer;
  v_newest_done integer;
  v_failed_after integer;
  v_most text;
begin
  select
    count(*)::integer,
    count(*) filter (where s.state = 'failed')::integer,
    max(s.ordinal) filter (where s.state = 'done')
  into v_settled, v_failed, v_newest_done
  from jsonb_to_recordset(p_settled) as s (ordinal integer, state text)
  where s.state in ('done', 'failed');
  select count(*)::integer into v_failed_after
  from jsonb_to_recordset(p_settled) as s (ordinal integer, state text)
  where s.state = 'failed'
    and s.ordinal > coalesce(v_newest_done, 0);
  v_run.settled_since := v_run.settled_since + v_settled;
  v_run.failed_since := v_run.failed_since + v_failed;
  v_run.failed_in_row := case when v_newest_done is null then v_run.failed_in_row else 0 end + v_failed_after;
  perform backfill_private.keep_run(v_run, true);
  if v_failed = 0 then
    return;
  end if;
  select
    count(*) filter (where i.phase = 'priority') > 0,
    coalesce(mode() within group (order by i.error_code), 'no code')
  into v_is_canary, v_most
  from public.backfill_items as i
  join jsonb_to_recordset(p_settled) as s (ordinal integer, state text) using (ordinal)
  where i.run_id = p_run_id
    and i.state = 'failed';
  if v_is_canary and v_run.failed_in_row >= 5 then
    perform backfill_private.hold(p_run_id, 'breaker:' || v_most,
      format('circuit breaker: %s canary %s failed in a row, most with %s',
        v_run.failed_in_row, (backfill_private.words_of(p_run_id))[2], v_most));
  elsif v_run.settled_since >= 20 and v_run.failed_since * 2 > v_run.settled_since then
    perform backfill_private.hold(p_run_id, 'breaker:' || v_most,
      format('circuit breaker: %s of %s failed since %s UTC, most with %s',
        v_run.failed_since,
        backfill_private.called_in(p_run_id, v_run.settled_since),
        to_char(v_run.resumed_at at time zone 'UTC', 'HH24:MI:SS'),
        v_most));
  end if;
end
$$;

-- Note batches in which nothing went wrong, many at once: what note_trouble and break_circuit would say of each.
--
-- p_done  how many sessions they have done, if any. Null: there were no such batches
create function backfill_private.note_well(p_run_id uuid, p_done bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs := backfill_private.run_now(p_run_id);
begin
  if p_done is null then
    return;
  end if;
  perform backfill_private.note_answers(p_run_id);
  v_run.settled_since := (v_run.settled_since + p_done)::integer;
  v_run.failed_in_row := case when p_done > 0 then 0 else v_run.failed_in_row end;
  perform backfill_private.keep_run(v_run, true);
end
$$;

-- Until when a run starts no session by itself: it backs off, or is outside the hours of its standing approval. Null:
-- it does not wait.
create function backfill_private.waits_until(p_run public.backfill_runs)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select greatest(p_run.back_off_until, (backfill_private.standing_wait(p_run)).until)
$$;
