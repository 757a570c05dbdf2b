"""Bad input gets one sentence, the next command and the right exit code; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import backfill
from tests.conftest import Project
from tests.kit.commands import Ran, Shell
from tests.kit.seed import CANARY, SEED

PLAN = ("plan", "--since", "2025-08-01", "--environment", "staging")
TABLES = (
    "backfill_runs", "backfill_items", "backfill_events", "backfill_receipts",
    "backfill_approvals", "fc_scores", "profiles",
)  # fmt: skip


def counts(project: Project) -> list[object]:
    """How many rows each table has that a verb might write."""
    return [project.value(f"select count(*) from public.{table}") for table in TABLES]


def refused(ran: Ran, code: int, *said: str) -> None:
    """It ended with this code and said these things on stderr, without a traceback."""
    assert ran.code == code, ran
    for words in said:
        assert words in ran.err, ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


BAD_PLANS: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "since after until": (
        (*PLAN, "--until", "2025-07-01"), 2,
        ("since 2025-08-01 is after until 2025-07-01", "Next: backfill plan … --until")),
    "a date that is none": (("plan", "--since", "2025-13-45"), 2, ("since is no date", "Next:")),
    "no since": (("plan",), 2, ("needs a since", "Next:")),
    "throttle 0": (
        (*PLAN, "--throttle", "0"), 2,
        ("throttle_per_minute", "from 1 to", "Next: backfill plan … --throttle 20")),
    "negative throttle": ((*PLAN, "--throttle", "-5"), 2, ("throttle_per_minute", "Next:")),
    "huge throttle": (
        (*PLAN, "--throttle", "9" * 400), 2,
        ("from 1 to 999999999, not 99999999999999999999…\n", "Next:")),
    "batch size 0": (
        (*PLAN, "--batch-size", "0"), 2,
        ("batch_size is", "Next: backfill plan … --batch-size 5")),
    "a batch that no call can settle": (
        (*PLAN, "--batch-size", "1001"), 2,
        ("batch_size is a whole number from 1 to 1000, not 1001", "Next: backfill plan …")),
    "throttle no number": ((*PLAN, "--throttle", "fast"), 2, ("--throttle", "Next:")),
    "batch above the throttle": (
        (*PLAN, "--throttle", "3", "--batch-size", "5"), 2, ("batch_size 5", "Next:")),
    "unknown priority": ((*PLAN, "--priority", "ffffffff-0000"), 2, ("no session", "Next:")),
    "ambiguous priority": ((*PLAN, "--priority", ""), 2, ("no session", "Next:")),
    "wrong environment": (
        ("plan", "--since", "2025-08-01", "--environment", "production"), 3,
        ("this project is staging, not production", "Next:")),
    "unknown target": ((*PLAN, "--target", "nope"), 2, ("no target is named nope", "Next:")),
    "unknown component": (
        (*PLAN, "--want", "nope=v1"), 2,
        ("no component nope", "Next: backfill plan … --want", "fc_scores, profile")),
    "two versions of one": (
        (*PLAN, "--want", "fc_scores=v1", "--fc-version", "v2"), 2,
        ("two versions of fc_scores are wanted: want says v1, fc_version says v2",
         "Next: backfill plan … --want fc_scores=V, or --fc-version V, not both")),
    "one twice": (
        (*PLAN, "--want", "fc_scores=v1", "--want", "fc_scores=v2"), 2, ("once for each", "Next:")),
    "no version": ((*PLAN, "--want", "fc_scores="), 2, ("COMPONENT=VERSION", "Next:")),
    "oversized kind": (
        (*PLAN, "--basis", "f" * 201), 2, ("basis is longer than 200 characters", "Next:")),
    "oversized version": (
        (*PLAN, "--fc-version", "v" * 201), 2, ("fc_version is longer than 200", "Next:")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PLANS)
def test_a_plan_that_cannot_be_meant_is_refused(project: Project, shell: Shell, case: str) -> None:
    """One sentence, one exit code, no run."""
    words, code, said = BAD_PLANS[case]
    before = counts(project)
    refused(shell(*words), code, *said)
    assert counts(project) == before


def test_an_ambiguous_priority_id_is_refused_with_the_ids(project: Project, shell: Shell) -> None:
    """The beginning of several sessions names two of them."""
    project.db.execute(
        "insert into public.assessment_sessions (id, status, created_at)"
        " select (left(%s, 35) || n)::uuid, 'completed', '2025-08-02'"
        " from generate_series(1, 2) as n",
        (CANARY,),
    )
    refused(shell(*PLAN, "--priority", CANARY[:8]), 2, "more than one session", "Next:")


def test_a_throttle_above_the_allowed_is_refused(project: Project, shell: Shell) -> None:
    """max_throttle_per_minute bounds it, and none as well."""
    project.db.execute("update public.backfill_settings set max_throttle_per_minute = 60")
    refused(shell(*PLAN, "--throttle", "61"), 2, "above the 60", "--throttle 60")
    refused(shell(*PLAN, "--throttle", "none"), 2, "none is not allowed")


def test_nothing_to_do_is_no_error_and_no_run(project: Project, shell: Shell) -> None:
    """Exit 0, state empty, and no row."""
    ran = shell("plan", "--since", "2026-01-01", "--json")
    assert ran.code == 0
    assert ran.json["state"] == "empty"
    assert project.value("select count(*) from public.backfill_runs") == 0


def test_a_priority_id_that_needs_nothing_is_listed_as_excluded(
    project: Project, shell: Shell
) -> None:
    """It is known, so it is no error; it lacks nothing, so it is not planned."""
    complete = project.value(
        "select s.id::text from public.assessment_sessions as s"
        " join public.fc_scores as f on f.session_id = s.id limit 1"
    )
    shown = shell(*PLAN, "--priority", complete, "--json").json
    assert complete in [e["session_id"] for e in shown["excluded"]]
    assert shown["candidates"]["total"] == 39


@pytest.mark.parametrize(
    "verb", ["show", "status", "apply", "verify", "rollback", "resume", "logs", "retry"]
)
def test_an_unknown_run_is_refused(shell: Shell, verb: str) -> None:
    """Whatever the verb: there is no such run, and how to list them."""
    refused(shell(verb, "12345678"), 2, "there is no run 12345678", "Next: backfill runs")


def test_a_prefix_of_two_runs_is_refused(project: Project, shell: Shell) -> None:
    """Ids that begin alike need more letters."""
    for end in ("1", "2"):
        project.db.execute(
            "select public.backfill_open(%s, null, %s::uuid)",
            ('{"since": "2025-08-01"}', f"aaaaaaaa-0000-4000-8000-00000000000{end}"),
        )
    refused(shell("status", "aaaaaaaa"), 2, "more than one run", "Next:")


def _unset(project: Project) -> dict[str, str]:
    return {"SUPABASE_SERVICE_ROLE_KEY": ""}


CONNECTIONS: dict[str, tuple[Callable[[Project], dict[str, str]], tuple[str, ...]]] = {
    "no key": (_unset, ("no key", "Next:")),
    "no url": (lambda p: {"SUPABASE_URL": ""}, ("SUPABASE_URL is not set", "Next:")),
    "no url at all": (lambda p: {"SUPABASE_URL": "nonsense"}, ("no project URL", "Next:")),
    "an API's url": (
        lambda p: {"SUPABASE_URL": f"{p.url}/rest/v1/"},
        ("not of the project", "Next: export SUPABASE_URL=http://127.0.0.1:")),
    "unreachable": (
        lambda p: {"SUPABASE_URL": "http://127.0.0.1:9"}, ("cannot reach", "Next:")),
    "publishable key": (
        lambda p: {"SUPABASE_SECRET_KEY": p.keys.publishable}, ("publishable key", "Next:")),
    "anon key": (
        lambda p: {"SUPABASE_SERVICE_ROLE_KEY": p.keys.anon}, ("role anon", "Next:")),
    "no such thing as a key": (
        lambda p: {"SUPABASE_SERVICE_ROLE_KEY": "hunter2"}, ("no Supabase key", "Next:")),
    "another project's key": (
        lambda p: {"SUPABASE_SECRET_KEY": "sb_secret_of_somebody_else"},
        ("does not accept this key", "Next:")),
}  # fmt: skip


@pytest.mark.parametrize("case", CONNECTIONS)
@pytest.mark.parametrize("words", [PLAN, ("runs",), ("check",)])
def test_a_project_that_lets_nobody_in_ends_with_5(
    project: Project, shell: Shell, case: str, words: tuple[str, ...]
) -> None:
    """It cannot be reached or does not take the key; the key is in no output."""
    environment, said = CONNECTIONS[case]
    changed = environment(project)
    ran = shell(*words, **changed)
    refused(ran, 5, *said)
    for name, value in {**shell.environment, **changed}.items():
        if "KEY" in name and value:
            assert value not in ran.err


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("https://abc.supabase.co/rest/v1", "https://abc.supabase.co"),
        ("https://abc.supabase.co/auth/v1/", "https://abc.supabase.co"),
        ("https://abc.supabase.co/storage/v1/object", "https://abc.supabase.co"),
        ("https://abc.supabase.co?x=1", "https://abc.supabase.co"),
        ("https://example.org:8443/db/functions/v1", "https://example.org:8443/db"),
        ("http://[::1]:8000/rest/v1", "http://[::1]:8000"),
        ("https://supabase.com/dashboard/project/abc", "https://abc.supabase.co"),
        ("https://supabase.com/dashboard/project/abc/settings", "https://abc.supabase.co"),
        ("https://me:secret@abc.supabase.co/rest/v1", "https://abc.supabase.co"),
        ("https://abc.supabase.co:port", "https://<project>.supabase.co"),
        ("https://[abc", "https://<project>.supabase.co"),
    ],
)
def test_an_address_that_is_not_the_projects_comes_with_the_right_one(url: str, right: str) -> None:
    """Copied from the wrong place, it is refused before anything is sent; no password is shown."""
    with pytest.raises(backfill.CannotConnect) as refused:
        backfill.connect(url, "sb_secret_x")
    assert refused.value.next_step == f"export SUPABASE_URL={right}"
    assert "secret@" not in str(refused.value)


def test_a_project_below_a_path_is_one() -> None:
    """Whoever hosts it himself may put it anywhere."""
    backfill.connect("https://example.org/supabase/", "sb_secret_x").close()


def test_the_secret_key_of_the_new_kind_is_accepted(project: Project, shell: Shell) -> None:
    """sb_secret_… wins over the legacy key."""
    ran = shell("runs", SUPABASE_SECRET_KEY=project.keys.secret, SUPABASE_SERVICE_ROLE_KEY="x")
    assert ran.code == 0, ran.err


@contextmanager
def _without_migrations(project: Project) -> Iterator[None]:
    from backfill.targets import migrations

    project.db.execute(b"begin;" + migrations.uninstall_file().read_bytes() + b"commit;")
    project.reload()
    yield


def test_a_project_without_migrations_says_how_to_install(project: Project, shell: Shell) -> None:
    """plan refuses with the next command; check has a line that fails."""
    with _without_migrations(project):
        refused(shell(*PLAN), 5, "migrations are not installed", "Next: backfill install")
        checked = shell("check")
        assert checked.code == 5
        assert "backfill install" in checked.out


def test_apply_before_approval_ends_with_3_and_writes_nothing(
    project: Project, shell: Shell
) -> None:
    """The refusal ends with the command that approves; the tables are counted."""
    made = shell(*PLAN, "--json").json
    before = counts(project)
    refused(
        shell("apply", made["run_id"]), 3, "is awaiting approval",
        f"Next: backfill approve {made['run_id']} --digest {made['digest']}",
    )  # fmt: skip
    assert counts(project) == before


def test_a_wrong_digest_is_refused(shell: Shell) -> None:
    """An approval names exactly one plan."""
    made = shell(*PLAN, "--json").json
    refused(shell("approve", made["run_id"], "--digest", "0" * 64), 3, "is not that of run")


def test_a_digest_that_is_nearly_right_is_shown_in_full(shell: Shell) -> None:
    """The first characters would not tell them apart."""
    made = shell(*PLAN, "--json").json
    digest = made["digest"]
    for like in (digest[:-1], digest + "0", digest[:40]):
        words = ("approve", made["run_id"], "--digest", like)
        refused(shell(*words), 3, f"digest {like} is not", f"which is {digest}", "Next:")


def test_the_same_version_said_twice_is_no_conflict(shell: Shell) -> None:
    """Both name the same."""
    words = ("--want", "fc_scores=v1.3", "--fc-version", "v1.3", "--json")
    assert shell(*PLAN, *words).json["request"]["fc_version"] == "v1.3"


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_move_that_is_not_legal_ends_with_the_next_command(
    project: Project, shell: Shell, verb: str
) -> None:
    """Which moves are legal, and what the state that it is in waits for."""
    run = shell(*PLAN, "--json").json["run_id"]
    project.db.execute("select public.backfill_reject(%s, 'no')", (run,))
    next_step = f"Next: backfill plan --like {run}"
    refused(shell(verb, run, "--reason", "why"), 3, "cannot go from rejected", next_step)


def test_pause_and_cancel_need_a_reason(shell: Shell) -> None:
    """Without one nobody would know why."""
    made = shell(*PLAN, "--json").json
    refused(shell("cancel", made["run_id"], "--reason", " "), 2, "needs a reason", "Next:")
    assert shell("cancel", made["run_id"]).code == 2


def test_the_command_line_goes_the_whole_way(project: Project, shell: Shell) -> None:
    """plan, approve, apply, status, verify, rollback, each as JSON, with their exit codes."""
    words = ("--throttle", "60000", "--batch-size", "10", "--priority", SEED["priority"][0])
    made = shell(*PLAN, *words, "--json").json
    run = made["run_id"][:8]
    assert shell("approve", run, "--digest", made["digest"], "--json").json["state"] == "approved"
    applied = shell("apply", run, "--json")
    assert (applied.code, applied.json["counts"]["done"]) == (0, 39)
    status = shell("status", run, "--json").json
    assert status["audit"]["head"] == applied.json["audit"]["head"]
    verified = shell("verify", run, "--json")
    assert (verified.code, verified.json["verdict"]) == (0, "pass")
    preview = shell("rollback", run, "--until", "2025-08-10", "--json").json
    undone = shell("rollback", run, "--confirm", preview["digest"], "--reason", "t", "--json")
    assert (undone.code, undone.json["deletes"]) == (0, preview["deletes"])
    missing = shell("missing", "--since", "2025-08-01", "--min-coverage", "0.95", "--json")
    assert (missing.code, missing.json["missing_fc_scores"]) == (4, 11)


@pytest.mark.parametrize("day", ["20250831", "2025-W35", "2025-08", "yesterday"])
def test_other_forms_of_dates_are_refused_rather_than_read_as_moments(
    shell: Shell, day: str
) -> None:
    """Read as a moment, the last day would be lost in silence."""
    refused(shell(*PLAN, "--until", day), 2, "until is no date", "Next:")


@pytest.mark.parametrize("option", ["--engine-version", "--fc-version", "--basis"])
def test_an_empty_value_is_refused(project: Project, shell: Shell, option: str) -> None:
    """An unset shell variable must not plan for the version of no name."""
    refused(shell(*PLAN, option, ""), 2, "is empty", "Next:")
    refused(shell("plan", "--since", "2025-08-01", "--environment", ""), 2, "is empty")
    assert project.value("select count(*) from public.backfill_runs") == 0


def test_an_apply_that_ends_before_the_run_does_not_end_with_0(
    project: Project, shell: Shell
) -> None:
    """`apply && verify` must not take a run for finished."""
    made = shell(*PLAN, "--throttle", "5", "--json").json
    project.db.execute("select public.backfill_approve(%s, %s)", (made["run_id"], made["digest"]))
    ran = shell("apply", made["run_id"], "--no-wait")
    assert ran.code == 1
    assert f"\n    backfill apply {made['run_id']}\n" in ran.out


def test_a_state_that_no_run_is_ever_in_is_refused(shell: Shell) -> None:
    """An empty list would hide the typing error."""
    refused(shell("runs", "--state", "foo"), 2, "no run is ever foo", "awaiting_approval")


def test_a_bad_access_token_is_not_taken_for_a_bad_key(shell: Shell) -> None:
    """The sentence names what is wrong."""
    made = shell(*PLAN, "--json").json
    words = ("approve", made["run_id"], "--digest", made["digest"])
    refused(shell(*words, BACKFILL_ACCESS_TOKEN="a.b.c"), 5, "access token", "sign in again")
