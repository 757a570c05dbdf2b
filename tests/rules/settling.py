"""What an item becomes; what an error code means."""

from __future__ import annotations

import json

from tests.rules.case import Case, Rule

NAMES = ("state", "step", "code", "message", "is_critical")
NO_RECEIPT = (
    "the row is there and has no receipt: the triggers were off, the Edge Function does not hand"
    " our headers on, or somebody else wrote it during the call"
)
NO_EFFECT = "no effect"
WITHHELD = "data exception; the message stays in the database's log, it may hold contents"
DONE = ("done", None, None, None, False)
PENDING = ("pending", None, None, None, False)
EFFECTLESS = ("failed", "score", "OB017", NO_EFFECT, False)


def outcome(
    name: str,
    told: str,
    wanted: tuple[object, ...],
    *,
    complete: bool = False,
    lacks: bool = False,
    code: str | None = "P0001",
    message: str = "no",
    crowded: int = 1,
    unknowns: int = 1,
) -> Case:
    """A case of an item whose step `profile` was told about and that has no row of `score`."""
    values = (complete, lacks, "score", told, "profile", code, message, crowded, unknowns)
    query = "select to_jsonb(o) from backfill_private.outcome(%s,%s,%s,%s,%s,%s,%s,%s,%s) as o"
    return Case(name, query, values, dict(zip(NAMES, wanted, strict=True)))


def in_trouble(state: str, message: str = "no", code: str | None = "P0001") -> tuple[object, ...]:
    return (state, "profile", code, message, False)


SLOWED = "asked to wait {} times while others were not: no"
STAYED = "the outcome stayed unknown {} times: no"
OUTCOME = Rule(
    "what an item becomes",
    ("outcome",),
    (
        outcome("all rows stand", "answered", DONE, complete=True, code=None),
        outcome("rows stand, whatever was told", "failed", DONE, complete=True, crowded=9),
        outcome(
            "rows stand, one without receipt",
            "answered",
            (*DONE[:4], True),
            complete=True,
            lacks=True,
        ),
        outcome(
            "rows stand, the gate refused", "failed", (*DONE[:4], True), complete=True, code="OB018"
        ),
        outcome(
            "the gate refused",
            "failed",
            ("failed", "profile", "OB018", "no", True),
            code="OB018",
        ),
        outcome(
            "a row without receipt",
            "answered",
            ("failed", "profile", "OB016", NO_RECEIPT, True),
            lacks=True,
        ),
        outcome("answered and no row", "answered", EFFECTLESS, code=None),
        outcome("the step before had no effect", "failed", EFFECTLESS, code="OB020"),
        outcome("released", "released", PENDING),
        outcome(
            "not well beside others",
            "beside",
            in_trouble("pending", code=None),
            code=None,
            crowded=9,
            unknowns=9,
        ),
        outcome("slow", "slow", in_trouble("pending")),
        outcome("slow five times", "slow", in_trouble("pending"), crowded=5),
        outcome("slow six times", "slow", in_trouble("failed", SLOWED.format(6)), crowded=6),
        outcome("slow seven times", "slow", in_trouble("failed", SLOWED.format(7)), crowded=7),
        outcome("slow, however unknown", "slow", in_trouble("pending"), unknowns=9),
        outcome("stop", "stop", in_trouble("pending")),
        outcome("stop, late", "stop", in_trouble("pending"), crowded=9, unknowns=9),
        outcome("stop, and the run holds", "stop", PENDING, code="OB012"),
        outcome("released, late", "released", PENDING, crowded=9, unknowns=9),
        outcome("a stale fence", "failed", PENDING, code="OB011"),
        outcome("a run that holds", "unknown", PENDING, code="OB012", unknowns=9),
        outcome("failed", "failed", in_trouble("failed")),
        outcome("failed without a code", "failed", in_trouble("failed", code=None), code=None),
        outcome(
            "a long code is cut",
            "failed",
            in_trouble("failed", code="X" * 20),
            code="X" * 30,
        ),
        outcome(
            "contents are kept out",
            "failed",
            in_trouble("failed", WITHHELD, "22P02"),
            code="22P02",
        ),
        outcome(
            "a refusal that is doubted",
            "again",
            ("pending", "profile", "OB011", "no", False),
            code="OB011",
        ),
        outcome(
            "a refusal that is doubted five times",
            "again",
            ("failed", "profile", "OB012", "no", False),
            code="OB012",
            crowded=5,
        ),
        outcome("crowded out once", "again", in_trouble("pending")),
        outcome("crowded out four times", "again", in_trouble("pending"), crowded=4),
        outcome("crowded out five times", "again", in_trouble("failed"), crowded=5),
        outcome("crowded out six times", "again", in_trouble("failed"), crowded=6),
        outcome("unknown, however crowded", "unknown", in_trouble("pending"), crowded=9),
        outcome("unknown seven times", "unknown", in_trouble("pending"), unknowns=7),
        outcome(
            "unknown eight times", "unknown", in_trouble("failed", STAYED.format(8)), unknowns=8
        ),
        outcome(
            "unknown nine times", "unknown", in_trouble("failed", STAYED.format(9)), unknowns=9
        ),
        outcome("lost seven times", "lost", in_trouble("pending"), unknowns=7),
        outcome("lost eight times", "lost", in_trouble("failed", STAYED.format(8)), unknowns=8),
        outcome("failed after seven unknowns", "failed", in_trouble("failed"), unknowns=8),
        outcome("crowded out after seven unknowns", "again", in_trouble("pending"), unknowns=8),
        outcome(
            "a long message is cut",
            "unknown",
            in_trouble("failed", (STAYED.format(8)[:-2] + "m" * 500)[:500]),
            message="m" * 600,
            unknowns=8,
        ),
        outcome(
            "a long message of one that is slow is cut",
            "slow",
            in_trouble("failed", (SLOWED.format(6)[:-2] + "m" * 500)[:500]),
            message="m" * 600,
            crowded=6,
        ),
    ),
)

