"""The embedded stack: PostgreSQL, PostgREST and a gateway, as one thing to start and to stop.

A supervisor process owns the three. It writes `stack.json` into the stack's folder when all is up
and holds `stack.lock` as long as it lives. Its log is `stack.log` in the same folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backfill.local.functions import log_lines
from backfill.local.functions_folder import functions_in
from backfill.local.keys import mint_user_token
from backfill.local.parts import (
    POSTGRES_BIN_VARIABLE,
    POSTGREST_VARIABLE,
    Announce,
    Parts,
    find_deno,
    find_parts,
    open_temp_root,
    silent,
)
from backfill.local.processes import ProcessName, StackError, is_alive, process_of, wait_until_gone
from backfill.local.refusals import (
    DEFAULT_DIR,
    check_privileges,
    checked_sample,
    command,
    refuse_other_data,
    refuse_other_functions,
)
from backfill.local.sample import SEED
from backfill.local.supervisor import (
    FUNCTIONS_LOG,
    LOCK_FILE,
    LOG_TAIL_CHARS,
    NEW_PRIVILEGES,
    STATE_FILE,
    Kept,
    hide_from_git,
    open_lock,
    open_private,
    read_state,
    remove_data,
    show_to_git,
    takes,
    write_state,
)

__all__ = [
    "DEFAULT_DIR",
    "Stack",
    "StackError",
    "discard",
    "env",
    "function_lines",
    "mint_user_token",
    "running",
    "start",
    "stop",
]

LOG_FILE = "stack.log"
BUSY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 45.0
POLL_S = 0.02


@dataclass(frozen=True)
class Stack:
    """A running stack: its folder, its URLs and its secrets.

    functions: the Edge Functions that it serves. failed: those that did not start, and why.
    """

    dir: Path
    url: str
    rest_url: str
    functions: Sequence[str]
    failed: Mapping[str, str]
    anon_key: str = field(repr=False)
    service_role_key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    database_url: str = field(repr=False)
    superuser_url: str = field(repr=False)


def start(
    dir: Path,  # noqa: A002 - the word that the command line uses
    *,
    sample: str | int | None = None,
    functions: Path | None = None,
    privileges: str | None = None,
    announce: Announce = silent,
    tie_to_parent: bool = False,
) -> Stack:
    """Start a stack in a folder and return when it is ready, or return the one that runs there.

    sample: "seed", a number of candidates, or "none". None takes what the folder has, at first
    "seed". functions: a folder of Edge Functions to serve. privileges: "2025" opens new tables to
    the API roles, as projects from before 2026-10-30 do. tie_to_parent: end the stack when this
    process ends in any way.
    Raises BadRequest if the sample is none or the folder has another, PartMissing, StackError.
    """
    home = dir.resolve()
    wanted = None if sample is None else checked_sample(sample)
    check_privileges(privileges)
    if functions is not None:
        functions_in(functions)
    home.mkdir(parents=True, exist_ok=True)
    hide_from_git(home)
    lock = _lock_unless_running(home)
    if lock is None:
        refuse_other_data(home, wanted, privileges)
        refuse_other_functions(home, functions)
        announce(f"A stack is already running in {dir}.")
        return _running_stack(home)
    try:
        _reap(home)
        _end_leftovers(home)
        refuse_other_data(home, wanted, privileges)
        parts = find_parts(announce)
        if functions is not None:
            find_deno(announce)
        announce(f"Starting PostgreSQL, PostgREST and the gateway in {dir}.")
        made = (wanted or SEED, privileges or NEW_PRIVILEGES)
        _launch(home, made, functions, parts, lock, tie_to_parent)
        return _running_stack(home)
    finally:
        os.close(lock)


def stop(dir: Path) -> bool:  # noqa: A002 - as in start
    """Stop the stack of a folder and wait until its processes are gone. The data stay.

    Returns whether one was running. One that is just starting is stopped when it is up.
    Raises StackError if a process does not end.
    """
    home = dir.resolve()
    if not os.path.lexists(home / LOCK_FILE):
        return False
    lock = open_lock(home)
    try:
        was_running = _end_supervisor(home, lock)
        _end_leftovers(home)
    finally:
        os.close(lock)
    _reap(home)
    return was_running


def discard(dir: Path) -> None:  # noqa: A002 - as in start
    """Stop the stack of a folder and remove all it has made, outside the folder too."""
    home = dir.resolve()
    stop(home)
    kept = read_state(home).get("kept")
    if kept is not None:
        remove_data(home, Path(kept["data_dir"]))
    for name in (STATE_FILE, LOCK_FILE, LOG_FILE, FUNCTIONS_LOG):
        (home / name).unlink(missing_ok=True)
    show_to_git(home)


def env(dir: Path) -> dict[str, str]:  # noqa: A002 - as in start
    """The variables that point a client at the running stack. Raises StackError without one."""
    stack = _running_stack(dir.resolve())
    return {
        "SUPABASE_URL": stack.url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_role_key,
        "SUPABASE_ANON_KEY": stack.anon_key,
        "SUPABASE_JWT_SECRET": stack.jwt_secret,
        "DATABASE_URL": stack.database_url,
    }


def function_lines(
    dir: Path,  # noqa: A002 - as in start
    name: str | None,
    lines: int,
) -> tuple[Path, list[str]]:
    """The log of a stack's Edge Functions since its last start, and its last lines.

    name: of one function alone. Raises StackError if the stack served none.
    """
    file = dir.resolve() / FUNCTIONS_LOG
    if not file.exists():
        again = command("start", dir.resolve()) + " --functions supabase/functions"
        raise StackError(f"The stack in {dir} has served no Edge Functions.", again)
    return file, log_lines(file, name, lines)


@contextlib.contextmanager
def running(
    dir: Path | None = None,  # noqa: A002 - as in start
    *,
    sample: str | int | None = None,
    functions: Path | None = None,
    announce: Announce = silent,
    keep: bool = False,
) -> Iterator[Stack]:
    """A stack for as long as the block runs, tied to this process.

    dir: None takes a temporary folder. keep: leave the data for the next start.
    """
    home = dir or Path(tempfile.mkdtemp(prefix="backfill-stack-", dir=open_temp_root()))
    if dir is None:
        # The server account has to reach the data below. The files with secrets are only ours.
        home.chmod(0o711)
    try:
        yield start(home, sample=sample, functions=functions, announce=announce, tie_to_parent=True)
    finally:
        stop(home) if keep else discard(home)
        if dir is None:
            shutil.rmtree(home, ignore_errors=True)


def _launch(
    home: Path,
    made: tuple[str, str],
    functions: Path | None,
    parts: Parts,
    lock: int,
    tie_to_parent: bool,
) -> None:
    """Start the supervisor, which inherits the lock, and wait for its report.

    made: sample and default privileges. Raises StackError.
    """
    read_end, write_end = os.pipe()
    handles = (str(lock), str(write_end), "tied" if tie_to_parent else "free")
    served = "" if functions is None else str(functions.resolve())
    with open(read_end) as word, open_private(home / LOG_FILE, "wb") as log:
        supervisor = subprocess.Popen(
            # -P: nothing in the current folder may replace a module.
            [
                sys.executable,
                "-P",
                "-m",
                "backfill.local.supervisor",
                str(home),
                *made,
                served,
                *handles,
            ],
            env=_supervisor_environment(parts),
            cwd="/",
            stdin=subprocess.PIPE if tie_to_parent else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock, write_end),
        )
        os.close(write_end)
        # Kept, since without the object its end of the pipe is closed, and the stack ends.
        _supervisors[home] = supervisor
        try:
            report = word.read()
        except BaseException:
            supervisor.terminate()
            _reap(home)
            raise
    if "running" not in read_state(home):
        _reap(home)
        raise _not_started(report, home / LOG_FILE)


def _not_started(report: str, log: Path) -> StackError:
    """The supervisor's report as an error, or the end of its log if it was killed before one."""
    if not report:
        log_tail = log.read_text(errors="replace")[-LOG_TAIL_CHARS:]
        return StackError(f"The stack did not start: it was killed.\n{log_tail}".rstrip())
    told = json.loads(report)
    return StackError(f"The stack did not start: {told['message']}", told["next_step"])


