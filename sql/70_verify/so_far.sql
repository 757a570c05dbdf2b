-- How far a verification in parts is. The caller brings what the part before answered, so it is checked and bounded.

-- A figure that the parts before have counted. Others are added to it, and none counts more rows than a table may have.
create function backfill_private.figure_so_far(p_figure text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select least(greatest(coalesce(p_figure::bigint, 0), 0), 1000000000000)
$$;

-- How far a verification is, in its normal form: {stage, after, critical: how many, figures: {component: {…}}}.
--
-- raises  OB013 no part has answered this
create function backfill_private.verify_so_far(p_target text, p_so_far jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- A run has at most a hundred priority sessions.
  if coalesce(p_so_far ->> 'stage', 'rows') not in ('rows', 'strangers', 'chain', 'receipts', 'end')
    or jsonb_path_exists(p_so_far, 'lax $.figures.*.priority_incomplete.size() ? (@ > 100)') then
    raise invalid_parameter_value;
  end if;
  return jsonb_build_object(
    'stage', coalesce(p_so_far ->> 'stage', 'rows'),
    'after', least(greatest((p_so_far ->> 'after')::integer, 0), 1000000000),
    'critical', backfill_private.figure_so_far(p_so_far ->> 'critical'),
    'figures', (
      select jsonb_object_agg(
        t.component,
        jsonb_build_object('priority_incomplete', coalesce((
          select jsonb_agg(i)
          from jsonb_array_elements_text(p_so_far #> array['figures', t.component, 'priority_incomplete']) as i), '[]'))
        || (
          select jsonb_object_agg(n, backfill_private.figure_so_far(p_so_far #>> array['figures', t.component, n]))
          from unnest(array['planned', 'wanted', 'inserted', 'updated', 'written', 'written_wanted', 'unexplained',
            'unplanned', 'extra', 'legacy']) as n))
      from public.backfill_targets as t
      where t.target = p_target));
exception when data_exception then
  perform backfill_private.refuse('OB013', 'a verification goes on with what its last part answered as so_far',
    'backfill verify RUN');
  return null;
end
$$;
