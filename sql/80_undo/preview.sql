-- The preview of an undo. Only rows that have a receipt and are still what the run wrote can be undone. confirm.sql
-- carries out exactly what was previewed. write.sql undoes the rows.

-- The normal form of an undo's scope: sessions as full ids, dates as bounds.
--
-- p_sessions  null: all. A list names some, so an empty one is refused: it would name all
-- raises      OB013 not a date, or an empty list, OB014 see backfill_private.named_sessions
create function backfill_private.undo_scope(p_run_id uuid, p_sessions text[], p_since text, p_until text)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_since timestamptz := backfill_private.since_bound('since', p_since);
  v_until timestamptz := backfill_private.until_bound('until', p_until);
  v_ids text[];
begin
  if cardinality(p_sessions) = 0 then
    perform backfill_private.refuse('OB013', 'the list of sessions is empty',
      format('name sessions, or leave the list out for the whole run: backfill rollback %s', p_run_id));
  elsif v_until <= v_since then
    perform backfill_private.refuse('OB013',
      format('since %s is after until %s', p_since, p_until),
      format('backfill rollback %s … --until …, with a day from %s on', p_run_id, left(p_since, 10)));
  end if;
  v_ids := backfill_private.named_sessions(
    (select r.target from public.backfill_runs as r where r.run_id = p_run_id), p_sessions, p_run_id);
  v_ids := (select array_agg(distinct i.id order by i.id) from unnest(v_ids) as i (id));
  return jsonb_build_object('sessions', v_ids, 'since_at', v_since, 'until_before', v_until);
end
$$;

-- The next sessions of a scope that have written rows, in the plan's order.
--
-- p_after, p_until  places of the plan: after the one, up to the other. p_until null: to the end
-- p_sessions        at most this many. Null: all
create function backfill_private.undo_next(
  p_run_id uuid, p_scope jsonb, p_after integer, p_until integer, p_sessions integer
)
returns integer[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  return (select array_agg(n.ordinal order by n.ordinal) from (
    select i.ordinal
    from public.backfill_items as i
    where i.run_id = p_run_id
      and i.ordinal > p_after
      and (p_until is null or i.ordinal <= p_until)
      and (p_scope ->> 'sessions' is null or p_scope -> 'sessions' ? i.session_id)
      and (p_scope ->> 'since_at' is null or i.session_at >= (p_scope ->> 'since_at')::timestamptz)
      and (p_scope ->> 'until_before' is null or i.session_at < (p_scope ->> 'until_before')::timestamptz)
      and exists (
        select from public.backfill_receipts as r
        where r.run_id = i.run_id
          and r.ordinal = i.ordinal
          and r.kind = 'score'
          and r.undone_at is null
      )
    order by i.ordinal
    limit p_sessions
  ) as n);
end
$$;

-- What an undo of these rows does, given these conflicts: counts per table, conflicts per row.
--
-- returns  {sessions_total: with a row, sessions: with a row to undo, session_ids: the first hundred of these,
--          inferred, deletes, restores, conflicts, conflicts_total}
create function backfill_private.undo_effect(p_rows backfill_private.undoable[], p_conflicts jsonb)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  with looked_at as materialized (
    select
      u.ordinal,
      u.session_id,
      u.table_name,
      u.row_key,
      u.is_inferred,
      u.has_before,
      u.after_hash is not null as stands,
      p_conflicts ->> u.last_receipt::text as conflict
    from unnest(p_rows) as u
  ), counted as (
    select
      backfill_private.bare_name(l.table_name) as tab,
      count(*) filter (where not l.has_before and l.stands and l.conflict is null) as deletes,
      count(*) filter (where l.has_before and l.conflict is null) as restores
    from looked_at as l
    group by l.table_name
  )
  select jsonb_build_object(
    'sessions_total', (select count(distinct l.ordinal) from looked_at as l),
    'sessions', (select count(distinct l.ordinal) from looked_at as l where l.conflict is null),
    'session_ids', (
      select coalesce(jsonb_agg(n.session_id order by n.ordinal), '[]')
      from (
        select distinct l.ordinal, l.session_id
        from looked_at as l
        where l.conflict is null
        order by l.ordinal
        limit 100) as n),
    'inferred', (select count(*) from looked_at as l where l.conflict is null and l.is_inferred),
    'deletes', (select coalesce(jsonb_object_agg(c.tab, c.deletes), '{}') from counted as c),
    'restores', (select coalesce(jsonb_object_agg(c.tab, c.restores), '{}') from counted as c),
    'conflicts_total', (select count(*) from looked_at as l where l.conflict is not null),
    'conflicts', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'session_id', l.session_id,
        'table', l.table_name,
        'row', l.row_key,
        'reason', l.conflict) order by l.ordinal, l.table_name), '[]')
      from looked_at as l
      where l.conflict is not null))
$$;

-- Continue the look at the rows in an undo's scope. It changes no table of the user's.
--
-- It goes in blocks of 1,000 places of the plan, so that the hash does not depend on how many calls the look took.
-- p_budget  how long to look
create function backfill_private.undo_look(p_undo backfill_private.undos, p_budget interval)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := backfill_private.clock() + p_budget;
  v_last integer := (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_undo.run_id);
  v_rows backfill_private.undoable[];
  v_table backfill_private.undo_table;
  v_conflicts jsonb;
  v_effect jsonb;
