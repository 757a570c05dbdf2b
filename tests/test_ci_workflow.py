"""The example GitHub workflows: each `run` step is executed in a shell, as a runner does it.

There is no GitHub here and no Auth server. The runner's files and expressions are emulated as
GitHub documents them; a server beside the project answers sign-ins with a minted token.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import backfill
from tests.conftest import Project
from tests.kit.debian import absent
from tests.kit.readme import ROOT

Json = Any
WORKFLOWS = ROOT / "supabase" / "examples" / "workflows"
GATE = yaml.safe_load((WORKFLOWS / "coverage.yml").read_text())
BACKFILL = yaml.safe_load((WORKFLOWS / "backfill.yml").read_text())
HEAL = yaml.safe_load((WORKFLOWS / "heal.yml").read_text())
WHEEL = f"vendor/supabase_backfill-{backfill.__version__}-py3-none-any.whl"
PASSWORD = "correct horse battery staple"
SINCE = "2025-09-12"  # few enough sessions for one batch, so that the throttle asks for no wait


@dataclass
class Runner:
    """What a job finds: contexts for its expressions, files that it writes, and its output."""

    folder: Path
    contexts: dict[str, str]
    path: str
    said: list[str] = field(default_factory=list)
    summary: str = ""

    def job(self, workflow: Json, name: str, *, but: str = "") -> int:
        """Run a job's steps until one fails. Returns the exit code; its outputs go to needs.

        but: the name of a step to leave out.
        """
        job = workflow["jobs"][name]
        if not self.holds(job.get("if", "")):
            return 0
        environment = self.evaluated({**workflow.get("env", {}), **job.get("env", {})})
        for step in job["steps"]:
            if "run" not in step or (but and step.get("name") == but):
                continue
            code = self.step(step, {**environment, **self.evaluated(step.get("env", {}))})
            if code:
                return code
        outputs = self.evaluated(job.get("outputs", {}))
        self.contexts |= {f"needs.{name}.outputs.{key}": value for key, value in outputs.items()}
        return 0

    def step(self, step: Mapping[str, Json], environment: Mapping[str, str]) -> int:
        """One step, with the shell and the files that GitHub gives it."""
        output, summary = self.folder / "output", self.folder / "summary"
        output.write_text("")
        summary.write_text("")
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        ran = subprocess.run(
            ["/bin/bash", "-e", "-c", step["run"]],
            cwd=self.folder,
            env={"PATH": self.path, "HOME": str(self.folder), **environment, **files},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        self.said.append(ran.stdout + ran.stderr)
        self.summary += summary.read_text()
        for line in output.read_text().splitlines():
            key, _, value = line.partition("=")
            self.contexts[f"steps.{step['id']}.outputs.{key}"] = value
        return ran.returncode

    def evaluated(self, values: Mapping[str, str]) -> dict[str, str]:
        """Values with each ${{ name }} replaced."""
        return {
            key: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: self.contexts[found[1]], value)
            for key, value in values.items()
        }

    def holds(self, condition: str) -> bool:
        """The one form of condition that the workflow uses: NAME != ''."""
        if not condition:
            return True
        name = re.fullmatch(r"([\w.]+) != ''", condition)
        assert name is not None
        return self.contexts[name[1]] != ""


@pytest.fixture
def sign_in(project: Project) -> Iterator[str]:
    """The project's URL with sign-ins: everything else is passed on to the gateway."""
    token = project.user("approver")

    class Front(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.path == "/auth/v1/token?grant_type=password":
                is_right = json.loads(body)["password"] == PASSWORD
                said = {"access_token": token} if is_right else {"error": "invalid_grant"}
                self.give(200 if is_right else 400, json.dumps(said).encode(), {})
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            url = project.url + self.path
            passed = httpx.request(self.command, url, content=body, headers=headers)
            self.give(passed.status_code, passed.content, passed.headers)

        def give(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name in ("content-type", "content-range"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET = do_HEAD = answer  # noqa: N815 - http.server asks for these names

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Front) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def runner(project: Project, sign_in: str, tmp_path: Path) -> Runner:
    """A runner for the project under the policy second_person; installing is done already."""
    if missing := [tool for tool in ("jq", "curl") if not shutil.which(tool)]:
        absent(f"no {' and '.join(missing)}", f"apt-get install {' '.join(missing)}")
    project.db.execute(
        b"update public.backfill_settings set approval_policy = 'second_person' where only_row"
    )
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "pipx").write_text(f'#!/bin/sh\ntest "$*" = "install {WHEEL}"\n')
    (tools / "backfill").write_text(f'#!/bin/sh\nexec {sys.executable} -m backfill "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    contexts = {
        "vars.SUPABASE_URL": sign_in,
        "vars.BACKFILL_ENVIRONMENT": "staging",
        "vars.BACKFILL_SINCE": SINCE,
        "vars.SUPABASE_PUBLISHABLE_KEY": project.keys.anon,
        "secrets.SUPABASE_SECRET_KEY": project.keys.service_role,
        "secrets.APPROVER_EMAIL": "approver@example.org",
        "secrets.APPROVER_PASSWORD": PASSWORD,
        "inputs.since": SINCE,
    }
    return Runner(tmp_path, contexts, f"{tools}:{os.environ['PATH']}")


def test_the_workflow_plans_halts_approves_applies_and_verifies(
    runner: Runner, bf: backfill.Backfill
) -> None:
    """And the gate fails before it, and passes after it. A wrong password approves nothing."""
    assert runner.job(GATE, "gate") == 4
    assert runner.job(BACKFILL, "plan") == 0
    run = runner.contexts["needs.plan.outputs.run"]
    assert runner.summary == bf.get(run).markdown() or "HALTED FOR APPROVAL" in runner.summary
    assert runner.contexts["needs.plan.outputs.digest"] == bf.get(run).digest
    assert runner.job(BACKFILL, "apply", but="Approve") == 3
    assert bf.status(run).state == "awaiting_approval"
    runner.contexts["secrets.APPROVER_PASSWORD"] = "wrong"
    assert runner.job(BACKFILL, "apply") != 0
    assert bf.status(run).state == "awaiting_approval"
    runner.contexts["secrets.APPROVER_PASSWORD"] = PASSWORD
    assert runner.job(BACKFILL, "apply") == 0
    assert bf.status(run).state == "completed"
    assert "PASS" in runner.summary.upper()
    assert runner.job(GATE, "gate") == 0
    assert (runner.folder / "backfill_logs" / run / "plan.md").exists()
    shown = "\n".join([*runner.said, runner.summary])
    assert runner.contexts["secrets.SUPABASE_SECRET_KEY"] not in shown
    assert PASSWORD not in shown
    assert len(re.findall(r"^::add-mask::ey", shown, re.MULTILINE)) == 1


def test_with_nothing_to_do_the_workflow_ends_after_its_plan(runner: Runner) -> None:
    """No run, so nobody is asked."""
    runner.contexts["inputs.since"] = "2031-01-01"
    assert runner.job(BACKFILL, "plan") == 0
    assert runner.summary == "Nothing to do.\n"
    assert runner.contexts["needs.plan.outputs.run"] == ""
    assert runner.job(BACKFILL, "apply") == 0


def test_the_hourly_job_waits_for_a_person_and_then_scores(
    runner: Runner, project: Project, bf: backfill.Backfill
) -> None:
    """It fails while a person has to decide, and scores what a person's rule covers."""
    assert runner.job(HEAL, "heal") == 3
    proposed = bf.propose_standing(until="2999-12-31", max_sessions=5, throttle=6000)
    project.db.execute(
        "select public.backfill_approve(%s, %s, 'Ada')", (proposed.standing_id, proposed.digest)
    )
    assert runner.job(HEAL, "heal") == 0
    assert project.value("select count(*) from public.backfill_items where state = 'done'") == 5


@pytest.mark.parametrize("workflow", [GATE, BACKFILL, HEAL], ids=["gate", "backfill", "heal"])
def test_a_workflow_has_the_form_that_github_asks_for(workflow: Json) -> None:
    """Triggers, jobs with a runner, steps that run or use something, actions pinned by version."""
    assert workflow[True].keys() <= {"schedule", "workflow_dispatch"}  # YAML 1.1 reads `on` so
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"[\w/-]+@v\d+", step.get("uses", "a/b@v1"))
            assert "secrets." not in step.get("run", "")
