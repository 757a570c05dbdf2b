-- Naming: which sessions some texts name. A session is named by its whole id. If ids are uuids, the first characters of
-- one name it too, eight at least. Of numbers and texts any beginning may be an id itself, so it names nothing.

-- A text as an id of this type, in its normal form, or as the beginning of a uuid. Null: it names nothing.
create function backfill_private.session_name(p_type text, p_given text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_given text := case
    when p_type in ('uuid', 'bigint', 'integer', 'smallint') then lower(btrim(p_given))
    else p_given
  end;
  v_id text;
begin
  begin
    execute format('select %L::%s::text', v_given, p_type) into v_id;
  exception when data_exception then
    null;  -- not of this type
  end;
  return case
    -- 007 is not 7, and a text that is cut to its column's length is another.
    when p_type = 'uuid' or v_id = v_given then coalesce(v_id, substring(v_given, '^[0-9a-f-]{8,35}$'))
  end;
end
$$;

-- The sessions of a run that a name names, three at most.
create function backfill_private.named_in_run(p_run_id uuid, p_type text, p_name text)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found text[] := array(
    select i.session_id from public.backfill_items as i where i.run_id = p_run_id and i.session_id = p_name);
begin
  if v_found = '{}' and p_type = 'uuid' then
    v_found := array(
      select i.session_id
      from public.backfill_items as i
      where i.run_id = p_run_id and starts_with(i.session_id, p_name)
      order by 1
      limit 3);
  end if;
  return v_found;
end
$$;

-- The rows of a source that a name names, three at most. Both ways find them by the key's index.
create function backfill_private.named_in_source(p_source backfill_private.sources, p_type text, p_name text)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found text[];
begin
  execute format(
    'select array(select s.%1$I::text from %2$s as s where %3$s order by s.%1$I limit 3)',
    p_source.key_column,
    p_source.source_table::regclass,
    case
      when p_type = 'uuid'
      then format('s.%1$I between rpad(%2$L, 32, ''0'')::uuid and rpad(%2$L, 32, ''f'')::uuid'
        ' and starts_with(s.%1$I::text, %3$L)',
        p_source.key_column, replace(p_name, '-', ''), p_name)
      else format('s.%I = %L::%s', p_source.key_column, p_name, p_type)
    end)
  into v_found;
  return v_found;
end
$$;

-- Refuse a text that does not name one session.
--
-- p_found  what it names
-- raises   OB014 always
create function backfill_private.refuse_session(p_run_id uuid, p_type text, p_given text, p_found text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_given text := left(p_given, 80);
begin
  perform backfill_private.refuse('OB014',
    case
      when cardinality(p_found) > 1
      then format('%s names more than one session: %s, …', v_given, array_to_string(p_found[1:2], ', '))
      when p_type = 'uuid' and btrim(p_given) ~ '^[0-9a-fA-F-]{1,7}$'
      then format('%s names no session: give its id, or at least 8 characters of its beginning', v_given)
      when p_run_id is not null then format('run %s has no session %s', p_run_id, v_given)
      else format('no session is named %s', v_given)
    end,
    case
      when p_run_id is not null then format('backfill show %s', p_run_id)
      else 'backfill missing --since …, which lists the sessions that lack something'
    end);
end
$$;

-- The sessions that some texts name, in the order given, each once.
--
-- p_run_id  among the sessions of this run. Null: among all rows of the source
-- raises    OB014 one of them names no session, or more than one
create function backfill_private.named_sessions(p_target text, p_given text[], p_run_id uuid default null)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_source backfill_private.sources;
  v_type text;
  v_name text;
  v_given text;
  v_found text[];
  v_ids text[] := array[]::text[];
begin
  select * into strict v_source from backfill_private.sources where target = p_target;
  -- Of a source that is gone, the ids that are left are texts.
  v_type := coalesce(backfill_private.column_type(v_source.source_table, v_source.key_column), 'text');
  foreach v_given in array coalesce(p_given, '{}') loop
    v_name := backfill_private.session_name(v_type, v_given);
    v_found := case
      when v_name is null then '{}'::text[]
      when p_run_id is null then backfill_private.named_in_source(v_source, v_type, v_name)
      else backfill_private.named_in_run(p_run_id, v_type, v_name)
    end;
    if cardinality(v_found) <> 1 then
      perform backfill_private.refuse_session(p_run_id, v_type, v_given, v_found);
    elsif v_found[1] <> all (v_ids) then
      v_ids := v_ids || v_found;
    end if;
  end loop;
  return v_ids;
end
$$;

-- How people call the rows of a run's source: one of them, and several.
create function backfill_private.words_of(p_run_id uuid)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select s.called
      from public.backfill_runs as r
      join backfill_private.sources as s using (target)
      where r.run_id = p_run_id
    ),
    '{session,sessions}')
$$;

-- So many of them: 1 order, 2 orders.
create function backfill_private.called_in(p_run_id uuid, p_count bigint)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select format('%s %s', p_count, (backfill_private.words_of(p_run_id))[case p_count when 1 then 1 else 2 end])
$$;
