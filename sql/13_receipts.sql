-- Receipts and the gate: one trigger function on every target table.
--
-- A write under a run's header is allowed only under a live fence, and leaves a receipt in the same transaction. A
-- write without the header is ordinary: the triggers' WHEN does not even call us.

create table public.backfill_receipts (
  receipt_id bigint generated always as identity primary key,
  run_id uuid not null,
  ordinal integer not null,
  session_id text not null,
  component text not null,
  kind text not null check (kind in ('score', 'undo')),
  operation text not null check (operation in ('insert', 'update', 'delete')),
  table_name text not null,
  row_key jsonb not null,
  before jsonb,
  before_hash bytea,
  after_hash bytea,
  attempt integer not null,
  at timestamptz not null,
  undone_at timestamptz
);

create index backfill_receipts_items on public.backfill_receipts (run_id, ordinal);
-- Verify asks for every row that came since sealing whether any run wrote it.
create index backfill_receipts_sessions on public.backfill_receipts (session_id);

comment on table public.backfill_receipts is 'One row a row written by a run, committed with it: key, operation, hashes. No foreign key, so that scoring locks nothing of ours but its item.';
comment on column public.backfill_receipts.before is 'The row before, for undo. No API role reads it; backfill_prune empties it.';
comment on column public.backfill_receipts.undone_at is 'When an undo took this write back.';

alter table public.backfill_receipts enable row level security;
revoke all on public.backfill_receipts from public, anon, authenticated, service_role;
-- Older projects open new sequences too, and an identity's number needs no right on its sequence.
revoke all on sequence public.backfill_receipts_receipt_id_seq from public, anon, authenticated, service_role;
grant select (receipt_id, run_id, ordinal, session_id, component, kind, operation, table_name, row_key,
    before_hash, after_hash, attempt, at, undone_at)
  on public.backfill_receipts to authenticated, service_role;
create policy "everybody with a backfill role reads receipts" on public.backfill_receipts
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads receipts" on public.backfill_receipts
  for select to service_role using (true);
create trigger backfill_receipts_no_truncate before truncate on public.backfill_receipts
  for each statement execute function backfill_private.guard_truncate();

-- The hash of a row: over its columns by name, rendered alike whatever the session's settings.
-- p_row comes from to_jsonb() under the same settings, so call this only from functions that pin them too.
create function backfill_private.row_hash(p_row jsonb)
returns bytea
language sql
immutable
strict
set search_path = ''
as $$
  select sha256(convert_to(p_row::text, 'UTF8'))
$$;

-- The columns of a row that are its key.
create function backfill_private.row_key(p_row jsonb, p_columns text[])
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select jsonb_object_agg(c, p_row -> c) from unnest(p_columns) as c
$$;

-- The headers of this request where ours is among them; null for anything else that the setting may hold.
create function backfill_private.run_headers()
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  v_headers jsonb;
begin
  v_headers := nullif(current_setting('request.headers', true), '')::jsonb;
  return case when jsonb_typeof(v_headers) = 'object' and v_headers ? 'x-backfill-run' then v_headers end;
exception when data_exception or program_limit_exceeded then
  return null;  -- no JSON, so nothing that the API has set: an ordinary write
end
$$;

-- The item whose live attempt carries this fence, locked to the end of the transaction.
--
-- The share lock makes claim, settle, retry and undo wait for a write in flight, since they take the item for update;
-- of key share strength, because renewing a lease changes no fence and need not wait. nowait, because whoever holds the
-- item for update is about to change the fence.
-- raises  OB011 the fence is stale: someone took the lease over, or it ran out
--         OB012 the run is not allowed to write now
create function backfill_private.check_fence(p_headers jsonb)
returns public.backfill_items
language plpgsql
set search_path = ''
as $$
declare
  v_item public.backfill_items;
  v_run record;
