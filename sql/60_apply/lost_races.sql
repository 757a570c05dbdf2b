-- Lost races: a row that somebody else wrote while we scored its session, so that the function had nothing to do.
--
-- Such a row has no receipt, and it needs none: it is not ours. But neither has a row that our call wrote round the
-- gate, and nothing in a committed row says who wrote it. So the gate itself is asked: its triggers stand as they stood
-- when the plan was sealed, and calls of this component are known to come by it. A write of this very transaction, as a
-- call in bulk makes it, is known to be ours.

-- Have calls of a component come by the gate? Either this run has a receipt that the gate wrote, or the plan's
-- rehearsal had one, or an earlier run of the same definitions. What an Edge Function does may change without its
-- version, so for it only this run counts.
create function backfill_private.gate_is_used(p_run public.backfill_runs, p_target public.backfill_targets)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.backfill_runs as r
    join public.backfill_receipts as w on w.run_id = r.run_id
    where (r.run_id = p_run.run_id
        or p_target.transport = 'rpc' and r.target = p_run.target and r.fingerprint = p_run.fingerprint)
      and w.component = p_target.component
      and w.kind = 'score'
      and not w.is_inferred)
  or exists (
    select from backfill_private.rehearsals as s
    where s.run_id = p_run.run_id
      and s.seen -> 'receipts' ? p_target.component)
$$;

-- Do the gate's triggers on a table stand, and have they stood since a run was sealed?
create function backfill_private.gate_has_stood(p_run public.backfill_runs, p_table text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select not exists (select from backfill_private.unguarded(p_table))
    and not exists (
      select from pg_trigger as g
      where g.tgrelid = to_regclass(p_table)
        and g.tgname = '000_backfill_receipt'
        and backfill_private.came_after(g.xmin, p_run.sealed_snapshot::pg_snapshot))
$$;

-- Are the lost races of a run too many to be believed? Twenty more of them than it has rows of its own: either another
-- job fills the same sessions, or the calls no longer come by the gate. Somebody has to look.
create function backfill_private.races_are_too_many(p_run_id uuid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select (
    select count(*) from (
      select from public.backfill_items as i
      where i.run_id = p_run_id and i.state = 'skipped' and i.attempts > 0
      limit 1000) as raced
  ) >= 20 + (
    select count(*) from (
      select from public.backfill_receipts as r
      where r.run_id = p_run_id and r.kind = 'score'
      limit 1000) as written
  )
$$;

-- Was a row written by this very transaction? p_xmin is the row's, 32 bits. This transaction gives the epoch. Nobody
-- else sees a row of a transaction that is in progress.
create function backfill_private.is_written_here(p_xmin xid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_mine bigint := pg_current_xact_id()::text::bigint;
  v_ahead bigint := mod(p_xmin::text::bigint - mod(v_mine, 4294967296) + 4294967296, 4294967296);
begin
  if v_ahead >= 2147483648 then
    v_ahead := v_ahead - 4294967296;
  end if;
  return v_mine + v_ahead > 0 and pg_xact_status((v_mine + v_ahead)::text::xid8) = 'in progress';
end
$$;

-- The places of these whose row of a component was written by this very transaction.
create function backfill_private.written_here(
  p_run public.backfill_runs, p_target public.backfill_targets, p_ordinals integer[]
)
returns integer[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ordinals integer[];
begin
  execute format(
    'select array(
       select item.ordinal
       from public.backfill_items as item
       join %s as t on %s
       where item.run_id = $1 and item.ordinal = any ($2)
         and backfill_private.is_written_here(t.xmin))',
    p_target.table_name::regclass,
    backfill_private.row_condition(p_target, p_run.request, false))
  into v_ordinals using p_run.run_id, p_ordinals;
  return v_ordinals;
end
$$;

-- Note in leased items which components somebody else has filled during their call.
--
-- p_outcomes  see backfill_private.decide_outcomes
-- p_effects   the rows of backfill_private.effects for these items
-- returns     the ordinals of those items
create function backfill_private.note_races(p_run_id uuid, p_outcomes jsonb, p_effects jsonb)
returns integer[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
  v_target public.backfill_targets;
  v_doubted integer[];
  v_raced integer[] := array[]::integer[];
begin
  if not jsonb_path_exists(p_effects, '$[*] ? (@.is_present == true && @.has_receipt == false)') then
    return v_raced;
  end if;
  select * into strict v_run from public.backfill_runs as r where r.run_id = p_run_id;
  for v_target in
    select * from public.backfill_targets as t where t.target = v_run.target and t.receipts = 'exact'
  loop
    v_doubted := array(
      select e.ordinal
      from jsonb_to_recordset(p_effects)
        as e (ordinal integer, component text, is_present boolean, has_receipt boolean)
      join jsonb_to_recordset(p_outcomes) as o (ordinal integer, outcome text) using (ordinal)
      join public.backfill_items as i on i.run_id = p_run_id and i.ordinal = e.ordinal
      where e.component = v_target.component
        and e.is_present
        and not e.has_receipt
        and e.component <> all (i.filled)
        and o.outcome <> 'released');
    continue when v_doubted = '{}'
      or not backfill_private.gate_has_stood(v_run, v_target.table_name)
      or not backfill_private.gate_is_used(v_run, v_target)
      or backfill_private.races_are_too_many(p_run_id);
    v_doubted := array(
      select d from unnest(v_doubted) as d
      where d <> all (backfill_private.written_here(v_run, v_target, v_doubted)));
    update public.backfill_items as i
    set filled = i.filled || v_target.component
    where i.run_id = p_run_id and i.ordinal = any (v_doubted);
    v_raced := v_raced || v_doubted;
  end loop;
  return v_raced;
end
$$;
