-- Undo: only rows with a receipt that are still what the run wrote. Preview, then confirm exactly that preview.

create table backfill_private.undos (
  undo_id bigint generated always as identity primary key,
  run_id uuid not null references public.backfill_runs (run_id),
  -- Null until the look at every row in scope has come to its end.
  digest text,
  scope jsonb not null,
  state text not null default 'previewed' check (state in ('previewed', 'confirmed', 'finished')),
  previewed_at timestamptz not null default backfill_private.clock(),
  reason text,
  confirmed_by text,
  confirmed_at timestamptz,
  finished_at timestamptz,
  -- The look, of the preview and once more before anything is written: how far it is, a hash over what it saw, and that
  -- in figures. checked_events: how many events the run had when the second began; checked_at: when it last went on.
  looked_ordinal integer not null default 0,
  looked_hash text not null default '',
  effect jsonb not null default '{}',
  -- When the preview began, as a snapshot and by the run's events; null where it found conflicts.
  seen pg_snapshot,
  seen_events bigint,
  checked_events bigint,
  checked_at timestamptz,
  last_ordinal integer not null default 0,
  -- The sessions in scope that have rows, how many were gone through, and what became of their rows.
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

-- A written row, folded: one that was written several times goes back to before the first write.
--
-- first_before, has_before  what it was before, and whether it was at all; last_hash: what we left, null where we deleted it
-- receipts, last_receipt    the receipts that an undo of the row takes back; the newest stands for the row
create type backfill_private.undoable as (
  ordinal integer, session_id text, component text, table_name text, row_key jsonb, first_before jsonb, has_before boolean,
  last_hash bytea, receipts bigint[], last_receipt bigint, is_inferred boolean, attempt integer
);

-- The written rows of some sessions, the newest first.
create function backfill_private.undo_rows(p_run_id uuid, p_ordinals integer[])
returns setof backfill_private.undoable
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
as $$
begin
  return query
  select r.ordinal, min(r.session_id), min(r.component), r.table_name, r.row_key,
    (array_agg(r.before order by r.receipt_id))[1],
    (array_agg(r.before_hash order by r.receipt_id))[1] is not null,
    (array_agg(r.after_hash order by r.receipt_id))[count(*)],
    array_agg(r.receipt_id order by r.receipt_id), max(r.receipt_id), bool_or(r.is_inferred), max(r.attempt)
  from public.backfill_receipts as r
  where r.run_id = p_run_id and r.kind = 'score' and r.undone_at is null and r.ordinal = any (p_ordinals)
  group by r.ordinal, r.table_name, r.row_key
  order by max(r.receipt_id) desc;
end
$$;

-- The next sessions of a run in a scope that have written rows, in the plan's order: after one place, up to another where
-- there is one, no more than asked for.
create function backfill_private.undo_next(
  p_run_id uuid, p_scope jsonb, p_after integer, p_until integer, p_sessions integer
)
returns integer[]
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  return (select array_agg(n.ordinal order by n.ordinal) from (
    select i.ordinal from public.backfill_items as i
    where i.run_id = p_run_id and i.ordinal > p_after and (p_until is null or i.ordinal <= p_until)
      and (p_scope ->> 'sessions' is null or p_scope -> 'sessions' ? i.session_id)
      and (p_scope ->> 'since_at' is null or i.session_at >= (p_scope ->> 'since_at')::timestamptz)
      and (p_scope ->> 'until_before' is null or i.session_at < (p_scope ->> 'until_before')::timestamptz)
      and exists (select from public.backfill_receipts as r
        where r.run_id = i.run_id and r.ordinal = i.ordinal and r.kind = 'score' and r.undone_at is null)
    order by i.ordinal limit p_sessions) as n);
end
$$;

-- The tables of written rows, by the columns of their keys: SQL text over row u of unnest($1) and row t of the table, names
-- quoted, values literals. Those written last come first: rows that refer to others go before these.
--
-- picks  tells the rows of this table among all; joins: the table's row that one of them names
create function backfill_private.undo_tables(p_rows backfill_private.undoable[])
returns table (tab regclass, picks text, joins text)
language sql
stable
set search_path = ''
as $$
  select g.table_name::regclass, format('u.table_name = %L and u.row_key ?& %L::text[]', g.table_name, g.keys), (
      select string_agg(format('t.%I = (u.row_key ->> %L)::%s', k, k, format_type(a.atttypid, a.atttypmod)), ' and ' order by k)
      from unnest(g.keys) as k
      join pg_attribute as a on a.attrelid = g.table_name::regclass and a.attname = k)
  from (
    select u.table_name, array(select jsonb_object_keys(u.row_key)) as keys, max(u.last_receipt) as newest
    from unnest(p_rows) as u
    group by 1, 2) as g
  order by g.newest desc
$$;

-- Which written rows of a table cannot be taken back, and why: {newest receipt: reason}. Locks the rows where p_lock.
--
-- One statement looks at the rows, and one for each foreign key at what refers to them, whatever its ON DELETE.
-- p_picks, p_joins  see backfill_private.undo_tables
create function backfill_private.undo_conflicts(
  p_table regclass, p_picks text, p_joins text, p_rows backfill_private.undoable[], p_lock boolean
)
returns jsonb
language plpgsql
set search_path = ''
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
declare
  v_found jsonb;
  v_free bigint[];
  v_standing jsonb[];
begin
  -- Row by row by its key: the subquery is never joined to all of the table.
  execute format(
    'with looked_at as materialized (
       select u.last_receipt, u.has_before, standing.row,
         case when u.has_before and u.first_before is null then ''its before-image was pruned''
           when standing.row is null and u.last_hash is not null then ''the row is gone''
           when standing.row is not null and u.last_hash is null then ''a row has come where the run had deleted one''
           when sha256(convert_to(standing.row::text, ''UTF8'')) is distinct from u.last_hash then ''the row was changed since''
         end as reason
       from unnest($1) as u
       left join lateral (select to_jsonb(t.*) as row from %s as t where %s %s) as standing on true
       where %s)
     select coalesce(jsonb_object_agg(l.last_receipt, l.reason) filter (where l.reason is not null), ''{}''),
       array_agg(l.last_receipt) filter (where $2 and l.reason is null and not l.has_before),
       array_agg(l.row) filter (where $2 and l.reason is null and not l.has_before)
     from looked_at as l',
    p_table, p_joins, case when p_lock then 'for update of t' else 'offset 0' end, p_picks)
  into v_found, v_free, v_standing
  using p_rows, exists (select from pg_constraint as c where c.contype = 'f' and c.confrelid = p_table);
  return v_found || backfill_private.referencing(p_table, v_free, v_standing);
