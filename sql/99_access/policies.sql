-- Row level security: who sees which rows of our tables.

alter table public.backfill_settings enable row level security;
create policy "everybody who may read runs reads the settings" on public.backfill_settings
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads the settings" on public.backfill_settings
  for select to service_role using (true);

alter table public.backfill_targets enable row level security;
create policy "everybody who may read runs reads the targets" on public.backfill_targets
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads the targets" on public.backfill_targets
  for select to service_role using (true);

alter table backfill_private.sources enable row level security;
create policy "the owner alone" on backfill_private.sources
  for select to service_role using (false);

alter table public.backfill_runs enable row level security;
create policy "everybody with a backfill role reads runs" on public.backfill_runs
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads runs" on public.backfill_runs
  for select to service_role using (true);

alter table public.backfill_items enable row level security;
create policy "everybody with a backfill role reads items" on public.backfill_items
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads items" on public.backfill_items
  for select to service_role using (true);

alter table backfill_private.findings enable row level security;
create policy "the owner alone" on backfill_private.findings for select to service_role using (false);

alter table backfill_private.lock_secret enable row level security;
create policy "the owner alone" on backfill_private.lock_secret for select to service_role using (false);
alter table backfill_private.starts enable row level security;
create policy "the owner alone" on backfill_private.starts for select to service_role using (false);

alter table backfill_private.health enable row level security;
create policy "the owner alone" on backfill_private.health for select to service_role using (false);
alter table backfill_private.slots enable row level security;
create policy "the owner alone" on backfill_private.slots for select to service_role using (false);

alter table public.backfill_events enable row level security;
create policy "everybody with a backfill role reads events" on public.backfill_events
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads events" on public.backfill_events
  for select to service_role using (true);

alter table public.backfill_approvals enable row level security;
create policy "everybody with a backfill role reads decisions" on public.backfill_approvals
  for select to authenticated using ((select backfill_private.may('read')));
create policy "who may decide inserts decisions" on public.backfill_approvals
  for insert to authenticated with check ((select backfill_private.may('decide')));
create policy "the service reads decisions" on public.backfill_approvals
  for select to service_role using (true);
create policy "the trigger decides for the service" on public.backfill_approvals
  for insert to service_role with check (true);

alter table public.backfill_standing enable row level security;
create policy "everybody with a backfill role reads standing approvals" on public.backfill_standing
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads standing approvals" on public.backfill_standing
  for select to service_role using (true);

alter table backfill_private.standing_days enable row level security;
create policy "the owner alone" on backfill_private.standing_days for select to service_role using (false);
alter table backfill_private.heals enable row level security;
create policy "the owner alone" on backfill_private.heals for select to service_role using (false);

alter table public.backfill_receipts enable row level security;
create policy "everybody with a backfill role reads receipts" on public.backfill_receipts
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads receipts" on public.backfill_receipts
  for select to service_role using (true);

alter table backfill_private.undos enable row level security;
create policy "the owner alone" on backfill_private.undos for select to service_role using (false);
alter table backfill_private.conflicts enable row level security;
create policy "the owner alone" on backfill_private.conflicts for select to service_role using (false);

alter table backfill_private.rehearsals enable row level security;
create policy "the owner alone" on backfill_private.rehearsals for select to service_role using (false);

alter table backfill_private.rehearsal_rows enable row level security;
create policy "the owner alone" on backfill_private.rehearsal_rows for select to service_role using (false);

alter table backfill_private.shapes enable row level security;
create policy "the owner alone" on backfill_private.shapes for select to service_role using (false);

alter table backfill_private.elsewhere enable row level security;
create policy "the owner alone" on backfill_private.elsewhere for select to service_role using (false);
alter table backfill_private.looks enable row level security;
create policy "the owner alone" on backfill_private.looks for select to service_role using (false);

alter table backfill_private.low_water enable row level security;
create policy "the owner alone" on backfill_private.low_water for select to service_role using (false);
alter table backfill_private.tallies enable row level security;
create policy "the owner alone" on backfill_private.tallies for select to service_role using (false);
alter table backfill_private.lease_looks enable row level security;
create policy "the owner alone" on backfill_private.lease_looks for select to service_role using (false);

alter table backfill_private.unnoted enable row level security;
create policy "the owner alone" on backfill_private.unnoted for select to service_role using (false);

alter table backfill_private.bulk_claims enable row level security;
create policy "the owner alone" on backfill_private.bulk_claims for select to service_role using (false);

alter table backfill_private.bulk_rows enable row level security;
create policy "the owner alone" on backfill_private.bulk_rows for select to service_role using (false);

alter table public.backfill_watches enable row level security;
create policy "everybody with a backfill role reads the watches" on public.backfill_watches
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads the watches" on public.backfill_watches
  for select to service_role using (true);

alter table public.backfill_coverage_history enable row level security;
create policy "everybody with a backfill role reads the history" on public.backfill_coverage_history
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads the history" on public.backfill_coverage_history
  for select to service_role using (true);

alter table public.backfill_alerts enable row level security;
create policy "everybody with a backfill role reads alerts" on public.backfill_alerts
  for select to authenticated using ((select backfill_private.may('read')));
create policy "the service reads alerts" on public.backfill_alerts
  for select to service_role using (true);
