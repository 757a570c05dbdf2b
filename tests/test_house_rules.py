"""The house rules hold for every object of ours, asked of the catalogs: a new one is not forgotten.

Each rule is a query for the objects that break it, and a breach that the query must see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row
from pytest_postgresql import factories

from backfill.local import sample
from backfill.local.servers import PostgresServer
from tests.conftest import SERVER, _as_postgres

Connection = psycopg.Connection[Any]

# What API roles may call of the private schema: what their doors, policies and views call.
CALLED_BY_USERS = (
    "approve_standing(uuid,text,text,text)",
    "approve_undo(uuid,text,text,text)",
    "ask_standing(uuid)",
    "batch_spacing_s(jsonb)",
    "lease_holders(uuid)",
    "left_behind_count(uuid)",
    "left_behind_rows(uuid)",
    "calls_to_probe(uuid)",
    "check_project(jsonb)",
    "clock()",
    "collect_window(uuid)",
    "driven_by(uuid)",
    "freshness(uuid)",
    "halt(text,uuid,text)",
    "may(text)",
    "newest_tally(uuid)",
    "next_step(uuid,bigint,boolean)",
    "open_run(jsonb,text,uuid)",
    "pace(uuid,numeric)",
    "paced(jsonb,integer)",
    "preview_undo(uuid,text[],text,text,integer,bigint)",
    "undo_conflicts_part(uuid,bigint,bigint)",
    "propose_standing(uuid,jsonb)",
    "rate_of(public.backfill_runs)",
    "refuse_untargeted()",
    "resume(uuid,text)",
    "revoke_standing(uuid,text)",
    "seal(uuid,numeric,jsonb)",
    "share(bigint,bigint)",
    "short_by(numeric,bigint,bigint)",
    "slots_taken(bigint)",
    "standing_of_run(uuid)",
    "standings_told()",
    "waits_for_hours(uuid)",
    "unlike_approved(uuid)",
    "unwell_lately(uuid)",
    "verify_part(uuid,jsonb,integer)",
)
CALLED_BY_THE_SERVICE = (
    *CALLED_BY_USERS,
    "base_type(oid,integer)",
    "catalog_columns(oid)",
    "catalog_functions()",
    "catalog_keys(oid)",
    "catalog_references(oid)",
    "catalog_relations()",
    "check_bounds(jsonb)",
    "claim(uuid,uuid,text)",
    "declaration_faults(jsonb)",
    "installed_targets()",
    "is_of_an_extension(regclass,oid)",
    "leads_an_index(regclass,text)",
    "bulk_begin(uuid,integer)",
    "bulk_keep(uuid,text)",
    "beside_session(uuid,text)",
    "bulk_check(jsonb,jsonb,text)",
    "bulk_one(jsonb,jsonb,jsonb,text,boolean)",
    "bulk_outcome(text)",
    "bulk_owed(jsonb,integer)",
    "bulk_settle(uuid,text,integer[],jsonb)",
    "bulk_some(jsonb,jsonb,jsonb,text,boolean,timestamp with time zone)",
    "columns_apart(jsonb,jsonb)",
    "drive_batch(uuid,uuid,jsonb,timestamp with time zone,timestamp with time zone)",
    "drive_call(uuid,jsonb,jsonb,jsonb,text,timestamp with time zone)",
    "drive_claim(uuid,uuid,text,boolean)",
    "drive_in_bulk(uuid,text,integer,timestamp with time zone)",
    "drive_turn(uuid,text,boolean,timestamp with time zone,timestamp with time zone,jsonb)",
    "next_transaction(text,text)",
    "runs_to_drive(uuid)",
    "is_written_here(xid)",
    "leaves_behind()",
    "loose_settings()",
    "claim_apart(uuid,uuid,text)",
    "count_rehearsal(integer)",
    "coverage_of(text,text,text)",
    "keep_rehearsal(uuid,text,jsonb)",
    "keys_hold(text)",
    "fault(text)",
    "heal_next(text)",
    "history(text[])",
    "checks_now()",
    "gives_way(timestamp with time zone)",
    "is_cancel(text,text,timestamp with time zone)",
    "kept_message(text,text)",
    "rehearsal_lease(uuid,text)",
    "rehearsal_sample(uuid)",
    "rehearsal_waits(integer)",
    "take_rehearsal_lock(uuid)",
    "rehearse_again(uuid,text,text,boolean)",
    "rehearse_pass(jsonb,text,timestamp with time zone)",
    "row_hashes(uuid)",
    "seen_beside(uuid,text,text,jsonb)",
    "settings_kept(text[],text)",
    "seen_first(uuid,jsonb)",
    "seen_second(uuid)",
    "seen_undone(uuid,text,timestamp with time zone)",
    "seen_until(jsonb,text,text,timestamp with time zone)",
    "confirm_undo(uuid,text,text,integer,jsonb,text)",
    "limit_at()",
    "no_plan_takes(text[],text,bigint,bigint)",
    "parameter(text,text)",
    "prune(uuid)",
    "renew(uuid,uuid)",
    "retry(uuid)",
    "settle(uuid,uuid,jsonb)",
    "spelled(oid,text)",
    "start(uuid,text)",
    "too_few(text,text)",
    "watch(text,boolean,integer)",
)
# The only columns that an API role writes: those of a decision.
WRITABLE = ("run_id", "digest", "decision", "approver", "note")
MOST_LINES = 75

OURS = """
with relations as (
  select c.*, c.oid::regclass::text as name, n.nspname = 'public' as is_public
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where n.nspname = 'backfill_private' or n.nspname = 'public' and c.relname like 'backfill\\_%'
), functions as (
  select p.*, p.oid::regprocedure::text as name, n.nspname = 'public' as is_public
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
  where n.nspname = 'backfill_private' or n.nspname = 'public' and p.proname like 'backfill\\_%'
), grants as (
  select o.kind, o.name, o.column_name, a.privilege_type as privilege, a.is_grantable,
    case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
  from (
    select 'schema' as kind, n.nspname::text as name, null::name as column_name,
      coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl
    from pg_namespace as n where n.nspname = 'backfill_private'
    union all
    select 'relation', r.name, null, coalesce(r.relacl,
      acldefault((case r.relkind when 'S' then 's' else 'r' end)::"char", r.relowner))
    from relations as r where r.relkind not in ('i', 'c')
    union all
    select 'column', r.name, a.attname, a.attacl
    from relations as r
    join pg_attribute as a on a.attrelid = r.oid and not a.attisdropped and a.attacl is not null
    union all
    select 'function', f.name, null, coalesce(f.proacl, acldefault('f', f.proowner))
    from functions as f
  ) as o
  cross join lateral aclexplode(o.acl) as a
)
"""


@dataclass(frozen=True)
class Rule:
    """A claim about every object of ours; breaks: the query for those that break it."""

    claim: str
    breaks: str
    breach: str


def listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"('{name}')" for name in names)


def called(role: str, names: tuple[str, ...]) -> str:
    """The private functions that the role may call and are not listed, and the reverse."""
    return f"""
      select coalesce(f.name, wanted.name)
      from (select * from functions as f
            where not f.is_public and has_function_privilege('{role}', f.oid, 'execute')) as f
      full join (select 'backfill_private.' || v.name from (values {listed(names)}) as v (name))
        as wanted (name) on wanted.name = f.name
      where f.name is null or wanted.name is null
    """


STRAY_FUNCTION = "create function {}.{}() returns integer language sql {} as 'select 1';"

RULES = [
    Rule(
        "what people see has a comment",
        "select r.name || coalesce('.' || a.attname, '') from relations as r"
        " left join lateral (select null as attname, 0 as attnum union all"
        "  select c.attname, c.attnum from pg_attribute as c"
        "  where c.attrelid = r.oid and c.attnum > 0 and not c.attisdropped) as a on true"
        " where r.is_public and r.relkind in ('r', 'p', 'v', 'm')"
        " and col_description(r.oid, a.attnum) is null and"
        " (a.attnum > 0 or obj_description(r.oid, 'pg_class') is null)"
        " union all select f.name from functions as f"
        " where f.is_public and obj_description(f.oid, 'pg_proc') is null",
        "comment on column public.backfill_items.ordinal is null",
    ),
    Rule(
        "a table has row level security",
        "select name from relations where relkind in ('r', 'p') and not relrowsecurity",
        "create table backfill_private.stray ()",
    ),
    Rule(
        "a table has a policy",
        "select name from relations as r where relkind in ('r', 'p')"
        " and not exists (select from pg_policy as p where p.polrelid = r.oid)",
        "create table public.backfill_stray ()",
    ),
    Rule(
        "no policy is for everybody",
        "select r.name || ' ' || p.polname from relations as r"
        " join pg_policy as p on p.polrelid = r.oid where 0 = any (p.polroles)",
        'create policy "stray" on public.backfill_runs for select using (true)',
    ),
    Rule(
        "no policy is for anon",
        "select r.name || ' ' || p.polname from relations as r"
        " join pg_policy as p on p.polrelid = r.oid"
        " where 'anon'::regrole::oid = any (p.polroles)",
        'create policy "stray" on public.backfill_runs for select to anon using (true)',
    ),
    Rule(
        "a view has its reader's rights",
        "select name from relations where relkind in ('v', 'm') and not coalesce(("
        "  select o.option_value::boolean from pg_options_to_table(reloptions) as o"
        "  where o.option_name = 'security_invoker'), false)",
        "create or replace view public.backfill_run_failures as"
        " select i.run_id, i.session_id, i.failed_step, i.error_code, i.error_message, i.attempts,"
        " i.settled_at, i.phase, i.batch from public.backfill_items as i",
    ),
    Rule(
        # An empty path is none: PostgreSQL then looks for types and relations in pg_temp first.
        "a function looks in pg_catalog, and in pg_temp last",
        # A procedure that commits cannot: the next two rules are for those.
        "select name from functions where prokind <> 'p'"
        " and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)",
        STRAY_FUNCTION.format("backfill_private", "stray", "set search_path = ''"),
    ),
    Rule(
        # Nothing is evaluated under its caller's path: no default of a variable either.
        "a procedure begins with next_transaction, which alone commits",
        "select name from functions where prokind = 'p' and proname <> 'next_transaction' and ("
        " prosrc !~ '^\\s*(declare(\\s+v_\\w+ [\\w.]+(\\[\\])?;)+\\s*)?"
        "begin\\s+call backfill_private\\.next_transaction\\(v_search_path[,)]'"
        " or prosrc ~* '\\m(commit|rollback)\\M' or prosecdef)",
        "create procedure backfill_private.stray() language plpgsql as"
        " $$ declare v_search_path text;"
        " begin call backfill_private.next_transaction(v_search_path); commit; end $$",
    ),
    Rule(
        "next_transaction sets the path first, and by names that no path changes",
        "select 'next_transaction' where not exists (select from functions"
        " where proname = 'next_transaction' and prosrc ~ ('^\\s*begin\\s+commit;"
        "\\s+p_search_path := pg_catalog\\.current_setting\\(''search_path''\\);"
        "\\s+perform pg_catalog\\.set_config"
        "\\(''search_path'', ''pg_catalog, pg_temp'', true\\);')"
        " and (select count(*) from regexp_matches(prosrc, '\\mcommit\\M', 'g')) = 1)",
        "create or replace procedure backfill_private.next_transaction("
        "inout p_search_path text, p_role text default 'service_role')"
        " language plpgsql as $$ begin commit; end $$",
    ),
    Rule(
        "a function is not everybody's",
        "select name from functions where has_function_privilege('public', oid, 'execute')",
        STRAY_FUNCTION.format("public", "backfill_stray", "set search_path = pg_catalog, pg_temp"),
    ),
    Rule(
        "a function in public has its caller's rights",
        "select name from functions where is_public and prosecdef",
        STRAY_FUNCTION.format("public", "backfill_stray", "security definer"),
    ),
    Rule(
        "a function is short enough to read",
        "select format('%s has %s lines', name, lines) from functions cross join lateral"
        " (select count(*) as lines from regexp_split_to_table(btrim(prosrc, E'\\n'), E'\\n')) as l"
        f" where lines > {MOST_LINES}",
        f"do $do$ begin execute 'create function backfill_private.stray() returns integer"
        f" language sql as $$' || repeat(E'--\\n', {MOST_LINES}) || 'select 1$$'; end $do$",
    ),
    Rule(
        "anon may nothing",
        "select format('%s %s %s: %s', kind, name, column_name, privilege) from grants"
        " where grantee in ('anon', 'public')",
        "grant update (approver) on public.backfill_approvals to anon",
    ),
    Rule(
        "anon inherits nothing",
        "select name from relations where relkind in ('r', 'p', 'v', 'm')"
        " and has_any_column_privilege('anon', oid, 'select, insert, update, references')"
        " union all select name from functions"
        " where has_function_privilege('anon', oid, 'execute')"
        " union all select 'backfill_private'"
        " where has_schema_privilege('anon', 'backfill_private', 'usage, create')",
        "alter role anon inherit; grant authenticated to anon",
    ),
    Rule(
        "an API role uses the private schema and makes nothing in it",
        "select format('%s: %s', grantee, privilege) from grants where kind = 'schema'"
        " and grantee <> 'postgres' and (grantee not in ('authenticated', 'service_role')"
        "  or privilege <> 'USAGE')",
        "grant create on schema backfill_private to service_role",
    ),
    Rule(
        "an API role writes nothing but the columns of a decision",
        "select format('%s: %s on %s %s', grantee, privilege, name, column_name) from grants"
        " where kind in ('relation', 'column') and grantee <> 'postgres' and privilege <> 'SELECT'"
        "  and not (privilege = 'INSERT' and name = 'public.backfill_approvals'"
        f"   and column_name in (select * from (values {listed(WRITABLE)}) as v)"
        "   and grantee in ('authenticated', 'service_role'))",
        "grant insert (decided_at) on public.backfill_approvals to service_role",
    ),
    Rule(
        "an API role passes no right on",
        "select format('%s: %s on %s', grantee, privilege, name) from grants"
        " where is_grantable and grantee <> 'postgres'",
        "grant select on public.backfill_runs to authenticated with grant option",
    ),
    Rule(
        "rows before and fences are read by no API role",
        "select format('%s: %s.%s', role, r.name, a.attname) from relations as r"
        " join pg_attribute as a on a.attrelid = r.oid and a.attname in ('before', 'fence_hash')"
        " cross join unnest(array['anon', 'authenticated', 'service_role']) as role"
        " where has_column_privilege(role, r.oid, a.attnum, 'select')",
        "grant select on public.backfill_receipts to service_role",
    ),
    Rule(
        "the private tables are read by no API role",
        "select format('%s: %s', role, r.name) from relations as r"
        " cross join unnest(array['anon', 'authenticated', 'service_role']) as role"
        " where not r.is_public and r.relkind in ('r', 'p')"
        "  and has_any_column_privilege(role, r.oid, 'select')",
        "grant select (session_id) on backfill_private.findings to service_role",
    ),
    Rule(
        "authenticated calls of the private schema what is listed",
        called("authenticated", CALLED_BY_USERS),
        "grant execute on function backfill_private.claim(uuid, uuid, text) to authenticated",
    ),
    Rule(
        "service_role calls of the private schema what is listed",
        called("service_role", CALLED_BY_THE_SERVICE),
        "grant execute on function backfill_private.decide() to service_role",
    ),
    Rule(
        "a relation in public has a comment",
        "select name from relations where is_public and relkind in ('r', 'p', 'v', 'm')"
        " and obj_description(oid, 'pg_class') is null",
        "comment on view public.backfill_candidates is null",
    ),
    Rule(
        "the triggers of receipts are always enabled",
        "select format('%s on %s', g.tgname, g.tgrelid::regclass) from pg_trigger as g"
        " join functions as f on f.oid = g.tgfoid"
        " where f.proname in ('keep_receipt', 'refuse_truncate') and g.tgenabled <> 'A'",
        'alter table public.profiles enable trigger "000_backfill_receipt"',
    ),
    Rule(
        "every target table has the triggers of receipts",
        "select format('%s lacks %s', t.table_name, wanted) from public.backfill_targets as t"
        " cross join unnest(array['keep_receipt', 'refuse_truncate']) as wanted"
        " where not exists (select from pg_trigger as g join functions as f on f.oid = g.tgfoid"
        "  where g.tgrelid = t.table_name::regclass and f.proname = wanted)",
        "drop trigger backfill_no_truncate on public.fc_scores",
    ),
    Rule(
        "everything belongs to postgres",
        "select name from relations where relowner <> 'postgres'::regrole"
        " union all select name from functions where proowner <> 'postgres'::regrole"
        " union all select nspname from pg_namespace"
        " where nspname = 'backfill_private' and nspowner <> 'postgres'::regrole",
        "alter function backfill_private.clock() owner to supabase_admin",
    ),
]


def offenders(connection: Connection, rule: Rule) -> list[str]:
    """The names of what breaks the rule."""
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("set local search_path = ''")
        return sorted(name for (name,) in cursor.execute((OURS + rule.breaks).encode()))


def _load_project_with_old_privileges(*, dbname: str, **_: Any) -> None:
    """A project from before 2026-10-30, where what postgres makes in public is the API's too."""
    server = SERVER["it"]
    server.install_platform(dbname, old_privileges=True)
    with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute(f'alter database "{dbname}" owner to postgres'.encode())
    sample.load(server.dsn(dbname), "seed")


