-- Approval of an undo. If the policy is second_person, a large undo needs an approver who did not ask for it.
--
-- Parts count together, or a large undo would go in small ones: those of one run for ever, those of any run in 24
-- hours.

-- The newest preview of a run, locked.
--
-- raises  OB019 this is not its digest
create function backfill_private.newest_undo(p_run_id uuid, p_digest text)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
begin
  select * into v_undo
  from backfill_private.undos
  where run_id = p_run_id
    and digest is not null
  order by undo_id desc
  limit 1
  for update;
  if v_undo.undo_id is null or v_undo.digest is distinct from p_digest then
    perform backfill_private.refuse('OB019',
      format('%s is not the digest of the newest preview%s',
        backfill_private.told_apart(p_digest, v_undo.digest),
        coalesce(', which is ' || backfill_private.told_apart(v_undo.digest, p_digest), '')),
      format('backfill rollback %s', p_run_id));
  end if;
  return v_undo;
end
$$;

-- How many rows an undo may write, given its effect. Conflicts count: anyone who may write such a row can put it back
-- while the undo goes on.
create function backfill_private.rows_at_stake(p_effect jsonb)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(counted.value::bigint), 0)::bigint + coalesce((p_effect ->> 'conflicts_total')::bigint, 0)
  from (
    select * from jsonb_each_text(p_effect -> 'deletes')
    union all
    select * from jsonb_each_text(p_effect -> 'restores')
  ) as counted
$$;

-- Rows that other undos were confirmed for without an approval: those of the same run, those of any run in 24 hours.
create function backfill_private.rows_unapproved(p_undo backfill_private.undos)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(u.rows_at_stake), 0)::bigint
  from backfill_private.undos as u
  where u.undo_id <> p_undo.undo_id
    and u.state <> 'previewed'
    and u.approved_by is null
    and (u.run_id = p_undo.run_id or u.confirmed_at > backfill_private.clock() - interval '24 hours')
$$;

-- Does the policy ask for an approval of this undo? Without settings it does.
create function backfill_private.needs_approval(p_undo backfill_private.undos)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select s.undo_policy <> 'any'
      and p_undo.rows_at_stake + backfill_private.rows_unapproved(p_undo) > s.undo_policy_rows
    from public.backfill_settings as s
  ), true)
$$;

-- The approval of this undo, or of another preview of just the same rows, while it is valid. None if there is none.
create function backfill_private.undo_approval(p_undo backfill_private.undos)
returns setof backfill_private.undos
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select u.*
  from backfill_private.undos as u
  where u.run_id = p_undo.run_id
    and u.digest = p_undo.digest
    and u.approved_until > backfill_private.clock()
  order by u.undo_id desc
  limit 1
$$;

-- An undo that may be confirmed, with its approval. Under a policy that counts rows the settings are locked, so that
-- parts that are confirmed at the same time are counted one after the other.
--
-- raises  OB003 the policy asks for an approval, and there is none
create function backfill_private.approved_undo(p_undo backfill_private.undos)
returns backfill_private.undos
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_approval backfill_private.undos;
  v_caller record;
begin
  perform from public.backfill_settings where undo_policy <> 'any' for no key update;
  select * into v_approval from backfill_private.undo_approval(p_undo);
  select * into v_caller from backfill_private.caller();
  if v_approval.undo_id is not null then
    p_undo.approved_by := v_approval.approved_by;
    p_undo.approver_id := v_approval.approver_id;
    p_undo.approved_via := v_approval.approved_via;
  elsif v_caller.kind = 'postgres' then
    p_undo.approved_by := v_caller.label;
    p_undo.approved_via := 'sql';
  elsif backfill_private.needs_approval(p_undo) then
    perform backfill_private.refuse('OB003',
      format('an approver who did not ask for it has to confirm this undo of %s',
        backfill_private.counted(p_undo.rows_at_stake, 'row')),
      format('as an approver: backfill login, then backfill rollback %s --confirm %s --reason "…", '
        'or in the SQL editor: select public.backfill_approve_undo(''%1$s'', ''%2$s'', ''your name'');',
        p_undo.run_id, p_undo.digest));
  end if;
  return p_undo;
end
$$;

-- Approve an undo that was previewed. Who carries it out confirms it afterwards. Who may not approve is refused before
-- anything is locked.
--
-- returns  {run_id, digest, rows, approver, via, valid_until}
-- raises   OB001 no such run, OB002 it was confirmed already, OB005 the caller may not, OB013 no name or no settings,
--          OB019 another digest
create function backfill_private.approve_undo(p_run_id uuid, p_digest text, p_approver text, p_note text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_undo backfill_private.undos;
  v_caller record;
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'the digest', p_digest, 'the approver''s name', p_approver, 'the note', p_note));
  if not exists (select from public.backfill_runs as r where r.run_id = p_run_id) then
    perform backfill_private.refuse_run(format('there is no run %s', p_run_id));
  end if;
  perform backfill_private.check_name(p_approver);
  perform backfill_private.check_approver(
    (select case approval_policy when 'postgres_only' then approval_policy end from public.backfill_settings),
    array(
      select u.asked_by
      from backfill_private.undos as u
      where u.run_id = p_run_id
        and u.digest = p_digest),
    'undo',
    format('in the SQL editor: select public.backfill_approve_undo(%L, %L, ''your name'');', p_run_id, p_digest));
  perform backfill_private.locked_run(p_run_id);
  v_undo := backfill_private.newest_undo(p_run_id, p_digest);
  if v_undo.state <> 'previewed' then
    perform backfill_private.refuse('OB002', 'this undo has been confirmed already',
      format('backfill status %s', p_run_id));
  end if;
  select * into v_caller from backfill_private.caller();
  update backfill_private.undos
  set approved_by = coalesce(
        (select u.email from auth.users as u where u.id = v_caller.user_id),
        nullif(btrim(p_approver), ''),
        v_caller.label),
      approver_id = v_caller.user_id,
      approved_via = case v_caller.kind when 'user' then 'auth' else 'sql' end,
      approved_until = backfill_private.clock() + (backfill_private.settings()).approval_ttl
  where undo_id = v_undo.undo_id
  returning * into v_undo;
  perform backfill_private.record(p_run_id, 'undo_approved', jsonb_build_object(
    'digest', p_digest,
    'rows', v_undo.rows_at_stake,
    'approver', v_undo.approved_by,
    'via', v_undo.approved_via,
    'note', p_note));
  return jsonb_build_object(
    'run_id', p_run_id,
    'digest', p_digest,
    'rows', v_undo.rows_at_stake,
    'approver', v_undo.approved_by,
    'via', v_undo.approved_via,
    'valid_until', v_undo.approved_until);
end
$$;
