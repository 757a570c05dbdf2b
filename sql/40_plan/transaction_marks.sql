-- What a rehearsal says of calls that share a transaction: the same session again, and one session after another.

-- Why each session needs a transaction of its own, as the rehearsal saw. Null: it does not, or nobody looked.
create function backfill_private.alone_because(p_run_id uuid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select nullif(concat_ws('; ',
    'it fails: ' || string_agg(
      distinct concat_ws(' ', r.seen #>> '{beside,error,code}', r.seen #>> '{beside,error,message}'), ', ')
      filter (where r.seen #>> '{beside,error,code}' is not null),
    'it leaves others in ' || (
      select string_agg(distinct c.name, ', ')
      from backfill_private.rehearsed(p_run_id) as o
      cross join lateral jsonb_array_elements_text(o.seen #> '{beside,differs}') as c (name)
    )), '')
  from backfill_private.rehearsed(p_run_id) as r
$$;

-- Does a second call change anything?
create function backfill_private.second_call_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when s.fails is not null and backfill_private.alone_because(p_run_id) is not null
    then backfill_private.mark('rehearsal: second call', 'warn',
      'not measured, since no second call works in the same transaction')
    when not exists (select from backfill_private.rehearsed(p_run_id) as r where r.seen ? 'second')
    then backfill_private.mark('rehearsal: second call', 'warn',
      'not measured: the time limit came first, or somebody waited for the rows')
    when s.differences is null
    then backfill_private.mark('rehearsal: second call', 'ok', 'changes nothing' || coalesce(
      '. Not decidable, since they hold the time of the transaction: ' || s.undecidable, ''))
    else backfill_private.mark('rehearsal: second call', 'warn', 'it is not idempotent: ' || s.differences)
  end
  from (
    select
      concat_ws('; ',
        'a second call changes '
          || backfill_private.named_columns(backfill_private.columns_changed(p_run_id, '{second,tables}')),
        'adds rows: ' || backfill_private.rows_changed(p_run_id, '{second,tables}', 'inserted'),
        'removes rows: ' || backfill_private.rows_changed(p_run_id, '{second,tables}', 'deleted'),
        'fails: ' || failing.errors) as text,
      failing.errors,
      (
        select backfill_private.named_columns(jsonb_object_agg(u.key, u.value))
        from (
          select distinct t.key, t.value
          from backfill_private.rehearsed(p_run_id) as r
          cross join lateral jsonb_each(r.seen -> 'undecidable') as t
        ) as u
      ) as undecidable
    from (
      select string_agg(
        distinct concat_ws(' ', r.seen #>> '{second,error,code}', r.seen #>> '{second,error,message}'),
        ', ') as errors
      from backfill_private.rehearsed(p_run_id) as r
      where r.seen #>> '{second,error,code}' is not null
    ) as failing
  ) as told
  cross join lateral (
    select nullif(told.text, '') as differences, told.errors as fails, told.undecidable
  ) as s
$$;

-- Does a session come out the same after another one in the same transaction? Null: none was scored after another.
create function backfill_private.one_transaction_mark(p_run_id uuid)
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when not exists (select from backfill_private.rehearsed(p_run_id) as r where r.seen ? 'beside') then null
    when told.why is null
    then backfill_private.mark('rehearsal: one transaction', 'ok', 'each comes out the same after another')
    else backfill_private.mark('rehearsal: one transaction', 'warn',
      'not each comes out the same after another: ' || told.why
        || '. In bulk each takes a transaction of its own')
  end
  from (select backfill_private.alone_because(p_run_id) as why) as told
$$;
