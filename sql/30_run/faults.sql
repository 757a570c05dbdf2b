-- Faults: what an error's code means for a session, and what of its message may be kept.

-- What an error code means. SQL asks this view through backfill_private.fault. The client, which sees the answers of
-- the API, asks its mirror in backfill/api/faults.py. So a new class is a row here, and at the same place of MEANINGS
-- there a line with the same of, class, direct and kept: its kind is session for failed, refused for released, else the
-- same word. tests/test_error_codes.py holds the two equal.
--
-- of      whose code it is: PostgreSQL's (sqlstate), PostgREST's (postgrest) or an HTTP status (http)
-- class   a code, or the beginning of codes. The longest match wins
-- direct  what it means for a session whose call came through the API: see backfill_private.decide_outcomes. stop: it
--         could be every session's, so another one is tried alone, see backfill_private.judge_trial
-- bulk    the same for a call inside the database, in a subtransaction. Null: no such code is seen there
-- kept    what replaces the message, which may hold values of a row. Null: its first 500 characters are kept. The names
--         of relations, functions, types and columns are no contents
-- why     the reason
create view backfill_private.faults with (security_invoker = true) as
select * from (values
  ('sqlstate', '', 'failed', 'failed', null,
    'it is this session''s failure, and would be again. What a function raises by itself is its author''s sentence. '
    'Other messages name objects and constraints alone, for their values are in DETAIL, which nobody keeps'),
  ('sqlstate', '08', 'unknown', 'again', null,
    'a connection broke. Through the API the call may have committed. Inside the database the subtransaction was '
    'rolled back'),
  ('sqlstate', '53', 'unknown', 'again', null,
    'the server lacks memory, disk or connections. Through the API it may be said after the commit. Inside the '
    'database the subtransaction was rolled back'),
  ('sqlstate', '57P', 'unknown', 'again', null,
    'the server stops or starts. Through the API the call may have committed before. Inside the database the '
    'subtransaction was rolled back'),
  ('sqlstate', '40001', 'again', 'again', null, 'rolled back for sure, for what others wrote at the same time'),
  ('sqlstate', '40P01', 'again', 'again', null, 'rolled back for sure, as the victim of a deadlock'),
  ('sqlstate', '55P03', 'again', 'again', null, 'rolled back for sure, for a lock that others held'),
  ('sqlstate', '25P02', 'again', 'failed', null,
    'the API sent the call through a connection on which somebody''s failed call was never ended: it was not even '
    'begun. In bulk only the user''s own code raises it'),
  ('sqlstate', '25006', 'stop', 'stop', null, 'the database takes no writes, maybe of any session'),
  ('sqlstate', '42501', 'stop', 'stop', null, 'a right is missing, maybe for every session'),
  ('sqlstate', '42883', 'stop', 'stop', null, 'a function is missing, maybe for every session'),
  ('sqlstate', '42P01', 'stop', 'stop', null, 'a table is missing, maybe for every session'),
  ('sqlstate', 'PT429', 'slow', 'slow', null, 'the function asks for fewer calls, through the API with status 429'),
  ('sqlstate', 'OB011', 'released', 'again', null,
    'this attempt may no longer write, so the session is given back. In bulk only the user''s own code raises it'),
  ('sqlstate', 'OB012', 'released', 'again', null,
    'the run may no longer write, so the session is given back. In bulk only the user''s own code raises it, or we do '
    'if the approval ran out during the call'),
  ('sqlstate', 'OB018', 'failed', 'failed', null, 'the gate refused a write. It is critical, and pauses the run'),
  ('sqlstate', 'OB020', 'failed', 'failed', null, 'the step before left no row. Settled as OB017, no effect'),
  ('sqlstate', '0A', 'failed', 'failed', 'feature not supported', 'the message may quote the statement'),
  ('sqlstate', '20', 'failed', 'failed', 'case not found', 'the message may hold the value that no case was for'),
  ('sqlstate', '22', 'failed', 'failed', 'data exception', 'the message quotes the value'),
  ('sqlstate', '22001', 'failed', 'failed', null, 'the message names the type that was too short, not the value'),
  ('sqlstate', '22004', 'failed', 'failed', null, 'there is no value to quote'),
  ('sqlstate', '22012', 'failed', 'failed', null, 'the message quotes no operand'),
  ('sqlstate', '26', 'failed', 'failed', 'invalid SQL statement name',
    'the message quotes a name, maybe made of values'),
  ('sqlstate', '2F', 'failed', 'failed', 'SQL routine exception', 'the message may quote the statement'),
  ('sqlstate', '34', 'failed', 'failed', 'invalid cursor name', 'the message quotes a name, maybe made of values'),
  ('sqlstate', '38', 'failed', 'failed', 'external routine exception', 'another language puts what it likes in there'),
  ('sqlstate', '39', 'failed', 'failed', 'external routine invocation exception',
    'another language puts what it likes in there'),
  ('sqlstate', '42601', 'failed', 'failed', 'syntax error', 'the message quotes SQL, maybe made of values'),
  ('sqlstate', '42602', 'failed', 'failed', 'invalid name', 'the message quotes a text that is no name'),
  ('sqlstate', '54', 'failed', 'failed', 'program limit exceeded', 'the message may quote the value that was too long'),
  ('sqlstate', '58', 'failed', 'failed', 'system error', 'the message may quote the name of a file'),
  ('sqlstate', 'F0', 'failed', 'failed', 'configuration file error', 'the message may quote the file'),
  ('sqlstate', 'HV', 'failed', 'failed', 'foreign data wrapper error', 'the message may quote the other server''s row'),
  ('sqlstate', 'XX', 'failed', 'failed', 'internal error', 'the message was made for developers and may hold anything'),
  ('postgrest', 'PGRST000', 'unknown', null, null, 'PostgREST does not reach the database'),
  ('postgrest', 'PGRST001', 'unknown', null, null, 'PostgREST lost the database, maybe after the commit'),
  ('postgrest', 'PGRST002', 'unknown', null, null, 'PostgREST could not read the schema yet'),
  ('postgrest', 'PGRST003', 'unknown', null, null, 'PostgREST found no free connection in time'),
  ('postgrest', 'PGRST106', 'stop', null, null, 'the schema is not exposed, maybe for any session'),
  ('postgrest', 'PGRST121', 'failed', null, null,
    'the function raised PGRST, whose message has to be JSON: rolled back for sure'),
  ('postgrest', 'PGRST202', 'stop', null, null, 'the function is not there, maybe for any session'),
  ('postgrest', 'PGRST203', 'stop', null, null, 'several functions have this name, maybe for every session'),
  ('postgrest', 'PGRST205', 'stop', null, null, 'the table is not there, maybe for any session'),
  ('postgrest', 'PGRST301', 'stop', null, null, 'the key is no valid token, maybe for any session'),
  ('postgrest', 'PGRST302', 'stop', null, null, 'a call without a key is not allowed, maybe for any session'),
  ('postgrest', 'PGRST303', 'stop', null, null, 'the claims of the token are refused, maybe for every session'),
  ('http', '3', 'stop', null, null, 'the API has another address, maybe for every session'),
  ('http', '401', 'stop', null, null, 'the key is refused, maybe for every session'),
  ('http', '403', 'stop', null, null, 'the key may not do this, or this session''s owner has not agreed'),
  ('http', '404', 'stop', null, null, 'the function is not there, or it has nothing for this session'),
  ('http', '408', 'unknown', null, null, 'a gateway waited too long. The call may go on behind it'),
  ('http', '425', 'unknown', null, null, 'a gateway would not risk a replay. Another copy of the call may have run'),
  ('http', '429', 'slow', null, null, 'the API asks for fewer calls, of every session or of this one'),
  ('http', '500', 'unknown', null, null, 'something between broke, and nobody says whether before or after the commit'),
  ('http', '502', 'unknown', null, null, 'a gateway got no proper answer. The call may have committed'),
  ('http', '503', 'unknown', null, null, 'a gateway found nobody to answer, maybe after the call had begun'),
  ('http', '504', 'unknown', null, null, 'a gateway waited too long. The call may go on behind it'),
  ('http', '520', 'unknown', null, null, 'Cloudflare got an answer that it did not understand'),
  ('http', '521', 'unknown', null, null, 'Cloudflare was not let in'),
  ('http', '522', 'unknown', null, null, 'Cloudflare''s connection timed out'),
  ('http', '523', 'unknown', null, null, 'Cloudflare does not reach the project'),
  ('http', '524', 'unknown', null, null, 'Cloudflare waited too long. The call may go on behind it'),
  ('http', '530', 'unknown', null, null, 'Cloudflare could not find the project'),
  ('http', '540', 'stop', null, null, 'the project is paused, maybe for every session'),
  ('http', '544', 'unknown', null, null, 'the database took too long for the platform. The call may go on'),
  ('http', '546', 'unknown', null, null, 'an Edge Function was stopped at its limits, maybe after it wrote')
) as fault (of, class, direct, bulk, kept, why);

