"""The process that owns the servers of an embedded stack, and the file that it keeps.

Started as `python -m backfill.local.supervisor HOME SAMPLE PRIVILEGES FUNCTIONS LOCK READY
tied|free`. LOCK and READY are open files that it inherits. FUNCTIONS is a folder of Edge Functions
or empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from backfill.atomic_file import open_regular, read_regular
from backfill.errors import BackfillError
from backfill.local.auth import Auth
from backfill.local.functions import FunctionsServer
from backfill.local.gateway import Functions, Gateway
from backfill.local.keys import ApiKeys
from backfill.local.parts import is_reachable, open_temp_root
from backfill.local.processes import StackError, name_of
from backfill.local.sample import load as load_sample
from backfill.local.servers import DatabaseSecrets, PostgresServer, RestServer, free_port

NO_SAMPLE = "none"
# The year whose projects open new tables to the API roles by themselves, and that of today's.
OLD_PRIVILEGES, NEW_PRIVILEGES = "2025", "2026"
FUNCTIONS_LOG = "functions.log"
STATE_FILE = "stack.json"
LOCK_FILE = "stack.lock"
GIT_IGNORE = ".gitignore"
IGNORE_ALL = "*\n"
WATCH_S = 0.5
LOG_TAIL_CHARS = 3000


@dataclass(frozen=True)
class Kept:
    """What a stack keeps from one start to the next.

    is_prepared: the platform and the sample are there. If not, the data are made anew.
    privileges: the year whose default privileges the database has.
    """

    data_dir: str
    gateway_port: int
    sample: str
    is_prepared: bool
    jwt_secret: str
    keys: ApiKeys
    passwords: DatabaseSecrets
    privileges: str = NEW_PRIVILEGES

    @classmethod
    def new(cls, home: Path, sample: str, privileges: str) -> Kept:
        """Fresh secrets, and a place for the data that the server account can reach."""
        jwt_secret = secrets.token_urlsafe(48)
        data_dir, keys = str(_place_for_data(home)), ApiKeys.new(jwt_secret)
        passwords = DatabaseSecrets()
        return cls(data_dir, free_port(), sample, False, jwt_secret, keys, passwords, privileges)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Kept:
        """The same from `stack.json`."""
        keys, passwords = ApiKeys(**stored["keys"]), DatabaseSecrets(**stored["passwords"])
        return cls(**{**stored, "keys": keys, "passwords": passwords})


def read_state(home: Path) -> dict[str, Any]:
    """The contents of `stack.json`, {} before the first start. Raises StackError."""
    try:
        state: dict[str, Any] = json.loads(read_regular(home / STATE_FILE))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise not_ours(error) from None
    return state


def not_ours(error: OSError) -> StackError:
    """What is said of a file of the stack's folder that cannot be opened, such as a link."""
    return StackError(f"{error.filename}: {error.strerror}.", f"rm {shlex.quote(error.filename)}")


def write_state(home: Path, kept: Kept, running: Mapping[str, Any] | None = None) -> None:
    """Replace the file in one step, so that a reader sees the old state or the new one."""
    state = {"kept": asdict(kept)} | ({"running": running} if running else {})
    written = home / f"{STATE_FILE}.new"
    with open_private(written, "wb") as file:
        file.write(json.dumps(state, indent=2).encode())
    written.replace(home / STATE_FILE)


