"""Whatever is sent to any function of ours gets a sentence or does its work, and harms nothing.

The functions are those of the catalog, so a new one is fuzzed by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import backfill
from backfill.request import PARAMETERS as ALL
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.seed import SEED
from tests.kit.whole import examples

Json = Any
EXAMPLES = examples(150, at_a_push=25)
FUNCTIONS = """
select p.proname as name, coalesce((
  select jsonb_object_agg(p.proargnames[a.place], format_type(a.type, null))
  from unnest(p.proargtypes) with ordinality as a (type, place)
  where p.proargnames[a.place] <> ''), '{}') as arguments  -- a call gives arguments by name
from pg_proc as p
where p.pronamespace = 'public'::regnamespace and p.proname like 'backfill\\_%%'
  and p.proname not like 'backfill\\_drive%%'  -- no role of the API calls these
order by 1
"""
ROLES = ("anon", "nobody", "viewer", "operator", "approver", "service")
# What PostgreSQL and PostgREST say themselves of what is no JSON text of the argument's type, and
# of who may not call at all.
SAID_BY_OTHERS = {"42501", "22P02", "22P05", "PGRST102", "PGRST202", "PGRST301", "22003"}
NASTY = (
    "", " ", "'", "\"", "\\", "%", "%s", "$1", "--", "';drop table public.profiles;--", "null",
    "\N{SNOWMAN}", "\u202e", "2025-08-01", "2025-13-45", "0001-01-01", "9999-12-31", "infinity",
    "now", "1e400", "NaN", "618c5ea6", "prism", "x" * 100_000, "a\u0000b", "{}", "[]",
)  # fmt: skip
TEXTS = st.sampled_from(NASTY) | st.text(max_size=40)
INTEGERS = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-100, 100)
SCALARS = st.none() | st.booleans() | TEXTS | INTEGERS | st.sampled_from([1.5, 1e300, 2**80])
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PARAMETERS = sorted(n for n, p in ALL.items() if p.of != "client" and n != "since")
REQUEST = st.fixed_dictionaries(
    {"since": st.just("2025-08-01") | ANY_JSON},
    optional=dict.fromkeys(PARAMETERS, ANY_JSON),
)
OUTCOME = st.fixed_dictionaries(
    {"ordinal": st.integers(1, 5) | ANY_JSON, "outcome": st.just("answered") | ANY_JSON},
    optional=dict.fromkeys(("answered", "step", "code", "message", "retry_after_s"), ANY_JSON),
)
JSONB = {
    "p_request": REQUEST | ANY_JSON,
    "p_outcomes": st.lists(OUTCOME | ANY_JSON, max_size=4) | ANY_JSON,
    "p_scope": st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("sessions", "since", "until"), ANY_JSON)
    )
    | ANY_JSON,
}


def values(name: str, type_name: str, known: list[str]) -> st.SearchStrategy[Json]:
    """Values of an argument: its type is met, or nearly."""
    if type_name == "uuid":
        return st.sampled_from([*known, str(uuid4()), None])
    if type_name == "jsonb":
        return JSONB.get(name, ANY_JSON)
    if type_name == "text[]":
        return st.none() | st.lists(st.none() | TEXTS, max_size=4)
    if type_name in ("integer", "bigint", "numeric"):
        return st.none() | INTEGERS
    return st.none() | TEXTS | st.sampled_from(known)


@pytest.fixture
def known(project: Project, timed: backfill.Backfill) -> list[str]:
    """Runs in the states that matter, and a claim that is held."""
    completed = timed.plan(since="2025-06-01", until="2025-07-31")
    project.approve(completed)
    timed.apply(completed.run_id)
    awaiting, running = timed.plan(**SEED), timed.plan(**SEED)
    project.approve(running)
    verbs.call(project.db, "backfill_start", p_run_id=running.run_id, p_worker="w")
    claim = str(uuid4())
    verbs.call(
        project.db, "backfill_claim", p_run_id=running.run_id, p_claim_id=claim, p_worker="w"
    )
    planning = project.value(
        'select public.backfill_open(\'{"since": "2025-08-01", "batch_size": 5}\')'
    )
    return [completed.run_id, awaiting.run_id, running.run_id, str(planning), claim]


def tokens(project: Project) -> dict[str, str]:
    """Role: its bearer token."""
    users = {role: project.user(role) for role in ("viewer", "operator", "approver")}
    return {
        "anon": project.keys.anon,
        "nobody": project.user(None),
        "service": project.keys.service_role,
        **users,
    }


def fault_of(answer: httpx.Response) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    if answer.is_success:
        return None
    said = answer.json()
    code, message = said.get("code") or "", said.get("message") or ""
    if answer.status_code >= 500 and not code.startswith("OB"):
        return f"{answer.status_code} {code}: {message[:200]}"
    if code.startswith("OB"):
        return None if message and len(message) <= 600 else f"{code} says {message[:200]!r}"
    return None if code in SAID_BY_OTHERS else f"{code}: {message[:200]}"


def state_of(project: Project) -> Mapping[str, Json]:
    """The user's tables by content, the names of all objects, and what is wrong in any chain."""
    query = "select md5(string_agg(t::text, ',' order by t::text)) from public.{} as t".format
    tables = ("assessment_sessions", "assessment_responses", "fc_responses", "fc_options")
    return {
        **{table: project.value(query(table)) for table in tables},
        "objects": project.value(
            "select md5(string_agg(relname, ',' order by oid)) from pg_class"
            " where relnamespace = 'public'::regnamespace"
        ),
        "broken chains": project.value(
            "select count(*) from public.backfill_runs as r"
            " cross join lateral backfill_private.chain_faults(r.run_id)"
        ),
    }


def fuzz(sent: st.SearchStrategy[Any], ask: Callable[[str, Json], None]) -> None:
    """Ask with many arguments, as every role."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(ROLES + ("service",) * len(ROLES)), sent)
    def send(role: str, arguments: Json) -> None:
        ask(role, arguments)

    send()


def test_nothing_that_is_sent_to_a_function_harms(project: Project, known: list[str]) -> None:
    """No 5xx without a sentence of ours, no error of PostgreSQL's own, nothing injected."""
    bearers, before, faults = tokens(project), state_of(project), set[str]()
    reached = Counter[str]()
    with httpx.Client(base_url=f"{project.url}/rest/v1/rpc", timeout=20) as client:
        for function in project.rows(FUNCTIONS):
            name = function["name"]
            given_ = {n: values(n, kind, known) for n, kind in function["arguments"].items()}

            def ask(role: str, arguments: Json, name: str = name) -> None:
                key = bearers["service" if role == "service" else "anon"]
                bearer = {"Authorization": f"Bearer {bearers[role]}", "apikey": key}
                answer = client.post(f"/{name}", json=arguments, headers=bearer)
                reached[name] += answer.is_success or answer.json()["code"][:2] == "OB"
                if fault := fault_of(answer):
                    faults.add(f"{name}{sorted(arguments)}: {fault}")

            fuzz(st.fixed_dictionaries(given_), ask)
    assert "\n".join(sorted(faults)) == ""
    assert state_of(project) == before
    assert all(reached.values()), reached
