"""Keys, tokens, fences and contents of rows stay out of everything that a run leaves behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import stat
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

import backfill
from backfill.api.gateway import Gateway
from backfill.local.keys import mint_user_token
from tests.kit.commands import Shell
from tests.kit.keyrings import BACKEND_VARIABLE, FILE_VARIABLE, IN_A_FILE
from tests.kit.signing import needs_pgcrypto

ROOT = Path(__file__).parent.parent
CONTENTS = "contents-of-a-row-that-stay"
# Files that hold secrets by design, for their owner alone.
KEPT_BY_DESIGN = {"stack.json", "keyring.json"}
YOUNG = 25  # looks at a process, after which one in so many will do
PASSWORD = "a-password-that-nobody-sees"
SPILLING = f"""
create or replace function public.prism_profile(session_id uuid)
returns table (type_code text, payload jsonb)
language plpgsql stable set search_path = '' as $$
begin
  if session_id::text < '3' then
    perform '{CONTENTS}'::integer;
  end if;
  return query select 'INTP'::text, jsonb_build_object('noted', '{CONTENTS}');
end
$$;
"""


@dataclass
class Traces:
    """Everything that was left behind, by where; and the argv of every process seen."""

    texts: dict[str, str] = field(default_factory=dict)
    argv: set[str] = field(default_factory=set)

    def said(self, where: str, text: str) -> None:
        """Keep a text beside the others from there."""
        self.texts[f"{len(self.texts)} {where}"] = text

    def holding(self, secret: str) -> list[str]:
        """Where the secret stands."""
        found = [where for where, text in self.texts.items() if secret in text]
        return found + [f"argv: {line[:40]}" for line in self.argv if secret in line]


@dataclass
class Stack:
    """The embedded stack of the test's own, and its secrets."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def secrets(self) -> dict[str, str]:
        """Each secret by its name."""
        named = {name: self.environment[name] for name in SECRET_NAMES}
        password = psycopg.conninfo.conninfo_to_dict(self.environment["DATABASE_URL"])["password"]
        return {**named, "database password": str(password)}


SECRET_NAMES = ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_ANON_KEY", "SUPABASE_JWT_SECRET")