old_template = factories.postgresql_noproc(
    depends_on="cluster", dbname="old", load=[_load_project_with_old_privileges]
)
old_admin = factories.postgresql("old_template")


@pytest.fixture
def old_db(postgres_server: PostgresServer, old_admin: Connection) -> Iterator[Connection]:
    """The sample project with ours, where what postgres makes in public is the API's too."""
    with _as_postgres(postgres_server, old_admin) as connection:
        yield connection


def broken(connection: Connection) -> str:
    """A line for each rule that something breaks, with the names; '' where all hold."""
    found = {rule.claim: offenders(connection, rule) for rule in RULES}
    return "\n".join(f"{claim}: {', '.join(names)}" for claim, names in found.items() if names)


def test_every_object_of_ours_keeps_the_house_rules(project_db: Connection) -> None:
    """Whatever a migration makes, in public or in the private schema."""
    assert not broken(project_db), broken(project_db)


def test_the_rules_hold_where_new_objects_are_open_to_the_api(old_db: Connection) -> None:
    """Older projects grant everything on what is new: our migrations revoke it, every bit."""
    assert not broken(old_db), broken(old_db)


def test_an_older_project_does_open_what_is_new(old_db: Connection) -> None:
    """Without this the test above would look at a world like the other one."""
    old_db.execute("create table public.of_the_user (id bigint generated always as identity)")
    row = old_db.execute(
        "select has_table_privilege('anon', 'public.of_the_user', 'truncate') as on_tables,"
        " has_sequence_privilege('anon', 'public.of_the_user_id_seq', 'update') as on_sequences"
    ).fetchone()
    assert row == {"on_tables": True, "on_sequences": True}


def test_a_breach_of_each_rule_is_seen(project_admin: Connection) -> None:
    """A rule that sees nothing would hold for ever."""
    unseen = []
    for rule in RULES:
        with project_admin.transaction(force_rollback=True):
            project_admin.execute(rule.breach.encode())
            if not offenders(project_admin, rule):
                unseen.append(rule.claim)
    assert unseen == []
