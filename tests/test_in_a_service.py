"""The page's examples of a service, taken from it and run; and a typed one of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anyio
import httpx
import nbformat
import pytest
from nbclient import NotebookClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import backfill
from backfill.request import DEFAULTS
from tests.conftest import Project
from tests.kit.readme import ROOT, claim
from tests.kit.seed import SEED
from tests.services.notifier import Notifier
from tests.services.web import make_app

HEADING = "In a service"
SLACK = claim(HEADING, "bf = backfill.connect(on_event=backfill.Webhook", "executed")
TRACES = claim(HEADING, "def trace_it", "executed")
FASTAPI = claim(HEADING, "@asynccontextmanager", "executed")
NOTEBOOK = claim(HEADING, "bf = backfill.connect()", "executed")
WATCHING = claim(HEADING, "while (status", "executed")
FAST: dict[str, Any] = {**SEED, "throttle_per_minute": 60_000, "batch_size": 10}


def run(code: str, **names: Any) -> dict[str, Any]:
    """Run an example as a module that has these names."""
    names |= {"backfill": backfill, "__name__": "example"}
    exec(code, names)  # noqa: S102 - our own page
    return names


@pytest.fixture
def environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service finds in its environment."""
    monkeypatch.setenv("SUPABASE_URL", project.url)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", project.keys.service_role)