def open_lock(home: Path) -> int:
    """Open the lock of a stack's folder. Raises StackError."""
    try:
        return open_regular(home / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise not_ours(error) from None


def takes(lock: int) -> bool:
    """Whether the lock could be taken. The supervisor shares it with the start that made it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file for writing that nobody else may read."""
    path.unlink(missing_ok=True)
    return open(path, mode, opener=open_regular)


def hide_from_git(home: Path) -> None:
    """Keep the secrets of a stack's folder out of git, unless it holds other things too."""
    others = [p.name for p in home.iterdir() if not p.name.startswith("stack.")]
    if not set(others) - {"data"}:
        (home / GIT_IGNORE).write_text(IGNORE_ALL)


def show_to_git(home: Path) -> None:
    """Remove what hide_from_git has written."""
    with contextlib.suppress(FileNotFoundError):
        if (home / GIT_IGNORE).read_text() == IGNORE_ALL:
            (home / GIT_IGNORE).unlink()


def _place_for_data(home: Path) -> Path:
    """Below the stack's folder, or in an open one if the server account cannot reach that."""
    if is_reachable(home):
        return home / "data"
    outside = Path(tempfile.mkdtemp(prefix="backfill-data-", dir=open_temp_root()))
    outside.chmod(0o711)
    return outside / "data"


def remove_data(home: Path, data_dir: Path) -> None:
    """Remove the data, and the folder that we made for them if they lie outside."""
    shutil.rmtree(data_dir, ignore_errors=True)
    if data_dir.parent != home:
        shutil.rmtree(data_dir.parent, ignore_errors=True)


def _supervise(
    home: Path, sample: str, privileges: str, functions: Path | None, ready: int
) -> None:
    """Start everything, say so, stay until SIGTERM, end everything."""
    with contextlib.ExitStack() as owned:
        kept = _kept_for(home, sample, privileges)
        postgres = PostgresServer.start(
            Path(kept.data_dir),
            secrets=kept.passwords,
            old_privileges=kept.privileges == OLD_PRIVILEGES,
        )
        owned.callback(postgres.stop)
        if not kept.is_prepared:
            if sample != NO_SAMPLE:
                load_sample(postgres.dsn(), sample)
            kept = replace(kept, is_prepared=True)
            write_state(home, kept)
        rest = RestServer.start(postgres.authenticator_dsn(), kept.jwt_secret)
        owned.callback(rest.stop)
        asyncio.run(_keep_open(home, kept, postgres, rest, functions, ready))


def _kept_for(home: Path, sample: str, privileges: str) -> Kept:
    """What the last start left. Without a prepared database, a new identity and no data."""
    stored = read_state(home).get("kept")
    kept = Kept.of(stored) if stored else None
    if kept and kept.is_prepared and (Path(kept.data_dir) / "PG_VERSION").exists():
        return kept
    if kept:
        remove_data(home, Path(kept.data_dir))
    new = Kept.new(home, sample, privileges)
    write_state(home, new)
    return new


async def _keep_open(
    home: Path,
    kept: Kept,
    postgres: PostgresServer,
    rest: RestServer,
    functions: Path | None,
    ready: int,
) -> None:
    """Run the gateway until SIGTERM, or until one of the servers ends by itself."""
    gateway = Gateway(rest.url, kept.keys, port=free_port(kept.gateway_port))
    gateway.auth = Auth(postgres.dsn(), kept.jwt_secret)
    await gateway.start()
    with contextlib.ExitStack() as owned:
        edge = None
        if functions is not None:
            edge = _serve_functions(home, functions, gateway, kept, postgres)
            owned.callback(edge.stop)
        await _until_one_ends(home, kept, postgres, rest, edge, gateway, functions, ready)


def _serve_functions(
    home: Path, folder: Path, gateway: Gateway, kept: Kept, postgres: PostgresServer
) -> FunctionsServer:
    """Start the functions with the variables of a project, and connect the gateway to them."""
    variables = {
        "SUPABASE_URL": gateway.url,
        "SUPABASE_ANON_KEY": kept.keys.anon,
        "SUPABASE_SERVICE_ROLE_KEY": kept.keys.service_role,
        "SUPABASE_DB_URL": postgres.dsn(),
    }
    log = home / FUNCTIONS_LOG
    open_private(log, "wb").close()
    server = FunctionsServer.start(folder, variables, log=log)
    gateway.functions = Functions(server.doors, kept.jwt_secret)
    return server


async def _until_one_ends(
    home: Path,
    kept: Kept,
    postgres: PostgresServer,
    rest: RestServer,
    edge: FunctionsServer | None,
    gateway: Gateway,
    functions: Path | None,
    ready: int,
) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    servers = (postgres.process, rest.process)
    served = edge.processes if edge else ()
    running = {
        "supervisor": name_of(os.getpid()),
        "servers": [name_of(process.pid) for process in (*servers, *served)],
        "url": gateway.url,
        "rest_url": rest.url,
        "functions": str(functions) if functions else None,
        "served": sorted(name for name, door in edge.doors.items() if door.url) if edge else [],
        "failed": dict(edge.failed) if edge else {},
        "database_url": postgres.dsn(),
        "superuser_url": postgres.superuser_dsn(),
    }
    kept = replace(kept, gateway_port=gateway.port)
    write_state(home, kept, running)
    os.close(ready)
    # A function that ends takes nothing along.
    while not ended.is_set() and all(process.poll() is None for process in servers):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), WATCH_S)
    # First of all, so that a start waits for us from here on instead of taking us for running.
    write_state(home, kept)
    await gateway.stop()


def _report_of(failure: Exception) -> dict[str, str]:
    """What the waiting start says: the words of an error of ours, or the trace of any other."""
    if isinstance(failure, BackfillError):
        return {"message": failure.message, "next_step": failure.next_step}
    trace = "".join(traceback.format_exception(failure))[-LOG_TAIL_CHARS:].rstrip()
    return {"message": f"{type(failure).__name__}: {failure}\n{trace}", "next_step": ""}


def _stop_when_stdin_closes() -> None:
    """The parent holds the other end and never writes: an end of file means that it is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(signal_number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _main(
    home: str, sample: str, privileges: str, functions: str, lock: str, ready: str, tie: str
) -> None:
    """Run the supervisor. The open file holds the lock. `ready` takes a failure's report."""
    signal.signal(signal.SIGTERM, _leave)
    for inherited in (int(lock), int(ready)):
        os.set_inheritable(inherited, False)
    if tie == "tied":
        threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    try:
        served = Path(functions) if functions else None
        _supervise(Path(home), sample, privileges, served, int(ready))
    except Exception as failure:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            os.write(int(ready), json.dumps(_report_of(failure)).encode())
        raise SystemExit(1) from failure


if __name__ == "__main__":
    _main(*sys.argv[1:])
