-- The writes of an undo: many rows per statement, and row by row if something refuses one of them.
--
-- The user's triggers, checks and generated columns run in here. So what writes does it under the search path and the
-- settings of the caller, as scoring does, and any error of theirs concerns the row alone.

-- Undo written rows of a table: delete what was inserted, put back what was updated or deleted. All rows are written
-- but those in conflict, or an error is raised. Deferred constraints are checked.
--
-- One statement deletes, and one per set of columns updates. Rows that the run had deleted are inserted one by one,
-- since `returning` of an insert cannot name the receipt. So are rows that it had deleted and inserted anew, if no
-- update can give them back their number.
-- p_path   see backfill_private.undo_path
-- returns  the rows that were written, by their newest receipt, and the hash of what stands now. A row that the run
--          both inserted and deleted is not among them
-- raises   P0001 a trigger of the user's suppressed a write, or a row with the same key has come since they were locked
create function backfill_private.undo_write(
  p_table backfill_private.undo_table, p_rows backfill_private.undoable[], p_conflicts jsonb, p_path text
)
returns table (last_receipt bigint, operation text, after_hash bytea)
language plpgsql
set search_path = pg_catalog, pg_temp
set lc_monetary = 'C'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_part record;
  v_picks text := p_table.picks || case p_conflicts when '{}' then '' else ' and not $2 ? u.last_receipt::text' end;
  v_replaced bigint[] := backfill_private.rows_replaced(p_table, p_rows);
  v_rows bigint;
begin
  for v_part in
    select
      w.way,
      w.columns,
      w.one,
      count(*) as rows,
      backfill_private.undo_statement(p_table.tab, v_picks, p_table.joins, w.way, w.columns) as statement
    from unnest(p_rows) as u
    cross join lateral (
      select
        case
          when u.after_hash is null then 'insert'
          when u.last_receipt = any (v_replaced) then 'replace'
          when u.has_before then 'update'
          else 'delete'
        end as way,
        u.columns,
        case when u.after_hash is null or u.last_receipt = any (v_replaced) then u.last_receipt end as one
    ) as w
    where (u.has_before or u.after_hash is not null)
      and u.table_name::regclass = p_table.tab
      and u.shape = p_table.shape
      and (p_conflicts = '{}' or not p_conflicts ? u.last_receipt::text)
    group by 1, 2, 3
  loop
    perform set_config('search_path', p_path, true);
    return query execute v_part.statement using p_rows, p_conflicts, v_part.columns, v_part.one;
    get diagnostics v_rows = row_count;
    if v_rows > v_part.rows then
      raise exception 'several rows of % have the key of one that the run wrote', p_table.tab;
    elsif v_rows < v_part.rows then
      raise exception 'a trigger of % let no % happen', p_table.tab, v_part.way;
    end if;
  end loop;
end
$$;