begin
  select * into v_item from public.backfill_items as i
  where i.fence_hash = sha256(convert_to(p_headers ->> 'x-backfill-fence', 'UTF8'))
    and i.run_id::text = p_headers ->> 'x-backfill-run'
  for key share nowait;
  if not found or v_item.state <> 'leased' and v_item.lease_kind is distinct from 'undo' then
    perform backfill_private.refuse('OB011', 'the fence is stale: this attempt may no longer write', 'stop; claim again');
  elsif v_item.lease_until <= backfill_private.clock() then
    perform backfill_private.refuse('OB011', 'the lease ran out: this attempt may no longer write', 'stop; claim again');
  end if;
  select r.state, r.approved_until into strict v_run from public.backfill_runs as r where r.run_id = v_item.run_id;
  if v_item.lease_kind = 'score' and v_run.state <> 'running' then
    perform backfill_private.refuse('OB012', format('run %s is %s: it does not write', v_item.run_id, v_run.state),
      format('backfill status %s', v_item.run_id));
  elsif v_item.lease_kind = 'score' and v_run.approved_until <= backfill_private.clock() then
    perform backfill_private.refuse('OB012', format('the approval of run %s ran out', v_item.run_id),
      format('backfill plan --like %s', v_item.run_id));
  end if;
  return v_item;
end
$$;

-- Refuse a later step's row while an earlier step of the session has left none: a failed step ends the session.
--
-- raises  OB020 an earlier component has no receipt of this run
create function backfill_private.check_order(p_item public.backfill_items, p_target public.backfill_targets)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_before text;
begin
  select t.component into v_before from public.backfill_targets as t
  where t.target = p_target.target and t.position < p_target.position
    and t.component = any (p_item.components) and t.component <> all (p_item.filled)
    and not exists (select from public.backfill_receipts as r
      where r.run_id = p_item.run_id and r.ordinal = p_item.ordinal and r.component = t.component
        and r.kind = 'score' and r.undone_at is null)
  limit 1;
  if found then
    perform backfill_private.refuse('OB020',
      format('%s of session %s is not there, so %s is not written', v_before, p_item.session_id, p_target.component));
  end if;
end
$$;

-- Check the fence and write the receipt of one row.
--
-- tg_argv  target, component
-- raises   OB011 OB012 OB020 as above; OB018 the row is another session's than the leased one
create function backfill_private.keep_receipt()
returns trigger
language plpgsql
security definer
set search_path = ''
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_headers jsonb := backfill_private.run_headers();
  v_item public.backfill_items;
  v_target public.backfill_targets;
  v_before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  v_after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
begin
  if v_headers is null then
    return null;
  end if;
  v_item := backfill_private.check_fence(v_headers);
  select * into strict v_target from public.backfill_targets where target = tg_argv[0] and component = tg_argv[1];
  if v_item.source <> v_target.target
    or coalesce(v_before, v_after) ->> v_target.session_column is distinct from v_item.session_id
    or coalesce(v_after, v_before) ->> v_target.session_column is distinct from v_item.session_id then
    perform backfill_private.refuse('OB018',
      format('this attempt holds session %s and writes a row of another', v_item.session_id));
  end if;
  if v_item.lease_kind = 'score' and v_target.position > 1 then
    perform backfill_private.check_order(v_item, v_target);
  end if;
  insert into public.backfill_receipts (
    run_id, ordinal, session_id, component, kind, operation, table_name,
    row_key, before, before_hash, after_hash, attempt, at)
  values (
    v_item.run_id, v_item.ordinal, v_item.session_id, v_target.component, v_item.lease_kind, lower(tg_op),
    v_target.table_name, backfill_private.row_key(coalesce(v_after, v_before), v_target.key_columns),
    v_before, backfill_private.row_hash(v_before), backfill_private.row_hash(v_after), v_item.attempts,
    backfill_private.clock());
  return null;
end
$$;

-- Refuse to truncate a target table under a run's header: no receipt could say what went.
create function backfill_private.refuse_truncate()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if backfill_private.run_headers() is not null then
    perform backfill_private.refuse('OB018', format('a run does not truncate %s', tg_table_name));
  end if;
  return null;
end
$$;

revoke all on function
  backfill_private.row_hash(jsonb),
  backfill_private.row_key(jsonb, text[]),
  backfill_private.run_headers(),
  backfill_private.check_fence(jsonb),
  backfill_private.check_order(public.backfill_items, public.backfill_targets),
  backfill_private.keep_receipt(),
  backfill_private.refuse_truncate()
from public;
