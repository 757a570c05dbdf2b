"""The embedded stack behaves like a hosted project, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest
from multidict import CIMultiDict

from backfill.cli.exit_codes import ExitCode, of_error
from backfill.errors import BackfillError, BadRequest
from backfill.local import parts, stack, supervisor
from backfill.local.gateway import (
    NO_KEY,
    UPSTREAM_DOWN,
    WRONG_KEY,
    Refusal,
    Route,
    ToAuth,
    gateway_in_thread,
    route,
)
from backfill.local.keys import ApiKeys
from backfill.local.servers import PostgresServer, ServerError, free_port
from tests.kit.commands import Shell

PATIENCE_S = 20.0
PROBES = b"""
create table public.probe_table (id int);
create view public.probe_login as
  select rolname::text, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication
  from pg_catalog.pg_roles where rolname = current_user;
create function public.probe_is_open() returns boolean language sql stable
  as $$ select has_table_privilege('anon', 'public.probe_table', 'select') $$;
create function public.probe_role() returns text language sql stable
  as $$ select current_user::text $$;
create function public.probe_user() returns uuid language sql stable
  as $$ select auth.uid() $$;
create function public.probe_timeout() returns text language sql stable
  as $$ select current_setting('statement_timeout') $$;
create function public.probe_many_rows() returns setof int language sql stable
  as $$ select generate_series(1, 1500) $$;
notify pgrst, 'reload schema';
"""
KEYS = ApiKeys(anon="a.n.on", service_role="s.r.v", publishable="sb_publishable_1", secret="sb_1")
# Starts a stack that is tied to it, says which processes there are, and waits to be killed.
TIED_PARENT = """
import sys, pathlib
from backfill.local import stack
stack.start(pathlib.Path(sys.argv[1]), sample="none", tie_to_parent=True)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Stack]:
    with stack.running(tmp_path_factory.mktemp("stack"), sample="none") as running:
        _install_probes(running)
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    stack.discard(tmp_path)


def _install_probes(running: stack.Stack) -> None:
    with psycopg.connect(running.database_url, autocommit=True) as connection:
        connection.execute(PROBES)
    _until(lambda: _ask(running, "/rpc/probe_user", running.secret_key)[0] == 200)


def _ask(
    running: stack.Stack, path: str, key: str | None, token: str | None = None
) -> tuple[int, Any]:
    headers = {"apikey": key} if key else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urlopen(Request(f"{running.url}/rest/v1{path}", headers=headers)) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _supervisor(home: Path) -> int:
    return int(json.loads((home / supervisor.STATE_FILE).read_text())["running"]["supervisor"][0])


def _family(pid: int) -> set[int]:
    """The process and everything below it."""
    family = {pid}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            family |= _family(int(child))
    return family


def _family_of(home: Path) -> set[int]:
    family = _family(_supervisor(home))
    assert len(family) > 5, "PostgreSQL has children of its own"
    return family


def _until_gone(family: set[int]) -> None:
    _until(lambda: not any(_alive(pid) for pid in family))


@pytest.mark.parametrize("key", ["secret_key", "service_role_key", "anon_key", "publishable_key"])
def test_each_key_of_the_project_opens_the_api(local: stack.Stack, key: str) -> None:
    status, description = _ask(local, "/", getattr(local, key))
    assert status == 200
    assert description["swagger"] == "2.0"


def test_a_request_without_a_key_is_told_so(local: stack.Stack) -> None:
    assert _ask(local, "/", None) == (401, NO_KEY)


def test_a_foreign_key_is_refused(local: stack.Stack) -> None:
    assert _ask(local, "/", "sb_secret_of_another_project") == (401, WRONG_KEY)


def test_the_secret_key_acts_as_service_role(local: stack.Stack) -> None:
    assert _ask(local, "/rpc/probe_role", local.secret_key) == (200, "service_role")
    assert _ask(local, "/rpc/probe_role", local.secret_key, local.secret_key)[1] == "service_role"
    assert _ask(local, "/rpc/probe_role", local.publishable_key) == (200, "anon")


def test_a_users_token_wins_over_the_key(local: stack.Stack) -> None:
    user_id = "6f1d2f8e-0000-4000-8000-000000000001"
    token = stack.mint_user_token(
        local.jwt_secret, user_id, "a@example.org", {"backfill_role": "viewer"}
    )
    assert _ask(local, "/rpc/probe_role", local.publishable_key, token) == (200, "authenticated")
    assert _ask(local, "/rpc/probe_user", local.secret_key, token) == (200, user_id)


