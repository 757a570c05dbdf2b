-- The sessions of target prism by date, for detection.
-- Everything works without it, but slower.
create index concurrently if not exists backfill_completed_sessions
  on public.assessment_sessions (created_at)
where status = 'completed';