-- The rows of a table that are deleted and inserted by an undo, by their newest receipt: see replaced_sql.
create function backfill_private.rows_replaced(
  p_table backfill_private.undo_table, p_rows backfill_private.undoable[]
)
returns bigint[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_replaced text := backfill_private.replaced_sql(p_table.tab);
  v_found bigint[] := array[]::bigint[];
begin
  if v_is_replaced <> 'false' then
    execute format(
      'select coalesce(array_agg(u.last_receipt), ''{}'')
       from unnest($1) as u
       join %s as t on %s
       where %s
         and %s',
      p_table.tab, p_table.joins, p_table.picks, v_is_replaced)
    into v_found using p_rows;
  end if;
  return v_found;
end
$$;

-- Check the deferred constraints of what was written so far, as the caller's commit would. They are deferred again:
-- what is undone next counts on it.
create function backfill_private.check_deferred(p_path text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
begin
  perform set_config('search_path', p_path, true);
  for v_statement in select jsonb_array_elements_text(backfill_private.checks_now()) loop
    execute v_statement;
  end loop;
end
$$;

-- The statement that undoes the rows u of $1 that are not in $2.
--
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
      'delete from %s as t
       using unnest($1) as u
       where %s
         and %s
         and not u.has_before
         and u.after_hash is not null
       returning u.last_receipt, %L::text, null::bytea',
      p_table, p_picks, p_joins, p_way)
    when 'update' then format(
      'update %1$s as t
       set (%2$s) = (select %3$s from (select u.first_before::%1$s as image offset 0) as b)
       from unnest($1) as u
       where %4$s
         and %5$s
         and u.after_hash is not null
         and u.columns = $3
         and not %7$s
       returning u.last_receipt, %6$L::text, backfill_private.row_hash(t)',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attidentity <> 'a'),
      string_agg('(b.image).' || quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attidentity <> 'a'),
      p_picks, p_joins, p_way,
      backfill_private.replaced_sql(p_table))
    when 'replace' then format(
      'with gone as (
         delete from %1$s as t
         using unnest($1) as u
         where %4$s
           and %5$s
           and u.last_receipt = $4
           and u.columns = $3
         returning u.first_before)
       insert into %1$s as t (%2$s) overriding system value
       select %3$s
       from gone as u
       cross join lateral (select u.first_before::%1$s as image offset 0) as b
       returning $4, ''update''::text, backfill_private.row_hash(t)',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
      string_agg('(b.image).' || quote_ident(a.attname), ', ' order by a.attnum),
      p_picks, p_joins)
    else format(
      'insert into %1$s as t (%2$s) overriding system value
       select %3$s
       from unnest($1) as u
       cross join lateral (select u.first_before::%1$s as image offset 0) as b
       where u.last_receipt = $4
       returning $4, %4$L::text, backfill_private.row_hash(t)',
      p_table,
      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
      string_agg('(b.image).' || quote_ident(a.attname), ', ' order by a.attnum),
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
create function backfill_private.undo_at_once(p_run_id uuid, p_ordinals integer[], p_terms backfill_private.undo_terms)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := backfill_private.clock();
  v_headers text := current_setting('request.headers', true);
  v_rows backfill_private.undoable[] := array(select r from backfill_private.undo_rows(p_run_id, p_ordinals) as r);
  v_table backfill_private.undo_table;
  v_found jsonb;
  v_conflicts jsonb := '{}'::jsonb;
begin
  for v_table in select * from backfill_private.undo_tables(v_rows) loop
    perform set_config('request.headers', jsonb_build_object('x-backfill-undo', p_run_id)::text, true);
    v_found := backfill_private.undo_conflicts(v_table, v_rows, true);
    v_conflicts := v_conflicts || v_found;
    insert into public.backfill_receipts (
      run_id, ordinal, session_id, component, kind, operation, table_name, row_key, shape, before_hash, after_hash,
      attempt, at, undo_id)
    select
      p_run_id,
      u.ordinal,
      u.session_id,
      u.component,
      'undo',
      w.operation,
      u.table_name,
      u.row_key,
      u.shape,
      u.after_hash,
      w.after_hash,
      u.attempt,
      v_now,
      p_terms.undo_id
    from backfill_private.undo_write(v_table, v_rows, v_found, p_terms.path) as w
    join unnest(v_rows) as u using (last_receipt);
  end loop;
  perform backfill_private.check_deferred(p_terms.path);
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  perform backfill_private.undo_noted(p_run_id, p_ordinals, v_rows, v_conflicts, v_now, p_terms.undo_id);
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;

-- Mark the receipts of the rows that were undone, and the sessions that they belong to.
create function backfill_private.undo_noted(
  p_run_id uuid, p_ordinals integer[], p_rows backfill_private.undoable[], p_conflicts jsonb, p_now timestamptz,
  p_undo_id bigint
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
  set undone_at = p_now,
      undo_id = p_undo_id
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

-- Undo one written row, if nothing is against it: see undo_conflicts, the database, the user's code.
--
-- returns  null, or why not
-- raises   57014 the statement was ended from outside, and with fewer sessions it may not be
create function backfill_private.refusal_to_undo(
  p_table backfill_private.undo_table, p_row backfill_private.undoable, p_terms backfill_private.undo_terms
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_why text;
  v_is_back boolean;
begin
  v_why := backfill_private.undo_conflicts(p_table, array[p_row], true) ->> p_row.last_receipt::text;
  if v_why is not null then
    return v_why;
  end if;
  perform backfill_private.undo_write(p_table, array[p_row], '{}', p_terms.path);
  perform backfill_private.check_deferred(p_terms.path);
  if not p_row.has_before then
    execute format('select exists (select from unnest($1) as u join %s as t on %s)', p_table.tab, p_table.joins)
    into v_is_back using array[p_row];
    if v_is_back then
      raise exception 'a trigger of % puts the row back', p_table.tab;
    end if;
  end if;
  return null;
exception when query_canceled or assert_failure or others then
  if backfill_private.is_cancel(sqlstate, sqlerrm, p_terms.limit_at) and not p_terms.is_alone then
    raise;
  end if;
  return format('the database refuses it: %s %s', sqlstate, backfill_private.kept_message(sqlstate, sqlerrm));
end
$$;

-- Undo one session's rows one by one, the newest first, through the gate. The fence never leaves this function. Every
-- row gets a receipt, and so does any row of this session that a trigger of the user's writes.
--
-- returns  see backfill_private.undo_effect
-- raises   57014 as refusal_to_undo
create function backfill_private.undo_item(p_run_id uuid, p_ordinal integer, p_terms backfill_private.undo_terms)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fence text := backfill_private.new_fence();
  v_headers text := current_setting('request.headers', true);
  v_rows backfill_private.undoable[];
  v_row backfill_private.undoable;
  v_table backfill_private.undo_table;
  v_why text;
  v_conflicts jsonb := '{}'::jsonb;
  v_newest bigint := (
    select max(r.receipt_id) from public.backfill_receipts as r where r.run_id = p_run_id and r.ordinal = p_ordinal);
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
  v_rows := array(select r from backfill_private.undo_rows(p_run_id, array[p_ordinal]) as r);
  foreach v_row in array v_rows loop
    -- For each row anew: code of the user's may have set it otherwise.
    perform set_config('request.headers',
      jsonb_build_object('x-backfill-run', p_run_id, 'x-backfill-fence', v_fence)::text, true);
    select * into strict v_table from backfill_private.undo_tables(array[v_row]);
    -- PostgreSQL ends a statement only once at its time limit. After that nothing more of the user's is run.
    v_why := case
      when backfill_private.clock() >= p_terms.limit_at then 'undoing it meets the time limit of a statement'
      else backfill_private.refusal_to_undo(v_table, v_row, p_terms)
    end;
    if v_why is not null then
      v_conflicts := v_conflicts || jsonb_build_object(v_row.last_receipt, v_why);
    end if;
  end loop;
  perform set_config('request.headers', coalesce(v_headers, ''), true);
  -- The gate, which wrote these, knows of no undo.
  update public.backfill_receipts as r
  set undo_id = p_terms.undo_id
  where r.run_id = p_run_id and r.ordinal = p_ordinal and r.kind = 'undo' and r.receipt_id > v_newest;
  perform backfill_private.undo_noted(
    p_run_id, array[p_ordinal], v_rows, v_conflicts, backfill_private.clock(), p_terms.undo_id);
  return backfill_private.undo_effect(v_rows, v_conflicts);
end
$$;