end
$$;

-- Which of some rows of a table other rows refer to, by the first foreign key that says so: {id: in words}.
create function backfill_private.referencing(p_table regclass, p_ids bigint[], p_rows jsonb[])
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  v_key record;
  v_found jsonb;
  v_all jsonb := '{}'::jsonb;
begin
  for v_key in
    select c.conname, c.conrelid::regclass as child,
      (select string_agg(format('child.%I = (it.standing ->> %L)::%s', a.attname, p.attname, format_type(a.atttypid, a.atttypmod)), ' and ')
       from unnest(c.conkey, c.confkey) as k (child_column, parent_column)
       join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.child_column
       join pg_attribute as p on p.attrelid = c.confrelid and p.attnum = k.parent_column) as condition
    from (
      -- By the triggers that a foreign key puts on the table that it refers to: those are found by an index.
      select distinct g.tgconstraint from pg_trigger as g where g.tgrelid = p_table and g.tgisinternal) as g
    join pg_constraint as c on c.oid = g.tgconstraint
    where c.contype = 'f' and c.confrelid = p_table and c.conparentid = 0 and p_ids is not null
    order by c.conrelid::regclass::text, c.conname
  loop
    execute format('select jsonb_object_agg(it.id, %L::text) from unnest($1, $2) as it (id, standing)
      where exists (select from %s as child where %s)',
      format('a row of %s refers to it (%s)', v_key.child, v_key.conname), v_key.child, v_key.condition)
    into v_found using p_ids, p_rows;
    v_all := coalesce(v_found, '{}') || v_all;
  end loop;
  return v_all;
end
$$;

