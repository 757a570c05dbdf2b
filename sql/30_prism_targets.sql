-- PRISM: what the sessions of this project may lack, and which functions write it.

insert into backfill_private.sources
  (target, source_table, key_column, date_column, gaps_view, quality_function, check_function, defaults)
values (
  'prism', 'public.assessment_sessions', 'id', 'created_at',
  'backfill_private.prism_gaps', 'backfill_private.prism_quality', 'backfill_private.prism_check',
  '{"basis": "functions", "min_responses": 1, "min_fc_responses": 1}');

insert into public.backfill_targets (
  target, component, position, table_name, session_column, key_columns, version_column, version, version_parameter,
  any_version_counts, matches, function_signature, arguments, score_ranges)
values
  ('prism', 'fc_scores', 1, 'public.fc_scores', 'session_id', '{session_id,version,fc_kind}',
   'version', 'v1.2', 'fc_version', false, '{"fc_kind": "basis"}',
   'public.score_fc_session(uuid,text,text)',
   '{"session_id": "session_id", "version": "fc_version", "basis": "basis"}', '{"scores_json": [0, 100]}'),
  ('prism', 'profile', 2, 'public.profiles', 'session_id', '{session_id}',
   'results_version', 'v1.2.1', 'engine_version', true, '{}',
   'public.score_prism(uuid,text)',
   '{"session_id": "session_id", "engine_version": "engine_version"}', '{}');
