-- The sample project: assessment sessions, their answers, and what is derived from them.
--
-- A small stand-in for a real Supabase project. A person answers 248 questions (assessment_responses) and 6
-- forced-choice blocks (fc_responses). Two functions derive the results. A server with the secret key calls them when a
-- session is completed:
--   score_fc_session(session_id, version, basis)   writes one row of fc_scores
--   score_prism(session_id, engine_version)        writes one row of profiles
-- Both are safe to call again: the second call overwrites the row of the first.
--
-- Rights: anon has none. authenticated reads its own sessions and their rows. service_role reads and writes.
-- Applied by the role postgres. The data is in seed.sql.

-- What people answer ---------------------------------------------------------------------------------------------

create table public.assessment_sessions (
  id            uuid primary key default gen_random_uuid(),
  user_id       uuid,
  status        text not null default 'in_progress',
  created_at    timestamptz not null default now(),
  completed_at  timestamptz,
  constraint assessment_sessions_status_known check (status in ('in_progress', 'completed', 'abandoned'))
);

create index assessment_sessions_user_id_idx on public.assessment_sessions (user_id);

create table public.assessment_responses (
  id            bigint generated always as identity primary key,
  session_id    uuid not null references public.assessment_sessions (id) on delete cascade,
  question_id   integer not null,
  answer_value  smallint not null,
  created_at    timestamptz not null default now(),
  constraint assessment_responses_one_answer_a_question unique (session_id, question_id),
  constraint assessment_responses_answer_in_scale check (answer_value between 1 and 5)
);

create table public.fc_blocks (
  id        integer primary key,
  position  integer not null unique,
  prompt    text not null
);

create table public.fc_options (
  id        integer primary key,
  block_id  integer not null references public.fc_blocks (id),
  label     text not null,
  weights   jsonb not null,
  -- for the foreign key of fc_responses: an answer names an option of its own block
  constraint fc_options_block_and_id unique (block_id, id),
  constraint fc_options_weights_is_object check (jsonb_typeof(weights) = 'object')
);

comment on column public.fc_options.weights is 'function name (Te Ti Fe Fi Ne Ni Se Si) -> weight';

create table public.fc_responses (
  session_id  uuid not null references public.assessment_sessions (id) on delete cascade,
  block_id    integer not null,
  option_id   integer not null,
  created_at  timestamptz not null default now(),
  primary key (session_id, block_id),
  foreign key (block_id, option_id) references public.fc_options (block_id, id)
);

-- What is derived ------------------------------------------------------------------------------------------------

create table public.fc_scores (
  session_id       uuid not null references public.assessment_sessions (id) on delete cascade,
  version          text not null,
  fc_kind          text not null default 'functions',
  scores_json      jsonb not null,
  blocks_answered  integer not null,
  created_at       timestamptz not null default now(),
  primary key (session_id, version, fc_kind)
);

create table public.profiles (
  session_id       uuid primary key references public.assessment_sessions (id) on delete cascade,
  results_version  text not null,
  type_code        text not null,
  payload          jsonb not null default '{}',
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now()
);

create function public.profiles_keep_updated_at() returns trigger
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;

create trigger profiles_updated_at
before update on public.profiles
for each row
execute function public.profiles_keep_updated_at();

-- Who may read ---------------------------------------------------------------------------------------------------

alter table public.assessment_sessions  enable row level security;
alter table public.assessment_responses enable row level security;
alter table public.fc_blocks            enable row level security;
alter table public.fc_options           enable row level security;
alter table public.fc_responses         enable row level security;
alter table public.fc_scores            enable row level security;
alter table public.profiles             enable row level security;

create policy "people read their own sessions"
on public.assessment_sessions for select to authenticated
using (user_id = (select auth.uid()));

create policy "people read their own responses"
on public.assessment_responses for select to authenticated
using (session_id in (
  select session.id
    from public.assessment_sessions as session
   where session.user_id = (select auth.uid())
));

create policy "people read their own forced-choice responses"
on public.fc_responses for select to authenticated
using (session_id in (
  select session.id
    from public.assessment_sessions as session
   where session.user_id = (select auth.uid())
));

create policy "people read their own forced-choice scores"
on public.fc_scores for select to authenticated
using (session_id in (
  select session.id
    from public.assessment_sessions as session
   where session.user_id = (select auth.uid())
));

