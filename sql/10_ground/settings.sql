-- Settings: one row. Only postgres writes it (SQL editor), anyone who may read runs reads it.

create table public.backfill_settings (
  only_row boolean primary key default true check (only_row),
  environment text check (environment <> ''),
  approval_policy text not null default 'second_person'
    check (approval_policy in ('second_person', 'postgres_only', 'any')),
  max_throttle_per_minute integer check (max_throttle_per_minute between 1 and 100000),
  max_sessions integer check (max_sessions > 0),
  approval_ttl interval not null default interval '7 days' check (approval_ttl > interval '0'),
  require_aal2 boolean not null default false,
  undo_policy text not null default 'any' check (undo_policy in ('any', 'second_person')),
  undo_policy_rows integer not null default 100 check (undo_policy_rows >= 0),
  max_waiting_locks integer check (max_waiting_locks >= 0),
  max_transaction_age interval check (max_transaction_age > interval '0'),
  max_replication_lag interval check (max_replication_lag > interval '0'),
  max_connections_percent integer check (max_connections_percent between 1 and 100)
);

insert into public.backfill_settings default values;

comment on table public.backfill_settings is
  'What this project allows backfill runs to do. One row; change it in the SQL editor.';
comment on column public.backfill_settings.only_row is
  'Always true: there is one row.';
comment on column public.backfill_settings.environment is
  'Name of this project''s environment. A plan for another one is refused. Null: not set, plans warn.';
comment on column public.backfill_settings.approval_policy is
  'second_person: an approver who is not the requester. postgres_only: only the SQL editor. any: the service key too.';
comment on column public.backfill_settings.max_throttle_per_minute is
  'Most session starts per minute, over all runs and rehearsals. At most 100000. Null: no bound.';
comment on column public.backfill_settings.max_sessions is
  'Most sessions in one plan. Null: no bound.';
comment on column public.backfill_settings.approval_ttl is
  'How long an approval is valid.';
comment on column public.backfill_settings.require_aal2 is
  'Whether a decision needs an Auth session with a second factor. The SQL editor has no session and decides as ever.';
comment on column public.backfill_settings.undo_policy is
  'any: who may undo confirms alone. second_person: a large undo needs an approver who did not preview it.';
comment on column public.backfill_settings.undo_policy_rows is
  'Under second_person: rows that may be undone without an approver, of one run ever and of all runs in 24 hours.';
comment on column public.backfill_settings.max_waiting_locks is
  'Nothing starts while more connections wait for locks on the target''s tables. Null: not looked at.';
comment on column public.backfill_settings.max_transaction_age is
  'Nothing starts while a transaction of this database is older. Null: not looked at.';
comment on column public.backfill_settings.max_replication_lag is
  'Nothing starts while a replica lags further behind. Null: not looked at.';
comment on column public.backfill_settings.max_connections_percent is
  'Nothing starts while more of the connections that PostgreSQL allows are in use. Null: not looked at.';

-- The settings of this project. Without their row nothing is planned, approved or scored.
--
-- raises  OB013 the row is gone
create function backfill_private.settings()
returns public.backfill_settings
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_settings public.backfill_settings;
begin
  select * into v_settings from public.backfill_settings;
  if not found then
    perform backfill_private.refuse('OB013',
      'the row of backfill_settings is gone: nothing says what this project allows',
      e'put it back in the SQL editor, then set environment, policy and bounds:\n'
        'insert into public.backfill_settings default values;');
  end if;
  return v_settings;
end
$$;

-- The settings of this project, as a plan keeps them, so that later changes show. {name: value}
create function backfill_private.settings_now()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
set intervalstyle = 'postgres'
as $$
  select to_jsonb(s) - 'only_row' from public.backfill_settings as s
$$;