def test_no_answer_is_longer_than_the_hosted_limit(local: stack.Stack) -> None:
    status, rows = _ask(local, "/rpc/probe_many_rows", local.secret_key)
    assert (status, len(rows)) == (200, 1000)


@pytest.mark.parametrize(("key", "timeout"), [("anon_key", "3s"), ("service_role_key", "8s")])
def test_the_role_timeouts_of_hosted_hold(local: stack.Stack, key: str, timeout: str) -> None:
    value = getattr(local, key)
    assert _ask(local, "/rpc/probe_timeout", value, value) == (200, timeout)


def test_a_new_table_is_closed_to_the_api(local: stack.Stack) -> None:
    status, error = _ask(local, "/probe_table", local.service_role_key, local.service_role_key)
    assert (status, error["code"]) == (403, "42501")


def test_postgres_is_strong_and_no_superuser(local: stack.Stack) -> None:
    with psycopg.connect(local.database_url) as connection:
        found = connection.execute("select * from public.probe_login").fetchone()
    assert found == ("postgres", False, True, True, True, False)


def test_the_repr_shows_no_secret(local: stack.Stack) -> None:
    shown = repr(local)
    for secret in (local.secret_key, local.jwt_secret, local.database_url, local.anon_key):
        assert secret not in shown


def test_the_environment_is_what_a_client_needs(local: stack.Stack) -> None:
    assert stack.env(local.dir) == {
        "SUPABASE_URL": local.url,
        "SUPABASE_SERVICE_ROLE_KEY": local.service_role_key,
        "SUPABASE_ANON_KEY": local.anon_key,
        "SUPABASE_JWT_SECRET": local.jwt_secret,
        "DATABASE_URL": local.database_url,
    }


def test_the_secrets_on_disk_are_ours_alone(local: stack.Stack) -> None:
    for name in (supervisor.STATE_FILE, stack.LOG_FILE, supervisor.LOCK_FILE):
        assert (local.dir / name).stat().st_mode & 0o077 == 0, name


def test_a_second_start_finds_the_running_stack(local: stack.Stack) -> None:
    said: list[str] = []
    assert stack.start(local.dir, announce=said.append) == local
    assert "already running" in said[0]


def test_a_second_stack_stands_beside_the_first_and_is_discarded(
    local: stack.Stack, home: Path
) -> None:
    """In a folder with other things, which stay: Git sees them, and they are all that is left."""
    (home / "mine").touch()
    other = stack.start(home, sample="none", tie_to_parent=True)
    assert _ask(other, "/", other.secret_key)[0] == 200
    assert _ask(other, "/", local.secret_key) == (401, WRONG_KEY)
    assert _ask(local, "/", local.secret_key)[0] == 200
    assert not (home / ".gitignore").exists()
    stack.discard(home)
    assert list(home.iterdir()) == [home / "mine"]


def test_a_stop_leaves_no_process_and_a_restart_keeps_data_and_keys(home: Path) -> None:
    """Another sample than the stopped stack's is refused, and none need be named."""
    first = stack.start(home, sample="7")
    _install_probes(first)
    family = _family_of(home)
    assert stack.stop(home)
    assert not any(_alive(pid) for pid in family)
    assert not stack.stop(home)
    with pytest.raises(BadRequest, match="has the sample 7, not the sample seed"):
        stack.start(home, sample="seed", tie_to_parent=True)
    with pytest.raises(stack.StackError, match="No stack is running") as refused:
        stack.env(home)
    assert refused.value.next_step == f"backfill local start --dir {home}"

    second = stack.start(home, tie_to_parent=True)
    assert second.secret_key == first.secret_key
    assert _ask(second, "/rpc/probe_role", first.secret_key) == (200, "service_role")


