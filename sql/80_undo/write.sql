-- The writes of an undo: many rows per statement, and row by row if something refuses one of them.

-- Undo written rows of a table: delete what was inserted, put back what was updated or deleted. All rows are written
-- but those in conflict, or an error is raised.
--
-- One statement deletes, and one per set of columns updates. Rows that the run had deleted are inserted one by one,
-- since `returning` of an insert cannot name the receipt.
-- p_picks, p_joins  see backfill_private.undo_tables
-- returns  the rows that were written, by their newest receipt, and the hash of what stands now. A row that the run
--          both inserted and deleted is not among them
-- raises   P0001 a trigger of the user's suppressed a write
create function backfill_private.undo_write(
  p_table regclass, p_picks text, p_joins text, p_rows backfill_private.undoable[], p_conflicts jsonb
)
returns table (last_receipt bigint, operation text, after_hash bytea)
language plpgsql
set search_path = pg_catalog, pg_temp
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
    select
      w.way,
      w.columns,
      w.one,
      count(*) as rows
    from unnest(p_rows) as u
    cross join lateral (
      select
        case when u.last_hash is null then 'insert' when u.has_before then 'update' else 'delete' end as way,
        case when u.has_before then array(select jsonb_object_keys(u.first_before)) end as columns,
        case when u.last_hash is null then u.last_receipt end as one
    ) as w
    where (u.has_before or u.last_hash is not null)
      and u.table_name::regclass = p_table
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

-- The statement that undoes the rows u of $1 that are not in $2.
--
-- A receipt that reaches several rows is left out of what the statement returns. Then the caller misses it, and nothing
-- is written.
-- $3  the columns of the before-images. All are set but those that the table computes
-- $4  the one row to insert
create function backfill_private.undo_statement(
  p_table regclass, p_picks text, p_joins text, p_way text, p_columns text[]
)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case p_way
    when 'delete' then format(
      'with gone as (
         delete from %s as t
         using unnest($1) as u
         where %s
           and %s
           and not u.has_before
           and u.last_hash is not null
         returning u.last_receipt
       )
       select g.last_receipt, %L::text, null::bytea from gone as g group by g.last_receipt having count(*) = 1',
      p_table, p_picks, p_joins, p_way)
    when 'update' then format(
      'with back as (
         update %1$s as t
         set (%2$s) = (select %2$s from jsonb_populate_record(null::%1$s, u.first_before))
         from unnest($1) as u
         where %3$s
           and %4$s
           and u.last_hash is not null
           and array(select jsonb_object_keys(u.first_before)) = $3
         returning u.last_receipt, sha256(convert_to(to_jsonb(t.*)::text, ''UTF8'')) as hash
       )
       select b.last_receipt, %5$L::text, (array_agg(b.hash))[1]
       from back as b group by b.last_receipt having count(*) = 1',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attidentity <> 'a'),
      p_picks, p_joins, p_way)
    else format(
      'insert into %1$s as t (%2$s) overriding system value
       select %3$s
       from unnest($1) as u
       cross join lateral jsonb_populate_record(null::%1$s, u.first_before) as b
       where u.last_receipt = $4
       returning $4, %4$L::text, sha256(convert_to(to_jsonb(t.*)::text, ''UTF8''))',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
      string_agg('b.' || quote_ident(a.attname), ', ' order by a.attnum),
      p_way)
  end
  from pg_attribute as a
  where a.attrelid = p_table
    and a.attnum > 0
    and not a.attisdropped
    and a.attgenerated = ''
    and a.attname = any (p_columns)
$$;

-- Undo all rows of some sessions at once. A row in conflict is left as it is. A session of which a row was undone is no
-- longer done, even if other rows stay. The caller has locked the items.
--
-- The rows are written under a header of the undo's own. Under it the triggers on the target tables let the undo's own
-- statements pass and refuse any row that a trigger of the user's writes on top. The receipts are written here, from
-- what the statements return.
-- returns  see backfill_private.undo_effect
-- raises   any error of the database or of a user's trigger. OB011 a trigger writes further rows
create function backfill_private.undo_at_once(p_run_id uuid, p_ordinals integer[])
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
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
      run_id, ordinal, session_id, component, kind, operation, table_name, row_key, before_hash, after_hash,
      attempt, at)
    select
      p_run_id,
      u.ordinal,
      u.session_id,
      u.component,
      'undo',
      w.operation,
      u.table_name,
      u.row_key,
      u.last_hash,
      w.after_hash,
      u.attempt,
      v_now
    from backfill_private.undo_write(v_table.tab, v_table.picks, v_table.joins, v_rows, v_found) as w
    join unnest(v_rows) as u using (last_receipt);
  end loop;
  set constraints all immediate;
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  perform backfill_private.undo_noted(p_run_id, p_ordinals, v_rows, v_conflicts, v_now);
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;

