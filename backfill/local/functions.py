"""The Edge Functions of the embedded stack: a folder of them, each served by Deno.

Each function has a process of its own, as on the platform. So one that does not start, or ends,
takes no other along.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import platformdirs

from backfill.atomic_file import open_regular
from backfill.local.functions_folder import (
    EdgeFunction,
    Json,
    functions_in,
    import_map,
    imported_addresses,
)
from backfill.local.gateway import Door
from backfill.local.parts import find_deno
from backfill.local.processes import end_process, spawn
from backfill.local.servers import HOST

WALL_CLOCK_S = 150.0  # of a hosted project's function, on the free plan
LOAD_S = 60.0  # the first load of all fetches packages
AT_ONCE = 8  # so many load beside each other
SERVED = b"\x1eserved "  # how a process says that it is served, see functions_boot.ts
# What a function may do: reach the network, read its own and others' code. It writes no file, and
# it listens on no address that others reach.
RIGHTS = (
    "--allow-net", "--deny-net=0.0.0.0,[::]", "--allow-env", "--allow-read", "--allow-sys",
)  # fmt: skip
# Nothing of the caller's project decides how it runs, and nothing is written there.
ALONE = ("--quiet", "--no-prompt", "--no-lock", "--node-modules-dir=none")
# All that Deno gets of the caller's environment: what it fetches packages with.
PASSED_ON = (
    "HOME", "NPM_CONFIG_REGISTRY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
    "https_proxy", "no_proxy", "DENO_CERT", "DENO_TLS_CA_STORE", "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


@dataclass(frozen=True)
class FunctionsServer:
    """The functions of a folder, each in its process.

    doors: where the gateway finds each. failed: those that did not start, each with the reason.
    """

    doors: Mapping[str, Door]
    failed: Mapping[str, str]
    processes: Sequence[subprocess.Popen[bytes]] = field(repr=False)

    @classmethod
    def start(
        cls,
        folder: Path,
        variables: Mapping[str, str],
        *,
        wall_clock_s: float = WALL_CLOCK_S,
        load_s: float = LOAD_S,
        log: Path | None = None,
    ) -> FunctionsServer:
        """Start every function of the folder and wait until each is served or has failed.

        variables: the environment of the functions, SUPABASE_URL and the keys. They win over the
        folder's `.env`. log: the file that takes what the functions print. A function that does not
        start answers 503. Raises PartMissing, and BadRequest if `config.toml` cannot be read.
        """
        folder = folder.resolve()
        functions = functions_in(folder)
        environment = _environment(variables, wall_clock_s)
        started: list[_Started] = []
        failed: dict[str, str] = {}
        with _launcher(folder, environment, _Log(log)) as launch:
            try:
                for several in _in_parts(functions, AT_ONCE):
                    begun = list(launch.all(several, failed))
                    started += begun
                    deadline = time.monotonic() + load_s
                    failed |= {one.name: why for one in begun if (why := one.wait(deadline))}
            except BaseException:
                _end(one.process for one in started)
                raise
        urls = {one.name: one.url for one in started}
        doors = {f.name: Door(urls.get(f.name), f.verify_jwt) for f in functions}
        return cls(doors, dict(sorted(failed.items())), [one.process for one in started])

    def stop(self) -> None:
        """End them. Safe to call twice."""
        _end(self.processes)


def log_lines(file: Path, name: str | None, lines: int) -> list[str]:
    """The last lines of the functions' log, of one function or of all."""
    try:
        kept = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    if name is not None:
        kept = [line for line in kept if line.split(" ", 2)[1:2] == [f"{name}:"]]
    return kept[-lines:] if lines else []


