-- The sessions of target prism by date: what detection reads. Everything works without it, slower.
CREATE INDEX CONCURRENTLY IF NOT EXISTS "backfill_completed_sessions" ON "public"."assessment_sessions"("created_at")
WHERE
  "status" = 'completed';

notify pgrst, 'reload schema';
