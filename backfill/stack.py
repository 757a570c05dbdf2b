"""The embedded stack: PostgreSQL, PostgREST and a gateway, as one thing to start and to stop.

A supervisor process owns the three. It writes `stack.json` into the stack's folder when all is up
and holds `stack.lock` for as long as it lives; its log is `stack.log` in the same folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from backfill.stack_gateway import ApiKeys, Gateway, mint_user_token
from backfill.stack_parts import (
    POSTGRES_BIN_VARIABLE,
    POSTGREST_VARIABLE,
    Announce,
    Parts,
    find_parts,
    is_reachable,
    open_temp_root,
    silent,
)
from backfill.stack_servers import DatabaseSecrets, PostgresServer, RestServer, free_port

__all__ = [
    "DEFAULT_DIR",
    "Stack",
    "StackError",
    "discard",
    "env",
    "mint_user_token",
    "running",
    "start",
    "stop",
]

DEFAULT_DIR = Path(".backfill-local")
NO_SAMPLE = "none"
STATE_FILE = "stack.json"
LOCK_FILE = "stack.lock"
LOG_FILE = "stack.log"
BUSY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 45.0
KILL_TIMEOUT_S = 5.0
POLL_S = 0.02
WATCH_S = 0.5
LOG_TAIL_CHARS = 3000


class StackError(RuntimeError):
    """The embedded stack did not start, or none is running where one is needed."""


@dataclass(frozen=True)
class Stack:
    """A running stack, and how to get into it."""

    dir: Path
    url: str
    rest_url: str
    anon_key: str = field(repr=False)
    service_role_key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    database_url: str = field(repr=False)
    superuser_url: str = field(repr=False)


@dataclass(frozen=True)
class Kept:
    """What a stack keeps from one start to the next.

    is_prepared: the platform and the sample stand; without it the data are made anew.
    """

    data_dir: str
    gateway_port: int
    sample: str
    is_prepared: bool
    jwt_secret: str
    keys: ApiKeys
    passwords: DatabaseSecrets

    @classmethod
    def new(cls, home: Path, sample: str) -> Kept:
        """Fresh secrets, and a place for the data that the server account gets to."""
        jwt_secret = secrets.token_urlsafe(48)
        data_dir, keys = str(_place_for_data(home)), ApiKeys.new(jwt_secret)
        return cls(data_dir, free_port(), sample, False, jwt_secret, keys, DatabaseSecrets())

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Kept:
        """The same out of `stack.json`."""
        keys, passwords = ApiKeys(**stored["keys"]), DatabaseSecrets(**stored["passwords"])
        return cls(**{**stored, "keys": keys, "passwords": passwords})


def start(
    dir: Path,  # noqa: A002 - the word that the command line uses
    *,
    sample: str | int | None = "seed",
    announce: Announce = silent,
    tie_to_parent: bool = False,
) -> Stack:
    """Start a stack in a folder and return when it is ready, or return the one that runs there.

    sample: "seed", a number of candidates, or "none"; looked at on the first start alone.
    tie_to_parent: end the stack when this process ends, however it ends.
    Raises PartMissing, StackError.
    """
    home = dir.resolve()
    home.mkdir(parents=True, exist_ok=True)
    lock = _lock_unless_running(home)
    if lock is None:
        announce(f"A stack is already running in {dir}.")
        return _running_stack(home)
    try:
        _reap(home)
        _end_leftovers(home)
        parts = find_parts(announce)
        announce(f"Starting PostgreSQL, PostgREST and the gateway in {dir}.")
        _launch(home, NO_SAMPLE if sample is None else str(sample), parts, lock, tie_to_parent)
        return _running_stack(home)
    finally:
        os.close(lock)


def stop(dir: Path) -> bool:  # noqa: A002
    """Stop the stack of a folder and wait until its processes are gone; the data stay.

    Returns whether one was running. One that is just starting is stopped when it is up.
    Raises StackError when a process does not end.
    """
    home = dir.resolve()
    if not (home / LOCK_FILE).exists():
        return False
    lock = _open_lock(home)
    try:
        was_running = _end_supervisor(home, lock)
        _end_leftovers(home)
    finally:
        os.close(lock)
    _reap(home)
    return was_running


def discard(dir: Path) -> None:  # noqa: A002
    """Stop the stack of a folder and remove all it has made, wherever that lies."""
    home = dir.resolve()
    stop(home)
    kept = _read_state(home).get("kept")
    if kept is not None:
        _remove_data(home, Path(kept["data_dir"]))
    for name in (STATE_FILE, LOCK_FILE, LOG_FILE):
        (home / name).unlink(missing_ok=True)


def env(dir: Path) -> dict[str, str]:  # noqa: A002
    """The variables that point a client at the running stack. Raises StackError without one."""
    stack = _running_stack(dir.resolve())
    return {
        "SUPABASE_URL": stack.url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_role_key,
        "SUPABASE_ANON_KEY": stack.anon_key,
        "SUPABASE_JWT_SECRET": stack.jwt_secret,
        "DATABASE_URL": stack.database_url,
    }


@contextlib.contextmanager
def running(
    dir: Path | None = None,  # noqa: A002
    *,
    sample: str | int | None = "seed",
    announce: Announce = silent,
    keep: bool = False,
) -> Iterator[Stack]:
    """A stack for as long as the block runs, tied to this process.

    dir: None takes a temporary folder. keep: leave the data for the next start.
    """
    home = dir or Path(tempfile.mkdtemp(prefix="backfill-stack-", dir=open_temp_root()))
    if dir is None:
        # The server account has to get to the data below; the files with secrets are ours alone.
        home.chmod(0o711)
    try:
        yield start(home, sample=sample, announce=announce, tie_to_parent=True)
    finally:
        stop(home) if keep else discard(home)
        if dir is None:
            shutil.rmtree(home, ignore_errors=True)


def _launch(home: Path, sample: str, parts: Parts, lock: int, tie_to_parent: bool) -> None:
    """Start the supervisor, which inherits the lock, and wait for its word. Raises StackError."""
    read_end, write_end = os.pipe()
    handles = (str(lock), str(write_end), "tied" if tie_to_parent else "free")
    with open(read_end) as word, _open_private(home / LOG_FILE, "wb") as log:
        supervisor = subprocess.Popen(
            # -P: nothing in the current folder may stand for a module.
            [sys.executable, "-P", "-m", "backfill.stack", str(home), sample, *handles],
            env=_supervisor_environment(parts),
            cwd="/",
            stdin=subprocess.PIPE if tie_to_parent else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock, write_end),
        )
        os.close(write_end)
        # Kept: with the object its end of the pipe would be closed, and the stack would end.
        _supervisors[home] = supervisor
        try:
            failure = word.read()
        except BaseException:
            supervisor.terminate()
            _reap(home)
            raise
    if "running" not in _read_state(home):
        _reap(home)
        log_tail = (home / LOG_FILE).read_text(errors="replace")[-LOG_TAIL_CHARS:]
        raise StackError(f"The stack did not start: {failure or 'killed'}\n{log_tail}".rstrip())


def _supervisor_environment(parts: Parts) -> dict[str, str]:
    found = {
        POSTGRES_BIN_VARIABLE: str(parts.postgres_bin),
        POSTGREST_VARIABLE: str(parts.postgrest),
    }
    root = Path(__file__).resolve().parent.parent
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
    """Take the folder's lock; None when a stack is running there. Waits while one starts or stops.

    Raises StackError when that takes too long.
    """
    lock = _open_lock(home)
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while not _takes(lock):
        is_up = _living_supervisor(home) is not None
        if is_up or time.monotonic() > deadline:
            os.close(lock)
        if is_up:
            return None
        if time.monotonic() > deadline:
            raise StackError(f"Another start in {home} is still going on; see {home / LOG_FILE}.")
        time.sleep(POLL_S)
    return lock


def _end_supervisor(home: Path, lock: int) -> bool:
    """Ask the supervisor to end, and take the lock that it leaves; whether there was one."""
    asked: ProcessName | None = None
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not _takes(lock):
        supervisor = _living_supervisor(home)
        if supervisor is not None and supervisor != asked:
            asked = supervisor
            os.kill(supervisor[0], signal.SIGTERM)
        if time.monotonic() > deadline:
            if asked is None:
                raise StackError(f"A start in {home} is going on; stop it when it is done.")
            _wait_until_gone([asked], patience_s=0)
        time.sleep(POLL_S)
    return asked is not None


def _open_lock(home: Path) -> int:
    return os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)


def _takes(lock: int) -> bool:
    """Whether the lock could be taken; the supervisor shares it with the start that made it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _living_supervisor(home: Path) -> ProcessName | None:
    running = _read_state(home).get("running")
    supervisor = _process_of(running["supervisor"]) if running else None
    return supervisor if supervisor and _is_alive(supervisor) else None


