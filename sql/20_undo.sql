-- Undo: only rows with a receipt that are still what the run wrote. Preview, then confirm exactly that preview.

create table backfill_private.undos (
  undo_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id),
  digest text not null,
  scope jsonb not null,
  state text not null default 'previewed' check (state in ('previewed', 'confirmed', 'finished')),
  previewed_at timestamptz not null default backfill_private.clock(),
  reason text,
  confirmed_by text,
  confirmed_at timestamptz,
  finished_at timestamptz,
  last_ordinal integer not null default 0,
  -- From the confirmation on: the sessions in its scope, how many were gone through, and what became of their rows.
  sessions_total bigint,
  sessions_seen bigint not null default 0,
  done jsonb not null default '{"deletes": {}, "restores": {}, "sessions": 0}',
  conflicts jsonb not null default '[]'
);

create index backfill_undos_runs on backfill_private.undos (run_id, undo_id);
alter table backfill_private.undos enable row level security;
revoke all on backfill_private.undos from public, anon, authenticated, service_role;
create policy "the owner alone" on backfill_private.undos for select to service_role using (false);

-- The scope of an undo in its normal form: sessions as full ids of the run, dates as bounds.
--
-- raises  OB013 a date is none, OB014 a session is not of this run or its prefix is ambiguous
create function backfill_private.undo_scope(p_run_id uuid, p_sessions text[], p_since text, p_until text)
returns jsonb
language plpgsql
stable
set search_path = ''
set timezone = 'UTC'
as $$
declare
  v_since timestamptz := backfill_private.since_bound('since', p_since);
  v_until timestamptz := backfill_private.until_bound('until', p_until);
  v_given text;
  v_found text[];
  v_ids text[];
begin
  if v_until <= v_since then
    perform backfill_private.refuse('OB013', format('since %s is after until %s', p_since, p_until),
      format('backfill rollback %s … --until with a day from %s on', p_run_id, left(p_since, 10)));
  end if;
  if cardinality(p_sessions) > 1000 then
    perform backfill_private.refuse('OB013', format('an undo names at most 1000 sessions, not %s', cardinality(p_sessions)),
      format('backfill rollback %s --since D --until D', p_run_id));
  end if;
  foreach v_given in array coalesce(p_sessions, '{}') loop
    select array_agg(i.session_id) into v_found from (
      select i.session_id from public.backfill_items as i
      where i.run_id = p_run_id and (starts_with(i.session_id, btrim(v_given)) or starts_with(i.session_id, lower(btrim(v_given))))
      order by 1 limit 2) as i;
    if v_found is null or btrim(v_given) = '' or cardinality(v_found) > 1 and v_found[1] <> v_given then
      perform backfill_private.refuse('OB014', format('%s names %s session of run %s', left(v_given, 80),
        case when v_found is null then 'no' else 'more than one' end, p_run_id), format('backfill show %s', p_run_id));
    end if;
    v_ids := v_ids || v_found[1];
  end loop;
  v_ids := (select array_agg(distinct i.id order by i.id) from unnest(v_ids) as i (id));
  return jsonb_build_object('sessions', v_ids, 'since_at', v_since, 'until_before', v_until);
end
$$;

-- The written rows in a scope, folded: a row that was written several times goes back to before the first write.
--
-- row_key, table_name  the row; first_operation, first_before: what it was before; last_hash: what we left
create function backfill_private.undo_rows(p_run_id uuid, p_scope jsonb, p_ordinals integer[] default null)
returns table (ordinal integer, session_id text, component text, table_name text, row_key jsonb,
  first_operation text, first_before jsonb, has_before boolean, last_hash bytea, last_receipt bigint, is_inferred boolean)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return query select r.ordinal, r.session_id, r.component, r.table_name, r.row_key,
    (array_agg(r.operation order by r.receipt_id))[1],
    (array_agg(r.before order by r.receipt_id))[1],
    (array_agg(r.before_hash order by r.receipt_id))[1] is not null,
    (array_agg(r.after_hash order by r.receipt_id desc))[1],
    max(r.receipt_id), bool_or(r.is_inferred)
  from public.backfill_receipts as r
  join public.backfill_items as i on i.run_id = r.run_id and i.ordinal = r.ordinal
  where r.run_id = p_run_id and r.kind = 'score' and r.undone_at is null
    and (p_ordinals is null or r.ordinal = any (p_ordinals))
    and (p_scope ->> 'sessions' is null or p_scope -> 'sessions' ? r.session_id)
    and (p_scope ->> 'since_at' is null or i.session_at >= (p_scope ->> 'since_at')::timestamptz)
    and (p_scope ->> 'until_before' is null or i.session_at < (p_scope ->> 'until_before')::timestamptz)
  group by r.ordinal, r.session_id, r.component, r.table_name, r.row_key;
