"""A caller with a key and without our client: plain HTTP to PostgREST, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

import backfill
from tests.conftest import Project
from tests.kit.moments import once
from tests.kit.seed import SEED

UNHURRIED: dict[str, Any] = {**SEED, "priority": [], "throttle_per_minute": "none"}
SCORE = {"version": "v1.2", "fc_kind": "functions", "scores_json": {}, "blocks_answered": 6}


@dataclass(frozen=True)
class Attempt:
    """A leased session, as a claim hands it out."""

    run_id: str
    claim_id: str
    ordinal: int
    session_id: str
    fence: str
    steps: list[dict[str, Any]]

    @property
    def headers(self) -> dict[str, str]:
        """What every scoring call of this attempt carries."""
        return {"x-backfill-run": self.run_id, "x-backfill-fence": self.fence}


class Outsider:
    """The API as one role uses it."""

    def __init__(self, project: Project, token: str | None = None) -> None:
        """token: the service key unless given."""
        # Nothing stays open between two requests, so nothing is left to close.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(base_url=project.rest_url, timeout=30, limits=limits)
        self._token = token or project.keys.service_role

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
    ) -> httpx.Response:
        """Send a request. Returns any response. body: JSON, or a text that is sent as it is."""
        given = list(headers.items()) if isinstance(headers, Mapping) else headers or []
        own = [("Authorization", f"Bearer {self._token}")]
        if isinstance(body, str):
            return self._http.request(method, path, content=body, headers=[*own, *given])
        return self._http.request(method, path, json=body, headers=[*own, *given])

    def rpc(self, function: str, headers: Mapping[str, str] | None = None, **arguments: Any) -> Any:
        """A function's answer, or {code, message, …} if it refuses."""
        answer = self.send("POST", f"/rpc/{function}", arguments, headers)
        return answer.json() if answer.content else None

    def claim(self, run_id: str, claim_id: str | None = None) -> list[Attempt]:
        """Claim a batch. Returns its attempts."""
        asked = claim_id or str(uuid4())
        granted = self.rpc(
            "backfill_claim", p_run_id=run_id, p_claim_id=asked, p_worker="outsider"
        )["granted"]
        return [
            Attempt(run_id, asked, g["ordinal"], g["session_id"], g["fence"], g["steps"])
            for g in granted
        ]

    def score(self, attempt: Attempt, step: int = 0) -> Any:
        """Make one scoring call of an attempt. Returns the answer or the error."""
        call = attempt.steps[step]
        return self.rpc(call["function"], attempt.headers, **call["arguments"])

    def settle(self, *attempts: Attempt, outcome: str = "answered", **told: Any) -> dict[str, Any]:
        """Tell the database how attempts of one claim went."""
        outcomes = [
            {
                "ordinal": a.ordinal,
                "outcome": outcome,
                "answered": [s["component"] for s in a.steps] if outcome == "answered" else [],
                **told,
            }
            for a in attempts
        ]
        answer: dict[str, Any] = self.rpc(
            "backfill_settle",
            p_run_id=attempts[0].run_id,
            p_claim_id=attempts[0].claim_id,
            p_outcomes=outcomes,
        )
        return answer

    def write(
        self, session_id: str, headers: Mapping[str, str] | list[tuple[str, str]] | None = None
    ) -> httpx.Response:
        """Insert a row of scores by hand."""
        return self.send("POST", "/fc_scores", {"session_id": session_id, **SCORE}, headers)


def code_of(answer: httpx.Response) -> str:
    """The SQLSTATE or PGRST code of a refusal, the HTTP status of any other answer."""
    body = answer.json() if answer.content else {}
    is_error = isinstance(body, dict) and "code" in body
    return str(body["code"]) if is_error else str(answer.status_code)


@once
def running(project: Project, bf: backfill.Backfill, **request: Any) -> str:
    """Start an approved run without throttle or canary. Returns its id."""
    plan = bf.plan(**{**UNHURRIED, **request})
    project.approve(plan)
    started = Outsider(project).rpc("backfill_start", p_run_id=plan.run_id, p_worker="outsider")
    assert started["state"] == "running"
    return plan.run_id
