-- Selection: which planned sessions their target no longer selects. A plan may be days old when it is applied, and
-- nothing is derived of a person who was deleted meanwhile.

-- The sessions among some items that the target would not select now, each with the reason.
--
-- The target's own view decides, as it did while planning. If one of the planned components is no longer wanted, the
-- session is left to the next plan: this one's digest names what is scored of it.
-- A batch is looked up by key: offset 0 keeps each look apart,
-- so that even a subquery of the view is asked only about this one session. For a whole run PostgreSQL may read the
-- tables once.
--
-- p_ordinals  the items. Null: all of the run
-- p_state     only those in this state
create function backfill_private.unselected(
  p_run public.backfill_runs, p_ordinals integer[] default null, p_state text default 'pending'
)
returns table (ordinal integer, session_id text, why text)
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  v_source backfill_private.sources;
  v_key text;
  v_not_wanted text := (
    select string_agg(
      format(
        ', case when %1$L = any (item.components) and %1$L <> all (item.filled) then %2$L || g.%3$I end',
        c.component,
        c.component || ' is no longer wanted of it: ',
        c.not_wanted),
      '' order by c.position)
    from backfill_private.conditional_components(p_run.target) as c);
  v_look text := case
    when p_ordinals is null then 'left join %s as g on g.id = %s'
    else 'left join lateral (select g.* from %s as g where g.id = %s offset 0) as g on true'
  end;
begin
  if p_ordinals = '{}' then
    return;  -- As in effects().
  end if;
  select * into strict v_source from backfill_private.sources as o where o.target = p_run.target;
  v_key := backfill_private.session_key(p_run.target);
  perform set_config('backfill.request', p_run.request::text, true);
  return query execute format(
    'select looked.* from (
       select item.ordinal, item.session_id, case
         when g.id is not null then coalesce(g.excluded%8$s)
         when exists (select from %1$s as s where s.%2$I = %3$s) then %6$L
         else %7$L end as why
       from public.backfill_items as item
       %4$s
       where item.run_id = $1
         and item.state = $3
         and %5$s
     ) as looked
     where looked.why is not null',
    v_source.source_table::regclass,
    v_source.key_column,
    v_key,
    format(v_look, backfill_private.standing_view(p_run.target)::regclass, v_key),
    case when p_ordinals is null then 'true' else 'item.ordinal = any ($2)' end,
    'the target no longer selects it',
    'gone from ' || backfill_private.bare_name(v_source.source_table),
    v_not_wanted)
  using p_run.run_id, p_ordinals, p_state;
  perform set_config('backfill.request', '', true);
end
$$;
