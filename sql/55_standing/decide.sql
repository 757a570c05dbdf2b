-- Decisions on standing approvals: approve, revoke. Neither is taken back, and a rule never changes.

-- Guard the rules: a rule stays as proposed, an approval and a revocation as given, and no row is deleted.
--
-- raises  OB007 one of them would change
create function backfill_private.guard_standing()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'UPDATE'
    and (new.standing_id, new.digest, new.proposed_by, new.proposed_via, new.proposed_at, backfill_private.rule_of(new))
      is not distinct from
      (old.standing_id, old.digest, old.proposed_by, old.proposed_via, old.proposed_at, backfill_private.rule_of(old))
    and (old.approved_at is null or (new.approved_by, new.approver_id, new.approved_via, new.approved_at, new.note)
      is not distinct from (old.approved_by, old.approver_id, old.approved_via, old.approved_at, old.note))
    and (old.revoked_at is null or (new.revoked_by, new.revoked_at, new.revoked_reason)
      is not distinct from (old.revoked_by, old.revoked_at, old.revoked_reason))
  then
    return new;
  end if;
  perform backfill_private.refuse('OB007',
    format('%s does not change', backfill_private.standing_name(old.standing_id)),
    format('backfill standing revoke %s --reason "…", and propose another', old.standing_id));
  return null;
end
$$;

create trigger backfill_standing_guard before update or delete on public.backfill_standing
  for each row execute function backfill_private.guard_standing();

-- A standing approval, locked: its uses, its approval and its revocation go one after the other.
--
-- raises  OB001 there is none
create function backfill_private.locked_standing(p_standing_id uuid)
returns public.backfill_standing
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  select * into v_rule from public.backfill_standing where standing_id = p_standing_id for no key update;
  if not found then
    perform backfill_private.refuse('OB001',
      format('there is no standing approval %s', p_standing_id), 'backfill standing list');
  end if;
  return v_rule;
end
$$;

-- Approve a standing approval. Who may not decide is refused before anything is locked.
--
-- returns  as backfill_private.standing_told
-- raises   OB001 there is none, OB002 it was decided already, OB004 another digest, OB005 the caller may not, OB007 it
--          ended, OB008 another environment, OB013 a name that names nobody, something too long, or no settings
create function backfill_private.approve_standing(p_standing_id uuid, p_digest text, p_approver text, p_note text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
  v_stands record;
  v_signed record;
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'the digest', p_digest, 'the approver''s name', p_approver, 'the note', p_note));
  perform backfill_private.check_name(p_approver);
  select * into v_rule from public.backfill_standing where standing_id = p_standing_id;
  perform backfill_private.check_approver(
    (select approval_policy from public.backfill_settings),
    array[v_rule.proposed_by],
    'standing approval',
    concat_ws(e'\n', 'in the SQL editor:', format('select public.%I(%L, %L, %L);',
      'backfill_approve', p_standing_id, v_rule.digest, coalesce(nullif(btrim(p_approver), ''), 'your name'))));
  v_rule := backfill_private.locked_standing(p_standing_id);
  v_stands := backfill_private.standing_state(v_rule);
  if v_stands.state in ('approved', 'revoked') or v_rule.approved_at is not null then
    perform backfill_private.refuse('OB002',
      format('%s is %s already', backfill_private.standing_name(p_standing_id), v_stands.state),
      'backfill standing list');
  elsif p_digest is distinct from v_rule.digest then
    perform backfill_private.refuse('OB004',
      format('digest %s is not that of %s, which is %s',
        backfill_private.told_apart(p_digest, v_rule.digest),
        backfill_private.standing_name(p_standing_id),
        backfill_private.told_apart(v_rule.digest, p_digest)),
      'backfill standing list');
  elsif v_stands.state = 'ended' then
    perform backfill_private.refuse('OB007',
      format('%s cannot be approved: %s', backfill_private.standing_name(p_standing_id), v_stands.why),
      'backfill standing new …');
  end if;
  perform backfill_private.check_environment(coalesce(v_rule.environment, 'unnamed'));
  v_signed := backfill_private.signed_by(p_approver);
  update public.backfill_standing
  set approved_by = v_signed.approver,
      approver_id = v_signed.approver_id,
      approved_via = v_signed.via,
      approved_at = backfill_private.clock(),
      note = p_note
  where standing_id = p_standing_id;
  return backfill_private.standing_told(p_standing_id);
end
$$;

-- Refuse to revoke the narrowest of several rules, unless the caller may decide: a wider one would count then.
--
-- raises  OB005 the caller may not
create function backfill_private.check_revocation(p_rule public.backfill_standing)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_wider uuid := (
    select r.standing_id
    from backfill_private.rules_of(p_rule.target) as r
    where backfill_private.breadth(r) > backfill_private.breadth(p_rule)
      and (backfill_private.standing_state(r)).state = 'approved'
    order by backfill_private.breadth(r)
    limit 1);
begin
  if v_wider is not null and (backfill_private.standing_state(p_rule)).state = 'approved' then
    perform backfill_private.check_approver(
      (select approval_policy from public.backfill_settings),
      '{}',
      'standing approval',
      format(e'a wider one would count then. Revoke that one first:\n'
        'backfill standing revoke %s --reason "…"', v_wider));
  end if;
end
$$;

-- Revoke a standing approval, at once. What it has approved starts no session from then on. As this only narrows what
-- may happen, the service key may do it too.
--
-- raises  OB001 there is none, OB002 it was revoked already, OB005 a wider one would count then, OB010 not allowed,
--         OB013 no reason
create function backfill_private.revoke_standing(p_standing_id uuid, p_reason text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule public.backfill_standing;
begin
  perform backfill_private.authorize('cancel');
  perform backfill_private.check_bounds(jsonb_build_object('the reason', p_reason));
  if backfill_private.said(p_reason) is null then
    perform backfill_private.refuse('OB013', 'to revoke needs a reason',
      format('backfill standing revoke %s --reason "…"', p_standing_id));
  end if;
  v_rule := backfill_private.locked_standing(p_standing_id);
  if v_rule.revoked_at is not null then
    perform backfill_private.refuse('OB002',
      format('%s is revoked already', backfill_private.standing_name(p_standing_id)), 'backfill standing list');
  end if;
  perform backfill_private.check_revocation(v_rule);
  update public.backfill_standing
  set revoked_by = (backfill_private.signed_by(null)).approver,
      revoked_at = backfill_private.clock(),
      revoked_reason = p_reason
  where standing_id = p_standing_id;
  return backfill_private.standing_told(p_standing_id);
end
$$;
