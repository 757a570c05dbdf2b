"""The dates of a request; who may do what."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.rules.case import Case, Refusal, Rule

HINT = "give a day such as 2025-08-01, or a timestamp with an offset"


def bound(which: str, text: str | None, wanted: str | Refusal | None) -> Case:
    """A case of a text that is a date; wanted in UTC, to the microsecond."""
    query = (
        f"select to_char(backfill_private.{which}_bound(%s, %s) at time zone 'UTC',"
        " 'YYYY-MM-DD HH24:MI:SS.US')"
    )
    return Case(f"{which} {text}", query, (which, text), wanted)


def no_date(text: str, which: str = "since") -> Refusal:
    return Refusal("OB013", f"{which} is no date: {text[:40]}", HINT)


SINCE = {
    "2025-08-01": "2025-08-01 00:00:00.000000",
    " 2025-08-01 ": "2025-08-01 00:00:00.000000",
    "2025-08-01T10:00:00Z": "2025-08-01 10:00:00.000000",
    "2025-08-01T10:00:00+02:00": "2025-08-01 08:00:00.000000",
    "2025-08-01 10:00:00.123456": "2025-08-01 10:00:00.123456",
    "0001-01-01": "0001-01-01 00:00:00.000000",
    "9999-12-31": "9999-12-31 00:00:00.000000",
    "9999-12-31 23:59:59.999999": "9999-12-31 23:59:59.999999",
}
NO_DATES = (
    "0001-01-01 BC",
    "0044-03-15 BC",
    "10000-01-01",
    "9999-12-31 20:00:00-05",
    "294276-12-31",
    "infinity",
    "-infinity",
    "next week",
    "2025-02-30",
    "2025-13-01",
    "2025-08-01T10:00:00+99:00",
    "2025-08-01 10:00 Nowhere/City",
    "x" * 60,
    "",
)
UNTIL = {
    "2025-08-01": "2025-08-02 00:00:00.000000",
    " 2025-08-01\t": "2025-08-02 00:00:00.000000",
    "2025-12-31": "2026-01-01 00:00:00.000000",
    "2025-8-1": "2025-08-02 00:00:00.000000",
    "20250801": "2025-08-02 00:00:00.000000",
    "2025/08/01": "2025-08-02 00:00:00.000000",
    "1 August 2025": "2025-08-02 00:00:00.000000",
    "2025-213": "2025-08-02 00:00:00.000000",
    "9999-12-31": "10000-01-01 00:00:00.000000",
    "20250801T100000Z": "2025-08-01 10:00:00.000001",
    "2025-08-01 10:00": "2025-08-01 10:00:00.000001",
    "2025-08-01 00:00+02": "2025-07-31 22:00:00.000001",
    "2025-08-01T10:00:00Z": "2025-08-01 10:00:00.000001",
    "2025-08-01 00:00:00": "2025-08-01 00:00:00.000001",
    "2025-08-01T00:00:00+00:00": "2025-08-01 00:00:00.000001",
}
DATES = Rule(
    "what a date of a request includes",
    ("since_bound", "until_bound", "names_day"),
    (
        *(bound("since", text, wanted) for text, wanted in SINCE.items()),
        *(bound("since", text, no_date(text)) for text in NO_DATES),
        *(bound("until", text, wanted) for text, wanted in UNTIL.items()),
        bound("until", "never", no_date("never", "until")),
        bound("until", "infinity", no_date("infinity", "until")),
        bound("since", None, None),
        bound("until", None, None),
    ),
)

NO_PLANS = {
    None: "it has no at",
    "infinity": "its at is infinity",
    "-infinity": "its at is -infinity",
    "10000-01-01Z": "its at is in the year 10000, and plans end with 9999",
    "294276-12-31 23:59Z": "its at is in the year 294276, and plans end with 9999",
    "294276-12-31 23:59:59.999999Z": "its at is after the year 294276",
    "0001-12-31 23:59:59.999999Z BC": "its at is before the year 1, with which plans begin",
    "9999-12-31 23:59:59.999999Z": None,
    "0001-01-01Z": None,
}
DATE_FAULTS = Rule(
    "which dates no plan can take",
    ("date_fault",),
    tuple(
        Case(f"{at}", "select backfill_private.date_fault('at', %s::timestamptz)", (at,), why)
        for at, why in NO_PLANS.items()
    ),
)

UUID = "618c5ea6-3f0d-4b8e-9a41-5d2c7e90b1f4"
# What is given, by the type of the ids. None: it names nothing.
NAMES: dict[str, dict[str, str | None]] = {
    "uuid": {
        UUID: UUID, f" {UUID.upper()} ": UUID, f"{{{UUID}}}": UUID, UUID.replace("-", ""): UUID,
        UUID[:8].upper(): UUID[:8], UUID[:35]: UUID[:35], UUID[:7]: None, "": None, "x" * 8: None,
        f"{UUID}0": None, UUID[:7] + "%": None,
    },
    "bigint": {
        "7": "7", " -7 ": "-7", "007": None, "+7": None, "7.0": None, "7x": None, "": None,
        "9223372036854775808": None,
    },
    "integer": {" 7 ": "7", "007": None, "2147483648": None},
    "smallint": {" 7 ": "7", "32767": "32767", "32768": None},
    "text": {"a": "a", " a ": " a ", "A": "A", "": ""},
    "character varying(3)": {"abc": "abc", "abcd": None, " a": " a"},
}  # fmt: skip
SESSION_NAME = "select backfill_private.session_name(%s, %s)"
NAMING = Rule(
    "what a text can name",
    ("session_name",),
    tuple(
        Case(
            f"{kind} {given!r}",
            "select backfill_private.session_name(%s, %s)",
            (kind, given),
            named,
        )
        for kind, names in NAMES.items()
        for given, named in names.items()
    ),
)

RANKS = {"viewer": 1, "operator": 2, "approver": 3, "admin": 0, "": 0, None: 0}
RANK = Rule(
    "which role includes which",
    ("rank",),
    tuple(
        Case(f"{role}", "select backfill_private.rank(%s)", (role,), rank)
        for role, rank in RANKS.items()
    ),
)

USER = "11111111-1111-4111-8111-111111111111"
OPERATOR = ("read", "plan", "pause", "pace", "resume", "cancel")
VERBS = (*OPERATOR, "decide", "apply", "undo", "prune", "fly")
MAY = {
    "postgres": VERBS[:-1],
    "service": VERBS[:-1],
    "nobody": (),
    "viewer": ("read",),
    "operator": OPERATOR,
    "approver": (*OPERATOR, "decide"),
    "admin": (),
    "banned": (),
    "free again": ("read",),
    "deleted": (),
    "unknown": (),
    "third party": (),
    "claims alone": (),
}


def user(role: str | None, **more: str) -> str:
    columns = "".join(f", {name}" for name in more)
    values = "".join(f", '{value}'" for value in more.values())
    return (
        f"insert into auth.users (id, email, raw_app_meta_data{columns})"
        f" values ('{USER}', 'a@example.org', '{json.dumps({'backfill_role': role})}'{values})"
    )


def claims(role: str, sub: str | None = None) -> str:
    told = json.dumps({"role": role, "sub": sub})
    return f"select set_config('request.jwt.claims', '{told}', true)"


LOGGED_IN = (claims("authenticated", USER), "set local role authenticated")
CALLERS = {
    "postgres": (),
    "service": (claims("service_role"), "set local role service_role"),
    "nobody": (claims("service_role"),),
    "viewer": (user("viewer"), *LOGGED_IN),
    "operator": (user("operator"), *LOGGED_IN),
    "approver": (user("approver"), *LOGGED_IN),
    "admin": (user("admin"), *LOGGED_IN),
    "banned": (user("approver", banned_until="2025-11-02 12:00:01+00"), *LOGGED_IN),
    "free again": (user("viewer", banned_until="2025-11-02 12:00:00+00"), *LOGGED_IN),
    "deleted": (user("approver", deleted_at="2025-11-01"), *LOGGED_IN),
    "unknown": LOGGED_IN,
    "third party": (
        user("approver"),
        claims("authenticated", "github|" + USER),
        "set local role authenticated",
    ),
    "claims alone": (
        user("approver"),
        claims("anon", USER),
        "set local role authenticated",
    ),
}
NOBODY = ["nobody", None, None, "nobody"]
# What caller() says to whoever calls a function of the owner's.
ASKED = """
create function public.rule_caller() returns jsonb language sql security definer as $$
  select jsonb_build_array(kind, user_id, backfill_role, label) from backfill_private.caller()
