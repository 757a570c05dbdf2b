"""The embedded stack: PostgreSQL, PostgREST and Edge Functions on this machine."""