def run(traces: Traces, where: str, *words: str, stdin: str = "", **environment: str) -> str:
    """Run the command line as a process of its own; both streams are traces, and its output."""
    ran = subprocess.run(
        [sys.executable, "-m", "backfill", *words],
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    traces.said(f"{where}: {words[0]}", ran.stdout + ran.stderr)
    return ran.stdout


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack with the sample, whose scorer spills contents into its errors."""
    folder = tmp_path / "stack"
    unheard = Traces()
    run(unheard, "stack", "local", "start", "--dir", str(folder))
    lines = run(unheard, "stack", "local", "env", "--dir", str(folder)).splitlines()
    pairs = (line.removeprefix("export ").partition("=") for line in lines if "export " in line)
    environment = {name: value.strip("'\"") for name, _, value in pairs}
    try:
        with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as db:
            db.execute(SPILLING.encode())
            db.execute(b"notify pgrst, 'reload schema'")
            db.execute(
                b"update public.backfill_settings set environment = 'staging',"
                b" approval_policy = 'second_person' where only_row"
            )
        yield Stack(folder, environment)
    finally:
        run(unheard, "stack", "local", "stop", "--dir", str(folder))


def watch_argv(traces: Traces, until: threading.Event) -> None:
    """Note the argv of every process of this machine, many times a second.

    It changes where a process starts a program, soon after it came. Titles change later too.
    """
    looks: Counter[str] = Counter()
    for turn in count():
        for number in filter(str.isdecimal, os.listdir("/proc")):
            if looks[number] >= YOUNG and turn % YOUNG:
                continue
            looks[number] += 1
            with contextlib.suppress(OSError):
                argv = Path(f"/proc/{number}/cmdline").read_bytes()
                traces.argv.add(argv.replace(b"\0", b" ").decode("utf8", "replace"))
        if until.wait(0.02):
            return


def tell(traces: Traces, where: str, value: object) -> None:
    """An object as people and programs see it."""
    shown = [repr(value), str(value)]
    if isinstance(value, BaseException):
        shown += traceback.format_exception(value)
    try:
        shown.append(pickle.dumps(value).decode("latin1"))
    except Exception as error:
        shown.append(str(error))
    traces.said(where, "\n".join(shown))


def sign_in(stack: Stack, traces: Traces, folder: Path, run_id: str) -> dict[str, str]:
    """Sign in, decide, sign out. Returns what nobody may see of it, by name."""
    ring = folder / "keyring.json"
    keyrings = {BACKEND_VARIABLE: IN_A_FILE, FILE_VARIABLE: str(ring)}
    environment = {**stack.environment, **keyrings, "PYTHONPATH": str(ROOT)}

    def cli(*words: str, stdin: str = "") -> str:
        return run(traces, "signing in", *words, stdin=f"{stdin}\n", **environment)

    bob, piped = "bob@example.org", "--password-stdin"
    here = ("--dir", str(stack.folder))
    made = cli("local", "user", "add", bob, "--role", "approver", piped, *here, stdin=PASSWORD)
    assert made.startswith(f"{bob} added: approver\n"), made
    assert parsed(cli("login", bob, piped, "--json", stdin=PASSWORD))["role"] == "approver"
    [session] = (json.loads(kept) for kept in parsed(ring.read_text()).values())
    assert parsed(cli("reject", run_id, "--reason", "no", "--json"))["state"] == "rejected"
    assert parsed(cli("logout", "--json")) == {"signed_out": bob}
    return {name: session[name] for name in ("access_token", "refresh_token")}


def live(
    stack: Stack, traces: Traces, folder: Path, token: str, plain_shell: Shell
) -> dict[str, str]:
    """A run's life on the command line. Returns the tokens of who signed in, by name.

    What is in argv shows in processes of their own, everything else in this one too.
    """
    project = {n: v for n, v in stack.environment.items() if n.startswith("SUPABASE_")}

    def cli(*words: str, **more: str) -> str:
        ran = plain_shell(*words, **{**project, **more})
        traces.said(f"command line: {words[0]}", ran.out + ran.err)
        return ran.out

    def process(*words: str, **more: str) -> str:
        return run(traces, "process", *words, **{**project, **more})

    process("check")
    cli("install", "--supabase-path", str(folder / "supabase"), "--yes")
    planning = ("plan", "--since", "2025-08-01", "--throttle", "none", "--json")
    first, other = (parsed(cli(*planning)) for _ in range(2))
    tokens = sign_in(stack, traces, folder, other["run_id"])
    cli("apply", first["run_id"])
    approving = ("approve", first["run_id"], "--digest", first["digest"])
    cli(*approving, BACKFILL_ACCESS_TOKEN=token[:-3] + "xyz")
    process(*approving, BACKFILL_ACCESS_TOKEN=token)
    process("apply", first["run_id"], "--logs-dir", str(folder / "logs"))
    cli("pause", first["run_id"], "--reason", "to look")
    for verb in ("show", "status", "verify", "logs", "retry"):
        cli(verb, first["run_id"])
    preview = cli("rollback", first["run_id"], "--json")
    undo = ("rollback", first["run_id"], "--reason", "all of it", "--confirm")
    cli(*undo, parsed(preview)["digest"])
    for broken in ("sb_publishable_x", "nonsense", project["SUPABASE_ANON_KEY"]):
        cli("runs", SUPABASE_SERVICE_ROLE_KEY=broken)
    cli("runs", SUPABASE_SERVICE_ROLE_KEY=project["SUPABASE_SERVICE_ROLE_KEY"][:-4] + "AAAA")
    cli("runs", SUPABASE_URL="http://127.0.0.1:9")
    return tokens


def parsed(text: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(text)
    return answer


def work_in_process(
    stack: Stack, traces: Traces, token: str, monkeypatch: pytest.MonkeyPatch
) -> set[str]:
    """A run through the library, with its reprs, events and errors; returns its fences."""
    fences: set[str] = set()
    score = Gateway.score

    async def noting(self: Gateway, function: str, arguments: Any, headers: Any) -> Any:
        if "x-backfill-fence" in headers:  # a look at what the API could call has none
            fences.add(headers["x-backfill-fence"])
        return await score(self, function, arguments, headers)

    monkeypatch.setattr(Gateway, "score", noting)
    url, key = stack.environment["SUPABASE_URL"], stack.environment["SUPABASE_SERVICE_ROLE_KEY"]
    with backfill.connect(url, key, on_event=lambda e: tell(traces, "event", e)) as bf:
        plan = bf.plan(since="2025-08-01", throttle_per_minute="none")
        for attempt in (token[:-3] + "xyz", None):
            with pytest.raises(backfill.BackfillError) as refused:
                bf.approve(plan.run_id, digest=plan.digest, access_token=attempt)
            tell(traces, "refused approval", refused.value)
        bf.approve(plan.run_id, digest=plan.digest, access_token=token)
        outcome = bf.apply(plan.run_id)
        preview = bf.rollback(plan.run_id)
        for thing in (bf, plan, outcome, preview, bf.verify(plan.run_id), bf.get(plan.run_id)):
            tell(traces, type(thing).__name__, thing)
        with pytest.raises(backfill.BackfillError) as unknown:
            bf.get("00000000")
        tell(traces, "unknown run", unknown.value)
    with pytest.raises(backfill.BackfillError) as wrong, backfill.connect(url, f"{key}x") as bf:
        bf.runs()
    tell(traces, "wrong key", wrong.value)
    tell(traces, "face", backfill.connect_async(url, key))
    return fences


def read_files(traces: Traces, folder: Path) -> None:
    """Every file, but those that hold secrets by design, for their owner alone."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        if path.name in KEPT_BY_DESIGN:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            continue
        if "data" in path.parts and "log" not in path.name:
            continue  # the user's own rows, and what the server writes ahead of them
        traces.texts[str(path)] = path.read_text("latin1")


def read_tables(traces: Traces, database_url: str) -> None:
    """Every row of ours, but the images of rows before, which an undo needs."""
    with psycopg.connect(database_url, row_factory=tuple_row) as db:
        names = db.execute(
            "select c.oid::regclass::text from pg_class as c"
            " join pg_namespace as n on n.oid = c.relnamespace where c.relkind = 'r' and"
            " (n.nspname = 'backfill_private' or c.relname like 'backfill\\_%')"
        ).fetchall()
        for (name,) in names:
            query = f"select string_agg((to_jsonb(t) - 'before')::text, e'\\n') from {name} as t"
            row = db.execute(query.encode()).fetchone()
            traces.texts[name] = str(row[0]) if row else ""


@pytest.mark.timeout(300)
def test_no_secret_is_left_behind(
    stack: Stack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    plain_shell: Shell,
) -> None:
    """Not in files, logs, tables, output, errors, reprs, pickles, nor in any process's argv."""
    caplog.set_level(logging.DEBUG)
    user = "6f9a1c1e-0000-4000-8000-000000000001"
    meta = {"backfill_role": "approver"}
    with psycopg.connect(stack.environment["DATABASE_URL"], autocommit=True) as db:
        needs_pgcrypto(db)
        db.execute(
            "insert into auth.users (id, email, raw_app_meta_data) values (%s, %s, %s)",
            (user, "ada@example.org", Jsonb(meta)),
        )
    token = mint_user_token(stack.environment["SUPABASE_JWT_SECRET"], user, "ada@example.org", meta)
    traces, over = Traces(), threading.Event()
    watcher = threading.Thread(target=watch_argv, args=(traces, over))
    watcher.start()
    try:
        tokens = live(stack, traces, tmp_path, token, plain_shell)
        fences = work_in_process(stack, traces, token, monkeypatch)
    finally:
        over.set()
        watcher.join()
    read_files(traces, tmp_path)
    read_tables(traces, stack.environment["DATABASE_URL"])
    traces.texts["log"] = caplog.text

    assert len(fences) >= 30
    assert any("22P02" in text for text in traces.texts.values())  # the contents were in an error
    assert len(traces.texts) > 60
    assert any("backfill apply" in line or "-m backfill apply" in line for line in traces.argv)
    secrets = {**stack.secrets, "access token": token, "contents": CONTENTS}
    secrets |= {**tokens, "password": PASSWORD}
    secrets |= {f"fence {number}": fence for number, fence in enumerate(fences)}
    leaks = {name: where for name, secret in secrets.items() if (where := traces.holding(secret))}
    assert leaks == {}
    traces.texts["planted"] = f"and the key is {stack.secrets['SUPABASE_SERVICE_ROLE_KEY']}"
    assert traces.holding(stack.secrets["SUPABASE_SERVICE_ROLE_KEY"]) == ["planted"]
