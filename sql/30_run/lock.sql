-- The lock of a run: anyone who changes a run holds its row and its advisory lock.

-- The key of the advisory lock that is taken beside a run's row: verbs take it exclusively, bulk calls share it. It is
-- fair, unlike a row lock: those who share it do not pass anyone who waits for it exclusively.
create function backfill_private.run_lock(p_run_id uuid)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended(p_run_id::text, 20251101)
$$;

-- Refuse while there is nothing that any verb could be about: no target is installed, and no run was ever planned.
--
-- raises  OB013
create function backfill_private.refuse_untargeted()
returns void
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from public.backfill_targets) and not exists (select from public.backfill_runs) then
    perform backfill_private.refuse('OB013', 'no target is installed', backfill_private.first_target());
  end if;
end
$$;

-- Refuse a run that does not exist.
--
-- raises  OB001, or OB013 while no target is installed
create function backfill_private.refuse_run(p_sentence text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform backfill_private.refuse_untargeted();
  perform backfill_private.refuse('OB001', p_sentence, 'backfill runs');
end
$$;

-- A run, locked against other verbs for this transaction. Its chain holds all that bulk calls have settled.
--
-- raises  OB001 no such run, OB002 its state is none of those given
create function backfill_private.locked_run(p_run_id uuid, p_states text[] default null)
returns public.backfill_runs
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  perform pg_advisory_xact_lock(backfill_private.run_lock(p_run_id));
  perform backfill_private.note_batches(p_run_id);
  select * into v_run from public.backfill_runs where run_id = p_run_id for no key update;
  if not found then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  elsif v_run.state <> all (p_states) then
    perform backfill_private.refuse('OB002',
      format('run %s is %s; this needs it to be %s', p_run_id, v_run.state, array_to_string(p_states, ' or ')),
      backfill_private.hint(v_run));
  end if;
  return v_run;
end
$$;