$$
"""


def called(name: str, wanted: Sequence[object], *given: str) -> Case:
    query = "select public.rule_caller()"
    return Case(f"{name} is called", query, (), list(wanted), (ASKED, *given))


RIGHTS = Rule(
    "who may do what",
    ("may", "caller", "role_of"),
    (
        *(
            Case(
                f"{caller}: {verb}",
                "select backfill_private.may(%s)",
                (verb,),
                verb in MAY[caller],
                CALLERS[caller],
            )
            for caller in MAY
            for verb in VERBS
        ),
        called("a login", ["postgres", None, None, "postgres:postgres"]),
        called("a login with claims", NOBODY, claims("authenticated", USER)),
        called(
            "a login with an older claim",
            NOBODY,
            "select set_config('request.jwt.claim.role', 'anon', true)",
        ),
        called("a login as another role", NOBODY, "set local role anon"),
        called(
            "a login as the service",
            ["service_role", None, None, "service_role"],
            "set local role service_role",
        ),
        called("the service", ["service_role", None, None, "service_role"], *CALLERS["service"]),
        called("a user", ["user", USER, "viewer", f"user:{USER}"], *CALLERS["viewer"]),
        called("a user without a role", ["user", USER, None, f"user:{USER}"], *LOGGED_IN),
    ),
)

RULES = (DATES, DATE_FAULTS, NAMING, RANK, RIGHTS)
