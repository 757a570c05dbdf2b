-- Data of the sample project: what a project looks like after an outage in August 2025.
--
-- sample.candidates  how many sessions need a backfill. Unset or '' means 39. For another number, into empty tables:
--                    select set_config('sample.candidates', '1000', false); then this file, on the same connection
--
-- The 39 were completed from 2025-08-01 to 2025-09-16 (UTC), 32 in August and 7 in September. 13 lack a profile, and
-- none has forced-choice scores of v1.2. Another number keeps the proportions. Beside them are sessions that must not
-- be picked. The data is deterministic: ids, answers and times come from md5 and the sessions' numbers, nothing from
-- chance or the clock.

-- The forced-choice questionnaire --------------------------------------------------------------------------------

insert into public.fc_blocks (id, position, prompt)
values
  (1, 1, 'A plan falls apart an hour before it starts. What do you do first?'),
  (2, 2, 'Which compliment stays with you the longest?'),
  (3, 3, 'A free afternoon, no duties. Where does it go?'),
  (4, 4, 'Two colleagues disagree. What do you look at?'),
  (5, 5, 'You learn a new tool. How?'),
  (6, 6, 'What makes a decision a good one?');

insert into public.fc_options (id, block_id, label, weights)
values
  ( 1, 1, 'Assign who does what, now',                  '{"Te": 1.0, "Se": 0.4}'),
  ( 2, 1, 'Ask how everybody is taking it',             '{"Fe": 1.0, "Si": 0.3}'),
  ( 3, 1, 'List five other things we could do',         '{"Ne": 1.0, "Ti": 0.3}'),
  ( 4, 1, 'Step back: what was the point of it?',       '{"Ni": 1.0, "Fi": 0.4}'),
  ( 5, 2, 'You saw it coming long before we did',       '{"Ni": 1.0, "Te": 0.3}'),
  ( 6, 2, 'Your reasoning has no gap',                  '{"Ti": 1.0, "Ne": 0.3}'),
  ( 7, 2, 'You never pretended to be someone else',     '{"Fi": 1.0, "Ne": 0.2}'),
  ( 8, 2, 'Nothing gets lost with you',                 '{"Si": 1.0, "Fe": 0.3}'),
  ( 9, 3, 'Outdoors, moving',                           '{"Se": 1.0, "Fi": 0.3}'),
  (10, 3, 'With the people I love',                     '{"Fe": 1.0, "Se": 0.2}'),
  (11, 3, 'Into a rabbit hole of ideas',                '{"Ne": 0.9, "Ti": 0.5}'),
  (12, 3, 'Into the list that was waiting',             '{"Te": 0.8, "Si": 0.6}'),
  (13, 4, 'Who is right, by the facts',                 '{"Te": 0.7, "Ti": 0.7}'),
  (14, 4, 'What each of them needs',                    '{"Fe": 0.9, "Fi": 0.4}'),
  (15, 4, 'Where this leads in a year',                 '{"Ni": 1.0, "Te": 0.2}'),
  (16, 4, 'How it was settled the last time',           '{"Si": 1.0, "Te": 0.2}'),
  (17, 5, 'Press every button',                         '{"Se": 0.9, "Ne": 0.5}'),
  (18, 5, 'Take it apart until it is clear why',        '{"Ti": 1.0, "Se": 0.3}'),
  (19, 5, 'Follow the manual, step by step',            '{"Si": 0.9, "Te": 0.4}'),
  (20, 5, 'See what I could make with it for somebody', '{"Fi": 0.8, "Ni": 0.4}'),
  (21, 6, 'It works',                                   '{"Te": 1.0, "Se": 0.3}'),
  (22, 6, 'It is consistent',                           '{"Ti": 1.0, "Si": 0.3}'),
  (23, 6, 'Everybody can live with it',                 '{"Fe": 1.0, "Si": 0.2}'),
  (24, 6, 'I can live with it',                         '{"Fi": 1.0, "Ni": 0.3}');

-- The sessions, planned first, then written ----------------------------------------------------------------------

