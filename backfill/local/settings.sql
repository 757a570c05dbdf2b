-- Settings of a project on this machine: the environment that the sample's plan names, and approval by anyone who can
-- reach it, since there is no second person to ask. Never for a hosted project.
update public.backfill_settings
   set environment = 'staging',
       approval_policy = 'any'
 where only_row;