create policy "people read their own profiles"
on public.profiles for select to authenticated
using (session_id in (
  select session.id
    from public.assessment_sessions as session
   where session.user_id = (select auth.uid())
));

create policy "people read the blocks"
on public.fc_blocks for select to authenticated
using (true);

create policy "people read the options"
on public.fc_options for select to authenticated
using (true);

-- New projects grant nothing on new tables, older ones grant everything. So the rights are written out.
revoke all
    on table public.assessment_sessions, public.assessment_responses, public.fc_blocks, public.fc_options,
             public.fc_responses, public.fc_scores, public.profiles
  from public, anon, authenticated, service_role;

grant select
   on table public.assessment_sessions, public.assessment_responses, public.fc_blocks, public.fc_options,
            public.fc_responses, public.fc_scores, public.profiles
   to authenticated;

grant select, insert, update, delete
   on table public.assessment_sessions, public.assessment_responses, public.fc_blocks, public.fc_options,
            public.fc_responses, public.fc_scores, public.profiles
   to service_role;

revoke all on sequence public.assessment_responses_id_seq from public, anon, authenticated, service_role;
grant usage on sequence public.assessment_responses_id_seq to service_role;

-- Scoring --------------------------------------------------------------------------------------------------------

-- The eight functions of one session, from its forced-choice answers.
--
-- returns  {"Te": 100.0, "Ti": 41.7, …}: summed option weights, the largest scaled to 100. All are 0 without weights
create function public.fc_function_scores(session_id uuid) returns jsonb
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
  with weighed as (
    select weight.key as name, sum(weight.value::numeric) as total
      from public.fc_responses as response
      join public.fc_options as option on option.id = response.option_id
     cross join lateral jsonb_each_text(option.weights) as weight
     where response.session_id = fc_function_scores.session_id
     group by weight.key
  ),
  largest as (
    select nullif(max(weighed.total), 0) as total
      from weighed
  )
  select jsonb_object_agg(known.name, round(coalesce(100 * weighed.total / largest.total, 0), 1))
    from (values ('Te'), ('Ti'), ('Fe'), ('Fi'), ('Ne'), ('Ni'), ('Se'), ('Si')) as known (name)
   cross join largest
    left join weighed on weighed.name = known.name;
$$;

-- Score the forced-choice answers of one session.
--
-- version  of the scoring, part of the row's key
-- basis    what is scored, stored as fc_kind: 'functions'
-- returns  {"status": "ok", "session_id", "version", "blocks_answered"}. The status "no fc responses" means that
--          nothing was written
create function public.score_fc_session(session_id uuid, version text, basis text) returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_blocks integer;
begin
  select count(*)
    into v_blocks
    from public.fc_responses as response
   where response.session_id = score_fc_session.session_id;

  if v_blocks > 0 then
    -- the conflict is named by its constraint, since a column list would be taken for the arguments
    insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered)
    values (
      score_fc_session.session_id,
      score_fc_session.version,
      score_fc_session.basis,
      public.fc_function_scores(score_fc_session.session_id),
      v_blocks
    )
    on conflict on constraint fc_scores_pkey do update
    set scores_json = excluded.scores_json,
        blocks_answered = excluded.blocks_answered;
  end if;

  return jsonb_build_object(
    'status', case when v_blocks > 0 then 'ok' else 'no fc responses' end,
    'session_id', score_fc_session.session_id,
    'version', score_fc_session.version,
    'blocks_answered', v_blocks
  );
end;
$$;

-- The type that follows from eight function scores: the strongest function first, then the stronger of the two that
-- complete it (other attitude, other kind).
create function public.fc_type(scores jsonb, out type_code text, out top_functions jsonb)
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $$
  select type.code, jsonb_build_array(type.dominant, type.auxiliary)
    from (values
      ('Te', 'Ni', 'ENTJ'), ('Te', 'Si', 'ESTJ'), ('Ti', 'Ne', 'INTP'), ('Ti', 'Se', 'ISTP'),
      ('Fe', 'Ni', 'ENFJ'), ('Fe', 'Si', 'ESFJ'), ('Fi', 'Ne', 'INFP'), ('Fi', 'Se', 'ISFP'),
      ('Ne', 'Ti', 'ENTP'), ('Ne', 'Fi', 'ENFP'), ('Ni', 'Te', 'INTJ'), ('Ni', 'Fe', 'INFJ'),
      ('Se', 'Ti', 'ESTP'), ('Se', 'Fi', 'ESFP'), ('Si', 'Te', 'ISTJ'), ('Si', 'Fe', 'ISFJ')
    ) as type (dominant, auxiliary, code)
   order by (scores ->> type.dominant)::numeric desc nulls last,
            (scores ->> type.auxiliary)::numeric desc nulls last,
            type.code
   limit 1;
