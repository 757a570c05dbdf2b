-- Rules of standing approvals: what is proposed, in its normal form and with its digest.

-- The hours of a day, from and to, of a text such as 01-05 or 22-04. They are UTC, and the last one is not included.
--
-- raises  OB013 it names no hours
create function backfill_private.hours_of(p_text text, out from_hour integer, out to_hour integer)
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_given text[] := regexp_match(btrim(p_text), '^([0-9]{1,2})(?::00)?-([0-9]{1,2})(?::00)?$');
begin
  from_hour := v_given[1]::integer;
  to_hour := v_given[2]::integer;
  if p_text is not null
    and (from_hour between 0 and 23 and to_hour between 0 and 24 and from_hour <> to_hour) is not true
  then
    perform backfill_private.refuse('OB013',
      format('hours are two different hours of the day, from and to, not %s', left(p_text, 40)),
      'backfill standing new … --hours 01-05');
  end if;
  -- 22-00 ends at midnight.
  to_hour := case to_hour when 0 then 24 else to_hour end;
end
$$;

-- The weekdays of a text such as mon-fri or sat,sun: 1 for Monday, in their order. Null for null.
--
-- raises  OB013 it names none
create function backfill_private.weekdays_of(p_text text)
returns integer[]
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_names text[] := array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
  v_part text;
  v_from integer;
  v_to integer;
  v_days integer[] := array[]::integer[];
begin
  -- An empty text has a part, too, which names no day.
  foreach v_part in array coalesce(string_to_array(nullif(lower(left(p_text, 200)), ''), ','), array[p_text]) loop
    continue when v_part is null;
    v_from := array_position(v_names, btrim(split_part(v_part, '-', 1)));
    v_to := coalesce(array_position(v_names, btrim(nullif(split_part(v_part, '-', 2), ''))),
      case when strpos(v_part, '-') = 0 then v_from end);
    if v_from is null or v_to is null or array_length(string_to_array(v_part, '-'), 1) > 2 then
      perform backfill_private.refuse('OB013',
        format('weekdays are names such as mon-fri or sat,sun, not %s', left(p_text, 40)),
        'backfill standing new … --weekdays mon-fri');
    end if;
    -- From Friday to Monday goes over the week's end.
    v_days := v_days || array(
      select (v_from + d - 1) % 7 + 1 from generate_series(0, (v_to - v_from + 7) % 7) as d);
  end loop;
  return (select array_agg(distinct d order by d) from unnest(v_days) as d);
end
$$;

-- Whether a mark of a plan is one that a rule names: by its name, by what it begins with, or as one of all.
create function backfill_private.names_mark(p_named text, p_mark text)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select p_named in ('all', p_mark)
    or starts_with(p_mark, p_named || ' ')
    or starts_with(p_mark, p_named || ':')
$$;

-- The marks that plans of a target have or may have: those of its tables and functions, those of any plan, and those
-- of former plans of it.
create function backfill_private.known_marks(p_target text)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select m.mark ->> 'name' from backfill_private.table_marks(p_target) as m (mark)
  union
  select m.mark ->> 'name' from backfill_private.function_marks(p_target, null) as m (mark)
  union
  select n ->> 'name'
  from backfill_private.sources as s
  cross join jsonb_array_elements(s.needs) as n
  where s.target = p_target
  union
  select w.word || backfill_private.bare_name(s.source_table)
  from backfill_private.sources as s
  cross join (values ('rows of '), ('dates of ')) as w (word)
  where s.target = p_target
  union
  select 'before-images of ' || t.table_name from public.backfill_targets as t where t.target = p_target
  union
  select unnest(backfill_private.parameter_names(p_target))
  union
  select unnest(array[
    'throttle', 'environment', 'approval policy', 'mode', 'other tables', 'PostgREST', 'rehearsal: scoring time',
    'rehearsal: scoring calls', 'rehearsal: existing rows', 'rehearsal: other tables', 'rehearsal: undo',
    'rehearsal: second call', 'rehearsal: one transaction', 'rehearsal: calls that the API repeats'])
  union
  select c ->> 'name'
  from public.backfill_runs as r
  cross join jsonb_array_elements(r.plan -> 'checks') as c
  where r.target = p_target
$$;

