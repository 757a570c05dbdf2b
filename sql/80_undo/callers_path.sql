-- The caller of an undo: what of theirs reaches the user's code that an undo sets off with its owner's rights.

-- The search path under which an undo writes: the caller's, without schemas in which somebody without the owner's
-- rights could put a thing of their own in place of what the user's code means. For an undo writes with its owner's
-- rights, and so does every trigger that it sets off.
--
-- Temporary tables of such a caller are dropped: PostgreSQL would look for tables among them, whatever the path. Who
-- has put a trigger with a function of their own on some table is refused. The right TRIGGER and a function in pg_temp
-- are enough to make one, and older projects give TRIGGER to every API role.
-- raises  OB010 a trigger's function belongs to the caller
create function backfill_private.undo_path(p_search_path text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_schemas name[];
begin
  perform set_config('search_path', p_search_path, true);
  v_schemas := pg_catalog.current_schemas(false);
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if not pg_has_role(session_user, current_user, 'member') then
    perform backfill_private.refuse_callers_triggers();
    if exists (select from pg_class as c where c.relnamespace = pg_my_temp_schema())
      or exists (select from pg_type as t where t.typnamespace = pg_my_temp_schema()) then
      discard temp;
    end if;
  end if;
  return concat_ws(', ', 'pg_catalog', (
    select string_agg(quote_ident(s.name), ', ' order by s.place)
    from unnest(v_schemas) with ordinality as s (name, place)
    join pg_namespace as n on n.nspname = s.name
    where n.nspname <> 'pg_catalog'
      and n.oid <> pg_my_temp_schema()
      and (pg_has_role(session_user, current_user, 'member') or not exists (
        select from (
          select c.relnamespace as schema, c.relowner as owner from pg_class as c
          union all
          select t.typnamespace, t.typowner from pg_type as t
          union all
          select p.pronamespace, p.proowner from pg_proc as p
          union all
          select o.oprnamespace, o.oprowner from pg_operator as o
        ) as made
        where made.schema = n.oid
          and pg_has_role(session_user, made.owner, 'member')))), 'pg_temp');
end
$$;

-- Refuse a caller who has put a trigger with a function of their own on some table.
--
-- raises  OB010 see undo_path
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
