-- Digest: what an approval binds. The same request on the same state gives the same digest: no run id, no moment of the
-- planning and no measurement goes in, but the risk that was made of the marks.
--
-- What was measured has a hash of its own, which stands with the approval: see backfill_private.figures_hash.

-- One function's fingerprint: definition, owner and rights. Null if the function does not exist.
create function backfill_private.function_fingerprint(p_signature text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
begin
  return (
    select backfill_private.sha256_hex(concat_ws(
      e'\n',
      pg_get_functiondef(p.oid),
      p.proowner::regrole,
      (select string_agg(acl::text, ',' order by acl::text) from unnest(p.proacl) as acl)))
    from pg_proc as p
    where p.oid = backfill_private.function_named(p_signature));
end
$$;

-- Fingerprints of what a target runs on: its scoring functions, their helpers, and its rows of backfill_targets. For an
-- Edge Function it is that of the declared version: the database does not hold its definition.
-- {name: SHA-256}, null if a function is gone.
create function backfill_private.definitions(p_target text)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select jsonb_build_object('backfill_targets', (
        select backfill_private.sha256_hex(jsonb_agg(to_jsonb(t) order by t.position)::text)
        from public.backfill_targets as t
        where t.target = p_target
      ))
      || coalesce(
        jsonb_object_agg(f.name, case
          when f.version is null then backfill_private.function_fingerprint(f.name)
          else backfill_private.sha256_hex(f.version)
        end),
        '{}')
    from (
      select t.function_signature as name, t.function_version as version
      from public.backfill_targets as t
      where t.target = p_target
      union
      select unnest(t.helpers), null
      from public.backfill_targets as t
      where t.target = p_target
    ) as f);
end
$$;

-- The database this is: a plan made here cannot run there.
create function backfill_private.server_identity()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws('/', s.system_identifier, c.timeline_id, current_database())
  from pg_control_system() as s, pg_control_checkpoint() as c
$$;

-- A run's planned sessions as text, in their order, with all that the plan says of each. Their dates are among it: an
-- undo by dates goes by them.
create function backfill_private.planned_text(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
  select string_agg(
    jsonb_build_array(
      i.ordinal, i.phase, i.batch, i.category, i.components, i.replaces, i.source, i.session_id, i.session_at)::text,
    e'\n' order by i.ordinal)
  from public.backfill_items as i
  where i.run_id = p_run_id
$$;

-- The digest of a run's plan, computed from the rows as they stand.
create function backfill_private.compute_digest(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(concat_ws(
    e'\n',
    'backfill plan, form 3',
    backfill_private.server_identity(),
    coalesce(r.environment, ''),
    r.request,
    r.plan -> 'risk',
    -- What people call its rows, and when it was installed, changes nothing that is done to them.
    (select to_jsonb(s) - array['called', 'installed_at'] from backfill_private.sources as s where s.target = r.target),
    backfill_private.definitions(r.target),
    backfill_private.planned_text(r.run_id)))
  from public.backfill_runs as r
  where r.run_id = p_run_id
$$;

-- What an approver reads beside the digest, as a hash: the figures, the marks and the risk of a plan.
create function backfill_private.figures_hash(p_plan jsonb)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(p_plan::text)
$$;

-- What changed since a plan was sealed, by name, with the fingerprints then and now.
create function backfill_private.what_changed(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    string_agg(
      format('%s was %s, is %s',
        n.key,
        coalesce(left(p_run.fingerprint ->> n.key, 12) || '…', 'not there'),
        coalesce(left(n.value, 12) || '…', 'gone')),
      '; ' order by n.key),
    'the plan''s rows, the environment or the server')
  from jsonb_each_text(backfill_private.definitions(p_run.target)) as n
  where n.value is distinct from p_run.fingerprint ->> n.key
$$;
