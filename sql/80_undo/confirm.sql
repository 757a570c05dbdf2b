-- Confirm an undo: exactly what the preview showed, piece by piece.

-- Go on with the quick check of an undo's rows by their age. If a row may have changed, the full look starts from the
-- first row.
create function backfill_private.undo_glance(p_undo backfill_private.undos, p_budget interval)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := backfill_private.clock() + p_budget;
  v_last integer := (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_undo.run_id);
begin
  loop
    if backfill_private.undo_is_as_seen(p_undo, backfill_private.undo_next(
      p_undo.run_id, p_undo.scope, p_undo.looked_ordinal, p_undo.looked_ordinal + 1000, null)) is not true then
      p_undo.seen := null;
      p_undo.looked_ordinal := 0;
      p_undo.looked_hash := '';
      p_undo.effect := '{}';
      exit;
    end if;
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

-- Look again before anything is written, for about two seconds per call: is everything as the preview saw it? Usually
-- the age of the rows is enough to tell.
--
-- The look starts again from the first row if the run has a new event, or if nobody continued it for five minutes: what
-- was seen then says little about now.
-- returns  the undo. It is still `previewed` if the next call has to continue the look
-- raises   OB019 the rows have changed since the preview
create function backfill_private.checked_undo(p_undo backfill_private.undos)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_events bigint := (backfill_private.run_now(p_undo.run_id)).audit_count;
begin
  if p_undo.checked_events is distinct from v_events
    or p_undo.checked_at < backfill_private.clock() - interval '5 min' then
    p_undo.looked_ordinal := 0;
    p_undo.checked_events := v_events;
    if p_undo.seen is null or p_undo.seen_events <> v_events then
      p_undo.seen := null;
      p_undo.looked_hash := '';
      p_undo.effect := '{}';
    end if;
  end if;
  p_undo.checked_at := backfill_private.clock();
  if p_undo.seen is not null then
    p_undo := backfill_private.undo_glance(p_undo, interval '2 s');
  end if;
  if p_undo.seen is null then
    p_undo := backfill_private.undo_look(p_undo, interval '2 s');
  end if;
  if backfill_private.undo_digest(p_undo) <> p_undo.digest then
    perform backfill_private.refuse('OB019', 'the rows have changed since the preview',
      format('backfill rollback %s', p_undo.run_id));
  end if;
  return p_undo;
end
$$;

-- The preview that this digest confirms: the newest preview of the run. It must still be true, or already be confirmed
-- with the run not started since. It stays `previewed` until the look has shown that it is still true.
--
-- p_scope  the scope that the caller expects, {sessions, since, until}. Null: any
-- raises   OB003 the policy asks for an approval, OB013 another scope, OB019 another digest, or the rows have changed
--          since the preview
create function backfill_private.confirmed_undo(p_run_id uuid, p_digest text, p_reason text, p_scope jsonb)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos := backfill_private.newest_undo(p_run_id, p_digest);
begin
  if jsonb_typeof(p_scope) = 'object'
    and v_undo.scope <> backfill_private.undo_scope(p_run_id,
      case when p_scope ->> 'sessions' is not null
        then array(select jsonb_array_elements_text(p_scope -> 'sessions')) end,
      p_scope ->> 'since', p_scope ->> 'until') then
    perform backfill_private.refuse('OB013', 'the preview of this digest has another scope than the one given now',
      format('the same command without its scope, or a preview of the other: backfill rollback %s …', p_run_id));
  elsif v_undo.state = 'previewed' then
    v_undo := backfill_private.checked_undo(backfill_private.approved_undo(v_undo));
    if backfill_private.undo_digest(v_undo) is null then
      return v_undo;
    end if;
    update backfill_private.undos
    set state = 'confirmed',
        reason = p_reason,
        confirmed_at = backfill_private.clock(),
        confirmed_by = (select label from backfill_private.caller()),
        approved_by = v_undo.approved_by,
        approver_id = v_undo.approver_id,
        approved_via = v_undo.approved_via
    where undo_id = v_undo.undo_id
    returning * into v_undo;
    perform backfill_private.record(p_run_id, 'undo_confirmed',
      jsonb_build_object(
        'digest', p_digest,
        'reason', p_reason,
        'scope', v_undo.scope,
        'rows', v_undo.rows_at_stake,
        'approved_by', v_undo.approved_by));
  elsif exists (
    select from public.backfill_events as ran
    where ran.run_id = p_run_id
      and ran.kind = 'running'
      and ran.seq > (
        select max(said.seq)
        from public.backfill_events as said
        where said.run_id = p_run_id
          and said.kind = 'undo_confirmed'
      )
  ) then
    perform backfill_private.refuse('OB019', 'the run has gone on since this undo was confirmed',
      format('backfill rollback %s', p_run_id));
  end if;
  return v_undo;