end
$$;

-- The next sessions of a run in a scope that have written rows, in the plan's order; no further than asked for.
create function backfill_private.undo_next(p_run_id uuid, p_scope jsonb, p_after integer, p_sessions integer)
returns integer[]
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return (select array_agg(n.ordinal order by n.ordinal) from (
    select i.ordinal from public.backfill_items as i
    where i.run_id = p_run_id and i.ordinal > p_after
      and (p_scope ->> 'sessions' is null or p_scope -> 'sessions' ? i.session_id)
      and (p_scope ->> 'since_at' is null or i.session_at >= (p_scope ->> 'since_at')::timestamptz)
      and (p_scope ->> 'until_before' is null or i.session_at < (p_scope ->> 'until_before')::timestamptz)
      and exists (select from public.backfill_receipts as r
        where r.run_id = i.run_id and r.ordinal = i.ordinal and r.kind = 'score' and r.undone_at is null)
    order by i.ordinal limit p_sessions) as n);
end
$$;

-- What an undo did to the rows of some sessions, added to what it had done before.
create function backfill_private.undo_counted(p_done jsonb, p_run_id uuid, p_ordinals integer[], p_since timestamptz)
returns jsonb
language sql
stable
set search_path = ''
as $$
  with counted as (
    select backfill_private.bare_name(r.table_name) as tab, r.operation = 'delete' as deletes, count(*) as n
    from public.backfill_receipts as r
    where r.run_id = p_run_id and r.ordinal = any (p_ordinals) and r.kind = 'undo' and r.at >= p_since
    group by 1, 2
  ), tables as (
    select distinct c.tab from counted as c
    union select jsonb_object_keys(p_done -> 'deletes')
  )
  select jsonb_build_object(
    'deletes', coalesce(jsonb_object_agg(t.tab, coalesce((p_done -> 'deletes' ->> t.tab)::bigint, 0)
      + coalesce((select c.n from counted as c where c.tab = t.tab and c.deletes), 0)), '{}'),
    'restores', coalesce(jsonb_object_agg(t.tab, coalesce((p_done -> 'restores' ->> t.tab)::bigint, 0)
      + coalesce((select c.n from counted as c where c.tab = t.tab and not c.deletes), 0)), '{}'),
    'sessions', (p_done ->> 'sessions')::bigint + (select count(distinct r.ordinal) from public.backfill_receipts as r
      where r.run_id = p_run_id and r.ordinal = any (p_ordinals) and r.kind = 'undo' and r.at >= p_since))
  from tables as t
$$;

-- A condition that picks the row t with this key: SQL text, names quoted, values literals.
create function backfill_private.key_condition(p_table regclass, p_key jsonb)
returns text
language sql
stable
set search_path = ''
as $$
  select string_agg(format('t.%I = %L::%s', k.key, k.value, format_type(a.atttypid, a.atttypmod)), ' and ' order by k.key)
  from jsonb_each_text(p_key) as k
  join pg_attribute as a on a.attrelid = p_table and a.attname = k.key
$$;

-- Why a written row cannot be taken back; null where it can. Locks the row where p_lock.
create function backfill_private.undo_conflict(
  p_table regclass, p_key jsonb, p_last_hash bytea, p_deletes boolean, p_lock boolean
)
returns text
language plpgsql
set search_path = ''
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_row jsonb;
begin
  execute format('select to_jsonb(t.*) from %s as t where %s %s', p_table,
    backfill_private.key_condition(p_table, p_key), case when p_lock then 'for update of t' else '' end) into v_row;
  if v_row is null and p_last_hash is not null then
    return 'the row is gone';
  elsif v_row is not null and p_last_hash is null then
    return 'a row has come where the run had deleted one';
  elsif backfill_private.row_hash(v_row) is distinct from p_last_hash then
    return 'the row was changed since';
  end if;
  return case when p_deletes then backfill_private.referencing(p_table, v_row) end;
end
$$;