class _Log:
    """The log: a line per line that a function prints, with time and name."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, name: str, line: bytes) -> None:
        if self._file is None:
            return
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = line.decode(errors="replace").rstrip("\n")
        with self._lock, open(self._file, "a", opener=open_regular, encoding="utf-8") as log:
            log.write(f"{at} {name}: {text}\n")


class _Started:
    """A function's process, and the thread that reads what it prints."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], output: IO[bytes], log: _Log
    ) -> None:
        self.name = name
        self.process = process
        self.url: str | None = None
        self._told = threading.Event()
        self._said: list[str] = []
        threading.Thread(target=self._read, args=(output, log), daemon=True).start()

    def wait(self, deadline: float) -> str | None:
        """Wait until it is served. If it is not, end it, and return why."""
        is_told = self._told.wait(max(0.0, deadline - time.monotonic()))
        if self.url is not None:
            return None
        end_process(self.process, signal.SIGKILL)
        if not is_told:
            return "it did not call Deno.serve in time"
        return self._error() or "it ended and did not call Deno.serve"

    def _read(self, output: IO[bytes], log: _Log) -> None:
        with output:
            for line in output:
                if line.startswith(SERVED):
                    self.url = self.url or f"http://{HOST}:{int(line.removeprefix(SERVED))}"
                    self._told.set()
                    continue
                if self.url is None:
                    self._said.append(line.decode(errors="replace").strip())
                log.write(self.name, line)
        self._told.set()

    def _error(self) -> str:
        """The error that it ended with, in one line."""
        errors = [line for line in self._said if line.startswith("error: ")]
        text = re.sub(r"^error: (Uncaught (\(in promise\) )?)?", "", "".join(errors[-1:]))
        return text[:300]


@contextmanager
def _launcher(folder: Path, environment: Mapping[str, str], log: _Log) -> Iterator[_Launch]:
    """What starts a function's process, for as long as the files that it reads then are there."""
    with ExitStack() as owned:
        ours = importlib.resources.files("backfill.local")
        boot, std = (
            owned.enter_context(importlib.resources.as_file(ours / file)).resolve()
            for file in ("functions_boot.ts", "functions_std_http.ts")
        )
        maps = Path(owned.enter_context(tempfile.TemporaryDirectory()))
        addresses = imported_addresses(folder)
        yield _Launch(folder, environment, log, find_deno(), boot, std, maps, addresses)


@dataclass(frozen=True)
class _Launch:
    """Starts functions: the programs and files that all of them share."""

    folder: Path
    environment: Mapping[str, str]
    log: _Log
    deno: Path
    boot: Path
    std: Path
    maps: Path
    addresses: frozenset[str]

    def all(self, functions: Iterable[EdgeFunction], failed: dict[str, str]) -> Iterator[_Started]:
        """Start these functions. Adds to `failed` one whose settings cannot be read."""
        for function in functions:
            try:
                mapped = import_map(function, self.addresses, self.std)
            except (OSError, ValueError) as failure:
                file = function.settings.name if function.settings else "its import map"
                failed[function.name] = f"{file} cannot be read: {failure}"
                self.log.write(function.name, failed[function.name].encode())
            else:
                yield self._start(function, mapped)

    def _start(self, function: EdgeFunction, mapped: Json) -> _Started:
        map_file = self.maps / f"{function.name}.json"
        map_file.write_text(json.dumps(mapped), encoding="utf-8")
        read_end, write_end = os.pipe()
        with open(write_end, "wb") as output:
            process = spawn(
                self._command(function, map_file),
                self.environment,
                output,
                death_signal=signal.SIGKILL,
                as_server_account=False,  # its cache is the caller's
            )
        return _Started(function.name, process, open(read_end, "rb"), self.log)

    def _command(self, function: EdgeFunction, map_file: Path) -> list[str]:
        deno_file, variables = function.deno_file, self.folder / ".env"
        settings = [f"--config={deno_file}"] if deno_file else ["--no-config"]
        if variables.is_file():
            settings.append(f"--env-file={variables}")
        settings += [f"--import-map={map_file}", f"--preload={self.boot}"]
        command = [str(self.deno), "run", *ALONE, *RIGHTS, *settings]
        return [*command, str(function.entrypoint)]


def _environment(variables: Mapping[str, str], wall_clock_s: float) -> dict[str, str]:
    cache = Path(platformdirs.user_cache_dir("backfill")) / "deno"
    return {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        "DENO_DIR": str(cache),
        "DENO_NO_UPDATE_CHECK": "1",
        "DENO_NO_PACKAGE_JSON": "1",
        "NO_COLOR": "1",
        **variables,
        "BACKFILL_WALL_CLOCK_MS": str(int(wall_clock_s * 1000)),
    }


def _in_parts(functions: Sequence[EdgeFunction], size: int) -> Iterator[Sequence[EdgeFunction]]:
    return (functions[i : i + size] for i in range(0, len(functions), size))


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """All are told first, so that they end beside each other."""
    told = [process for process in processes if process.poll() is None]
    for process in told:
        process.terminate()
    for process in told:
        end_process(process, signal.SIGTERM, signal.SIGKILL)
