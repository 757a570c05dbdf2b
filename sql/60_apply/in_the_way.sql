-- In the way: what keeps an approved run from going on, as the database sees it now. Each has its row in causes.sql.

-- What its approval no longer covers, asked whenever a run is started, resumed or retried. Null: all is as approved.
create function backfill_private.no_longer_approved(p_run public.backfill_runs, out cause text, out reason text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_run.server is distinct from backfill_private.server_identity() then
    cause := 'server';
    reason := 'this is not the server and database that the plan was made on';
  elsif not exists (select from public.backfill_settings) then
    cause := 'settings';
    reason := 'the row of backfill_settings is gone';
  elsif backfill_private.is_elsewhere(p_run) then
    cause := 'environment';
    reason := 'this project''s environment is no longer the plan''s';
  elsif p_run.fingerprint is distinct from backfill_private.definitions(p_run.target) then
    cause := 'definition';
    reason := 'what was approved is no longer what stands there: ' || backfill_private.what_changed(p_run);
  elsif backfill_private.compute_digest(p_run.run_id) <> p_run.digest then
    cause := 'plan';
    reason := 'what was approved is no longer what stands there: ' || backfill_private.what_changed(p_run);
  end if;
end
$$;

-- What stands in a run's way, asked by all that starts or prolongs scoring: without a look at the whole plan. Null:
-- nothing.
create function backfill_private.in_the_way(p_run public.backfill_runs, out cause text, out reason text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer;
  v_has_settings boolean;
  v_taken bigint;
  v_bare text := (
    select u.name
    from public.backfill_targets as t, backfill_private.unguarded(t.table_name) as u (name)
    where t.target = p_run.target
    limit 1);
  v_gone text := backfill_private.gone(p_run.target);
  v_key_fault text := backfill_private.key_fault(p_run.target, false);
  v_revoked text := backfill_private.standing_revoked(p_run);
begin
  select s.max_throttle_per_minute into v_most from public.backfill_settings as s;
  v_has_settings := found;
  if v_most is not null and p_run.state = 'running' then
    v_taken := backfill_private.share_taken(null);
  end if;
  if p_run.server is distinct from backfill_private.server_identity() then
    cause := 'server';
    reason := 'this is not the server and database that the plan was made on';
  elsif not v_has_settings then
    cause := 'settings';
    reason := 'the row of backfill_settings is gone';
  elsif p_run.fingerprint is distinct from backfill_private.definitions(p_run.target) then
    cause := 'definition';
    reason := 'a scoring function is not the one that was approved: ' || backfill_private.what_changed(p_run);
  elsif to_regclass(backfill_private.standing_view(p_run.target)) is null then
    cause := 'view_gone';
    reason := format('%s is gone, which says what the target selects', backfill_private.standing_view(p_run.target));
  elsif v_gone is not null then
    cause := 'gone';
    reason := v_gone;
  elsif v_bare is not null then
    cause := 'receipt_triggers';
    reason := format('the receipt triggers of %s are missing or not always enabled', v_bare);
  elsif v_key_fault is not null then
    cause := 'key';
    reason := v_key_fault;
  elsif backfill_private.is_elsewhere(p_run) then
    cause := 'environment';
    reason := 'this project''s environment is no longer the plan''s';
  elsif v_revoked <> '' then
    cause := 'standing';
    reason := v_revoked;
  elsif v_taken > v_most then
    cause := 'throttle';
    reason := format('running runs take %s of the %s starts per minute that this project allows', v_taken, v_most);
  end if;
end
$$;

-- The one look: may sessions of this run be scored now? A claim moves the run if not, and says why.
create function backfill_private.may_score(p_run public.backfill_runs)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select p_run.state = 'running'
    and p_run.approved_until > backfill_private.clock()
    and (backfill_private.in_the_way(p_run)).cause is null
$$;

-- Refuse to go on with a run whose approval ran out, or while something stands in its way.
--
-- raises  OB006 the approval ran out, OB007 something stands in its way
create function backfill_private.refuse_if_held(p_run public.backfill_runs)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_held record;
begin
  if p_run.approved_until <= backfill_private.clock() then
    perform backfill_private.refuse('OB006', format('the approval of run %s ran out', p_run.run_id),
      backfill_private.hint(p_run, 'expired'));
  end if;
  v_held := backfill_private.no_longer_approved(p_run);
  if v_held.cause is null then
    v_held := backfill_private.in_the_way(p_run);
  end if;
  if v_held.cause is not null then
    perform backfill_private.refuse('OB007', v_held.reason, backfill_private.hint(p_run, v_held.cause));
  end if;
end
$$;