def _running_stack(home: Path) -> Stack:
    if _living_supervisor(home) is None:
        raise StackError(f"No stack is running in {home}.\n  Next: backfill local start")
    state = _read_state(home)
    running = state["running"]
    kept = Kept.of(state["kept"])
    return Stack(
        dir=home,
        url=running["url"],
        rest_url=running["rest_url"],
        anon_key=kept.keys.anon,
        service_role_key=kept.keys.service_role,
        publishable_key=kept.keys.publishable,
        secret_key=kept.keys.secret,
        jwt_secret=kept.jwt_secret,
        database_url=running["database_url"],
        superuser_url=running["superuser_url"],
    )


def _read_state(home: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((home / STATE_FILE).read_text())
    except FileNotFoundError:
        return {}
    return state


def _write_state(home: Path, kept: Kept, running: Mapping[str, Any] | None = None) -> None:
    """Replace the file at one stroke; a reader sees the old state or the new one."""
    state = {"kept": asdict(kept)} | ({"running": running} if running else {})
    written = home / f"{STATE_FILE}.new"
    with _open_private(written, "wb") as file:
        file.write(json.dumps(state, indent=2).encode())
    written.replace(home / STATE_FILE)


def _open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file for writing that nobody else may read."""
    path.unlink(missing_ok=True)
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def _place_for_data(home: Path) -> Path:
    """Below the stack's folder, or where the server account gets to when that one is closed."""
    if is_reachable(home):
        return home / "data"
    outside = Path(tempfile.mkdtemp(prefix="backfill-data-", dir=open_temp_root()))
    outside.chmod(0o711)
    return outside / "data"


def _remove_data(home: Path, data_dir: Path) -> None:
    shutil.rmtree(data_dir, ignore_errors=True)
    if data_dir.parent != home:
        shutil.rmtree(data_dir.parent, ignore_errors=True)


# A process is named by its number and the moment it started: numbers come back.
ProcessName = tuple[int, str]


def _process_of(stored: Sequence[Any]) -> ProcessName:
    """The same out of `stack.json`."""
    return int(stored[0]), str(stored[1])


def _name_of(pid: int) -> ProcessName:
    return pid, _started_at(pid) or ""


def _is_alive(process: ProcessName) -> bool:
    """Whether exactly this process still runs; a zombie does not."""
    pid, started_at = process
    return _started_at(pid) == started_at


def _started_at(pid: int) -> str | None:
    """When a process started, in a form that compares; None without one, and for a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            # The program's name stands in brackets and may hold anything, brackets too.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    asked = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    status, _, started = answer.partition(" ")
    return None if status.startswith("Z") else started.strip() or None


def _wait_until_gone(processes: Sequence[ProcessName], *, patience_s: float) -> None:
    """Wait, then kill what is left of them. Raises StackError when even that does not help."""
    for wait_s in (patience_s, KILL_TIMEOUT_S):
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not any(_is_alive(process) for process in processes):
                return
            time.sleep(POLL_S)
        for pid, _ in filter(_is_alive, processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    raise StackError(f"Processes of the stack do not end: {[pid for pid, _ in processes]}")


def _end_leftovers(home: Path) -> None:
    """After a supervisor that was killed: its servers end by themselves, its entry does not."""
    state = _read_state(home)
    if "running" in state:
        servers = [_process_of(stored) for stored in state["running"]["servers"]]
        _wait_until_gone(servers, patience_s=STOP_TIMEOUT_S)
        _write_state(home, Kept.of(state["kept"]))


def _supervise(home: Path, sample: str, ready: int) -> None:
    """Bring everything up, say so, stay until SIGTERM, take everything down."""
    with contextlib.ExitStack() as owned:
        kept = _kept_for(home, sample)
        postgres = PostgresServer.start(Path(kept.data_dir), secrets=kept.passwords)
        owned.callback(postgres.stop)
        if not kept.is_prepared:
            if sample != NO_SAMPLE:
                importlib.import_module("backfill.sample").load(postgres.dsn(), sample)
            kept = replace(kept, is_prepared=True)
            _write_state(home, kept)
        rest = RestServer.start(postgres.authenticator_dsn(), kept.jwt_secret)
        owned.callback(rest.stop)
        asyncio.run(_keep_open(home, kept, postgres, rest, ready))


def _kept_for(home: Path, sample: str) -> Kept:
    """What the last start left; without a prepared database a new identity and no data."""
    stored = _read_state(home).get("kept")
    kept = Kept.of(stored) if stored else None
    if kept and kept.is_prepared and (Path(kept.data_dir) / "PG_VERSION").exists():
        return kept
    if kept:
        _remove_data(home, Path(kept.data_dir))
    new = Kept.new(home, sample)
    _write_state(home, new)
    return new


async def _keep_open(
    home: Path, kept: Kept, postgres: PostgresServer, rest: RestServer, ready: int
) -> None:
    """Run the gateway until SIGTERM, or until one of the servers ends by itself."""
    gateway = Gateway(rest.url, kept.keys, port=free_port(kept.gateway_port))
    await gateway.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    running = {
        "supervisor": _name_of(os.getpid()),
        "servers": [_name_of(server.process.pid) for server in (postgres, rest)],
        "url": gateway.url,
        "rest_url": rest.url,
        "database_url": postgres.dsn(),
        "superuser_url": postgres.superuser_dsn(),
    }
    kept = replace(kept, gateway_port=gateway.port)
    _write_state(home, kept, running)
    os.close(ready)
    while not ended.is_set() and postgres.process.poll() is None and rest.process.poll() is None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), WATCH_S)
    # First of all: from here on a start waits for us instead of taking us for running.
    _write_state(home, kept)
    await gateway.stop()


def _stop_when_stdin_closes() -> None:
    """The parent holds the other end and never writes: an end of file means that it is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(signal_number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _main(home: str, sample: str, lock: str, ready: str, tie: str) -> None:
    """The supervisor. The lock is held by being open; `ready` takes a failure's message."""
    signal.signal(signal.SIGTERM, _leave)
    for inherited in (int(lock), int(ready)):
        os.set_inheritable(inherited, False)
    if tie == "tied":
        threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    try:
        _supervise(Path(home), sample, int(ready))
    except Exception as failure:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            os.write(int(ready), f"{type(failure).__name__}: {failure}".encode())
        raise SystemExit(1) from failure


if __name__ == "__main__":
    _main(*sys.argv[1:])