-- What an undo of these rows does, with these conflicts: counts by table, conflicts by row. sessions: those that lose a
-- row; sessions_total: those that have one.
create function backfill_private.undo_effect(p_rows backfill_private.undoable[], p_conflicts jsonb)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  with looked_at as materialized (
    select u.ordinal, u.session_id, u.table_name, u.row_key, u.is_inferred, u.has_before, u.last_hash is not null as stands,
      p_conflicts ->> u.last_receipt::text as conflict
    from unnest(p_rows) as u
  ), counted as (
    select backfill_private.bare_name(l.table_name) as tab,
      count(*) filter (where not l.has_before and l.stands and l.conflict is null) as deletes,
      count(*) filter (where l.has_before and l.conflict is null) as restores
    from looked_at as l group by l.table_name
  )
  select jsonb_build_object(
    'sessions_total', (select count(distinct l.ordinal) from looked_at as l),
    'sessions', (select count(distinct l.ordinal) from looked_at as l where l.conflict is null),
    'inferred', (select count(*) from looked_at as l where l.conflict is null and l.is_inferred),
    'deletes', (select coalesce(jsonb_object_agg(c.tab, c.deletes), '{}') from counted as c),
    'restores', (select coalesce(jsonb_object_agg(c.tab, c.restores), '{}') from counted as c),
    'conflicts', (select coalesce(jsonb_agg(jsonb_build_object('session_id', l.session_id, 'table', l.table_name,
        'row', l.row_key, 'reason', l.conflict) order by l.ordinal, l.table_name), '[]')
      from looked_at as l where l.conflict is not null))
$$;

-- Look on at the rows in an undo's scope, for so long; null: to the end. Nothing of the user's is touched.
--
-- In blocks of 1,000 places of the plan, so that the hash over what was seen does not depend on how the look was parted.
create function backfill_private.undo_look(p_undo backfill_private.undos, p_budget interval)
returns backfill_private.undos
language plpgsql
set search_path = ''
as $$
declare
  v_until timestamptz := backfill_private.clock() + p_budget;
  v_last integer := (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_undo.run_id);
  v_rows backfill_private.undoable[];
  v_table record;
  v_conflicts jsonb;
begin
  loop
    v_conflicts := '{}';
    v_rows := array(select r from backfill_private.undo_rows(p_undo.run_id, backfill_private.undo_next(
      p_undo.run_id, p_undo.scope, p_undo.looked_ordinal, p_undo.looked_ordinal + 1000, null)) as r);
    for v_table in select * from backfill_private.undo_tables(v_rows) loop
      v_conflicts := v_conflicts || backfill_private.undo_conflicts(v_table.tab, v_table.picks, v_table.joins, v_rows, false);
    end loop;
    p_undo.effect := backfill_private.added(p_undo.effect, backfill_private.undo_effect(v_rows, v_conflicts));
    p_undo.looked_hash := backfill_private.sha256_hex(concat_ws(e'\n', p_undo.looked_hash, (
      select string_agg(jsonb_build_array(u.last_receipt, not u.has_before, v_conflicts -> u.last_receipt::text)::text,
        e'\n' order by u.last_receipt)
      from unnest(v_rows) as u)));
    p_undo.looked_ordinal := least(p_undo.looked_ordinal + 1000, v_last);
    exit when p_undo.looked_ordinal = v_last or backfill_private.clock() >= v_until;
  end loop;
  update backfill_private.undos as u
  set looked_ordinal = p_undo.looked_ordinal, looked_hash = p_undo.looked_hash, effect = p_undo.effect, seen = p_undo.seen,
      checked_events = p_undo.checked_events, checked_at = p_undo.checked_at
  where u.undo_id = p_undo.undo_id;
  return p_undo;
end
$$;

-- The digest of what a look saw; null while it has not come to its end.
create function backfill_private.undo_digest(p_undo backfill_private.undos)
returns text
language sql
stable
set search_path = ''
as $$
  select case when p_undo.looked_ordinal = (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_undo.run_id)
    then backfill_private.sha256_hex(concat_ws(e'\n', 'backfill undo, form 2', p_undo.run_id, p_undo.scope, p_undo.looked_hash)) end
$$;

-- Preview an undo. Nothing of the user's is touched; the preview is kept, and only the newest can be confirmed.
--
-- p_budget_ms  look for about so long; the rest with the answer's undo_id. Null: to the end
-- p_undo_id    of a preview that has not come to its end; its scope stays
-- returns      {run_id, scope, undo_id, digest: null until its end, looked_at and to_look_at: sessions of the plan, …
--              see backfill_private.undo_effect}
-- raises       OB001 no such run, OB002 the run is running or never ran, OB013 OB014 the scope is not usable
create function backfill_private.preview_undo(
  p_run_id uuid, p_sessions text[], p_since text, p_until text, p_budget_ms integer, p_undo_id bigint
)
returns jsonb
language plpgsql
security definer
set search_path = ''
set statement_timeout = '55s'
as $$
declare
  v_undo backfill_private.undos;