# Which row of the table tells: the longest of those that a code begins with, of its own kind.
TELLS = {
    "P0001": "",
    "XY123": "",
    "57014": "",
    "08006": "08",
    "53300": "53",
    "57P01": "57P",
    "42601": "42601",
    "42501": "42501",
    "42P01": "42P01",
    "42P02": "",
    "PT429": "PT429",
    "22P02": "22",
    "22012": "22012",
    "OB011": "OB011",
    "OB013": "",
    "PGRST202": "PGRST202",
    "PGRST116": None,
    "PGRST2020": None,
    "302": "3",
    "404": "404",
    "405": None,
    "530": "530",
    "53": None,
    "0800": None,
    "080060": None,
    "5030": None,
    "transport": None,
    "": None,
}
TOLD_IN_BULK = {
    "P0001": "failed",
    "22P02": "failed",
    "57014": "failed",
    "25P02": "failed",
    "40001": "again",
    "40P01": "again",
    "55P03": "again",
    "08006": "again",
    "53300": "again",
    "57P01": "again",
    "42501": "stop",
    "42883": "stop",
    "42P01": "stop",
    "25006": "stop",
    "PT429": "slow",
    "OB011": "again",
    "OB012": "again",
    "OB018": "failed",
}
KEPT = {
    ("P0001", "no score"): "no score",
    ("P0001", "m" * 501): "m" * 500,
    ("22P02", 'invalid: "secret"'): WITHHELD,
    ("42501", "no right"): "no right",
    ("42P01", 'relation "t.v" does not exist'): 'relation "t.v" does not exist',
    ("42883", "function f(text) does not exist"): "function f(text) does not exist",
    ("42703", 'column "c" does not exist'): 'column "c" does not exist',
    ("42704", 'type "t" does not exist'): 'type "t" does not exist',
    ("3F000", 'schema "s" does not exist'): 'schema "s" does not exist',
    ("22001", "value too long for type varchar(3)"): "value too long for type varchar(3)",
    ("42601", 'syntax error at or near "secret"'): WITHHELD.replace(
        "data exception", "syntax error"
    ),
    ("502", "Bad Gateway"): "Bad Gateway",
    (None, "no code"): "no code",
    ("P0001", None): None,
}

FAULTS = Rule(
    "what an error code means",
    ("fault", "bulk_outcome", "kept_message"),
    (
        *(
            Case(f"{code!r} is told", "select (backfill_private.fault(%s)).class", (code,), wanted)
            for code, wanted in TELLS.items()
        ),
        *(
            Case(f"{code} in bulk", "select backfill_private.bulk_outcome(%s)", (code,), wanted)
            for code, wanted in TOLD_IN_BULK.items()
        ),
        *(
            Case(
                f"kept of {code}: {(message or '')[:9]}",
                "select backfill_private.kept_message(%s, %s)",
                (code, message),
                wanted,
            )
            for (code, message), wanted in KEPT.items()
        ),
    ),
)


def known(*outcomes: str) -> Case:
    """Whether a batch with these outcomes had one that is known."""
    told = json.dumps([{"outcome": outcome} for outcome in outcomes])
    return Case(
        f"known: {outcomes}",
        "select backfill_private.has_known_outcome(%s)",
        (told,),
        bool({"answered", "failed", "again", "beside"} & set(outcomes)),
    )


KNOWN = Rule(
    "whether the API is alive",
    ("has_known_outcome",),
    (
        known(),
        *(known(one) for one in ("answered", "failed", "again", "beside")),
        *(known(one) for one in ("unknown", "lost", "slow", "stop", "released")),
        known("unknown", "failed", "unknown"),
        known("unknown", "slow"),
    ),
)

RULES = (OUTCOME, FAULTS, KNOWN)