$$;

-- The profile of one session, not yet written.
--
-- There are four axes. Each is the mean of every fourth question minus the middle of the scale. The type comes from the
-- session's newest forced-choice scores, of any version. Without scores it comes from the signs of the axes.
-- returns  one row, or none if the session has no responses
create function public.prism_profile(session_id uuid) returns table (type_code text, payload jsonb)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
  with answers as (
    select count(*) as responses,
           round(avg(response.answer_value), 2) as mean,
           round(stddev_pop(response.answer_value), 2) as spread,
           round(coalesce(avg(response.answer_value) filter (where response.question_id % 4 = 1), 3) - 3, 2) as ei,
           round(coalesce(avg(response.answer_value) filter (where response.question_id % 4 = 2), 3) - 3, 2) as sn,
           round(coalesce(avg(response.answer_value) filter (where response.question_id % 4 = 3), 3) - 3, 2) as tf,
           round(coalesce(avg(response.answer_value) filter (where response.question_id % 4 = 0), 3) - 3, 2) as jp
      from public.assessment_responses as response
     where response.session_id = prism_profile.session_id
  ),
  newest as (
    select score.version, score.scores_json
      from public.fc_scores as score
     where score.session_id = prism_profile.session_id
     order by score.created_at desc, score.version desc, score.fc_kind
     limit 1
  )
  select coalesce(
           fc.type_code,
           concat(
             case when answers.ei >= 0 then 'E' else 'I' end,
             case when answers.sn >= 0 then 'S' else 'N' end,
             case when answers.tf >= 0 then 'T' else 'F' end,
             case when answers.jp >= 0 then 'J' else 'P' end
           )
         ),
         jsonb_build_object(
           'responses', answers.responses,
           'mean', answers.mean,
           'spread', answers.spread,
           'axes', jsonb_build_object('EI', answers.ei, 'SN', answers.sn, 'TF', answers.tf, 'JP', answers.jp),
           'basis', case when newest.version is null then 'responses' else 'fc' end,
           'fc_version', newest.version,
           'top_functions', fc.top_functions
         )
    from answers
    left join newest on true
    left join lateral public.fc_type(newest.scores_json) as fc on newest.version is not null
   where answers.responses > 0;
$$;

-- Derive the profile of one session.
--
-- engine_version  stored as results_version
-- returns         {"status": "ok", "session_id", "type_code", "results_version"}. The status "no responses" means that
--                 nothing was written
create function public.score_prism(session_id uuid, engine_version text) returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_type text;
begin
  insert into public.profiles (session_id, results_version, type_code, payload)
  select score_prism.session_id, score_prism.engine_version, derived.type_code, derived.payload
    from public.prism_profile(score_prism.session_id) as derived
  on conflict on constraint profiles_pkey do update
  set results_version = excluded.results_version,
      type_code = excluded.type_code,
      payload = excluded.payload
  returning profiles.type_code
    into v_type;

  return jsonb_build_object(
    'status', case when v_type is null then 'no responses' else 'ok' end,
    'session_id', score_prism.session_id,
    'type_code', v_type,
    'results_version', score_prism.engine_version
  );
end;
$$;

-- By default everyone may execute a new function.
revoke all
    on function public.profiles_keep_updated_at(), public.fc_function_scores(uuid), public.fc_type(jsonb),
                public.prism_profile(uuid), public.score_fc_session(uuid, text, text), public.score_prism(uuid, text)
  from public, anon, authenticated, service_role;

grant execute
   on function public.fc_function_scores(uuid), public.fc_type(jsonb), public.prism_profile(uuid),
               public.score_fc_session(uuid, text, text), public.score_prism(uuid, text)
   to service_role;

notify pgrst, 'reload schema';