def test_a_killed_parent_leaves_no_process(home: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", TIED_PARENT, str(home)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        family = _family_of(home)
        parent.kill()
    _until_gone(family)


def test_a_killed_supervisor_leaves_no_process_and_the_next_start_works(home: Path) -> None:
    stack.start(home, sample="none", tie_to_parent=True)
    family = _family_of(home)
    os.kill(_supervisor(home), signal.SIGKILL)
    _until_gone(family)
    again = stack.start(home, sample="none", tie_to_parent=True)
    assert _ask(again, "/", again.secret_key)[0] == 200
    stack.discard(home)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("sample", ["a wrong sample", "0", "-3", "1.5", "", "9" * 30])
def test_a_sample_that_is_none_is_refused_before_a_folder_is_made(
    tmp_path: Path, sample: str
) -> None:
    home = tmp_path / "stack"
    with pytest.raises(BadRequest, match="A sample is") as refused:
        stack.start(home, sample=sample, tie_to_parent=True)
    assert refused.value.next_step == "backfill local start --sample seed"
    assert not home.exists()


@pytest.mark.parametrize("name", ["stack.lock", "stack.json"])
@pytest.mark.parametrize("verb", ["start", "stop"])
def test_a_link_in_place_of_a_file_is_named_and_not_followed(
    shell: Shell, tmp_path: Path, name: str, verb: str
) -> None:
    home, elsewhere = tmp_path / "stack", tmp_path / "elsewhere"
    home.mkdir()
    (home / "stack.lock").touch()
    (home / name).unlink(missing_ok=True)
    (home / name).symlink_to(elsewhere)
    ran = shell("local", verb, "--dir", str(home))
    assert ran.code == ExitCode.FAILED
    assert f"{home / name}: it is a symbolic link" in ran.err
    assert f"rm {home / name}" in ran.err
    assert not elsewhere.exists()


def test_another_sample_than_the_running_stacks_is_refused(local: stack.Stack) -> None:
    with pytest.raises(BadRequest, match="has no sample, not the sample 50") as refused:
        stack.start(local.dir, sample=50)
    assert refused.value.next_step == (
        f"backfill local stop --dir {local.dir} and remove the folder, or another --dir"
    )
    assert stack.start(local.dir, sample="none") == stack.start(local.dir) == local


def test_other_functions_than_the_running_stacks_are_refused(
    local: stack.Stack, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="is running and serves no Edge Functions") as refused:
        stack.start(local.dir, functions=tmp_path)
    assert refused.value.next_step.startswith(f"backfill local stop --dir {local.dir}")


def test_functions_and_old_privileges_on_the_command_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """start names what is served and what is not, logs shows why, and a table is open to anon."""
    functions = home / "functions"
    for name, text in {
        "greets": "console.log('up'); Deno.serve(() => new Response('hello'));",
        "breaks": "throw new Error('no key');",
    }.items():
        (functions / name).mkdir(parents=True)
        (functions / name / "index.ts").write_text(text)
    shell, where = Shell(monkeypatch, capsys, {}), ("--dir", str(home / "stack"))
    told = ("local", "logs", *where)
    assert "has served no Edge Functions" in shell(*told).err
    first = ("local", "start", *where, "--sample", "none", "--functions", str(functions))
    bad = shell(*first, "--privileges", "old")
    assert (bad.code, "those of 2025 or of 2026, not 'old'" in bad.err) == (2, True)
    try:
        ran = shell(*first, "--privileges", "2025")
        assert "Edge Functions: greets" in ran.out
        assert "breaks did not start: Error: no key" in ran.out
        assert f"Next: backfill local logs --dir {home / 'stack'}" in ran.out
        again = shell("local", "start", *where, "--json")
        assert again.json["functions"] == {
            "served": ["greets"],
            "failed": {"breaks": "Error: no key"},
        }
        assert "has the default privileges of 2025" in shell(*first, "--privileges", "2026").err
        _install_probes(running := stack.start(home / "stack"))
        assert _ask(running, "/rpc/probe_is_open", running.secret_key) == (200, True)
        shown = shell(*told, "greets", "--json").json
        assert [line.split(" ", 1)[1] for line in shown["lines"]] == ["greets: up"]
        assert shown["file"] == str(home / "stack" / "functions.log")
        assert "breaks: error: Uncaught (in promise) Error: no key" in shell(*told).out
    finally:
        stack.discard(home / "stack")


def test_a_bad_sample_is_usage_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = Shell(monkeypatch, capsys, {})("local", "start", "--sample", "many")
    assert (ran.code, ran.out) == (2, "")
    assert "Next: backfill local start --sample seed" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_git_does_not_see_the_secrets(local: stack.Stack) -> None:
    assert (local.dir / ".gitignore").read_text() == "*\n"


def test_a_start_in_the_usual_folder_needs_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(stack.StackError) as refused:
        stack.env(stack.DEFAULT_DIR)
    assert refused.value.next_step == "backfill local start"


def test_a_surprise_in_the_supervisor_comes_with_its_trace(home: Path) -> None:
    stored = {"kept": {"data_dir": str(home / "data"), "keys": {}}}
    (home / supervisor.STATE_FILE).write_text(json.dumps(stored))
    with pytest.raises(stack.StackError, match="did not start: TypeError") as failed:
        stack.start(home, sample="none", tie_to_parent=True)
    assert "Traceback" in failed.value.message


@pytest.mark.parametrize("error", [stack.StackError, ServerError, parts.PartMissing])
def test_every_failure_of_the_stack_is_one_of_the_librarys(error: type[BackfillError]) -> None:
    assert issubclass(error, BackfillError)
    assert of_error(error) is ExitCode.FAILED


def test_a_missing_part_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parts.POSTGRES_BIN_VARIABLE, "/nowhere")
    with pytest.raises(parts.PartMissing) as missing:
        parts.find_postgres()
    assert missing.value.part == "PostgreSQL"
    assert missing.value.next_step == missing.value.way_out
    assert parts.INSTALL_EXTRA in str(missing.value)

    monkeypatch.setenv(parts.POSTGREST_VARIABLE, "/nowhere/postgrest")
    with pytest.raises(parts.PartMissing, match="BACKFILL_POSTGREST=") as missing:
        parts.find_postgrest()
    assert missing.value.part == "PostgREST"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as somebody else")