end
$$;

-- Undo the next sessions of a confirmed undo. The chain hears of them with a hash over what was taken back and written.
create function backfill_private.undo_part(
  p_undo backfill_private.undos, p_ordinals integer[], p_terms backfill_private.undo_terms
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_effect jsonb;
  v_taken integer;
  v_until integer;
begin
  perform from public.backfill_items
  where run_id = p_undo.run_id
    and ordinal = any (p_ordinals)
  order by ordinal
  for update;
  update public.backfill_items
  set fence_hash = null
  where run_id = p_undo.run_id
    and ordinal = any (p_ordinals)
    and fence_hash is not null;
  p_terms.is_alone := cardinality(p_ordinals) = 1;
  p_terms.undo_id := p_undo.undo_id;
  p_terms.ends_at := backfill_private.clock() + interval '0.8 s';
  v_effect := backfill_private.undo_sessions(p_undo.run_id, p_ordinals, p_terms);
  v_taken := (v_effect ->> 'taken')::integer;
  v_until := p_ordinals[v_taken];
  update backfill_private.undos
  set last_ordinal = v_until,
      sessions_seen = sessions_seen + v_taken,
      done = backfill_private.added(done, v_effect - array['conflicts', 'inferred', 'sessions_total', 'taken'])
  where undo_id = p_undo.undo_id;
  perform backfill_private.keep_conflicts(p_undo.undo_id, true, v_effect -> 'conflicts');
  perform backfill_private.record(p_undo.run_id, 'undo_settled',
    backfill_private.undo_trace(p_undo.run_id, p_undo.undo_id, p_undo.last_ordinal, v_until)
    || jsonb_build_object('digest', p_undo.digest, 'sessions', v_taken));
end
$$;

-- Confirm an undo, and undo the next sessions, see backfill_private.undo_sessions.
--
-- p_digest    of the newest preview. To continue a killed undo, pass the same digest
-- p_sessions  how many sessions this call undoes at most. Call again until remaining is 0
-- p_scope     the scope that the caller expects. Null: any
-- p_search_path  under which the user's code runs, see backfill_private.undo_path
-- returns     {remaining, sessions_total, sessions, deletes, restores, undo_id, conflicts: the first of the rows that
--             were left, see backfill_private.conflicts_after, conflicts_total, state, confirmed_by, finished_at,
--             was_finished: it was finished before this call; checked and to_check: how far the look before the first
--             row is, in sessions of the plan, null afterwards}
-- raises      OB003 the policy asks for an approval, OB010 not allowed, or the caller has a trigger on some table,
--             OB013 no reason or another scope, OB019 another digest, or the rows have changed since the preview
create function backfill_private.confirm_undo(
  p_run_id uuid, p_digest text, p_reason text, p_sessions integer, p_scope jsonb, p_search_path text
)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
  v_ordinals integer[];
  v_terms backfill_private.undo_terms;
  v_has_leases boolean;
begin
  v_terms.limit_at := backfill_private.limit_at();
  perform backfill_private.authorize('undo');
  if jsonb_typeof(p_scope) not in ('object', 'null')
    or jsonb_typeof(p_scope -> 'sessions') not in ('array', 'null') then
    perform backfill_private.refuse('OB013', 'a scope is {sessions: a list of ids, since, until}, each of them or none',
      format('backfill rollback %s --confirm %s --reason "…"', p_run_id, left(p_digest, 80)));
  end if;
  perform backfill_private.check_bounds(jsonb_build_object(
    'the digest', p_digest, 'the reason', p_reason, 'a part of an undo', p_sessions,
    'the list of sessions', p_scope -> 'sessions'));
  v_terms.path := backfill_private.undo_path(p_search_path);
  if backfill_private.said(p_reason) is null then
    perform backfill_private.refuse('OB013', 'an undo needs a reason',
      format('backfill rollback %s --confirm %s --reason "…"', p_run_id, p_digest));
  end if;
  perform backfill_private.refuse_if_removed(r.target)
  from backfill_private.caught_up_run(
    p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']) as r;
  v_has_leases := not backfill_private.take_leases_back(p_run_id);
  select max(u.undo_id) into v_undo.undo_id
  from backfill_private.undos as u
  where u.run_id = p_run_id
    and u.digest = p_digest
    and v_has_leases;
  if v_undo.undo_id is not null then
    return backfill_private.undo_progress(p_run_id, v_undo.undo_id) || '{"was_finished": false}';
  end if;
  v_undo := backfill_private.confirmed_undo(p_run_id, p_digest, p_reason, p_scope);
  v_ordinals := case v_undo.state
    when 'confirmed' then backfill_private.undo_next(p_run_id, v_undo.scope, v_undo.last_ordinal, null, p_sessions)
  end;
  if v_ordinals is not null then
    perform backfill_private.undo_part(v_undo, v_ordinals, v_terms);
  end if;
  return backfill_private.undo_progress(p_run_id, v_undo.undo_id)
    || jsonb_build_object('was_finished', v_undo.state = 'finished');
end
$$;

-- How far an undo is. When nothing is left, mark it finished and record an event.
create function backfill_private.undo_progress(p_run_id uuid, p_undo_id bigint)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
  v_remaining bigint;
  v_done jsonb;
begin
  select * into strict v_undo from backfill_private.undos where undo_id = p_undo_id;
  -- While the look goes on, nobody knows yet whether anything remains.
  v_remaining := greatest(v_undo.sessions_total - v_undo.sessions_seen, (v_undo.state = 'previewed')::integer);
  v_done := v_undo.done;
  if v_remaining = 0 and v_undo.state = 'confirmed' then
    update backfill_private.undos
    set state = 'finished',
        finished_at = backfill_private.clock()
    where undo_id = p_undo_id
    returning * into v_undo;
    perform backfill_private.record(p_run_id, 'undo_finished',
      v_done - 'conflicts_total'
      || jsonb_build_object('digest', v_undo.digest, 'conflicts', v_done -> 'conflicts_total'));
    perform backfill_private.close_if_empty(p_run_id);
  end if;
  return v_done || jsonb_build_object(
    'remaining', v_remaining,
    'sessions_total', v_undo.sessions_total,
    'checked', case v_undo.state when 'previewed' then v_undo.looked_ordinal end,
    'to_check', case v_undo.state when 'previewed' then
      (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id) end,
    'undo_id', p_undo_id,
    'conflicts', backfill_private.conflicts_after(v_undo, 0) -> 'conflicts',
    'confirmed_by', v_undo.confirmed_by,
    'finished_at', v_undo.finished_at,
    'called', (select r.plan -> 'called' from public.backfill_runs as r where r.run_id = p_run_id),
    'state', (select r.state from public.backfill_runs as r where r.run_id = p_run_id));
end
$$;

-- A run is rolled back when an undo leaves none of its sessions done.
create function backfill_private.close_if_empty(p_run_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (select r.state from public.backfill_runs as r where r.run_id = p_run_id) in ('completed', 'cancelled', 'expired')
    and exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'rolled_back')
    and not exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'done') then
    perform backfill_private.move(p_run_id, 'rolled_back', 'no session is left done');
  end if;
end
$$;
