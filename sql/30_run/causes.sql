-- Causes: why a run stands where it stands, and what helps. Progress, verify, refusals and the client take it from
-- here.

-- What helps, by cause. A cause is a state, or the code of a reason that backfill_private.move has noted with a pause,
-- or something that stands beside them: see backfill_private.next_step.
--
-- cause     the longest match wins: of call: the code of the error that every call would meet follows
-- is_seen   the database sees whether it still stands. Once it does not, `mended` takes its place
-- decides   a person has to look or to decide first. False: what follows helps by itself
-- says      what helps, in words. Null: the lines say it
-- lines     to copy: commands, and SQL for the SQL editor
--
-- {run}, {digest}, {want}, {environment}, {again}, {one}, {many}, {pids}, {drop}: see backfill_private.filled_in
create view backfill_private.causes with (security_invoker = true) as
select * from (values
  -- States.
  ('planning', false, false, 'Its client ended before the plan was complete.', array['backfill plan --resume {run}']),
  ('awaiting_approval', false, true, null, array['backfill approve {run} --digest {digest}']),
  ('approved', false, false, null, array['backfill apply {run}']),
  ('running', false, false, null, array['backfill status {run}']),
  ('no_worker', false, false, 'No worker holds a {one} now. If none is alive, start one.',
    array['backfill apply {run}']),
  ('completed', false, false, null, array['backfill verify {run}']),
  ('rejected', false, false, null, array['backfill plan --like {run}']),
  ('cancelled', false, false, null, array['backfill plan --like {run}']),
  ('expired', false, false, 'A new plan takes a new approval.', array['backfill plan --like {run}']),
  ('rolled_back', false, true, 'If they are to be scored again, plan them anew.', array['backfill plan --like {run}']),
  -- Beside a state.
  ('failed', false, false, 'What failed is scored again under the same approval.', array['backfill retry {run}']),
  ('failed_for_good', false, false, 'The approval ran out. What failed takes a new plan.',
    array['backfill plan --like {run}']),
  ('left_behind', false, true, 'Some rows could not be undone. Look at the reasons, then undo what is left.',
    array['backfill rollback {run}']),
  ('unanswered', false, true, 'A critical event waits for an answer: what it was, and why it is harmless.',
    array['backfill resume {run} --because "…"']),
  ('removed', false, true, 'Its target is not installed any more. Install it again, and apply the migration.',
    array['backfill install --target FILE']),
  -- Pauses.
  ('asked', false, false, null, array['backfill resume {run}']),
  ('mended', false, false, 'What paused the run does not stand in its way any more.', array['backfill resume {run}']),
  ('definition', true, false, 'A new plan takes what holds now. This run goes on only once what was approved is put '
    'back. Then {again} it.',
    array['backfill plan --like {run}{want}']),
  ('plan', false, false, 'A new plan takes what stands there now.', array['backfill plan --like {run}{want}']),
  ('environment', true, false, 'A plan for this environment takes the place of this one. If backfill_settings has the '
    'wrong environment, set it right, then {again} the run.',
    array['backfill plan --like {run} --environment {environment}']),
  ('standing', true, true, 'What allowed this run is revoked. To go on, plan it anew and have a person approve it.',
    array['backfill plan --like {run}']),
  ('server', true, false, 'The database was restored, copied or upgraded since. A new plan is for what stands here.',
    array['backfill plan --like {run}']),
  ('settings', true, true, 'Put the row back, and set again what it held: environment, policy, bounds. Then {again} '
    'the run.',
    array['insert into public.backfill_settings default values;']),
  ('view_gone', true, true, 'Create the view again as the target''s migration has it. Then {again} the run.',
    array['backfill check']),
  ('gone', true, true, 'Give it back the name that the target declares, then {again} the run. If the new name stays, '
    'install the target with it and plan anew.',
    array['backfill check', 'backfill install --target FILE', 'backfill plan --like {run}']),
  ('receipt_triggers', true, false, 'The check prints the SQL that puts the triggers back. Then {again} the run.',
    array['backfill check']),
  ('key', true, true, 'Remove the rows that share a key, or make its index again. The check names them. Then {again} '
    'the run.',
    array['backfill check']),
  ('throttle', true, true, 'Wait for the other runs, or pause one. Then {again} this one.',
    array['backfill runs --state running']),
  ('no_headers', true, true, 'Hand our headers on with supabase/functions/_shared/backfill.ts, and declare the new '
    'function_version. Or declare receipts = "inferred". Then plan anew.',
    array['backfill install --functions', 'backfill plan --like {run}']),
  ('canary', false, true, 'Look at the {many} that the reason names, and at their rows. If they are right, resume: the '
    'others go on, and these are not judged again. If not, undo them, mend the function and plan anew.',
    array['backfill show {run}', 'backfill resume {run}', 'backfill rollback {run}']),
  ('breaker', false, true, 'Look at the errors and mend what they name. Then resume. What failed so far is scored '
    'again by a retry once the run is completed.',
    array['backfill show {run}', 'backfill resume {run}']),
  ('breaker:OB017', false, true, 'The function answers and leaves no row of the wanted version. Plan for the version '
    'that it writes, or mend it and resume.',
    array['backfill show {run}', 'backfill plan --like {run}{want}', 'backfill resume {run}']),
  ('no_outcome', false, false, 'Wait until the project answers again. Then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('repeats', false, true, 'End the calls in the SQL editor. Then score inside the database, where nothing repeats '
    'them.',
    array[
      'select pg_terminate_backend(pid) from unnest(array[{pids}]) as pid;',
      'backfill plan --like {run} --mode bulk']),
  ('OB016', false, true, 'verify names the row. Look who wrote it. If it is harmless, say why when you resume.',
    array['backfill verify {run}', 'backfill resume {run} --because "…"']),
  ('OB018', false, true, 'A scoring call wrote rows that are not of its {one}. Mend the function and plan anew. If it '
    'is harmless, say why when you resume.',
    array['backfill verify {run}', 'backfill resume {run} --because "…"']),
  -- Every call would fail.
  ('call:', false, true, 'Mend what the error names. Then resume.', array['backfill check', 'backfill resume {run}']),
  ('call:25006', false, true, 'The database takes no writes: its disk may be full, or it is a replica. Then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:42501', false, false, 'The check prints the grants that are missing. For another object, grant what the error '
    'names. Then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:42883', false, true, 'Create the function that the error names. Then resume.', array['backfill resume {run}']),
  ('call:42P01', false, true, 'Create the table that the error names. Then resume.', array['backfill resume {run}']),
  ('call:PGRST106', false, true, 'Expose the schema in the API settings of the project. Then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:PGRST202', false, false, 'The API does not know the function yet. Let it read the schema again, then resume.',
    array['notify pgrst, ''reload schema'';', 'backfill resume {run}']),
  ('call:PGRST203', false, true, 'A call fits several functions. Drop the other one, or rename it. Then resume.',
    array['{drop}', 'notify pgrst, ''reload schema'';', 'backfill resume {run}']),
  ('call:PGRST205', false, false, 'The API does not know the table yet. Let it read the schema again, then resume.',
    array['notify pgrst, ''reload schema'';', 'backfill resume {run}']),
  ('call:PGRST30', false, true, 'The API refuses the key. Give the project''s secret key, then resume and apply.',
    array['backfill check', 'backfill resume {run}']),
  ('call:3', false, true, 'The API has another address. Set SUPABASE_URL to it, then resume and apply.',
    array['backfill check', 'backfill resume {run}']),
  ('call:401', false, true, 'The key is refused. Give the project''s secret key, then resume and apply.',
    array['backfill check', 'backfill resume {run}']),
  ('call:403', false, true, 'The function may not be called with this key. Mend its check, then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:404', false, true, 'The Edge Function is not deployed. Deploy it, then resume.',
    array['backfill check', 'backfill resume {run}']),
  ('call:540', false, true, 'The project is paused. Restore it in the dashboard, then resume.',
    array['backfill check', 'backfill resume {run}'])
) as cause (cause, is_seen, decides, says, lines);

