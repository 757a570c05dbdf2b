-- Outcomes: what a session becomes, a lost reply included. The item first, the fence second, the receipts third: an
-- outcome is decided only when the attempt can no longer commit.
--
-- A reply is lost if the worker says so (unknown: a broken connection, or a code of 30_run/faults.sql after which the
-- call may have committed), or if no worker says anything (lost: the lease ran out or was taken back, see settle.sql).

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
    where o ->> 'outcome' in ('answered', 'failed', 'again', 'beside'))
$$;

-- The rule: what an item becomes, from the rows that are there and what the worker saw.
--
-- p_crowded_out  with this one. A call that was rolled back because of others is made five times. One that is asked to
--                wait while others are not is made six times. 0 while nobody knows whether the others are, too
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
    message := 'no effect';
  elsif p_outcome = 'released'
    or p_outcome <> 'again' and (backfill_private.fault(p_code)).direct = 'released'
  then
    state := 'pending';
  else
    step := p_step; code := left(p_code, 20);
    message := backfill_private.kept_message(p_code, p_message);
    state := case
      when p_outcome = 'failed' then 'failed'
      when p_outcome = 'again' and p_crowded_out >= 5 then 'failed'
      when p_outcome = 'slow' and p_crowded_out >= 6 then 'failed'
      when p_outcome in ('unknown', 'lost') and p_unknowns >= 8 then 'failed'
      else 'pending' end;
    if state = 'failed' and p_outcome in ('unknown', 'lost') then
      message := left(format('the outcome stayed unknown %s times: %s', p_unknowns, message), 500);
    elsif state = 'failed' and p_outcome = 'slow' then
      message := left(format('asked to wait %s times while others were not: %s', p_crowded_out, message), 500);
    end if;
  end if;
end
$$;

