-- Pieces of an undo: others wait for what is locked, so a refusal is narrowed down for a short time only.

-- Undo the rows of some sessions at once. If the database or code of the user's refuses one of them, with any error,
-- each half is tried by itself, down to one session, so that one refusal is one conflict.
--
-- No half is begun after the terms' end if there is something to commit. Nobody waits for what is locked already while
-- this waits for a row that others have locked: such a row is left to the next call, which waits for it alone.
-- returns  see backfill_private.undo_effect, and taken: how many sessions were undone, the first ones
-- raises   57014 as refusal_to_undo
create function backfill_private.undo_sessions(
  p_run_id uuid, p_ordinals integer[], p_terms backfill_private.undo_terms
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
  v_half integer := cardinality(p_ordinals) / 2;
  v_is_locked boolean;
  v_first jsonb;
begin
  if p_terms.is_begun and backfill_private.clock() >= p_terms.ends_at then
    return '{"taken": 0}'::jsonb;
  end if;
  if v_half = 0 and p_terms.is_begun is not true then
    perform set_config('lock_timeout', '0', true);
  end if;
  begin
    return backfill_private.undo_at_once(p_run_id, p_ordinals, p_terms)
      || jsonb_build_object('taken', cardinality(p_ordinals));
  exception when query_canceled or assert_failure or others then
    v_is_locked := sqlstate = '55P03';
    if backfill_private.is_cancel(sqlstate, sqlerrm, p_terms.limit_at) then
      if not p_terms.is_alone then
        raise;
      end if;
      p_terms.limit_at := '-infinity';
    end if;
  end;
  if p_terms.is_begun and (backfill_private.clock() >= p_terms.ends_at or v_half = 0 and v_is_locked) then
    return '{"taken": 0}'::jsonb;
  elsif v_half = 0 then
    return backfill_private.undo_item(p_run_id, p_ordinals[1], p_terms) || '{"taken": 1}'::jsonb;
  end if;
  v_first := backfill_private.undo_sessions(p_run_id, p_ordinals[:v_half], p_terms);
  if (v_first ->> 'taken')::integer < v_half then
    return v_first;
  end if;
  p_terms.is_begun := true;
  return backfill_private.added(
    v_first, backfill_private.undo_sessions(p_run_id, p_ordinals[v_half + 1:], p_terms));
end
$$;