-- The first foreign key under which another row refers to this one, in words; null where none does.
create function backfill_private.referencing(p_table regclass, p_row jsonb)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  v_key record;
  v_found boolean;
begin
  for v_key in
    select c.conname, c.conrelid::regclass as child,
      (select string_agg(format('child.%I = %L', a.attname, p_row ->> p.attname), ' and ')
       from unnest(c.conkey, c.confkey) as k (child_column, parent_column)
       join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.child_column
       join pg_attribute as p on p.attrelid = c.confrelid and p.attnum = k.parent_column) as condition
    from (
      -- By the triggers that a foreign key puts on the table that it refers to: those are found by an index.
      select distinct g.tgconstraint from pg_trigger as g where g.tgrelid = p_table and g.tgisinternal) as g
    join pg_constraint as c on c.oid = g.tgconstraint
    where c.contype = 'f' and c.confrelid = p_table and c.conparentid = 0
  loop
    execute format('select exists (select from %s as child where %s)', v_key.child, v_key.condition) into v_found;
    if v_found then
      return format('a row of %s refers to it (%s)', v_key.child, v_key.conname);
    end if;
  end loop;
  return null;
end
$$;

-- What an undo of this scope would do now: counts by table, conflicts by row, and the digest that confirms it.
create function backfill_private.undo_effect(p_run_id uuid, p_scope jsonb)
returns jsonb
language sql
set search_path = ''
as $$
  with looked_at as (
    select u.*, not u.has_before as deletes,
      case when u.has_before and u.first_before is null then 'its before-image was pruned'
        else backfill_private.undo_conflict(u.table_name::regclass, u.row_key, u.last_hash, not u.has_before, false) end as conflict
    from backfill_private.undo_rows(p_run_id, p_scope) as u
  ), counted as (
    select backfill_private.bare_name(l.table_name) as tab,
      count(*) filter (where l.deletes and l.conflict is null) as deletes,
      count(*) filter (where not l.deletes and l.conflict is null) as restores
    from looked_at as l group by 1
  )
  select jsonb_build_object(
    'run_id', p_run_id, 'scope', p_scope,
    'sessions', (select count(distinct l.ordinal) from looked_at as l where l.conflict is null),
    'inferred', (select count(*) from looked_at as l where l.conflict is null and l.is_inferred),
    'deletes', (select coalesce(jsonb_object_agg(c.tab, c.deletes), '{}') from counted as c),
    'restores', (select coalesce(jsonb_object_agg(c.tab, c.restores), '{}') from counted as c),
    'conflicts', (select coalesce(jsonb_agg(jsonb_build_object('session_id', l.session_id, 'table', l.table_name,
        'row', l.row_key, 'reason', l.conflict) order by l.ordinal, l.table_name), '[]')
      from looked_at as l where l.conflict is not null),
    'digest', (select backfill_private.sha256_hex(concat_ws(e'\n', 'backfill undo, form 1', p_run_id, p_scope,
        string_agg(jsonb_build_array(l.last_receipt, l.deletes, l.conflict)::text, e'\n' order by l.last_receipt)))
      from looked_at as l))
$$;

-- Preview an undo. Nothing of the user's is touched; the preview is kept, and only the newest can be confirmed.
--
-- returns  see backfill_private.undo_effect
-- raises   OB001 no such run, OB002 the run is running or never ran, OB013 OB014 the scope is not usable
create function backfill_private.preview_undo(p_run_id uuid, p_sessions text[], p_since text, p_until text)
returns jsonb
language plpgsql
security definer
set search_path = ''
set statement_timeout = '55s'
as $$
declare
  v_effect jsonb;
