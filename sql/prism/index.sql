-- The sessions of target prism by date: what detection reads.
-- Everything works without it, slower.
create index concurrently if not exists backfill_completed_sessions
  on public.assessment_sessions (created_at)
where status = 'completed';