def _supervisor_environment(parts: Parts) -> dict[str, str]:
    found = {
        POSTGRES_BIN_VARIABLE: str(parts.postgres_bin),
        POSTGREST_VARIABLE: str(parts.postgrest),
    }
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):
        path = [os.environ.get("PYTHONPATH"), str(root)]
        found["PYTHONPATH"] = os.pathsep.join(entry for entry in path if entry)
    return os.environ | found


_supervisors: dict[Path, subprocess.Popen[bytes]] = {}


def _reap(home: Path) -> None:
    """Forget our own child, so that it does not stay behind as a zombie."""
    supervisor = _supervisors.pop(home, None)
    if supervisor is not None:
        supervisor.wait(STOP_TIMEOUT_S)
        if supervisor.stdin is not None:
            supervisor.stdin.close()


def _lock_unless_running(home: Path) -> int | None:
    """Take the folder's lock. None if a stack is running there. Waits while one starts or stops.

    Raises StackError if that takes too long.
    """
    lock = open_lock(home)
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while not takes(lock):
        is_up, is_late = _living_supervisor(home) is not None, time.monotonic() > deadline
        if is_up or is_late:
            os.close(lock)
        if is_up:
            return None
        if is_late:
            wait = f"wait until it is done. Its log is {home / LOG_FILE}"
            raise StackError(f"Another start in {home} is still going on.", wait)
        time.sleep(POLL_S)
    return lock