-- What is said of a session whose function answered and left no row: which function, when, and what to look at.
create function backfill_private.no_effect(p_run_id uuid, p_component text)
returns text
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select format('no effect: %s answered by %s UTC and left no row of the wanted version in %s. Look at %s',
    f.name,
    to_char(backfill_private.clock() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
    t.table_name,
    case f.transport
      when 'edge' then 'its log of that time: it may leave the error of its write unread, or have nothing to score'
      else 'what it does for this session when it is called in the SQL editor' end)
  from public.backfill_runs as r
  join public.backfill_targets as t on t.target = r.target and t.component = p_component
  join backfill_private.scoring_functions(r.target) as f using (component)
  where r.run_id = p_run_id
$$;

-- Doubt a refusal of the gate that the gate had no reason for: the lease lives, and the run may write. Code of the
-- user's may raise the gate's own codes, and always for one session. So such a call counts as rolled back: it is made
-- again, but not without end.
--
-- returns  the outcomes as they are decided
create function backfill_private.doubt_refusals(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
begin
  if not exists (select from jsonb_array_elements(p_outcomes) as o where o ->> 'code' in ('OB011', 'OB012'))
    or not exists (
      select from public.backfill_runs as r
      where r.run_id = p_run_id and r.state = 'running' and r.approved_until > v_now)
  then
    return p_outcomes;
  end if;
  return (
    select jsonb_agg(
      case
        when o ->> 'code' in ('OB011', 'OB012') and (
          select i.lease_until > v_now
          from public.backfill_items as i
          where i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer)
        then o || '{"outcome": "again"}'
        else o
      end)
    from jsonb_array_elements(p_outcomes) as o);
end
$$;

-- What the steps of leased items have come to, from the rows and receipts that are there.
--
-- p_outcomes    as the worker told them
-- p_effects     see backfill_private.effects
-- is_complete   every row that the plan wants is there, and ours have receipts
-- lacks_receipt a step was answered and its row is there without a receipt, though receipts are exact
-- step_is_done  the step that failed has committed all the same
-- without_row   the first step whose row is missing
create function backfill_private.effects_of_steps(
  p_run_id uuid, p_ordinals integer[], p_outcomes jsonb, p_effects jsonb
)
returns table (
  ordinal integer, is_complete boolean, lacks_receipt boolean, step_is_done boolean, without_row text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  return query
  select
    e.ordinal,
    -- If receipts are inferred, a row without one is somebody else's or came late. No receipt of ours is missing.
    bool_and(e.is_wanted and (e.has_receipt or g.receipts = 'inferred')
      or e.component = any (i.filled) and e.is_present) as is_complete,
    bool_or(e.is_wanted and not e.has_receipt and g.receipts = 'exact' and e.component = any (t.answered)
      and e.component <> all (i.filled)) as lacks_receipt,
    bool_or(e.is_wanted and e.has_receipt and e.component = t.step) as step_is_done,
    (array_agg(e.component order by array_position(i.components, e.component))
      filter (where not e.is_wanted and e.component <> all (i.filled)))[1] as without_row
  from jsonb_to_recordset(p_effects)
    as e (ordinal integer, component text, is_present boolean, is_wanted boolean, has_receipt boolean)
  join jsonb_to_recordset(p_outcomes) as t (ordinal integer, answered text[], step text) using (ordinal)
  join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = e.ordinal
  join public.backfill_targets as g on g.target = i.source and g.component = e.component
  where i.ordinal = any (p_ordinals)
  group by e.ordinal;
end
$$;

-- Decide the outcomes of leased items, take their fences and say what is critical. This is only ever a batch of a run
-- that may be large, so its items are named by their places, and are never read with all others of the run.
--
-- p_outcomes  [{ordinal, outcome, answered: [component], step, code, message, retry_after_s}]
--             answered names the calls that came back well, whatever came after them. outcome:
--             answered  every call came back well
--             failed    a call failed, and would fail again
--             again     a call was rolled back, and may well succeed
--             slow      too many requests, of this session or of all
--             unknown   nobody knows whether a call happened
--             lost      the same, and the worker is gone
--             stop      a call failed in a way that all others may: see trial.sql
--             released  not called
--             beside    not well beside others: in bulk after another session in one transaction, else a conflict on a
--                       table that is no component's. It is called again alone
-- returns     the settled items: [{ordinal, session_id, state, failed_step, error_code, error_message, is_critical}]
create function backfill_private.decide_outcomes(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
  v_ordinals integer[] := backfill_private.held_items(p_run_id, p_outcomes);
  v_effects jsonb := (
    select coalesce(jsonb_agg(e), '[]') from backfill_private.effects(p_run_id, v_ordinals) as e);
  v_raced integer[] := backfill_private.note_races(p_run_id, p_outcomes, v_effects);
  v_settled jsonb;
  v_is_alive boolean := backfill_private.has_known_outcome(p_outcomes) or not exists (
    select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'pending');
  v_is_free boolean := backfill_private.are_others_free(p_run_id, p_outcomes);
begin
  with told as (
    select o.*, (o.outcome = 'again' or o.outcome = 'slow' and v_is_free)::integer as is_crowded
    from jsonb_to_recordset(p_outcomes)
      as o (ordinal integer, outcome text, answered text[], step text, code text, message text, retry_after_s numeric)
  ), decided as (
    select t.ordinal, t.outcome, t.retry_after_s, o.*, i.crowded_out + t.is_crowded as crowded_out,
      t.outcome = 'stop' and (backfill_private.fault(t.code)).direct is distinct from 'released' as is_suspect,
      i.unknown_outcomes + (not s.is_complete and t.outcome in ('unknown', 'lost'))::integer as unknowns
    from told as t
    join backfill_private.effects_of_steps(p_run_id, v_ordinals, p_outcomes, v_effects) as s using (ordinal)
    join public.backfill_items as i
      on i.run_id = p_run_id and i.ordinal = t.ordinal and i.ordinal = any (v_ordinals)
    cross join lateral backfill_private.outcome(s.is_complete, coalesce(s.lacks_receipt, false), s.without_row,
      -- An error about a call that committed all the same is no failure: what is left is the next step.
      -- Nor is it the failure of its step if one before it had answered and left no row.
      -- Of a session that somebody else has filled in part, the rest is scored anew: the gate may have refused it.
      case
        when t.ordinal = any (v_raced) and t.code is distinct from 'OB018' then 'released'
        when t.outcome = 'stop' and i.trial = 'resumed' and backfill_private.has_done(p_run_id) then 'failed'
        when t.outcome <> 'failed' then t.outcome
        when s.step_is_done then 'released'
        when s.without_row = any (t.answered) then 'answered'
        else t.outcome end,
      case when t.step = any (i.components) then t.step end,
      nullif(t.code, case when t.ordinal = any (v_raced) then 'OB020' end), t.message,
      case when t.is_crowded = 1 then i.crowded_out + 1 else 0 end,
      case when v_is_alive then i.unknown_outcomes + 1 else 0 end) as o
  ), written as (
    update public.backfill_items as i
    set state = case when d.state = 'done' and i.filled @> i.components then 'skipped' else d.state end,
        failed_step = d.step, error_code = d.code,
        error_message = case d.code when 'OB017' then backfill_private.no_effect(p_run_id, d.step) else d.message end,
        crowded_out = d.crowded_out, unknown_outcomes = d.unknowns, is_alone = d.outcome = 'beside',
        not_before = case when d.state = 'pending' then
          backfill_private.tried_again_at(d.outcome, d.unknowns, d.crowded_out, d.retry_after_s) end,
        trial = case
          when d.state = 'pending' and d.is_suspect
          then case when i.trial = 'called' and not i.is_alone then 'agreed' else 'aside' end
          when i.trial = 'resumed' and d.state = 'pending' or i.trial = 'called' and d.state = 'done' then i.trial end,
        settled_at = case when d.state <> 'pending' then backfill_private.clock() end,
        lease_until = null, lease_kind = null, claim_id = null, worker = null, fence_hash = null
    from decided as d
    where i.run_id = p_run_id and i.ordinal = any (v_ordinals) and i.ordinal = d.ordinal
    returning i.ordinal, i.session_id, i.state, i.failed_step, i.error_code, i.error_message, d.is_critical
  )
  select coalesce(jsonb_agg(to_jsonb(w) order by w.ordinal), '[]') into v_settled from written as w;
  perform backfill_private.lower_low_water(p_run_id, v_ordinals);
  return v_settled;
end
$$;

-- Are the other sessions of a run not asked to wait, so that one that is has a limit of its own? They are not if any of
-- its batch or of the batch before came to a known end, or if every one that is left has a limit of its own. If
-- sessions were done since the run was started or resumed, what is left and was all asked to wait has such limits too.
--
-- p_outcomes  see backfill_private.decide_outcomes
create function backfill_private.are_others_free(p_run_id uuid, p_outcomes jsonb)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return (
    select backfill_private.has_known_outcome(p_outcomes)
      or r.troubled_batches = 0
      or not exists (
        select from public.backfill_items as i
        where i.run_id = p_run_id
          and i.state = 'pending'
          and i.crowded_out = 0
          and i.trial is null
          and (i.error_code is null or r.settled_since = r.failed_since))
    from backfill_private.run_now(p_run_id) as r);
end
$$;

-- Has any session of this run been done?
create function backfill_private.has_done(p_run_id uuid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'done')
$$;

-- Lock leased items for the change of their fences, so that their attempts can no longer commit, and infer receipts if
-- need be.
--
-- p_outcomes  see backfill_private.decide_outcomes
-- returns     the ordinals of those that were leased. Never null, which to effects() would be every item of the run
create function backfill_private.held_items(p_run_id uuid, p_outcomes jsonb)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_ordinals integer[];
begin
  -- Asked for their state afterwards: the index of all leases would seem as good, see low_water.sql.
  select coalesce(array_agg(l.ordinal) filter (where l.state = 'leased'), '{}') into v_ordinals
  from (
    select i.ordinal, i.state
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.ordinal = any (array(select o.ordinal from jsonb_to_recordset(p_outcomes) as o (ordinal integer)))
    order by i.ordinal
    for update of i) as l;
  if exists (
    select from public.backfill_runs as r
    join public.backfill_targets as t on t.target = r.target
    where r.run_id = p_run_id and t.transport = 'edge'
  ) then
    perform backfill_private.infer_receipts(p_run_id, v_ordinals, array(
      select o.ordinal from jsonb_to_recordset(p_outcomes) as o (ordinal integer, outcome text)
      where o.ordinal = any (v_ordinals) and o.outcome <> 'released'));
  end if;
  return v_ordinals;
end
$$;
