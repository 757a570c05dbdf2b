-- Receipts: how rows are hashed and named, and how the chain proves them. The gate is the trigger that writes them.

-- The hash of a row: over its columns by name, rendered alike under any settings of the session.
-- p_row comes from to_jsonb() under the same settings, so call this only from functions that pin them too.
create function backfill_private.row_hash(p_row jsonb)
returns bytea
language sql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
  select sha256(convert_to(p_row::text, 'UTF8'))
$$;

-- The columns of a row that are its key. A loop, because an aggregate would cost one query per row.
create function backfill_private.row_key(p_row jsonb, p_columns text[])
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key jsonb := '{}'::jsonb;
  v_column text;
begin
  foreach v_column in array p_columns loop
    v_key := v_key || jsonb_build_object(v_column, p_row -> v_column);
  end loop;
  return v_key;
end
$$;

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

-- The settled batches among some events of a run whose receipts are no longer those that the chain names. No row if all
-- still are.
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
    and e.details ->> 'receipts' <> backfill_private.receipts_hash(
      p_run_id,
      array(select o::integer from jsonb_array_elements_text(e.details -> 'ordinals') as o),
      (e.details ->> 'newest_receipt')::bigint)
$$;
