-- How projects made before 2026-10-30 start: anything that postgres creates in public is open to
-- the API roles until a migration revokes it.
--
-- Run by supabase_admin in one database, after platform.sql and before the first migration.

alter default privileges for role postgres in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on functions to anon, authenticated, service_role;