-- A word of a command line, in quotes if a shell would take it apart.
create function backfill_private.shell_word(p_text text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_text ~ '^[A-Za-z0-9_./:@%+=-]+$' then p_text
    else '''' || replace(p_text, '''', '''\''''') || ''''
  end
$$;

-- The versions that a run's target declares now, where the run asked for others: ` --want COMPONENT=V`, one per
-- component.
create function backfill_private.versions_now(p_run public.backfill_runs)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(string_agg(
    ' --want ' || backfill_private.shell_word(t.component || '=' || (s.defaults ->> t.version_parameter)),
    '' order by t.position), '')
  from public.backfill_targets as t
  join backfill_private.sources as s on s.target = t.target
  where t.target = p_run.target
    and s.defaults ->> t.version_parameter <> p_run.request ->> t.version_parameter
$$;

-- The functions that the calls of a target fit besides those that it names. Null: none.
create function backfill_private.also_fit(p_target text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select string_agg(distinct backfill_private.confused_with(
    backfill_private.function_named(t.function_signature), array(select jsonb_object_keys(t.arguments))), ', ')
  from public.backfill_targets as t
  where t.target = p_target
$$;

-- A text of backfill_private.causes with what this run has for its names in braces. Null: it has nothing for one.
create function backfill_private.filled_in(p_run public.backfill_runs, p_text text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_called jsonb := coalesce(p_run.plan -> 'called', '["session", "sessions"]');
  v_text text := p_text;
begin
  v_text := replace(v_text, '{run}', p_run.run_id::text);
  v_text := replace(v_text, '{digest}', coalesce(p_run.digest, ''));
  v_text := replace(v_text, '{again}',
    case p_run.state when 'completed' then 'retry' when 'approved' then 'apply' else 'resume' end);
  v_text := replace(v_text, '{one}', v_called ->> 0);
  v_text := replace(v_text, '{many}', v_called ->> 1);
  -- What follows is looked up only where it is named.
  if strpos(v_text, '{want}') > 0 then
    v_text := replace(v_text, '{want}', backfill_private.versions_now(p_run));
  elsif strpos(v_text, '{environment}') > 0 then
    v_text := replace(v_text, '{environment}', backfill_private.shell_word(
      (select s.environment from public.backfill_settings as s)));
  elsif strpos(v_text, '{pids}') > 0 then
    v_text := replace(v_text, '{pids}', coalesce(substring(p_run.reason from 'in backends ([0-9, ]+):'), ''));
  elsif v_text = '{drop}' then
    v_text := 'drop function ' || backfill_private.also_fit(p_run.target) || ';';
  end if;
  return v_text;
end
$$;

-- What helps a run against a cause: its row of backfill_private.causes, in the words of this run.
--
-- returns  {cause, decides, says, lines: [text]}
create function backfill_private.helps(p_run public.backfill_runs, p_cause text)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'cause', p_cause,
    'decides', c.decides,
    'says', backfill_private.filled_in(p_run, c.says),
    'lines', (
      select coalesce(jsonb_agg(f.line order by l.place), '[]')
      from unnest(c.lines) with ordinality as l (line, place)
      cross join lateral backfill_private.filled_in(p_run, l.line) as f (line)
      where f.line is not null))
  from backfill_private.causes as c
  where starts_with(p_cause, c.cause)
  order by length(c.cause) desc
  limit 1
$$;

-- What helps, for a refusal's hint: the sentence, then the lines.
--
-- p_cause  null: why the run stands where it stands
create function backfill_private.hint(p_run public.backfill_runs, p_cause text default null)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(e'\n', h ->> 'says', (
    select string_agg(l.line, e'\n' order by l.place)
    from jsonb_array_elements_text(h -> 'lines') with ordinality as l (line, place)))
  from backfill_private.helps(p_run, coalesce(
    p_cause,
    p_run.cause,
    case p_run.state when 'paused' then 'asked' else p_run.state end)) as h
$$;