-- Refuse marks that no plan of a target has.
--
-- raises  OB013 the first of them
create function backfill_private.check_marks(p_target text, p_marks text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_known text[] := array(select k from backfill_private.known_marks(p_target) as k order by 1);
  v_unknown text := (
    select coalesce(m.named, 'null')
    from unnest(p_marks) as m (named)
    where not exists (select from unnest(v_known) as k where backfill_private.names_mark(m.named, k))
    limit 1);
begin
  if v_unknown is not null then
    perform backfill_private.refuse('OB013',
      format('no plan of %s has a mark %s', p_target, left(v_unknown, 80)),
      'backfill standing new … --marks all, or one of: ' || array_to_string(v_known, ', '));
  end if;
end
$$;

-- What a standing approval of a target stands on, as fingerprints: what any plan does, and what selects its rows.
-- {name: SHA-256}, null if a function or the target is gone.
create function backfill_private.standing_definitions(p_target text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.definitions(p_target) || jsonb_build_object('source', (
    select backfill_private.sha256_hex((to_jsonb(s) - array['called', 'installed_at'])::text)
    from backfill_private.sources as s
    where s.target = p_target))
$$;

-- The rule alone: what a person approves. Everything else in the row is what became of it.
create function backfill_private.rule_of(p_standing public.backfill_standing)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'target', p_standing.target,
    'environment', p_standing.environment,
    'server', p_standing.server,
    'fingerprint', p_standing.fingerprint,
    'max_sessions', p_standing.max_sessions,
    'max_per_day', p_standing.max_per_day,
    'max_calls', p_standing.max_calls,
    'throttle_per_minute', p_standing.throttle_per_minute,
    'from_hour', p_standing.from_hour,
    'to_hour', p_standing.to_hour,
    'weekdays', p_standing.weekdays,
    'marks', p_standing.marks,
    'replaces', p_standing.replaces,
    'valid_until_s', extract(epoch from p_standing.valid_until))
$$;

-- The digest of a rule, as its row stands.
create function backfill_private.standing_digest(p_standing public.backfill_standing)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select backfill_private.sha256_hex(
    concat_ws(e'\n', 'backfill standing approval, form 1', backfill_private.rule_of(p_standing)))
$$;

-- Refuse bounds of a rule that are none, or above what this project allows.
--
-- raises  OB013 the first of them
create function backfill_private.check_caps(p_standing public.backfill_standing)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_settings public.backfill_settings := backfill_private.settings();
begin
  perform backfill_private.check_bounds(jsonb_build_object(
    'a run by standing approval, sessions', p_standing.max_sessions,
    'a day of standing approval', coalesce(p_standing.max_per_day, 1),
    'a run by standing approval, calls', coalesce(p_standing.max_calls, 1),
    'the throttle of a standing approval', coalesce(p_standing.throttle_per_minute, 1)));
  if p_standing.max_sessions > v_settings.max_sessions then
    perform backfill_private.refuse('OB013',
      format('max_sessions %s is above the %s per plan that this project allows',
        p_standing.max_sessions, v_settings.max_sessions),
      format('backfill standing new … --max-sessions %s', v_settings.max_sessions));
  elsif p_standing.throttle_per_minute > v_settings.max_throttle_per_minute then
    perform backfill_private.refuse('OB013',
      format('throttle %s is above the %s per minute that this project allows',
        p_standing.throttle_per_minute, v_settings.max_throttle_per_minute),
      format('backfill standing new … --throttle %s', v_settings.max_throttle_per_minute));
  end if;
end
$$;

-- The end of a rule: the first moment after what was given.
--
-- raises  OB013 there is none, it is no date, or it is over
create function backfill_private.end_of_rule(p_until text)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := backfill_private.until_bound('until', nullif(btrim(p_until), ''));
begin
  if v_until is null then
    perform backfill_private.refuse('OB013', 'a standing approval needs an end',
      'backfill standing new … --until with its last day');
  elsif v_until <= backfill_private.clock() then
    perform backfill_private.refuse('OB013', format('until %s is over', left(p_until, 40)),
      'backfill standing new … --until with a day to come');
  end if;
  return v_until;
end
$$;

-- Propose a standing approval. It approves nothing before a person has approved it. Proposed again under the same id,
-- since the answer was lost, it is the same.
--
-- p_asked  {target, until, max_sessions, max_per_day, max_calls, throttle, hours, weekdays, marks, replace,
--          environment}
-- raises   OB008 another environment, OB010 not allowed, OB013 a value is not usable
create function backfill_private.propose_standing(p_standing_id uuid, p_asked jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_new public.backfill_standing;
begin
  perform backfill_private.authorize('plan');
  perform backfill_private.check_bounds(jsonb_build_object(
    'the list of marks', p_asked -> 'marks',
    'the request', p_asked));
  v_new.standing_id := coalesce(p_standing_id, gen_random_uuid());
  v_new.target := backfill_private.check_target(p_asked ->> 'target');
  v_new.environment := backfill_private.check_environment(nullif(p_asked ->> 'environment', ''));
  v_new.server := backfill_private.server_identity();
  v_new.fingerprint := backfill_private.standing_definitions(v_new.target);
  v_new.max_sessions := (p_asked ->> 'max_sessions')::integer;
  v_new.max_per_day := (p_asked ->> 'max_per_day')::integer;
  v_new.max_calls := (p_asked ->> 'max_calls')::integer;
  v_new.throttle_per_minute := (p_asked ->> 'throttle')::integer;
  select h.from_hour, h.to_hour into v_new.from_hour, v_new.to_hour
  from backfill_private.hours_of(p_asked ->> 'hours') as h;
  v_new.weekdays := backfill_private.weekdays_of(p_asked ->> 'weekdays');
  v_new.marks := array(
    select distinct btrim(m)
    from jsonb_array_elements_text(coalesce(nullif(p_asked -> 'marks', 'null'), '[]')) as m
    order by 1);
  v_new.replaces := coalesce((p_asked ->> 'replace')::boolean, false);
  v_new.valid_until := backfill_private.end_of_rule(p_asked ->> 'until');
  perform backfill_private.check_caps(v_new);
  perform backfill_private.check_marks(v_new.target, v_new.marks);
  v_new.digest := backfill_private.standing_digest(v_new);
  select c.user_id, case c.kind when 'postgres' then 'sql' when 'user' then 'auth' else 'service_key' end
  into v_new.proposed_by, v_new.proposed_via
  from backfill_private.caller() as c;
  v_new.proposed_at := backfill_private.clock();
  insert into public.backfill_standing select v_new.* on conflict (standing_id) do nothing;
  if not exists (
    select from public.backfill_standing as s where s.standing_id = v_new.standing_id and s.digest = v_new.digest)
  then
    perform backfill_private.refuse('OB002',
      format('standing approval %s is there already, with another rule', v_new.standing_id), 'backfill standing list');
  end if;
  return backfill_private.standing_told(v_new.standing_id);
end
$$;
