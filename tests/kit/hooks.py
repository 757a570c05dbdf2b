"""A webhook on this machine: a real HTTP server that answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG, CLOSE = "hang", "close"
Answer = int | tuple[int, dict[str, str]] | str


@dataclass(frozen=True)
class Posted:
    """One request: where to, under which headers (by lower-case name), with which body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        """The body, read as JSON."""
        return dict(json.loads(self.body))


@dataclass
class Hook:
    """A webhook. answers: one per request, a status (with headers), HANG or CLOSE; then 200."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    posted: list[Posted] = field(default_factory=list)
    came: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def url(self) -> str:
        """Its address, with a path that nobody may see."""
        return f"http://127.0.0.1:{self.port}/services/T0SECRET"


@contextmanager
def hook_served() -> Iterator[Hook]:
    """A webhook that is served herein. What hangs is let go at the end."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            hook.posted.append(Posted(self.path, headers, body))
            answer = hook.answers.pop(0) if hook.answers else 200
            hook.came.release()
            if answer == HANG:
                over.wait()
            if isinstance(answer, str):
                self.close_connection = True
                return
            status, more = answer if isinstance(answer, tuple) else (answer, {})
            self.send_response(status)
            for name, value in {"Content-Length": "0", **more}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep stderr clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hook = Hook(server.server_port)
        serving = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        serving.start()
        yield hook
        over.set()
        server.shutdown()
        serving.join()
