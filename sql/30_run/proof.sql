-- Proof: what the chain tells of receipts, held against the receipts that stand.
--
-- A settled batch and a part of an undo each tell a hash over theirs. Each costs one statement, however many there are.

-- A hash over the receipts of some items, up to the given one.
create function backfill_private.receipts_hash(p_run_id uuid, p_ordinals integer[], p_newest bigint)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(coalesce(
    string_agg(
      jsonb_build_array(
        r.receipt_id,
        r.ordinal,
        r.kind,
        r.operation,
        r.table_name,
        r.row_key,
        encode(r.before_hash, 'hex'),
        encode(r.after_hash, 'hex'))::text,
      e'\n' order by r.receipt_id),
    ''))
  from public.backfill_receipts as r
  where r.run_id = p_run_id
    and r.ordinal = any (p_ordinals)
    and r.receipt_id <= p_newest
$$;

-- The receipts that a part of an undo took back, and those that it wrote: how many, and a hash over them. Of those that
-- it took back only when: what else they say is in the hash of their batch.
--
-- p_after, p_until  the part's places in the plan, the first not included
-- returns           {undo, after, until, taken_back, written, receipts: the hash}
create function backfill_private.undo_trace(p_run_id uuid, p_undo_id bigint, p_after bigint, p_until bigint)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select jsonb_build_object(
    'undo', p_undo_id,
    'after', p_after,
    'until', p_until,
    'taken_back', count(*) filter (where r.kind = 'score'),
    'written', count(*) filter (where r.kind = 'undo'),
    'receipts', backfill_private.sha256_hex(coalesce(
      string_agg(
        case r.kind
          when 'undo' then concat_ws(' ', r.receipt_id, r.ordinal, r.operation, r.table_name, r.row_key,
            encode(r.before_hash, 'hex'), '/', encode(r.after_hash, 'hex'))
          else concat_ws(' ', r.receipt_id, r.undone_at)
        end,
        e'\n' order by r.receipt_id),
      '')))
  from public.backfill_receipts as r
  where r.run_id = p_run_id
    and r.ordinal > p_after
    and r.ordinal <= p_until
    and r.undo_id = p_undo_id
$$;

-- The settled batches and the parts of undos, among some events of a run, whose receipts are no longer those that the
-- chain names. No row if all still are.
create function backfill_private.receipt_faults(p_run_id uuid, p_after bigint, p_until bigint)
returns table (seq bigint, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select e.seq, 'the receipts of this batch are not those that were settled'
  from public.backfill_events as e
  where e.run_id = p_run_id
    and e.seq > p_after
    and e.seq <= p_until
    and e.kind = 'batch_settled'
    and e.details ->> 'receipts' <> backfill_private.batch_hash(p_run_id, e.details)
  union all
  select e.seq, 'the receipts of this part of an undo are not those that it left'
  from public.backfill_events as e
  where e.run_id = p_run_id
    and e.seq > p_after
    and e.seq <= p_until
    and e.kind = 'undo_settled'
    and (e.details @> backfill_private.undo_trace(
      p_run_id,
      backfill_private.told_number(e.details, 'undo'),
      backfill_private.told_number(e.details, 'after'),
      backfill_private.told_number(e.details, 'until'))) is not true
$$;

-- What a settled batch's details name, as a hash over its receipts as they are now.
create function backfill_private.batch_hash(p_run_id uuid, p_details jsonb)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.receipts_hash(
    p_run_id,
    backfill_private.told_ordinals(p_details),
    backfill_private.told_number(p_details, 'newest_receipt'))
$$;

-- The batches that calls in bulk have settled and that the chain does not have yet, if their receipts are no longer
-- those that were settled.
create function backfill_private.unnoted_faults(p_run_id uuid)
returns table (claim text, fault text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select u.details ->> 'claim', 'the receipts of this batch are not those that were settled'
  from backfill_private.unnoted as u
  where u.run_id = p_run_id
    and not u.is_noted
    and u.details ->> 'receipts' <> backfill_private.batch_hash(p_run_id, u.details)
$$;

-- The sessions of which something stands that the chain does not tell of, so that somebody has added it or has taken
-- the telling away: a receipt, an undo, an outcome. What is being scored has not been settled yet, and what calls in
-- bulk have settled may not be noted yet.
--
-- A run that has just ended is unknown to PostgreSQL's statistics. So the joins over all of it are hashed, whatever
-- these say: a nested loop takes the square of the run's sessions.
create function backfill_private.untold(p_run_id uuid)
returns table (session_id text, what text)
language sql
stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $$
  with told as materialized (
    select o.ordinal, max(backfill_private.told_number(s.details, 'newest_receipt')) as newest
    from (
      select e.details from public.backfill_events as e where e.run_id = p_run_id and e.kind = 'batch_settled'
      union all
      select u.details from backfill_private.unnoted as u where u.run_id = p_run_id and not u.is_noted
    ) as s
    cross join unnest(backfill_private.told_ordinals(s.details)) as o (ordinal)
    group by 1
  ), undone as materialized (
    select
      backfill_private.told_number(e.details, 'undo') as undo_id,
      min(backfill_private.told_number(e.details, 'after')) as after,
      max(backfill_private.told_number(e.details, 'until')) as until
    from public.backfill_events as e
    where e.run_id = p_run_id
      and e.kind = 'undo_settled'
    group by 1
  )
  select distinct r.session_id, 'it has a receipt that no settled batch tells of'
  from public.backfill_receipts as r
  left join told as t on t.ordinal = r.ordinal
  left join public.backfill_items as i on i.run_id = r.run_id and i.ordinal = r.ordinal
  where r.run_id = p_run_id
    and r.kind = 'score'
    and i.state is distinct from 'leased'
    and (r.receipt_id <= t.newest) is not true
  union all
  select distinct r.session_id, 'an undo of it is noted that the chain does not tell of'
  from public.backfill_receipts as r
  left join undone as u on u.undo_id = r.undo_id and r.ordinal > u.after and r.ordinal <= u.until
  where r.run_id = p_run_id
    and (r.kind = 'undo' or r.undone_at is not null)
    and u.undo_id is null
  union all
  select i.session_id, 'it was settled, and no batch tells of it'
  from public.backfill_items as i
  left join told as t on t.ordinal = i.ordinal
  where i.run_id = p_run_id
    and i.state in ('done', 'failed')
    and t.ordinal is null
$$;
