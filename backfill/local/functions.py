"""The Edge Functions of the embedded stack: a folder of them, served by Deno."""

from __future__ import annotations

import http.client
import importlib.resources
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar

import platformdirs

from backfill.local.parts import find_deno
from backfill.local.processes import end_process, spawn
from backfill.local.servers import HOST, start_answering

WALL_CLOCK_S = 150.0  # of a hosted project's function, on the free plan
# What a function may do: reach the network, read its own and others' code. It writes no file.
RIGHTS = ("--allow-net", "--allow-env", "--allow-read", "--allow-sys")
# All that Deno gets of the caller's environment: what it fetches packages with.
PASSED_ON = (
    "HOME", "NPM_CONFIG_REGISTRY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
    "https_proxy", "no_proxy", "DENO_CERT", "DENO_TLS_CA_STORE", "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


@dataclass(frozen=True)
class FunctionsServer:
    """Deno serving a folder, each function at /NAME."""

    program: ClassVar[str] = "Deno"
    process: subprocess.Popen[bytes] = field(repr=False)
    port: int

    @classmethod
    def start(
        cls,
        folder: Path,
        variables: Mapping[str, str],
        *,
        wall_clock_s: float = WALL_CLOCK_S,
        deno: Path | None = None,
        log: IO[bytes] | None = None,
    ) -> FunctionsServer:
        """Load every function of the folder and wait until they are served.

        variables: the environment of the functions, SUPABASE_URL and the keys. A function that
        does not load answers 503. Raises PartMissing, ServerError.
        """
        program = deno or find_deno()
        cache = Path(platformdirs.user_cache_dir("backfill")) / "deno"
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment = {**kept, "DENO_DIR": str(cache), "DENO_NO_UPDATE_CHECK": "1", **variables}
        with ExitStack() as owned:
            main = owned.enter_context(
                importlib.resources.as_file(
                    importlib.resources.files("backfill.local") / "functions_main.ts"
                )
            )

            def launch(port: int, server_log: IO[bytes]) -> FunctionsServer:
                wall_clock_ms = str(int(wall_clock_s * 1000))
                words = [str(folder.resolve()), str(port), wall_clock_ms]
                command = [
                    str(program),
                    "run",
                    "--quiet",
                    "--no-prompt",
                    *RIGHTS,
                    str(main),
                    *words,
                ]
                process = spawn(
                    command,
                    environment,
                    server_log,
                    death_signal=signal.SIGKILL,
                    as_server_account=False,  # its cache is the caller's
                )
                return cls(process, port)

            return start_answering(launch, None, log)

    @property
    def url(self) -> str:
        """The URL that the functions' names are appended to."""
        return f"http://{HOST}:{self.port}"

    def answers(self) -> bool:
        """Whether it listens, which it does once every function is loaded."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        with closing(connection):
            try:
                connection.request("GET", "/")
                return connection.getresponse().status == http.HTTPStatus.NOT_FOUND
            except (OSError, http.client.HTTPException):
                return False

    def stop(self) -> None:
        """End it. Safe to call twice."""
        end_process(self.process, signal.SIGTERM, signal.SIGKILL)
