"""Somebody who types what a run's next step says."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from backfill.request import Request, like_request
from tests.kit import verbs
from tests.kit.clocks import DatabaseClock

Db = psycopg.Connection[Any]
Tell = Callable[[dict[str, Any]], dict[str, Any]]
SMALL: dict[str, Any] = {"throttle_per_minute": "none", "batch_size": 20, "limit": 3}
REASON = "looked at it with Ada"


def _look(_: Mapping[str, Any]) -> None:
    """What is typed only shows something, or is another's to carry out."""


class Walk:
    """One run on a project, through the doors that the client calls."""

    def __init__(self, db: Db, clock: DatabaseClock) -> None:
        self.db, self.clock = db, clock
        self.run_id = ""

    def plan(self, **request: Any) -> None:
        """Plan three sessions."""
        self.run_id = verbs.planned(self.db, **{**SMALL, **request})

    def start(self, **request: Any) -> None:
        """Plan them, approve and start."""
        self.plan(**request)
        verbs.approve(self.db, self.run_id)
        verbs.start(self.db, self.run_id)

    def tell(self, **outcome: Any) -> None:
        """Tell this of every session, batch after batch, until the run does not run."""
        self.work(lambda grant: {"ordinal": grant["ordinal"], "answered": [], **outcome})

    def work(self, tell: Tell | None = None) -> None:
        """Work until the run does not run. tell: the outcome of a grant, else it is scored."""
        while True:
            claim_id = str(uuid4())
            answer = verbs.claim(self.db, self.run_id, claim_id)
            if answer["granted"]:
                told = [self._told(grant, tell) for grant in answer["granted"]]
                verbs.settle(self.db, self.run_id, claim_id, told)
            elif answer.get("bulk"):
                asked = {"p_run_id": self.run_id, "p_worker": "test", "p_sessions": 20}
                verbs.call(self.db, "backfill_bulk", **asked)
            elif answer["state"] == "running":
                self.clock.advance(max(answer["wait_s"], 1))
            else:
                return

    def _told(self, grant: dict[str, Any], tell: Tell | None) -> dict[str, Any]:
        if tell is None:
            return verbs.score_all(self.db, self.run_id, grant)
        return {"step": grant["steps"][0]["component"], **tell(grant)}

    @property
    def row(self) -> dict[str, Any]:
        """The run's row of backfill_run_progress, as the secret key sees it."""
        with verbs.as_service(self.db):
            found = self.db.execute(
                "select * from public.backfill_run_progress where run_id = %s", (self.run_id,)
            ).fetchone()
        assert found is not None
        return dict(found)

    @property
    def next(self) -> dict[str, Any]:
        """{cause, decides, says, lines}."""
        told: dict[str, Any] = self.row["next"]
        return told

    def do(self, statement: str) -> None:
        """What somebody does in the SQL editor."""
        self.db.execute(statement.encode())

    def type(self, line: str) -> None:
        """Copy a line: into the SQL editor, or into a shell. `…` is written by who types it."""
        if line.endswith(";"):
            self.do(line)
            return
        _, verb, *words = shlex.split(line.replace("…", REASON))
        options = dict(pairwise(words))
        typed: dict[str, Any] = {"run": words[0] if words else "", "options": options}
        verbs_by_name: dict[str, Callable[[dict[str, Any]], object]] = {
            "apply": self._apply,
            "approve": self._approve,
            "check": self._check,
            "install": _look,
            "pause": _look,
            "plan": self._plan,
            "resume": self._resume,
            "retry": lambda t: verbs.call(self.db, "backfill_retry", p_run_id=t["run"]),
            "rollback": lambda t: verbs.call(self.db, "backfill_preview_undo", p_run_id=t["run"]),
            "runs": _look,
            "show": lambda t: verbs.call(self.db, "backfill_plan_sessions", p_run_id=t["run"]),
            "status": _look,
            "verify": lambda t: verbs.verdict(self.db, t["run"]),
        }
        verbs_by_name[verb](typed)

    def _apply(self, typed: Mapping[str, Any]) -> None:
        verbs.start(self.db, typed["run"])
        self.work()

    def _approve(self, typed: Mapping[str, Any]) -> None:
        digest = typed["options"]["--digest"]
        self.db.execute("select public.backfill_approve(%s, %s, 'Ada')", (typed["run"], digest))

    def _resume(self, typed: Mapping[str, Any]) -> None:
        because = typed["options"].get("--because")
        verbs.call(self.db, "backfill_resume", run=typed["run"], because=because)

    def _check(self, _: Mapping[str, Any]) -> None:
        for line in verbs.call(self.db, "backfill_check"):
            if line["status"] == "fail" and str(line.get("next")).rstrip().endswith(";"):
                self.do(line["next"])

    def _plan(self, typed: Mapping[str, Any]) -> None:
        options = typed["options"]
        if run := options.get("--resume"):
            verbs.call(self.db, "backfill_seal", p_run_id=run)
            return
        want = dict([options["--want"].split("=")]) if "--want" in options else {}
        replaced = ["fc_version" for name in want if name == "fc_scores"]
        row = self.db.execute(
            "select request from public.backfill_runs where run_id = %s", (options["--like"],)
        ).fetchone()
        assert row is not None
        asked = Request(
            want=want or None,
            environment=options.get("--environment"),
            mode=options.get("--mode"),
            limit=row["request"]["limit"],
        )
        sent = asked.sent(like_request(row["request"], replaced))
        self.run_id = str(verbs.call(self.db, "backfill_open", p_request=Jsonb(sent)))
        while not verbs.call(self.db, "backfill_collect", p_run_id=self.run_id):
            pass
        sealed = verbs.call(self.db, "backfill_seal", p_run_id=self.run_id)
        assert sealed["state"] == "awaiting_approval"
        verbs.approve(self.db, self.run_id)

    def follow(self, lines: list[str]) -> None:
        """Type the lines, and whatever is said next until the run can go on. Then it does."""
        for line in lines:
            self.type(line)
        if self.row["state"] == "paused":
            assert self.next["causes"] == ["mended"]
            self.follow(self.next["lines"])
        if self.row["state"] in ("approved", "running"):
            verbs.start(self.db, self.run_id)
            self.work()

    def verdict(self) -> str:
        """What verify says now."""
        return verbs.verdict(self.db, self.run_id)
