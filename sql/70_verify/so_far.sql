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

-- What some steps of a verification saw, as one. All at once and as text, read once: lists that are joined step by
-- step, or put into an object that goes into another, are copied element by element each time.
--
-- p_steps  see backfill_private.verify_step
-- returns  {buckets, critical}
create function backfill_private.all_seen(p_steps jsonb[])
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  with found as (
    select s.place, b.key as bucket, c.key as component, c.value::text as list
    from unnest(p_steps) with ordinality as s (seen, place)
    cross join jsonb_each(s.seen -> 'buckets') as b
    cross join jsonb_each(b.value) as c
    where c.value <> '[]'
  ), joined as (
    select f.bucket,
      format('%s: [%s]', to_json(f.component),
        string_agg(substr(f.list, 2, length(f.list) - 2), ', ' order by f.place)) as list
    from found as f
    group by f.bucket, f.component
  ), of_buckets as (
    select format('%s: {%s}', to_json(j.bucket), string_agg(j.list, ', ')) as components
    from joined as j
    group by j.bucket
  )
  select format('{"buckets": {%s}, "critical": %s}',
    (select string_agg(o.components, ', ') from of_buckets as o),
    (
      select coalesce(jsonb_agg(c.value order by s.place, c.place), '[]')
      from unnest(p_steps) with ordinality as s (seen, place)
      cross join jsonb_array_elements(s.seen -> 'critical') with ordinality as c (value, place)))::jsonb
$$;
