-- Settling: what became of leased items. The item first, the fence second, the receipts third: an outcome is decided
-- only when the attempt can no longer commit.

-- Decide the outcomes of leased items and say what is critical. Only ever a batch, of a run that may be large: whatever
-- PostgreSQL takes for quicker, it looks up row by row.
--
-- p_outcomes  [{ordinal, outcome, answered: [component], step, code, message, retry_after_s}]
--             answered names the calls that came back well, whatever came after them. outcome:
--             answered  every call came back well       failed    a call failed, and would again
--             again     a call was rolled back, and may well succeed          slow  too many requests
--             unknown   nobody knows whether a call happened                  lost  nor does the worker: it is gone
--             stop      a call failed in a way that all others would          released  not called
-- returns     the settled items: [{ordinal, session_id, state, failed_step, error_code, error_message, is_critical}]
create function backfill_private.decide_outcomes(p_run_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_ordinals integer[];
  v_settled jsonb;
  v_is_alive boolean;
begin
  -- Never null: to effects() that would be every item of the run.
  select coalesce(array_agg(l.ordinal), '{}') into v_ordinals from (
    select i.ordinal from public.backfill_items as i
    join jsonb_to_recordset(p_outcomes) as o (ordinal integer) using (ordinal)
    where i.run_id = p_run_id and i.state = 'leased'
    order by i.ordinal for update of i) as l;
  update public.backfill_items as i
  set fence_hash = null
  where i.run_id = p_run_id and i.ordinal = any (v_ordinals);
  if exists (select from public.backfill_runs as r join public.backfill_targets as t on t.target = r.target
      where r.run_id = p_run_id and t.receipts = 'inferred') then
    perform backfill_private.infer_receipts(p_run_id, v_ordinals, array(
      select o.ordinal from jsonb_to_recordset(p_outcomes) as o (ordinal integer, outcome text)
      where o.ordinal = any (v_ordinals) and o.outcome <> 'released'));
  end if;
  v_is_alive := backfill_private.has_known_outcome(p_outcomes) or not exists (
    select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'pending');
  with told as (
    select o.ordinal, o.outcome, o.answered, o.step, o.code, o.message
    from jsonb_to_recordset(p_outcomes)
      as o (ordinal integer, outcome text, answered text[], step text, code text, message text)
  ), seen as (
    select e.ordinal,
      -- Where receipts are inferred, a row without one is somebody else's, or came late: there, and no receipt of ours is missing.
      bool_and(e.is_wanted and (e.has_receipt or g.receipts = 'inferred') or e.component = any (i.filled) and e.is_present) as is_complete,
      bool_or(e.is_wanted and not e.has_receipt and g.receipts = 'exact' and e.component = any (t.answered)) as lacks_receipt,
      bool_or(e.is_wanted and e.has_receipt and e.component = t.step) as step_is_done,
      (array_agg(e.component order by array_position(i.components, e.component))
        filter (where not e.is_wanted and e.component <> all (i.filled)))[1] as without_row
    from backfill_private.effects(p_run_id, v_ordinals) as e
    join told as t using (ordinal)
    join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = e.ordinal
    join public.backfill_targets as g on g.target = i.source and g.component = e.component
    group by e.ordinal
  ), decided as (
    select t.ordinal, t.outcome, o.*, i.crowded_out + (t.outcome = 'again')::integer as crowded_out,
      i.unknown_outcomes + (not s.is_complete and t.outcome in ('unknown', 'lost'))::integer as unknowns
    from told as t
    join seen as s using (ordinal)
    join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = t.ordinal
    cross join lateral backfill_private.outcome(s.is_complete, coalesce(s.lacks_receipt, false), s.without_row,
      -- An error about a call that committed all the same is no failure: what is left is the next step.
      -- Nor is it the failure of its step where one before it had answered and left no row.
      case when t.outcome <> 'failed' then t.outcome when s.step_is_done then 'released'
        when s.without_row = any (t.answered) then 'answered' else t.outcome end,
      case when t.step = any (i.components) then t.step end, t.code, t.message,
      i.crowded_out + 1, case when v_is_alive then i.unknown_outcomes + 1 else 0 end) as o
  ), written as (
    update public.backfill_items as i
    set state = d.state, failed_step = d.step, error_code = d.code, error_message = d.message,
        crowded_out = d.crowded_out, unknown_outcomes = d.unknowns,
        not_before = case when d.state <> 'pending' then null
          when d.outcome = 'unknown' then backfill_private.clock() + backfill_private.back_off(d.unknowns)
          when d.outcome = 'again' then backfill_private.clock() + backfill_private.back_off(d.crowded_out) end,
        settled_at = case when d.state <> 'pending' then backfill_private.clock() end,
        lease_until = null, lease_kind = null, claim_id = null, worker = null
    from decided as d
    where i.run_id = p_run_id and i.ordinal = d.ordinal
    returning i.ordinal, i.session_id, i.state, i.failed_step, i.error_code, i.error_message, d.is_critical
  )
  select coalesce(jsonb_agg(to_jsonb(w) order by w.ordinal), '[]') into v_settled from written as w;
  return v_settled;
end
$$;

-- What an error code means, said once. SQL asks this view through backfill_private.fault. backfill/faults.py mirrors
-- it, and a test holds the two equal.
--
-- of      whose code it is: PostgreSQL's (sqlstate), PostgREST's (postgrest) or an HTTP status (http)
-- class   a code, or what codes begin with. The longest match wins
-- direct  what it means for a session whose call came through the API: see backfill_private.decide_outcomes
-- bulk    the same for a call inside the database, in a subtransaction. Null: no such code is seen there
-- kept    what stands for the message, which may hold values of a row. Null: its first 500 characters are kept
-- why     the reason
create view backfill_private.faults with (security_invoker = true) as
select * from (values
  ('sqlstate', '', 'failed', 'failed', null,
    'it is this session''s failure, and would be again. What a function raises by itself is its author''s sentence. '
    'Other messages name objects and constraints alone, for their values are in DETAIL, which nobody keeps'),
  ('sqlstate', '08', 'unknown', 'again', null,
    'a connection broke. Through the API the call may have committed. Inside the database the subtransaction was '
    'rolled back'),
  ('sqlstate', '53', 'unknown', 'again', null,
    'the server lacks memory, disk or connections. Through the API it may be said after the commit. Inside the '
    'database the subtransaction was rolled back'),
  ('sqlstate', '57P', 'unknown', 'again', null,
    'the server stops or starts. Through the API the call may have committed before. Inside the database the '
    'subtransaction was rolled back'),
  ('sqlstate', '40001', 'again', 'again', null, 'rolled back for sure, for what others wrote at the same time'),
  ('sqlstate', '40P01', 'again', 'again', null, 'rolled back for sure, as the victim of a deadlock'),
  ('sqlstate', '55P03', 'again', 'again', null, 'rolled back for sure, for a lock that others held'),
  ('sqlstate', '25006', 'stop', 'stop', null, 'the database takes no writes, of any session'),
  ('sqlstate', '42501', 'stop', 'stop', null, 'a right is missing for every session. The message names objects alone'),
  ('sqlstate', '42883', 'stop', 'stop', 'syntax error or unknown name', 'a function is missing for every session'),
  ('sqlstate', '42P01', 'stop', 'stop', 'syntax error or unknown name', 'a table is missing for every session'),
  ('sqlstate', 'OB011', 'released', 'released', null, 'this attempt may no longer write, so the session is given back'),
  ('sqlstate', 'OB012', 'released', 'released', null, 'the run may no longer write, so the session is given back'),
  ('sqlstate', 'OB018', 'failed', 'failed', null, 'the gate refused a write. It is critical, and pauses the run'),
  ('sqlstate', 'OB020', 'failed', 'failed', null, 'the step before left no row. Settled as OB017, no effect'),
  ('sqlstate', '0A', 'failed', 'failed', 'feature not supported', 'the message may quote the statement'),
  ('sqlstate', '20', 'failed', 'failed', 'case not found', 'the message may hold the value that no case was for'),
  ('sqlstate', '22', 'failed', 'failed', 'data exception', 'the message quotes the value'),
  ('sqlstate', '26', 'failed', 'failed', 'invalid SQL statement name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '2F', 'failed', 'failed', 'SQL routine exception', 'the message may quote the statement'),
  ('sqlstate', '34', 'failed', 'failed', 'invalid cursor name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '38', 'failed', 'failed', 'external routine exception', 'another language puts what it likes in there'),
  ('sqlstate', '39', 'failed', 'failed', 'external routine invocation exception',
    'another language puts what it likes in there'),
  ('sqlstate', '3D', 'failed', 'failed', 'invalid catalog name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '3F', 'failed', 'failed', 'invalid schema name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '42', 'failed', 'failed', 'syntax error or unknown name', 'the message quotes SQL, maybe made of values'),
  ('sqlstate', '54', 'failed', 'failed', 'program limit exceeded', 'the message may quote the value that was too long'),
  ('sqlstate', '58', 'failed', 'failed', 'system error', 'the message may quote the name of a file'),
  ('sqlstate', 'F0', 'failed', 'failed', 'configuration file error', 'the message may quote the file'),
  ('sqlstate', 'HV', 'failed', 'failed', 'foreign data wrapper error', 'the message may quote the other server''s row'),
  ('sqlstate', 'XX', 'failed', 'failed', 'internal error', 'the message was made for developers and may hold anything'),
  ('postgrest', 'PGRST000', 'unknown', null, null, 'PostgREST does not reach the database'),
  ('postgrest', 'PGRST001', 'unknown', null, null, 'PostgREST lost the database, maybe after the commit'),
  ('postgrest', 'PGRST002', 'unknown', null, null, 'PostgREST could not read the schema yet'),
  ('postgrest', 'PGRST003', 'unknown', null, null, 'PostgREST found no free connection in time'),
  ('postgrest', 'PGRST106', 'stop', null, null, 'the schema is not exposed, for any session'),
  ('postgrest', 'PGRST202', 'stop', null, null, 'the function is not there, for any session'),
  ('postgrest', 'PGRST203', 'stop', null, null, 'several functions have this name, for every session'),
  ('postgrest', 'PGRST205', 'stop', null, null, 'the table is not there, for any session'),
  ('postgrest', 'PGRST301', 'stop', null, null, 'the key is no valid token, for any session'),
  ('postgrest', 'PGRST302', 'stop', null, null, 'a call without a key is not allowed, for any session'),
  ('postgrest', 'PGRST303', 'stop', null, null, 'the claims of the token are refused, for every session'),
  ('http', '3', 'stop', null, null, 'the API has another address, for every session'),
  ('http', '401', 'stop', null, null, 'the key is refused, for every session'),
  ('http', '403', 'stop', null, null, 'the key may not do this, for any session'),
  ('http', '408', 'unknown', null, null, 'a gateway waited too long. The call may go on behind it'),
  ('http', '425', 'unknown', null, null, 'a gateway would not risk a replay. Another copy of the call may have run'),
  ('http', '429', 'slow', null, null, 'the API asks for fewer calls, which is no failure'),
  ('http', '500', 'unknown', null, null, 'something between broke, and nobody says whether before or after the commit'),
  ('http', '502', 'unknown', null, null, 'a gateway got no proper answer. The call may have committed'),
  ('http', '503', 'unknown', null, null, 'a gateway found nobody to answer, maybe after the call had begun'),
  ('http', '504', 'unknown', null, null, 'a gateway waited too long. The call may go on behind it'),
  ('http', '520', 'unknown', null, null, 'Cloudflare got an answer that it did not understand'),
  ('http', '521', 'unknown', null, null, 'Cloudflare was not let in'),
  ('http', '522', 'unknown', null, null, 'Cloudflare''s connection timed out'),
  ('http', '523', 'unknown', null, null, 'Cloudflare does not reach the project'),
  ('http', '524', 'unknown', null, null, 'Cloudflare waited too long. The call may go on behind it'),
  ('http', '530', 'unknown', null, null, 'Cloudflare could not find the project'),
  ('http', '540', 'stop', null, null, 'the project is paused, for every session'),
  ('http', '544', 'unknown', null, null, 'the database took too long for the platform. The call may go on'),
  ('http', '546', 'unknown', null, null, 'an Edge Function was stopped at its limits, maybe after it wrote')
) as fault (of, class, direct, bulk, kept, why);

-- The row of backfill_private.faults that says what a code means; null where none does.
create function backfill_private.fault(p_code text)
returns backfill_private.faults
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select f.*
  from backfill_private.faults as f
  where starts_with(p_code, f.class)
    and f.of = case
      when length(p_code) = 5 then 'sqlstate'
      when p_code ~ '^PGRST[0-9]{3}$' then 'postgrest'
      when p_code ~ '^[0-9]{3}$' then 'http' end
  order by length(f.class) desc
  limit 1
$$;

-- What may be kept of an error's message: 500 characters, and nothing of a row.
create function backfill_private.kept_message(p_code text, p_message text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (backfill_private.fault(p_code)).kept || '; the message stays in the database''s log, it may hold contents',
    left(p_message, 500))
$$;

-- Did any of these calls come to an end that is known? Then the API is alive, and what stays unknown is a session's.
create function backfill_private.has_known_outcome(p_outcomes jsonb)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select exists (select from jsonb_array_elements(p_outcomes) as o where o ->> 'outcome' in ('answered', 'failed', 'again'))
$$;

-- The rule: what an item becomes, from what stands there and what the worker saw.
--
-- p_crowded_out  with this one; a call that was rolled back for what others did is made five times
-- p_unknowns     with this one, if it is unknown; an outcome may stay unknown eight times. 0 while nobody knows whether the
--                API is alive: its trouble is not a session's
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
    message := 'the row is there and has no receipt: the triggers were off, the Edge Function does not hand our headers on, '
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

-- Pause a run that runs, for a reason that the database saw.
create function backfill_private.hold(p_run_id uuid, p_reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.state from public.backfill_runs as r where r.run_id = p_run_id) = 'running' then
    perform backfill_private.move(p_run_id, 'paused', p_reason);
  end if;
end
$$;

-- What the chain says of a settled batch, with a hash over the receipts that its sessions have by now, told by the newest
-- of them.
create function backfill_private.settled_details(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_ordinals integer[] := array(select (x ->> 'ordinal')::integer from jsonb_array_elements(p_settled) as x);
  v_newest bigint := (select max(r.receipt_id) from public.backfill_receipts as r
                      where r.run_id = p_run_id and r.ordinal = any (v_ordinals));
begin
  return jsonb_build_object(
    'claim', p_claim_id,
    'ordinals', to_jsonb(v_ordinals),
    'states', (select jsonb_object_agg(s.state, s.n) from (
        select x ->> 'state' as state, count(*) as n from jsonb_array_elements(p_settled) as x group by 1) as s),
    'failed', (select jsonb_agg(jsonb_build_array(x ->> 'session_id', x ->> 'failed_step', x ->> 'error_code'))
        from jsonb_array_elements(p_settled) as x where x ->> 'state' = 'failed'),
    'newest_receipt', v_newest,
    'receipts', backfill_private.receipts_hash(p_run_id, v_ordinals, v_newest));
end
$$;

-- Pause the run where something of a settled batch is critical, and say so in the chain.
create function backfill_private.record_critical(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bad jsonb;
begin
  select jsonb_agg(jsonb_build_array(x ->> 'session_id', x ->> 'error_code')) into v_bad
  from jsonb_array_elements(p_settled) as x where (x ->> 'is_critical')::boolean;
  if v_bad is not null then
    perform backfill_private.record(p_run_id, 'critical', jsonb_build_object('claim', p_claim_id, 'sessions', v_bad));
    perform backfill_private.hold(p_run_id, format('critical: session %s, %s', v_bad -> 0 ->> 0,
      case v_bad -> 0 ->> 1 when 'OB016' then 'a written row has no receipt' else 'a write was refused at the gate' end));
  end if;
end
$$;

-- Record a settled batch in the chain; pause the run where something of it is critical.
create function backfill_private.record_batch(p_run_id uuid, p_claim_id uuid, p_settled jsonb)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.record(p_run_id, 'batch_settled', backfill_private.settled_details(p_run_id, p_claim_id, p_settled));
  perform backfill_private.record_critical(p_run_id, p_claim_id, p_settled);
end
$$;

-- A hash over the receipts of some items, up to the given one.
create function backfill_private.receipts_hash(p_run_id uuid, p_ordinals integer[], p_newest bigint)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(coalesce(string_agg(
    jsonb_build_array(r.receipt_id, r.ordinal, r.kind, r.operation, r.table_name, r.row_key,
      encode(r.before_hash, 'hex'), encode(r.after_hash, 'hex'))::text, e'\n' order by r.receipt_id), ''))
  from public.backfill_receipts as r
  where r.run_id = p_run_id and r.ordinal = any (p_ordinals) and r.receipt_id <= p_newest
$$;

-- The settled batches among some events of a run whose receipts are no longer those that the chain tells; no row where all
-- are.
create function backfill_private.receipt_faults(p_run_id uuid, p_after bigint, p_until bigint)
returns table (seq bigint, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select e.seq, 'the receipts of this batch are not those that were settled'
  from public.backfill_events as e
  where e.run_id = p_run_id and e.seq > p_after and e.seq <= p_until and e.kind = 'batch_settled'
    and e.details ->> 'receipts' <> backfill_private.receipts_hash(p_run_id,
      array(select o::integer from jsonb_array_elements_text(e.details -> 'ordinals') as o),
      (e.details ->> 'newest_receipt')::bigint)
$$;

-- Refuse outcomes that have not the form of any: a list of objects, one an ordinal.
--
-- raises  OB013 another form
create function backfill_private.check_outcomes(p_outcomes jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(p_outcomes) is distinct from 'array'
    or jsonb_path_exists(p_outcomes, 'strict $[*] ? (@.type() != "object")')
    or exists (
      select from jsonb_array_elements(p_outcomes) as o
      where o ->> 'ordinal' is null or jsonb_typeof(o -> 'ordinal') <> 'number' or o ->> 'ordinal' !~ '^\d{1,9}$'
        or coalesce(jsonb_typeof(o -> 'answered'), 'null') not in ('null', 'array')
        or jsonb_path_exists(o, 'lax $.answered[*] ? (@.type() == "object" || @.type() == "array")')
        or coalesce(jsonb_typeof(o -> 'retry_after_s'), 'null') not in ('null', 'number')
        or abs((case when jsonb_typeof(o -> 'retry_after_s') = 'number' then o -> 'retry_after_s' end)::numeric) > 1e9)
    or (select count(*) <> count(distinct o ->> 'ordinal') from jsonb_array_elements(p_outcomes) as o)
  then
    perform backfill_private.refuse('OB013',
      'outcomes are a list of {ordinal, outcome, answered, step, code, message, retry_after_s}, one for each session');
  end if;
end
$$;

-- Settle the outcomes of a claimed batch. Safe to call again: what is settled stays as it was.
--
-- p_outcomes  see backfill_private.decide_outcomes; only items still leased under this claim are settled
-- returns     {state, reason, settled: […]}
-- raises      OB001 no such run, OB010 not allowed
create function backfill_private.settle(p_run_id uuid, p_claim_id uuid, p_outcomes jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_mine jsonb;
  v_settled jsonb := '[]'::jsonb;
begin
  perform backfill_private.authorize('apply');
  perform backfill_private.check_outcomes(p_outcomes);
  perform backfill_private.locked_run(p_run_id);
  select jsonb_agg(o || jsonb_build_object('outcome', case
      when o ->> 'outcome' in ('answered', 'failed', 'again', 'slow', 'stop', 'released') then o ->> 'outcome'
      else 'unknown' end)) into v_mine
  from jsonb_array_elements(p_outcomes) as o
  join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = (o ->> 'ordinal')::integer
  where i.claim_id = p_claim_id and i.state = 'leased';
  if v_mine is not null then
    v_settled := backfill_private.decide_outcomes(p_run_id, v_mine);
    perform backfill_private.record_batch(p_run_id, p_claim_id, v_settled);
    perform backfill_private.note_trouble(p_run_id, v_mine, v_settled);
    perform backfill_private.break_circuit(p_run_id, v_settled);
  end if;
  return (select jsonb_build_object('state', r.state, 'reason', r.reason, 'settled', (
      select coalesce(jsonb_agg(jsonb_build_object('ordinal', i.ordinal, 'session_id', i.session_id, 'state', i.state,
        'failed_step', i.failed_step, 'error_code', i.error_code, 'error_message', i.error_message) order by i.ordinal), '[]')
      from public.backfill_items as i
      join jsonb_to_recordset(p_outcomes) as o (ordinal integer) using (ordinal)
      where i.run_id = p_run_id))
    from public.backfill_runs as r where r.run_id = p_run_id);
end
$$;

-- Settle leased items of which nobody tells the outcome: the receipts decide.
create function backfill_private.settle_untold(p_run_id uuid, p_ordinals integer[], p_why text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_ordinals is not null then
    perform backfill_private.record_batch(p_run_id, null, backfill_private.decide_outcomes(p_run_id, (
      select jsonb_agg(jsonb_build_object('ordinal', o, 'outcome', 'lost', 'message', p_why))
      from unnest(p_ordinals) as o)));
  end if;
end
$$;

-- Settle every lease of a run that does not run. Its attempts may write no more; one in flight is waited for.
create function backfill_private.release_all(p_run_id uuid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.settle_untold(p_run_id,
    (select array_agg(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id and i.state = 'leased'),
    'the lease was taken back')
$$;

-- Settle the leases that ran out, of every run whose row is free: their workers are gone.
create function backfill_private.release_expired()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_id uuid;
  v_ordinals integer[];
begin
  for v_run_id in
    select r.run_id from public.backfill_runs as r
    where r.run_id in (select i.run_id from public.backfill_items as i
                       where i.state = 'leased' and i.lease_until <= backfill_private.clock())
    order by r.run_id
    for no key update skip locked
  loop
    select array_agg(e.ordinal) into v_ordinals
    from (select i.ordinal from public.backfill_items as i
          where i.run_id = v_run_id and i.state = 'leased' and i.lease_until <= backfill_private.clock()
          for update skip locked) as e;
    perform backfill_private.settle_untold(v_run_id, v_ordinals, 'the lease ran out');
  end loop;
end
$$;

revoke all on function
  backfill_private.check_outcomes(jsonb),
  backfill_private.decide_outcomes(uuid, jsonb),
  backfill_private.fault(text),
  backfill_private.kept_message(text, text),
  backfill_private.has_known_outcome(jsonb),
  backfill_private.outcome(boolean, boolean, text, text, text, text, text, integer, integer),
  backfill_private.hold(uuid, text),
  backfill_private.settled_details(uuid, uuid, jsonb),
  backfill_private.record_critical(uuid, uuid, jsonb),
  backfill_private.record_batch(uuid, uuid, jsonb),
  backfill_private.receipts_hash(uuid, integer[], bigint),
  backfill_private.receipt_faults(uuid, bigint, bigint),
  backfill_private.settle(uuid, uuid, jsonb),
  backfill_private.settle_untold(uuid, integer[], text),
  backfill_private.release_all(uuid),
  backfill_private.release_expired()
from public;
grant execute on function backfill_private.settle(uuid, uuid, jsonb) to service_role;

-- Calls in bulk and rehearsals ask what an error means as the caller's role.
revoke all on backfill_private.faults from public, anon, authenticated, service_role;
grant select on backfill_private.faults to service_role;
grant execute on function backfill_private.fault(text) to service_role;

create function public.backfill_settle(p_run_id uuid, p_claim_id uuid, p_outcomes jsonb)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.settle(p_run_id, p_claim_id, p_outcomes)
$$;

revoke all on function public.backfill_settle(uuid, uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.backfill_settle(uuid, uuid, jsonb) to service_role;

comment on function public.backfill_settle(uuid, uuid, jsonb) is
  'Settle a claimed batch: what became of each session is decided by its receipts. For the client.';