create temporary table sample_sessions as
with asked as (
  select coalesce(nullif(current_setting('sample.candidates', true), ''), '39')::integer as candidates
),
size as (
  select asked.candidates,
         greatest(least(asked.candidates, 2), round(asked.candidates * 7 / 39.0)::integer) as september,
         greatest(1, round(asked.candidates / 3.0)::integer) as without_profile,
         greatest(1, asked.candidates / 39.0) as scale,
         -- The real questionnaire has 248. For 100,000 candidates that would be 40 million rows and many minutes of
         -- loading, and a backfill only asks whether there are enough. Above 1,000 candidates there are 12.
         case when asked.candidates <= 1000 then 248 else 12 end as questions
    from asked
),
kind as (
  select listed.*
    from size
   cross join lateral (values
      -- the candidates. Which of them have a profile is decided below
      ('september',       size.september,                   'completed',   '2025-09-01', 16, 1.0,  6, null,  false),
      ('august',          size.candidates - size.september, 'completed',   '2025-08-01', 31, 1.0,  6, null,  false),
      -- what must not be picked
      ('in progress',     round(size.scale * 6)::integer,   'in_progress', '2025-08-01', 47, 0.5,  2, false, false),
      ('before august',   round(size.scale * 8)::integer,   'completed',   '2025-06-01', 61, 1.0,  6, false, false),
      ('complete',        round(size.scale * 10)::integer,  'completed',   '2025-08-01', 47, 1.0,  6, true,  true),
      ('abandoned',       round(size.scale * 2)::integer,   'abandoned',   '2025-08-01', 47, 0.25, 0, false, false),
      ('no responses',    round(size.scale * 2)::integer,   'completed',   '2025-08-01', 47, 0.0,  6, false, false),
      ('no fc responses', round(size.scale * 2)::integer,   'completed',   '2025-08-01', 47, 1.0,  0, true,  false)
   ) as listed (name, sessions, status, first_day, days, answered, fc_responses, has_profile, has_fc_scores)
),
numbered as (
  select kind.*,
         series.number,
         -- over all candidates, from 0. September's come first
         series.number + case kind.name when 'august' then size.september else 0 end as candidate,
         -- place in time. The two named sessions are September's first two, and land in the middle of the month
         (series.number + case kind.name when 'september' then kind.sessions / 2 else 0 end) % kind.sessions
           as place,
         kind.name in ('september', 'august', 'before august') as has_edges,
         ('x' || substr(md5('sample time ' || kind.name || series.number), 1, 6))::bit(24)::integer as noise,
         round(size.questions * kind.answered)::integer as responses,
         size.candidates,
         size.without_profile
    from size
   cross join kind
   cross join lateral generate_series(0, kind.sessions - 1) as series (number)
)
select case
         when numbered.name = 'september' and numbered.number = 0 then uuid '618c5ea6-3f0d-4b8e-9a41-5d2c7e90b1f4'
         when numbered.name = 'september' and numbered.number = 1 then uuid '070d9bf2-8c15-4e6a-b7d3-1f64a2c83e59'
         else md5('sample session ' || numbered.name || ' ' || numbered.number)::uuid
       end as id,
       -- of three sessions of a kind, two belong to the same person
       md5('sample user ' || numbered.number * 2 / 3)::uuid as user_id,
       numbered.number,
       numbered.status,
       (numbered.first_day || ' 00:00:00+00')::timestamptz + case
         -- the edges of a range: its first instant, and the last tenth of a second of its last day
         when numbered.has_edges and numbered.place = 0
           then interval '0'
         when numbered.has_edges and numbered.place = numbered.sessions - 1
           then numbered.days * interval '24 hours' - interval '0.1 seconds'
         -- hours, not days: a day has 23 or 25 hours when the connection's time zone changes its clocks
         else numbered.days * interval '24 hours' * ((numbered.place + numbered.noise / 16777216.0) / numbered.sessions)
       end as created_at,
       interval '40 minutes' + numbered.noise % 2400 * interval '1 second' as took,
       numbered.responses,
       numbered.fc_responses,
       -- without_profile of the candidates lack one. They are evenly spread, and the first candidate is one of them
       coalesce(
         numbered.has_profile,
         ((numbered.candidate + 1)::bigint * numbered.without_profile + numbered.candidates - 1) / numbered.candidates
           = (numbered.candidate::bigint * numbered.without_profile + numbered.candidates - 1) / numbered.candidates
       ) as has_profile,
       numbered.has_fc_scores
  from numbered;

analyze sample_sessions;

insert into public.assessment_sessions (id, user_id, status, created_at, completed_at)
select sample.id,
       sample.user_id,
       sample.status,
       sample.created_at,
       case when sample.status = 'completed' then sample.created_at + sample.took end
  from sample_sessions as sample
 order by sample.created_at, sample.id;

-- One answer per eight seconds. The middle of the scale is chosen most often.
insert into public.assessment_responses (session_id, question_id, answer_value, created_at)
select sample.id,
       question.id,
       substr('1223333445', 1 + get_byte(decode(md5(sample.id::text || question.id), 'hex'), 0) % 10, 1)::smallint,
       sample.created_at + question.id * interval '8 seconds'
  from sample_sessions as sample
 cross join lateral generate_series(1, sample.responses) as question (id)
 order by sample.id, question.id;

-- Block n has the options 4n - 3 to 4n.
insert into public.fc_responses (session_id, block_id, option_id, created_at)
select sample.id,
       block.id,
       block.id * 4 - get_byte(decode(md5(sample.id::text || ' block ' || block.id), 'hex'), 0) % 4,
       sample.created_at + interval '35 minutes' + block.id * interval '20 seconds'
  from sample_sessions as sample
 cross join lateral generate_series(1, sample.fc_responses) as block (id)
 order by sample.id, block.id;

-- Fresh statistics before the rows below are derived from the rows above.
analyze
  public.assessment_sessions, public.assessment_responses, public.fc_blocks, public.fc_options, public.fc_responses;

-- Derived when the session was completed, with one of two engine versions.
insert into public.profiles (session_id, results_version, type_code, payload, created_at, updated_at)
select sample.id,
       case when sample.number % 2 = 0 then 'v1.2.0' else 'v1.2.1' end,
       derived.type_code,
       derived.payload,
       sample.created_at + sample.took + interval '3 seconds',
       sample.created_at + sample.took + interval '3 seconds'
  from sample_sessions as sample
 cross join lateral public.prism_profile(sample.id) as derived
 where sample.has_profile;

insert into public.fc_scores (session_id, version, fc_kind, scores_json, blocks_answered, created_at)
select sample.id,
       'v1.2',
       'functions',
       public.fc_function_scores(sample.id),
       sample.fc_responses,
       sample.created_at + sample.took + interval '2 seconds'
  from sample_sessions as sample
 where sample.has_fc_scores;

drop table pg_temp.sample_sessions;

analyze public.fc_scores, public.profiles;
