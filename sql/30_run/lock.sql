-- Locks: anyone who changes a run holds its row and its advisory lock.
--
-- PostgreSQL lets every role take any advisory lock. So nobody can guess the keys of ours: they are made with a secret
-- of this installation. Anyone who can send SQL still reads in pg_locks the key of a lock that is held at that moment,
-- and may take it afterwards. So a wait for one ends after some seconds, and says who holds it.

-- The key of an advisory lock of ours, with the secret at hand: who needs many keys reads it once.
--
-- p_what  what is locked: run, rehearsal, target or session
create function backfill_private.lock_key_with(p_secret text, p_what text, p_name text)
returns bigint
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return ('x' || encode(substr(sha256(convert_to(p_secret || p_what || ':' || p_name, 'UTF8')), 1, 8), 'hex'))
    ::bit(64)::bigint;
end
$$;

-- The key of an advisory lock of ours.
create function backfill_private.lock_key(p_what text, p_name text)
returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return backfill_private.lock_key_with(
    (select s.secret from backfill_private.lock_secret as s), p_what, p_name);
end
$$;

-- Take an advisory lock of ours until the transaction ends. It is fair, unlike a row lock: those who share it do not
-- pass anyone who waits for it exclusively.
--
-- p_called  what it locks, in words
-- raises    OB021 somebody else has held it for six seconds. A call of the API has eight
create function backfill_private.take_lock(p_key bigint, p_is_shared boolean, p_called text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '6s'
as $$
declare
  v_holders text;
begin
  if p_is_shared then
    perform pg_advisory_xact_lock_shared(p_key);
  else
    perform pg_advisory_xact_lock(p_key);
  end if;
exception when lock_not_available then
  select string_agg(l.pid::text, ', ' order by l.pid) into v_holders
  from pg_locks as l
  where l.locktype = 'advisory'
    and l.granted
    and l.database = (select d.oid from pg_database as d where d.datname = current_database())
    and l.objsubid = 1
    and (l.classid::bigint << 32) | l.objid::bigint = p_key;
  perform backfill_private.refuse('OB021',
    format('the lock of %s is held by somebody else%s', p_called, coalesce(': process ' || v_holders, '')),
    'try again. If it stays so, in the SQL editor: select pid, usename, state, query from pg_stat_activity'
      || coalesce(format(' where pid in (%s)', v_holders), ''));
end
$$;

-- Take the lock of a run beside its row: verbs take it exclusively, calls in bulk share it.
--
-- raises  OB021 see take_lock
create function backfill_private.take_run_lock(p_run_id uuid, p_is_shared boolean default false)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.take_lock(
    backfill_private.lock_key('run', p_run_id::text), p_is_shared, format('run %s', p_run_id))
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
-- raises  OB001 no such run, OB002 its state is none of those given, OB021 somebody else holds it
create function backfill_private.locked_run(p_run_id uuid, p_states text[] default null)
returns public.backfill_runs
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.backfill_runs;
begin
  perform backfill_private.take_run_lock(p_run_id);
  perform backfill_private.note_batches(p_run_id);
  perform from public.backfill_runs where run_id = p_run_id for no key update;
  if not found then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  end if;
  v_run := backfill_private.run_now(p_run_id);
  if v_run.state <> all (p_states) then
    perform backfill_private.refuse('OB002',
      format('run %s is %s; this needs it to be %s', p_run_id, v_run.state, array_to_string(p_states, ' or ')),
      backfill_private.hint(v_run));
  end if;
  return v_run;
end
$$;

-- Whether a transaction that began its work then holds others up and has had its time: somebody waits for a lock of it,
-- and it is at it for more than 0.8 s. Nobody waits for longer than a second because of what can be left out.
create function backfill_private.gives_way(p_began timestamptz)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.clock() - p_began > interval '0.8 s'
    and exists (select from pg_locks as l where not l.granted and pg_backend_pid() = any (pg_blocking_pids(l.pid)))
$$;