begin
  perform backfill_private.authorize('undo');
  perform backfill_private.locked_run(p_run_id, array['paused', 'completed', 'cancelled', 'expired', 'rolled_back']);
  if p_undo_id is null then
    insert into backfill_private.undos (run_id, scope, seen, seen_events)
    select p_run_id, backfill_private.undo_scope(p_run_id, p_sessions, p_since, p_until), pg_current_snapshot(), r.audit_count
    from public.backfill_runs as r where r.run_id = p_run_id
    returning * into v_undo;
  else
    select * into v_undo from backfill_private.undos where undo_id = p_undo_id and run_id = p_run_id;
    if not found then
      perform backfill_private.refuse('OB013', format('run %s has no preview %s', p_run_id, p_undo_id),
        format('backfill rollback %s', p_run_id));
    end if;
  end if;
  if v_undo.digest is null then
    v_undo := backfill_private.undo_look(v_undo, p_budget_ms * interval '1 ms');
    update backfill_private.undos
    set digest = backfill_private.undo_digest(v_undo), sessions_total = (v_undo.effect ->> 'sessions_total')::bigint,
        seen = case when v_undo.effect -> 'conflicts' = '[]' then seen end
    where undo_id = v_undo.undo_id returning * into v_undo;
  end if;
  return v_undo.effect || jsonb_build_object('run_id', p_run_id, 'scope', v_undo.scope, 'digest', v_undo.digest,
    'undo_id', v_undo.undo_id, 'looked_at', v_undo.looked_ordinal,
    'to_look_at', (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id));
end
$$;

-- Are the rows of some sessions those that a preview without conflicts saw, to be told by their age alone? Null or false
-- says nothing yet: then the rows themselves are looked at. Where other tables refer to theirs, that is always so.
create function backfill_private.undo_is_as_seen(p_undo backfill_private.undos, p_ordinals integer[])
returns boolean
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  v_target public.backfill_targets;
  v_differs boolean;
begin
  for v_target in
    select t.* from public.backfill_targets as t
    join public.backfill_runs as r on r.target = t.target where r.run_id = p_undo.run_id
  loop
    if exists (select from pg_constraint as c where c.contype = 'f' and c.confrelid = v_target.table_name::regclass) then
      return null;
    end if;
    execute format(
      'select exists (
         select from public.backfill_receipts as r
         left join lateral (select t.xmin as born from %s as t where %s offset 0) as standing on true
         where r.run_id = $1 and r.ordinal = any ($2) and r.kind = ''score'' and r.undone_at is null and r.component = %L
           and (r.table_name <> %L or r.after_hash is null or standing.born is null
             or backfill_private.came_after(standing.born, $3)))',
      v_target.table_name::regclass, (
        select string_agg(format('t.%I = (r.row_key ->> %L)::%s', k, k, backfill_private.column_type(v_target.table_name, k)), ' and ')
        from unnest(v_target.key_columns) as k), v_target.component, v_target.table_name)
    into v_differs using p_undo.run_id, p_ordinals, p_undo.seen;
    if v_differs then
      return false;
    end if;
  end loop;
  return true;
end
$$;

-- Glance on at an undo's rows, as long as they are as the preview saw them. Where one may not be, the look begins anew.
create function backfill_private.undo_glance(p_undo backfill_private.undos, p_budget interval)
returns backfill_private.undos
language plpgsql
set search_path = ''
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
  set looked_ordinal = p_undo.looked_ordinal, looked_hash = p_undo.looked_hash, effect = p_undo.effect, seen = p_undo.seen,
      checked_events = p_undo.checked_events, checked_at = p_undo.checked_at
  where u.undo_id = p_undo.undo_id;
  return p_undo;
end
$$;