begin
  if p_undo.looked_ordinal = 0 then
    delete from backfill_private.conflicts as c where c.undo_id = p_undo.undo_id and not c.is_left;
  end if;
  loop
    v_conflicts := '{}';
    v_rows := array(
      select r
      from backfill_private.undo_rows(p_undo.run_id, backfill_private.undo_next(
        p_undo.run_id, p_undo.scope, p_undo.looked_ordinal, p_undo.looked_ordinal + 1000, null)) as r);
    for v_table in select * from backfill_private.undo_tables(v_rows) loop
      v_conflicts := v_conflicts || backfill_private.undo_conflicts(v_table, v_rows, false);
    end loop;
    v_effect := backfill_private.undo_effect(v_rows, v_conflicts);
    perform backfill_private.keep_conflicts(p_undo.undo_id, false, v_effect -> 'conflicts');
    p_undo.effect := backfill_private.added(p_undo.effect, v_effect - 'conflicts');
    p_undo.effect := jsonb_set(
      p_undo.effect, '{session_ids}', jsonb_path_query_array(p_undo.effect, '$.session_ids[0 to 99]'));
    p_undo.looked_hash := backfill_private.sha256_hex(concat_ws(e'\n', p_undo.looked_hash, (
      select string_agg(jsonb_build_array(u.last_receipt, not u.has_before, v_conflicts -> u.last_receipt::text)::text,
        e'\n' order by u.last_receipt)
      from unnest(v_rows) as u)));
    p_undo.looked_ordinal := least(p_undo.looked_ordinal + 1000, v_last);
    exit when p_undo.looked_ordinal = v_last or backfill_private.clock() >= v_until;
  end loop;
  update backfill_private.undos as u
  set looked_ordinal = p_undo.looked_ordinal,
      looked_hash = p_undo.looked_hash,
      effect = p_undo.effect,
      seen = p_undo.seen,
      checked_events = p_undo.checked_events,
      checked_at = p_undo.checked_at
  where u.undo_id = p_undo.undo_id;
  return p_undo;
end
$$;

-- The digest of what a look saw. Null while the look goes on.
create function backfill_private.undo_digest(p_undo backfill_private.undos)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_undo.looked_ordinal = (
      select max(i.ordinal)
      from public.backfill_items as i
      where i.run_id = p_undo.run_id
    )
    then backfill_private.sha256_hex(
      concat_ws(e'\n', 'backfill undo, form 2', p_undo.run_id, p_undo.scope, p_undo.looked_hash))
  end
$$;

-- Preview an undo. It changes no table of the user's. The preview is kept, and only the newest can be confirmed.
--
-- p_budget_ms  look for about this long, 20 seconds at most. The next call, with the answer's undo_id, continues. Null:
--              as long as it may
-- p_undo_id    of a preview to continue. Its scope stays
-- returns      {run_id, scope, undo_id, digest: null until the end, looked_at and to_look_at: sessions of the plan,
--              needs_approval: whether the policy asks for an approval that is not there yet,
--              elsewhere: see backfill_private.written_elsewhere, conflicts: the first, see
--              backfill_private.conflicts_after, … see backfill_private.undo_effect}
-- raises       OB001 no such run, OB002 the run is running or never ran, OB013 OB014 the scope is not usable
create function backfill_private.preview_undo(
  p_run_id uuid, p_sessions text[], p_since text, p_until text, p_budget_ms integer, p_undo_id bigint
)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '55s'
as $$
declare
  v_undo backfill_private.undos;
  v_asked_by uuid := (select c.user_id from backfill_private.caller() as c);
  v_budget_ms integer := coalesce(p_budget_ms, 20000);
begin
  perform backfill_private.authorize('preview');
  perform backfill_private.check_bounds(jsonb_build_object(
    'the list of sessions', p_sessions, 'a look', v_budget_ms));
  perform backfill_private.refuse_if_removed(r.target)
  from backfill_private.caught_up_run(
    p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']) as r;
  if p_undo_id is null then
    insert into backfill_private.undos (run_id, asked_by, scope, seen, seen_events)
    select
      p_run_id,
      v_asked_by,
      backfill_private.undo_scope(p_run_id, p_sessions, p_since, p_until),
      pg_current_snapshot(),
      r.audit_count
    from backfill_private.run_now(p_run_id) as r
    returning * into v_undo;
  else
    select * into v_undo
    from backfill_private.undos
    where undo_id = p_undo_id
      and run_id = p_run_id
      and asked_by is not distinct from v_asked_by;
    if not found then
      perform backfill_private.refuse('OB013',
        format('run %s has no preview %s of this caller', p_run_id, p_undo_id),
        format('backfill rollback %s', p_run_id));
    end if;
  end if;
  if v_undo.digest is null then
    v_undo := backfill_private.undo_look(v_undo, v_budget_ms * interval '1 ms');
    update backfill_private.undos
    set digest = backfill_private.undo_digest(v_undo),
        sessions_total = (v_undo.effect ->> 'sessions_total')::bigint,
        rows_at_stake = backfill_private.rows_at_stake(v_undo.effect),
        seen = case when v_undo.effect ->> 'conflicts_total' = '0' then seen end
    where undo_id = v_undo.undo_id
    returning * into v_undo;
  end if;
  return v_undo.effect || jsonb_build_object(
    'run_id', p_run_id,
    'called', (select r.plan -> 'called' from public.backfill_runs as r where r.run_id = p_run_id),
    'scope', v_undo.scope,
    'digest', v_undo.digest,
    'undo_id', v_undo.undo_id,
    'conflicts', backfill_private.conflicts_after(v_undo, 0) -> 'conflicts',
    'needs_approval', backfill_private.needs_approval(v_undo)
      and not exists (select from backfill_private.undo_approval(v_undo)),
    'elsewhere', backfill_private.written_elsewhere(p_run_id),
    'looked_at', v_undo.looked_ordinal,
    'to_look_at', (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id));
end
$$;