def _end_supervisor(home: Path, lock: int) -> bool:
    """End the supervisor and take the lock that it leaves. Returns whether there was one."""
    asked: ProcessName | None = None
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not takes(lock):
        supervisor = _living_supervisor(home)
        if supervisor is not None and supervisor != asked:
            asked = supervisor
            os.kill(supervisor[0], signal.SIGTERM)
        if time.monotonic() > deadline:
            if asked is None:
                again = command("stop", home)
                raise StackError(f"A start in {home} is going on.", f"when it is done: {again}")
            wait_until_gone([asked], patience_s=0)
        time.sleep(POLL_S)
    return asked is not None


def _living_supervisor(home: Path) -> ProcessName | None:
    running = read_state(home).get("running")
    supervisor = process_of(running["supervisor"]) if running else None
    return supervisor if supervisor and is_alive(supervisor) else None


def _running_stack(home: Path) -> Stack:
    if _living_supervisor(home) is None:
        raise StackError(f"No stack is running in {home}.", command("start", home))
    state = read_state(home)
    running = state["running"]
    kept = Kept.of(state["kept"])
    return Stack(
        dir=home,
        url=running["url"],
        rest_url=running["rest_url"],
        functions=running["served"],
        failed=running["failed"],
        anon_key=kept.keys.anon,
        service_role_key=kept.keys.service_role,
        publishable_key=kept.keys.publishable,
        secret_key=kept.keys.secret,
        jwt_secret=kept.jwt_secret,
        database_url=running["database_url"],
        superuser_url=running["superuser_url"],
    )


def _end_leftovers(home: Path) -> None:
    """Clean up after a killed supervisor. Its servers end by themselves, its entry does not."""
    state = read_state(home)
    if "running" in state:
        servers = [process_of(stored) for stored in state["running"]["servers"]]
        wait_until_gone(servers, patience_s=STOP_TIMEOUT_S)
        write_state(home, Kept.of(state["kept"]))