@pytest.fixture
def unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that says nothing of a throttle waits for none: tests do not."""
    monkeypatch.setitem(DEFAULTS, "throttle_per_minute", 60_000)


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A webhook on this machine, and the texts that were posted to it."""
    texts: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            texts.append(json.loads(body)["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep stderr clean."""

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        serving.start()
        monkeypatch.setenv("BACKFILL_NOTIFY_URL", f"http://127.0.0.1:{server.server_port}/hook")
        yield texts
        server.shutdown()
        serving.join()


@pytest.mark.usefixtures("environment")
def test_slack_hears_of_a_plan_and_of_its_end(
    project: Project, slack: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message when the plan awaits approval, with the line that approves, and one at the end."""
    webhooks: list[backfill.Webhook] = []

    class Kept(backfill.Webhook):
        def __init__(self, url: str) -> None:
            super().__init__(url)
            webhooks.append(self)

    monkeypatch.setattr(backfill, "Webhook", Kept)
    bf: backfill.Backfill = run(SLACK, os=os)["bf"]
    with bf:
        plan = bf.plan(**FAST)
        project.approve(plan)
        bf.apply(plan.run_id)
    assert webhooks[0].close().in_words is None
    assert slack == [
        f"backfill: run {plan.run_id} awaits approval\n{plan.approval_sql}",
        f"backfill: run {plan.run_id} is completed",
    ]


def test_calls_and_batches_are_spans(project: Project) -> None:
    """One span a scoring call and one a batch, each as long as the event says."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    trace_it = run(TRACES, tracer=tracer)["trace_it"]
    with project.connect(on_event=trace_it) as bf:
        plan = bf.plan(**FAST)
        project.approve(plan)
        bf.apply(plan.run_id)
    finished = spans.get_finished_spans()
    provider.shutdown()
    names = [span.name for span in finished]
    assert (names.count("call"), names.count("batch_settled")) == (52, len(plan.batches))
    assert all(s.start_time and s.end_time and s.start_time <= s.end_time for s in finished)
    assert {span.attributes["run"] for span in finished if span.attributes} == {plan.run_id}


@pytest.mark.usefixtures("environment", "unthrottled")
def test_fastapi_serves_the_async_face_in_its_own_loop(project: Project) -> None:
    """Plan, approve by SQL, apply in the background, see it completed."""
    imports = """
        from collections.abc import AsyncIterator
        from contextlib import asynccontextmanager
        from datetime import date
        import backfill
        from fastapi import BackgroundTasks, FastAPI, Request
        from fastapi.responses import JSONResponse
    """
    app = run(textwrap.dedent(imports) + FASTAPI)["app"]

    async def use() -> dict[str, Any]:
        async with app.router.lifespan_context(app), http_to(app) as http:
            planned = await http.post("/runs", params={"since": "2025-08-01"})
            assert (planned.status_code, planned.json()["state"]) == (201, "awaiting_approval")
            run_id = planned.json()["run"]
            for method, path in (("GET", "/runs/ffffffff"), ("POST", "/runs/ffffffff/apply")):
                unknown = await http.request(method, path)
                assert unknown.status_code == 404
                assert unknown.json()["error"]["message"] == "there is no run ffffffff"
            early = await http.post(f"/runs/{run_id}/apply")
            assert (early.status_code, early.json()["error"]["message"]) == (
                409,
                f"run {run_id} is awaiting_approval",
            )
            approve_by_sql(project, run_id)
            assert (await http.post(f"/runs/{run_id}/apply")).status_code == 202
            answer: dict[str, Any] = (await http.get(f"/runs/{run_id}")).json()
            return answer

    assert anyio.run(use)["state"] == "completed"


def test_the_blocking_face_works_in_a_notebook(project: Project) -> None:
    """In a real kernel, whose event loop runs in the thread that executes the cells."""
    first = "import asyncio, backfill\nfrom IPython.display import Markdown, display\n"
    cells = [
        first + "asyncio.get_running_loop()",
        NOTEBOOK,
        "bf.status(plan.run_id).state",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SUPABASE_URL": project.url,
        "SUPABASE_SERVICE_ROLE_KEY": project.keys.service_role,
    }
    NotebookClient(notebook, timeout=60).execute(env=env)
    shown = notebook.cells[1].outputs[0]["data"]["text/markdown"]
    assert "HALTED FOR APPROVAL" in shown
    assert notebook.cells[2].outputs[0]["data"]["text/plain"] == "'awaiting_approval'"


def test_the_blocking_face_works_inside_a_running_loop(project: Project) -> None:
    """Whatever runs the loop: the verbs only block it."""

    async def cell() -> str:
        with project.connect() as bf:
            return bf.plan(**FAST).state

    assert anyio.run(cell) == "awaiting_approval"


def test_another_process_watches_a_run(project: Project) -> None:
    """After each batch it looks once, and sees what is done; it ends when the run does."""
    watching = (
        "import sys, time, backfill\n"
        "time.sleep = lambda _: sys.stdin.readline()\n"  # the test says when to look again
        f"bf, run = backfill.connect(), sys.argv[1]\n{WATCHING}"
    )
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SUPABASE_URL": project.url,
        "SUPABASE_SERVICE_ROLE_KEY": project.keys.service_role,
    }
    with project.connect() as bf:
        plan = bf.plan(**FAST)
        project.approve(plan)
        with subprocess.Popen(
            [sys.executable, "-c", watching, plan.run_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        ) as watcher:
            assert watcher.stdin
            assert watcher.stdout
            seen = [watcher.stdout.readline()]

            def look(event: backfill.Event) -> None:
                if event.kind == "batch_settled":
                    assert watcher.stdin
                    assert watcher.stdout
                    print(file=watcher.stdin, flush=True)
                    seen.append(watcher.stdout.readline())

            bf.apply(plan.run_id, on_event=look)
            watcher.stdin.close()
            watcher.stdout.read()
    done = [int(line.split()[0]) for line in seen]
    assert (done[0], done[-1], len(done)) == (0, 39, len(plan.batches) + 1)
    assert done == sorted(set(done))
    assert watcher.returncode == 0


@pytest.mark.usefixtures("unthrottled")
def test_a_typed_service_plans_applies_and_notifies(project: Project) -> None:
    """tests/services, which mypy --strict checks: the web service and its notifier."""
    lines: list[str] = []

    class Chat:
        def post(self, line: str) -> None:
            lines.append(line)

    async def use() -> dict[str, Any]:
        key = project.keys.service_role
        bf = backfill.connect_async(project.url, key, on_event=Notifier(Chat()))
        app = make_app(bf)
        async with app.router.lifespan_context(app), http_to(app) as http:
            run_id = (await http.post("/runs", params={"since": "2025-08-01"})).json()["run"]
            assert (await http.post(f"/runs/{run_id}/apply")).status_code == 409
            assert (await http.get("/runs/ffff")).status_code == 404
            approve_by_sql(project, run_id)
            assert (await http.post(f"/runs/{run_id}/apply")).status_code == 202
            answer: dict[str, Any] = (await http.get(f"/runs/{run_id}")).json()
            return answer

    assert anyio.run(use) == {"state": "completed", "done": 39, "waits_for": None}
    assert [line.split(":")[0] for line in lines[:1]] == ["39 sessions await approval"]
    assert lines[-1].endswith("completed")


def http_to(app: Any) -> httpx.AsyncClient:
    """A client of an ASGI app, in the caller's event loop."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def approve_by_sql(project: Project, run_id: str) -> None:
    """As somebody in the SQL editor does."""
    digest = project.value("select digest from public.backfill_runs where run_id = %s", run_id)
    project.db.execute("select public.backfill_approve(%s, %s, 'Ada')", (run_id, digest))