-- Look once more before anything is written, for about two seconds a call: is all as the preview saw it? Most often a
-- glance at the rows' age says so.
--
-- Begun anew where something happened to the run since it began, or where nobody went on with it for five minutes: what
-- was seen then says little about now.
-- returns  the undo; still `previewed` where the look goes on with the next call
-- raises   OB019 the rows have changed since the preview
create function backfill_private.checked_undo(p_undo backfill_private.undos)
returns backfill_private.undos
language plpgsql
set search_path = ''
as $$
declare
  v_events bigint := (select r.audit_count from public.backfill_runs as r where r.run_id = p_undo.run_id);
begin
  if p_undo.checked_events is distinct from v_events or p_undo.checked_at < backfill_private.clock() - interval '5 min' then
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

-- The preview that this digest confirms: the newest one of the run, still true, or already being carried out by a run
-- that has written nothing since. It stays `previewed` while the look whether it is true goes on.
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
  select * into v_undo from backfill_private.undos
  where run_id = p_run_id and digest is not null order by undo_id desc limit 1 for update;
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
    v_undo := backfill_private.checked_undo(v_undo);
    if backfill_private.undo_digest(v_undo) is null then
      return v_undo;
    end if;
    update backfill_private.undos
    set state = 'confirmed', reason = left(p_reason, 500), confirmed_at = backfill_private.clock(),
        confirmed_by = (select label from backfill_private.caller())
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

-- Take written rows of a table back: delete what was inserted, put back what was updated or deleted. All of them but those
-- in conflict, or an error.
--
-- A statement a way; what the run had deleted is inserted one by one, since an insert tells nothing of where its values
-- came from.
-- p_picks, p_joins  see backfill_private.undo_tables
-- returns  the rows that were written, by their newest receipt, and the hash of what stands now; a row that the run made
--          and deleted itself is none of them
-- raises   P0001 a trigger of the user's let nothing happen
create function backfill_private.undo_write(
  p_table regclass, p_picks text, p_joins text, p_rows backfill_private.undoable[], p_conflicts jsonb
)
returns table (last_receipt bigint, operation text, after_hash bytea)
language plpgsql
set search_path = ''
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'iso_8601'
set extra_float_digits = 1
set bytea_output = 'hex'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_part record;
  v_picks text := p_picks || case p_conflicts when '{}' then '' else ' and not $2 ? u.last_receipt::text' end;
  v_rows bigint;
begin
  for v_part in
    select w.way, w.columns, w.one, count(*) as rows
    from unnest(p_rows) as u
    cross join lateral (select
      case when u.last_hash is null then 'insert' when u.has_before then 'update' else 'delete' end as way,
      case when u.has_before then array(select jsonb_object_keys(u.first_before)) end as columns,
      case when u.last_hash is null then u.last_receipt end as one) as w
    where (u.has_before or u.last_hash is not null) and u.table_name::regclass = p_table
      and (p_conflicts = '{}' or not p_conflicts ? u.last_receipt::text)
    group by 1, 2, 3
  loop
    return query execute backfill_private.undo_statement(p_table, v_picks, p_joins, v_part.way, v_part.columns)
      using p_rows, p_conflicts, v_part.columns, v_part.one;
    get diagnostics v_rows = row_count;
    if v_rows <> v_part.rows then
      raise exception 'a trigger of % let no % happen', p_table, v_part.way;
    end if;
  end loop;
end
$$;