-- The row of backfill_private.faults that says what a code means. Null if none does.
create function backfill_private.fault(p_code text)
returns backfill_private.faults
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select f.*
  from backfill_private.faults as f
  where starts_with(p_code, f.class)
    and f.of = case
      when length(p_code) = 5 then 'sqlstate'
      when p_code ~ '^PGRST[0-9]{3}$' then 'postgrest'
      when p_code ~ '^[0-9]{3}$' then 'http'
    end
  order by length(f.class) desc
  limit 1
$$;

-- What may be kept of an error's message: 500 characters, and nothing of a row.
create function backfill_private.kept_message(p_code text, p_message text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (backfill_private.fault(p_code)).kept || '; the message stays in the database''s log, it may hold contents',
    left(p_message, 500))
$$;

-- What the failure of a session's calls in bulk means for it: see backfill_private.faults.
create function backfill_private.bulk_outcome(p_code text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select (backfill_private.fault(p_code)).bulk
$$;

-- When the time limit of a statement that begins now will have come. Infinity if there is none.
create function backfill_private.limit_at()
returns timestamptz
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select case
    when s.setting = '0' then 'infinity'
    -- What came before the first look at the clock.
    else backfill_private.clock() + s.setting::integer * interval '1 ms' - interval '100 ms'
  end
  from pg_settings as s
  where s.name = 'statement_timeout'
$$;

-- Was a statement ended from outside, at its time limit or on request? Code of the user's may raise 57014 by itself.
create function backfill_private.is_cancel(p_code text, p_message text, p_limit_at timestamptz)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select p_code = '57014'
    and (starts_with(p_message, 'canceling statement due to') or backfill_private.clock() >= p_limit_at)
$$;
