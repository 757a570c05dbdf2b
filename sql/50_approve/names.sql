-- Names: who decides signs with a name that others can read, and how is noted beside it.

-- Refuse a name that names nobody: a placeholder, or a text that is broken over lines.
--
-- p_name  null or blank: none was given, and who called is noted instead
-- raises  OB013
create function backfill_private.check_name(p_name text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Every control character, and what Unicode breaks lines at.
  if p_name ~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]' then
    perform backfill_private.refuse('OB013', 'the approver''s name has a line break or another control character',
      'copy the line whole, or write the name on one line');
  elsif nullif(btrim(p_name), '') is not null
    and lower(regexp_replace(btrim(p_name, ' <>[]{}().…"''_-'), '[ _-]+', ' ', 'g'))
      in ('', 'your name', 'name', 'approver', 'the approver', 'username')
  then
    perform backfill_private.refuse('OB013', format('%s is a placeholder, and names nobody', left(p_name, 80)),
      'write the name of who approves or rejects in its place');
  end if;
end
$$;

-- How the caller signs: an Auth user by the e-mail address, anyone else by the name given, or by what is known of them.
create function backfill_private.signed_by(p_name text, out approver text, out approver_id uuid, out via text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller record;
begin
  select * into v_caller from backfill_private.caller();
  approver := coalesce(
    (select u.email from auth.users as u where u.id = v_caller.user_id),
    nullif(btrim(p_name), ''),
    v_caller.label);
  approver_id := v_caller.user_id;
  via := case v_caller.kind when 'postgres' then 'sql' when 'user' then 'auth' else 'service_key' end;
end
$$;