-- The statement that takes rows u of $1 back, but for those that $2 has. It sets the columns that the before-images have,
-- $3, but for those that the table computes by itself; $4: the one row that it inserts.
create function backfill_private.undo_statement(p_table regclass, p_picks text, p_joins text, p_way text, p_columns text[])
returns text
language sql
stable
set search_path = ''
as $$
  select case p_way
    when 'delete' then format(
      'delete from %s as t using unnest($1) as u where %s and %s and not u.has_before and u.last_hash is not null
       returning u.last_receipt, %L::text, null::bytea', p_table, p_picks, p_joins, p_way)
    when 'update' then format(
      'update %1$s as t set (%2$s) = (select %2$s from jsonb_populate_record(null::%1$s, u.first_before))
       from unnest($1) as u
       where %3$s and %4$s and u.last_hash is not null and array(select jsonb_object_keys(u.first_before)) = $3
       returning u.last_receipt, %5$L::text, sha256(convert_to(to_jsonb(t.*)::text, ''UTF8''))', p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attidentity <> 'a'), p_picks, p_joins, p_way)
    else format(
      'insert into %1$s as t (%2$s) overriding system value
       select %3$s from unnest($1) as u cross join lateral jsonb_populate_record(null::%1$s, u.first_before) as b
       where u.last_receipt = $4
       returning $4, %4$L::text, sha256(convert_to(to_jsonb(t.*)::text, ''UTF8''))', p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
      string_agg('b.' || quote_ident(a.attname), ', ' order by a.attnum), p_way) end
  from pg_attribute as a
  where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attname = any (p_columns)
$$;

-- Take all rows of some sessions back at once. A row in conflict is left as it is; a session that lost a row is no longer
-- done, whatever stays. The items are locked.
--
-- The rows are written under a header of the undo's own: under it the triggers on the target tables see only what triggers
-- of the user's write on top, and let none of that through. The receipts of the rows themselves are written here, from what
-- the statements say they did.
-- returns  see backfill_private.undo_effect
-- raises   whatever the database or a trigger of the user's has against one of the rows; OB011 a trigger writes further rows
create function backfill_private.undo_at_once(p_run_id uuid, p_ordinals integer[])
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_headers text := current_setting('request.headers', true);
  v_rows backfill_private.undoable[] := array(select r from backfill_private.undo_rows(p_run_id, p_ordinals) as r);
  v_table record;
  v_found jsonb;
  v_conflicts jsonb := '{}'::jsonb;
begin
  perform set_config('request.headers', jsonb_build_object('x-backfill-undo', p_run_id)::text, true);
  for v_table in select * from backfill_private.undo_tables(v_rows) loop
    v_found := backfill_private.undo_conflicts(v_table.tab, v_table.picks, v_table.joins, v_rows, true);
    v_conflicts := v_conflicts || v_found;
    insert into public.backfill_receipts (
      run_id, ordinal, session_id, component, kind, operation, table_name, row_key, before_hash, after_hash, attempt, at)
    select p_run_id, u.ordinal, u.session_id, u.component, 'undo', w.operation, u.table_name, u.row_key, u.last_hash,
      w.after_hash, u.attempt, v_now
    from backfill_private.undo_write(v_table.tab, v_table.picks, v_table.joins, v_rows, v_found) as w
    join unnest(v_rows) as u using (last_receipt);
  end loop;
  set constraints all immediate;
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  perform backfill_private.undo_noted(p_run_id, p_ordinals, v_rows, v_conflicts, v_now);
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;

-- Note what became of sessions whose rows were taken back but for those in conflict.
create function backfill_private.undo_noted(
  p_run_id uuid, p_ordinals integer[], p_rows backfill_private.undoable[], p_conflicts jsonb, p_now timestamptz
)
returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
as $$
declare
  v_left integer[] := array(
    select u.ordinal from unnest(p_rows) as u where p_conflicts <> '{}'
    group by u.ordinal having bool_and(p_conflicts ? u.last_receipt::text));
begin
  update public.backfill_receipts as r
  set undone_at = p_now
  where r.receipt_id = any (array(
    select unnest(u.receipts) from unnest(p_rows) as u where p_conflicts = '{}' or not p_conflicts ? u.last_receipt::text));
  update public.backfill_items as i
  set fence_hash = null, lease_kind = null, lease_until = null, claim_id = null, worker = null,
      state = case when i.ordinal = any (v_left) then i.state else 'rolled_back' end
  where i.run_id = p_run_id and i.ordinal = any (p_ordinals);
end
$$;

-- The first foreign key under which another row refers to this one, in words; null where none does. For rollback.sql.
create function backfill_private.referencing(p_table regclass, p_row jsonb)
returns text
language sql
stable
set search_path = ''
as $$
  select backfill_private.referencing(p_table, array[1::bigint], array[p_row]) ->> '1'
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

-- Take one row back, as rollback.sql of a run's files does: delete what was inserted, put back what was updated or deleted.
-- Under no header, so without a receipt.
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
create function backfill_private.refusal_to_undo(p_table regclass, p_picks text, p_joins text, p_row backfill_private.undoable)
returns text
language plpgsql
set search_path = ''
as $$
begin
  perform backfill_private.undo_write(p_table, p_picks, p_joins, array[p_row], '{}');
  set constraints all immediate;
  return null;
exception when integrity_constraint_violation or data_exception or insufficient_privilege or raise_exception then
  return format('the database refuses it: %s %s', sqlstate, backfill_private.kept_message(sqlstate, sqlerrm));
end
$$;

-- Take one session's rows back, one after the other, the newest first, through the gate: under a fence of the undo's own
-- that never leaves this function, so that every row leaves a receipt, those too that triggers of the user's write of this
-- session.
--
-- returns  see backfill_private.undo_effect
create function backfill_private.undo_item(p_run_id uuid, p_ordinal integer)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_fence text := backfill_private.new_fence();
  v_headers text := current_setting('request.headers', true);
  v_rows backfill_private.undoable[];
  v_row backfill_private.undoable;
  v_table record;
  v_why text;
  v_conflicts jsonb := '{}'::jsonb;
begin
  perform from public.backfill_items where run_id = p_run_id and ordinal = p_ordinal for update;
  update public.backfill_items
  set fence_hash = sha256(convert_to(v_fence, 'UTF8')), lease_kind = 'undo',
      lease_until = backfill_private.clock() + backfill_private.lease_ttl()
  where run_id = p_run_id and ordinal = p_ordinal;
  perform set_config('request.headers',
    jsonb_build_object('x-backfill-run', p_run_id, 'x-backfill-fence', v_fence)::text, true);
  v_rows := array(select r from backfill_private.undo_rows(p_run_id, array[p_ordinal]) as r);
  foreach v_row in array v_rows loop
    select * into strict v_table from backfill_private.undo_tables(array[v_row]);
    v_why := backfill_private.undo_conflicts(v_table.tab, v_table.picks, v_table.joins, array[v_row], true)
      ->> v_row.last_receipt::text;
    v_why := coalesce(v_why, backfill_private.refusal_to_undo(v_table.tab, v_table.picks, v_table.joins, v_row));
    if v_why is not null then
      v_conflicts := v_conflicts || jsonb_build_object(v_row.last_receipt, v_why);
    end if;
  end loop;
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  perform backfill_private.undo_noted(p_run_id, array[p_ordinal], v_rows, v_conflicts, backfill_private.clock());
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;

-- Take the rows of some sessions back: all at once, and where the database or a trigger of the user's has something against
-- one of them, half by half, so that one refusal is one conflict.
--
-- returns  see backfill_private.undo_effect
create function backfill_private.undo_sessions(p_run_id uuid, p_ordinals integer[])
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_half integer := cardinality(p_ordinals) / 2;
begin
  return backfill_private.undo_at_once(p_run_id, p_ordinals);
exception
  when integrity_constraint_violation or data_exception or insufficient_privilege or raise_exception or sqlstate 'OB011' then
    if v_half = 0 then
      return backfill_private.undo_item(p_run_id, p_ordinals[1]);
    end if;
    return backfill_private.added(backfill_private.undo_sessions(p_run_id, p_ordinals[:v_half]),
      backfill_private.undo_sessions(p_run_id, p_ordinals[v_half + 1:]));
end
$$;

-- Carry a confirmed undo on by some sessions.
--
-- p_digest    of the newest preview; a killed undo is confirmed again with the same
-- p_sessions  at most so many now; call again until remaining is 0
-- p_scope     what the caller takes the preview's scope to be; null: whatever it is
-- returns     {remaining, sessions_total, sessions, deletes, restores, conflicts, state, confirmed_by, finished_at,
--             was_finished: it was carried out before this call; checked and to_check: while the look before the first
--             row goes on, sessions of the plan, else null}
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
  v_effect jsonb := '{}'::jsonb;
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
  v_ordinals := case v_undo.state when 'confirmed' then
    backfill_private.undo_next(p_run_id, v_undo.scope, v_undo.last_ordinal, null, p_sessions) end;
  if v_ordinals is not null then
    perform from public.backfill_items where run_id = p_run_id and ordinal = any (v_ordinals) order by ordinal for update;
    update public.backfill_items set fence_hash = null
    where run_id = p_run_id and ordinal = any (v_ordinals) and fence_hash is not null;
    v_effect := backfill_private.undo_sessions(p_run_id, v_ordinals);
    update backfill_private.undos
    set last_ordinal = v_ordinals[cardinality(v_ordinals)], sessions_seen = sessions_seen + cardinality(v_ordinals),
        conflicts = conflicts || (v_effect -> 'conflicts'),
        done = backfill_private.added(done, v_effect - array['conflicts', 'inferred', 'sessions_total'])
    where undo_id = v_undo.undo_id;
  end if;
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
  -- While the look goes on, nobody knows yet whether anything remains.
  v_remaining := greatest(v_undo.sessions_total - v_undo.sessions_seen, (v_undo.state = 'previewed')::integer);
  v_done := v_undo.done;
  if v_remaining = 0 and v_undo.state = 'confirmed' then
    update backfill_private.undos set state = 'finished', finished_at = backfill_private.clock() where undo_id = p_undo_id
    returning * into v_undo;
    perform backfill_private.record(p_run_id, 'undo_finished',
      v_done || jsonb_build_object('digest', v_undo.digest, 'conflicts', jsonb_array_length(v_undo.conflicts)));
    perform backfill_private.close_if_empty(p_run_id);
  end if;
  return v_done || jsonb_build_object('remaining', v_remaining, 'sessions_total', v_undo.sessions_total,
    'checked', case v_undo.state when 'previewed' then v_undo.looked_ordinal end,
    'to_check', case v_undo.state when 'previewed' then
      (select max(i.ordinal) from public.backfill_items as i where i.run_id = p_run_id) end,
    'conflicts', v_undo.conflicts,
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
  backfill_private.undo_rows(uuid, integer[]),
  backfill_private.undo_next(uuid, jsonb, integer, integer, integer),
  backfill_private.undo_tables(backfill_private.undoable[]),
  backfill_private.undo_conflicts(regclass, text, text, backfill_private.undoable[], boolean),
  backfill_private.referencing(regclass, bigint[], jsonb[]),
  backfill_private.referencing(regclass, jsonb),
  backfill_private.key_condition(regclass, jsonb),
  backfill_private.undo_row(regclass, jsonb, jsonb),
  backfill_private.undo_effect(backfill_private.undoable[], jsonb),
  backfill_private.undo_look(backfill_private.undos, interval),
  backfill_private.undo_digest(backfill_private.undos),
  backfill_private.preview_undo(uuid, text[], text, text, integer, bigint),
  backfill_private.undo_is_as_seen(backfill_private.undos, integer[]),
  backfill_private.undo_glance(backfill_private.undos, interval),
  backfill_private.checked_undo(backfill_private.undos),
  backfill_private.confirmed_undo(uuid, text, text, jsonb),
  backfill_private.undo_write(regclass, text, text, backfill_private.undoable[], jsonb),
  backfill_private.undo_statement(regclass, text, text, text, text[]),
  backfill_private.undo_at_once(uuid, integer[]),
  backfill_private.undo_noted(uuid, integer[], backfill_private.undoable[], jsonb, timestamptz),
  backfill_private.refusal_to_undo(regclass, text, text, backfill_private.undoable),
  backfill_private.undo_item(uuid, integer),
  backfill_private.undo_sessions(uuid, integer[]),
  backfill_private.confirm_undo(uuid, text, text, integer, jsonb),
  backfill_private.undo_progress(uuid, bigint),
  backfill_private.close_if_empty(uuid)
from public;
grant execute on function
  backfill_private.preview_undo(uuid, text[], text, text, integer, bigint),
  backfill_private.confirm_undo(uuid, text, text, integer, jsonb)
to service_role;

create function public.backfill_preview_undo(
  p_run_id uuid, p_sessions text[] default null, p_since text default null, p_until text default null,
  p_budget_ms integer default null, p_undo_id bigint default null
)
returns jsonb
language sql
set search_path = ''
set statement_timeout = '55s'
as $$
  select backfill_private.preview_undo(p_run_id, p_sessions, p_since, p_until, p_budget_ms, p_undo_id)
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
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb)
from public, anon, authenticated, service_role;
grant execute on function
  public.backfill_preview_undo(uuid, text[], text, text, integer, bigint),
  public.backfill_confirm_undo(uuid, text, text, integer, jsonb)
to service_role;

comment on function public.backfill_preview_undo(uuid, text[], text, text, integer, bigint) is
  'What an undo of a run would take back: counts, conflicts and the digest that confirms it. For the client.';
comment on function public.backfill_confirm_undo(uuid, text, text, integer, jsonb) is
  'Carry out exactly the undo that was previewed, a part at a time. For the client.';
