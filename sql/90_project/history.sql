-- History: which migrations this database has applied, as the Supabase CLI records them.

-- Which of these migrations are applied.
--
-- p_versions  the timestamps with which their names begin
-- returns     {applied: [version], targets: [name]}. applied is null if this database keeps no record
-- raises      OB010 the caller may not read, OB013 too many
create function backfill_private.history(p_versions text[])
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_applied jsonb;
begin
  perform backfill_private.authorize('read');
  perform backfill_private.check_bounds(jsonb_build_object('the list of migrations', p_versions));
  if backfill_private.column_type('supabase_migrations.schema_migrations', 'version') is not null then
    execute $sql$
      select coalesce(jsonb_agg(m.version::text order by m.version), '[]')
      from supabase_migrations.schema_migrations as m
      where m.version::text = any ($1)
    $sql$
    into v_applied
    using p_versions;
  end if;
  return jsonb_build_object(
    'applied', v_applied,
    'targets', (
      select coalesce(jsonb_agg(distinct t.target), '[]')
      from public.backfill_targets as t
    ));
end
$$;