begin
  perform backfill_private.authorize('undo');
  perform backfill_private.locked_run(p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']);
  v_effect := backfill_private.undo_effect(p_run_id,
    backfill_private.undo_scope(p_run_id, p_sessions, p_since, p_until));
  insert into backfill_private.undos (run_id, digest, scope)
  values (p_run_id, v_effect ->> 'digest', v_effect -> 'scope');
  return v_effect;
end
$$;

-- The preview that this digest confirms: the newest one of the run, still true, or already being carried out by a run
-- that has written nothing since.
--
-- p_scope  what the caller takes its scope to be, {sessions, since, until}; null: whatever it is
-- raises   OB013 another scope, OB019 another digest, or what the preview saw has changed
create function backfill_private.confirmed_undo(p_run_id uuid, p_digest text, p_reason text, p_scope jsonb)
returns backfill_private.undos
language plpgsql
set search_path = ''
as $$
declare
  v_undo backfill_private.undos;
begin
  select * into v_undo from backfill_private.undos where run_id = p_run_id order by undo_id desc limit 1 for update;
  if v_undo.undo_id is null or v_undo.digest is distinct from p_digest then
    perform backfill_private.refuse('OB019', format('%s is not the digest of the newest preview%s',
        backfill_private.told_apart(p_digest, v_undo.digest),
        coalesce(', which is ' || backfill_private.told_apart(v_undo.digest, p_digest), '')),
      format('backfill rollback %s', p_run_id));
  elsif p_scope is not null and v_undo.scope <> backfill_private.undo_scope(p_run_id,
      array(select jsonb_array_elements_text(p_scope -> 'sessions')), p_scope ->> 'since', p_scope ->> 'until') then
    perform backfill_private.refuse('OB013', 'the preview of this digest has another scope than the one given now',
      format('the same command without its scope, or a preview of the other: backfill rollback %s …', p_run_id));
  elsif v_undo.state = 'previewed' then
    if backfill_private.undo_effect(p_run_id, v_undo.scope) ->> 'digest' <> p_digest then
      perform backfill_private.refuse('OB019', 'the rows have changed since the preview',
        format('backfill rollback %s', p_run_id));
    end if;
    update backfill_private.undos
    set state = 'confirmed', reason = left(p_reason, 500), confirmed_at = backfill_private.clock(),
        confirmed_by = (select label from backfill_private.caller()),
        sessions_total = coalesce(cardinality(backfill_private.undo_next(p_run_id, scope, 0, null)), 0)
    where undo_id = v_undo.undo_id returning * into v_undo;
    perform backfill_private.record(p_run_id, 'undo_confirmed',
      jsonb_build_object('digest', p_digest, 'reason', left(p_reason, 500), 'scope', v_undo.scope));
  elsif exists (select from public.backfill_events as ran
      where ran.run_id = p_run_id and ran.kind = 'running' and ran.seq > (
        select max(said.seq) from public.backfill_events as said
        where said.run_id = p_run_id and said.kind = 'undo_confirmed')) then
    perform backfill_private.refuse('OB019', 'the run has gone on since this undo was confirmed',
      format('backfill rollback %s', p_run_id));
  end if;
  return v_undo;
end
$$;

-- Take one written row back: delete what was inserted, put back what was updated or deleted.
create function backfill_private.undo_row(p_table regclass, p_key jsonb, p_before jsonb)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_condition text := backfill_private.key_condition(p_table, p_key);
  v_all text;
  v_settable text;
  v_rows integer;
begin
  if p_before is null then
    execute format('delete from %s as t where %s', p_table, v_condition);
    return;
  end if;
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum),
    string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attidentity <> 'a')
  into v_all, v_settable
  from pg_attribute as a
  where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and p_before ? a.attname;
  execute format('update %1$s as t set (%2$s) = (select %2$s from jsonb_populate_record(null::%1$s, $1)) where %3$s',
    p_table, v_settable, v_condition) using p_before;
  get diagnostics v_rows = row_count;
  if v_rows = 0 then
    execute format('insert into %1$s (%2$s) overriding system value
      select %2$s from jsonb_populate_record(null::%1$s, $1)', p_table, v_all) using p_before;
  end if;
end
$$;

-- Take one written row back where the database lets us.
--
-- returns  null, or why not: a constraint, deferred or not, or a trigger of the user's refused it
create function backfill_private.refusal_to_undo(p_table regclass, p_key jsonb, p_before jsonb)
returns text
language plpgsql
set search_path = ''
as $$
begin
  perform backfill_private.undo_row(p_table, p_key, p_before);
  set constraints all immediate;
  return null;
exception when integrity_constraint_violation or data_exception or insufficient_privilege or raise_exception then
  return format('the database refuses it: %s %s', sqlstate, backfill_private.kept_message(sqlstate, sqlerrm));
end
$$;

-- Take one session's rows back, the newest first, through the gate: under a fence of the undo's own that never
-- leaves this function, so that every row leaves a receipt. A row in conflict is left as it is; a session that
-- lost a row is no longer done, whatever stays.
--
-- returns  the conflicts: [{session_id, table, row, reason}]
create function backfill_private.undo_item(p_run_id uuid, p_ordinal integer, p_scope jsonb)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_fence text := backfill_private.new_fence();
  v_headers text := current_setting('request.headers', true);
  v_row record;
  v_why text;
  v_conflicts jsonb := '[]'::jsonb;
  v_taken_back integer := 0;
begin
  perform from public.backfill_items where run_id = p_run_id and ordinal = p_ordinal for update;
  update public.backfill_items
  set fence_hash = sha256(convert_to(v_fence, 'UTF8')), lease_kind = 'undo',
      lease_until = backfill_private.clock() + backfill_private.lease_ttl()
  where run_id = p_run_id and ordinal = p_ordinal;
  perform set_config('request.headers',
    jsonb_build_object('x-backfill-run', p_run_id, 'x-backfill-fence', v_fence)::text, true);
  for v_row in
    select * from backfill_private.undo_rows(p_run_id, p_scope, array[p_ordinal]) as u order by u.last_receipt desc
  loop
    v_why := case when v_row.has_before and v_row.first_before is null then 'its before-image was pruned'
      else backfill_private.undo_conflict(
        v_row.table_name::regclass, v_row.row_key, v_row.last_hash, not v_row.has_before, true) end;
    v_why := coalesce(v_why, backfill_private.refusal_to_undo(v_row.table_name::regclass, v_row.row_key, v_row.first_before));
    if v_why is not null then
      v_conflicts := v_conflicts || jsonb_build_object('session_id', v_row.session_id, 'table', v_row.table_name,
        'row', v_row.row_key, 'reason', v_why);
    else
      v_taken_back := v_taken_back + 1;
      update public.backfill_receipts set undone_at = backfill_private.clock()
      where run_id = p_run_id and ordinal = p_ordinal and table_name = v_row.table_name and row_key = v_row.row_key
        and kind = 'score' and undone_at is null;
    end if;
  end loop;
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  update public.backfill_items
  set fence_hash = null, lease_kind = null, lease_until = null, claim_id = null, worker = null,
      state = case when v_conflicts = '[]' or v_taken_back > 0 then 'rolled_back' else state end
  where run_id = p_run_id and ordinal = p_ordinal;
  return v_conflicts;
end
$$;

-- Carry a confirmed undo on by some sessions.
--
-- p_digest    of the newest preview; a killed undo is confirmed again with the same
-- p_sessions  at most so many now; call again until remaining is 0
-- p_scope     what the caller takes the preview's scope to be; null: whatever it is
-- returns     {remaining, sessions, deletes, restores, conflicts, state, confirmed_by, finished_at, was_finished: it was
--             carried out before this call}
-- raises      OB013 no reason or another scope, OB019 another digest, or what the preview saw has changed
create function backfill_private.confirm_undo(
  p_run_id uuid, p_digest text, p_reason text, p_sessions integer, p_scope jsonb
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_undo backfill_private.undos;
  v_ordinals integer[];
  v_ordinal integer;
begin
  perform backfill_private.authorize('undo');
  if nullif(btrim(p_reason), '') is null then
    perform backfill_private.refuse('OB013', 'an undo needs a reason',
      format('backfill rollback %s --confirm %s --reason "…"', p_run_id, p_digest));
  elsif p_sessions < 1 then
    perform backfill_private.refuse('OB013', format('an undo takes one session or more at a time, not %s', p_sessions));
  end if;
  perform backfill_private.locked_run(p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']);
  perform backfill_private.release_all(p_run_id);
  v_undo := backfill_private.confirmed_undo(p_run_id, p_digest, p_reason, p_scope);
  v_ordinals := coalesce(backfill_private.undo_next(p_run_id, v_undo.scope, v_undo.last_ordinal, p_sessions), '{}');
  foreach v_ordinal in array v_ordinals loop
    v_undo.conflicts := v_undo.conflicts || backfill_private.undo_item(p_run_id, v_ordinal, v_undo.scope);
    v_undo.last_ordinal := v_ordinal;
  end loop;
  update backfill_private.undos
  set last_ordinal = v_undo.last_ordinal, conflicts = v_undo.conflicts, sessions_seen = sessions_seen + cardinality(v_ordinals),
      done = backfill_private.undo_counted(done, p_run_id, v_ordinals, confirmed_at)
  where undo_id = v_undo.undo_id;
  return backfill_private.undo_progress(p_run_id, v_undo.undo_id)
    || jsonb_build_object('was_finished', v_undo.state = 'finished');
end
$$;

-- How far an undo is; when nothing is left, it is finished and said so in the chain.
create function backfill_private.undo_progress(p_run_id uuid, p_undo_id bigint)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_undo backfill_private.undos;
  v_remaining bigint;
  v_done jsonb;
begin
  select * into strict v_undo from backfill_private.undos where undo_id = p_undo_id;
  v_remaining := v_undo.sessions_total - v_undo.sessions_seen;
  v_done := v_undo.done;
  if v_remaining = 0 and v_undo.state = 'confirmed' then
    update backfill_private.undos set state = 'finished', finished_at = backfill_private.clock() where undo_id = p_undo_id
    returning * into v_undo;
    perform backfill_private.record(p_run_id, 'undo_finished',
      v_done || jsonb_build_object('digest', v_undo.digest, 'conflicts', jsonb_array_length(v_undo.conflicts)));
    perform backfill_private.close_if_empty(p_run_id);
  end if;
  return v_done || jsonb_build_object('remaining', v_remaining, 'conflicts', v_undo.conflicts,
    'confirmed_by', v_undo.confirmed_by, 'finished_at', v_undo.finished_at,
    'state', (select r.state from public.backfill_runs as r where r.run_id = p_run_id));
end
$$;

-- A run of which no session is left done is rolled back.
create function backfill_private.close_if_empty(p_run_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if (select r.state from public.backfill_runs as r where r.run_id = p_run_id) in ('completed', 'cancelled', 'expired')
    and exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'rolled_back')
    and not exists (select from public.backfill_items as i where i.run_id = p_run_id and i.state = 'done') then
    perform backfill_private.move(p_run_id, 'rolled_back', 'no session is left done');
  end if;
end
$$;

revoke all on function
  backfill_private.undo_scope(uuid, text[], text, text),
  backfill_private.undo_rows(uuid, jsonb, integer[]),
  backfill_private.undo_next(uuid, jsonb, integer, integer),
  backfill_private.undo_counted(jsonb, uuid, integer[], timestamptz),
  backfill_private.key_condition(regclass, jsonb),
  backfill_private.undo_conflict(regclass, jsonb, bytea, boolean, boolean),
  backfill_private.referencing(regclass, jsonb),
  backfill_private.undo_effect(uuid, jsonb),
  backfill_private.preview_undo(uuid, text[], text, text),
  backfill_private.confirmed_undo(uuid, text, text, jsonb),
  backfill_private.undo_row(regclass, jsonb, jsonb),
  backfill_private.refusal_to_undo(regclass, jsonb, jsonb),
  backfill_private.undo_item(uuid, integer, jsonb),
  backfill_private.confirm_undo(uuid, text, text, integer, jsonb),
  backfill_private.undo_progress(uuid, bigint),
  backfill_private.close_if_empty(uuid)
from public;
grant execute on function
  backfill_private.preview_undo(uuid, text[], text, text),
  backfill_private.confirm_undo(uuid, text, text, integer, jsonb)
to service_role;

create function public.backfill_preview_undo(
  p_run_id uuid, p_sessions text[] default null, p_since text default null, p_until text default null
)
returns jsonb
language sql
set search_path = ''
set statement_timeout = '55s'
as $$
  select backfill_private.preview_undo(p_run_id, p_sessions, p_since, p_until)
$$;

create function public.backfill_confirm_undo(
  p_run_id uuid, p_digest text, p_reason text, p_sessions integer default 200, p_scope jsonb default null
)
returns jsonb
language sql
set search_path = ''
as $$
  select backfill_private.confirm_undo(p_run_id, p_digest, p_reason, p_sessions, p_scope)
$$;

revoke all on function
  public.backfill_preview_undo(uuid, text[], text, text),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb)
from public, anon, authenticated, service_role;
grant execute on function
  public.backfill_preview_undo(uuid, text[], text, text),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb)
to service_role;

comment on function public.backfill_preview_undo(uuid, text[], text, text) is
  'What an undo of a run would take back: counts, conflicts and the digest that confirms it. For the client.';
comment on function public.backfill_confirm_undo(uuid, text, text, integer, jsonb) is
  'Carry out exactly the undo that was previewed, a part at a time. For the client.';