def test_a_closed_part_is_copied_to_where_the_server_account_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "postgrest").write_text("#!/bin/sh\n")
    (closed / "postgrest").chmod(0o700)
    monkeypatch.setenv(parts.POSTGREST_VARIABLE, str(closed / "postgrest"))
    found = parts.find_postgrest()
    try:
        assert found.read_text() == "#!/bin/sh\n"
        assert parts.is_reachable(found.parent)
        assert found.stat().st_mode & 0o777 == 0o755
        found.parent.chmod(0o777)
        with pytest.raises(parts.PartMissing, match="not ours"):
            parts.find_postgrest()
    finally:
        found.unlink()
        found.parent.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as somebody else")
def test_a_server_that_does_not_run_from_a_copy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_dir = tmp_path / "closed" / "bin"
    bin_dir.mkdir(parents=True)
    bin_dir.parent.chmod(0o700)
    beside = bin_dir.parent / "needed"
    beside.touch()
    for program in ("postgres", "initdb"):
        (bin_dir / program).write_text(
            '#!/bin/sh\n[ -e "$(dirname "$0")/../needed" ] || exit 127\n'
            f"echo {program} '(PostgreSQL) 0.0'\n"
        )
        (bin_dir / program).chmod(0o755)
    monkeypatch.setenv(parts.POSTGRES_BIN_VARIABLE, str(bin_dir))
    try:
        with pytest.raises(parts.PartMissing, match="does not run from a copy") as missing:
            parts.find_postgres()
        assert str(bin_dir) in missing.value.next_step
    finally:
        for copy in parts.open_temp_root().glob("backfill-postgres-0.0-*"):
            shutil.rmtree(copy)


def test_a_database_made_the_old_way_opens_new_tables(postgres_server: PostgresServer) -> None:
    for name, is_open in (("old_world", True), ("new_world", False)):
        postgres_server.create_database(name, old_privileges=is_open)
        with psycopg.connect(postgres_server.dsn(name), autocommit=True) as connection:
            connection.execute(PROBES)
            found = connection.execute("select public.probe_is_open()").fetchone()
        assert found == (is_open,)
    postgres_server.create_database("copy", template="old_world")
    for name in ("copy", "old_world", "new_world"):
        postgres_server.drop_database(name)


def test_a_gateway_without_its_upstream_says_so() -> None:
    with gateway_in_thread(f"http://127.0.0.1:{free_port()}", KEYS) as gateway:
        request = Request(f"{gateway.url}/rest/v1/", headers={"apikey": KEYS.secret})  # noqa: S310
        with pytest.raises(HTTPError) as refused:
            urlopen(request)  # noqa: S310
        with refused.value as answer:
            assert (answer.code, json.load(answer)) == (502, UPSTREAM_DOWN)


def _route(path: str, method: str = "GET", **headers: str) -> Route | ToAuth | Refusal:
    return route(path, CIMultiDict(headers), method=method, keys=KEYS, rest_url="http://rest")


def test_the_key_may_stand_in_the_query_and_goes_no_further() -> None:
    decided = _route("/rest/v1/t?select=%2A&apikey=sb_1&id=eq.1")
    assert isinstance(decided, Route)
    assert str(decided.target) == "http://rest/t?select=%2A&id=eq.1"
    assert decided.token == KEYS.service_role


def test_a_legacy_key_replaces_no_token() -> None:
    decided = _route("/rest/v1/t", apikey=KEYS.anon)
    assert isinstance(decided, Route)
    assert decided.token is None


def test_unknown_paths_and_functions_are_not_found() -> None:
    for path in ("/", "/auth/v2/user", "/rest/v10/t", "/functions/v1/score"):
        decided = _route(path, apikey=KEYS.secret)
        assert isinstance(decided, Refusal), path
        assert decided.status == 404