-- Mark the receipts of the rows that were undone, and the sessions that they belong to.
create function backfill_private.undo_noted(
  p_run_id uuid, p_ordinals integer[], p_rows backfill_private.undoable[], p_conflicts jsonb, p_now timestamptz
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
as $$
declare
  v_left integer[] := array(
    select u.ordinal
    from unnest(p_rows) as u
    where p_conflicts <> '{}'
    group by u.ordinal
    having bool_and(p_conflicts ? u.last_receipt::text));
begin
  update public.backfill_receipts as r
  set undone_at = p_now
  where r.receipt_id = any (array(
    select unnest(u.receipts)
    from unnest(p_rows) as u
    where p_conflicts = '{}'
      or not p_conflicts ? u.last_receipt::text));
  update public.backfill_items as i
  set fence_hash = null,
      lease_kind = null,
      lease_until = null,
      claim_id = null,
      worker = null,
      state = case when i.ordinal = any (v_left) then i.state else 'rolled_back' end
  where i.run_id = p_run_id
    and i.ordinal = any (p_ordinals);
end
$$;

-- Undo one session's rows one by one, the newest first, through the gate. The fence never leaves this function. Every
-- row gets a receipt, and so does any row of this session that a trigger of the user's writes.
--
-- returns  see backfill_private.undo_effect
create function backfill_private.undo_item(p_run_id uuid, p_ordinal integer)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
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
  perform from public.backfill_items
  where run_id = p_run_id
    and ordinal = p_ordinal
  for update;
  update public.backfill_items
  set fence_hash = sha256(convert_to(v_fence, 'UTF8')),
      lease_kind = 'undo',
      lease_until = backfill_private.clock() + backfill_private.lease_ttl()
  where run_id = p_run_id
    and ordinal = p_ordinal;
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

-- Undo the rows of some sessions at once. If the database or a trigger of the user's refuses one of them, each half is
-- tried by itself, down to one session, so that one refusal is one conflict.
--
-- returns  see backfill_private.undo_effect
create function backfill_private.undo_sessions(p_run_id uuid, p_ordinals integer[])
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_half integer := cardinality(p_ordinals) / 2;
begin
  return backfill_private.undo_at_once(p_run_id, p_ordinals);
exception
  when integrity_constraint_violation
    or data_exception
    or insufficient_privilege
    or raise_exception
    or sqlstate 'OB011' then
    if v_half = 0 then
      return backfill_private.undo_item(p_run_id, p_ordinals[1]);
    end if;
    return backfill_private.added(
      backfill_private.undo_sessions(p_run_id, p_ordinals[:v_half]),
      backfill_private.undo_sessions(p_run_id, p_ordinals[v_half + 1:]));
end
$$;

-- Refuse a caller who has put a trigger with a function of their own on some table. An undo writes with its owner's
-- rights, and such a trigger would run with them. The right TRIGGER and a function in pg_temp are enough to make one,
-- and older projects give TRIGGER to every API role.
--
-- raises  OB010 a trigger's function belongs to the caller, who does not have the owner's rights
create function backfill_private.refuse_callers_triggers()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found record;
begin
  select t.tgname, t.tgrelid::regclass as tab, p.proowner::regrole as owner into v_found
  from pg_trigger as t
  join pg_proc as p on p.oid = t.tgfoid
  where not t.tgisinternal
    and pg_has_role(session_user, p.proowner, 'member')
    and not pg_has_role(session_user, current_user, 'member')
  limit 1;
  if found then
    perform backfill_private.refuse('OB010',
      format('trigger %I on %s runs a function of %s, which an undo would run with the rights of %s',
        v_found.tgname, v_found.tab, v_found.owner, current_user),
      format('drop trigger %I on %s', v_found.tgname, v_found.tab));
  end if;
end
$$;
