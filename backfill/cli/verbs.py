"""Every verb of the command line: in a line what it does, and which module has it.

The list is read before any of these modules, of which a verb loads its own alone.
"""

from __future__ import annotations

from typing import NamedTuple


class Listed(NamedTuple):
    """module: of this folder. says: the first sentence of the verb's own help."""

    module: str
    says: str


VERBS = {
    "check": Listed("check", "Is this project ready? What is not ok comes with what to do."),
    "missing": Listed("plan", "What is missing per UTC day."),
    "watch": Listed("watch", "Look whether each target keeps its service level."),
    "heal": Listed("heal", "Watch, plan, score what a standing approval covers, verify."),
    "plan": Listed("plan", "Plan what is missing, and halt for approval."),
    "runs": Listed("runs", "The runs, the newest first."),
    "show": Listed("runs", "The plan, or what became of it."),
    "approve": Listed("approve", "Approve exactly this plan, as who is signed in."),
    "reject": Listed("approve", "Reject a plan for good, as who is signed in."),
    "apply": Listed("apply", "Score the approved sessions."),
    "retry": Listed("apply", "Score the failed sessions again, under the same approval."),
    "pace": Listed("pause", "Lower the rate of a run, or raise it again up to what was approved."),
    "pause": Listed("pause", "Pause a run: no session starts until it is resumed."),
    "resume": Listed("pause", "Lift a pause."),
    "cancel": Listed("pause", "Stop a run for good."),
    "status": Listed("runs", "The status of a run, and why it waits."),
    "verify": Listed("check", "Compare the tables with the plan."),
    "rollback": Listed(
        "undo",
        "Preview taking back what a run wrote, or confirm the preview, as who is signed in.",
    ),
    "logs": Listed("runs", "Write all files of a run from the database."),
    "standing": Listed("standing", "Let a rule approve runs: standing approvals."),
    "notify": Listed("notify", "Try a webhook: send one message, and say what came back."),
    "login": Listed("login", "Sign in to decide as oneself."),
    "logout": Listed("login", "End the session of `login`, here and at Auth."),
    "install": Listed(
        "local", "Copy our migrations into a Supabase project: shows, asks, skips what is there."
    ),
    "demo": Listed(
        "local",
        "Start a project, plan, halt, approve, apply, verify, undo a date range, stop.",
    ),
    "completion": Listed(
        "completion",
        "Print the script that completes verbs, options, runs and targets in a shell.",
    ),
    "targets": Listed(
        "target",
        "The installed targets: their components, their coverage of all dates, since when.",
    ),
    "uninstall": Listed("target", "Write the migration that takes all of ours out of the project."),
    "local": Listed("local", "A Supabase-like project on this machine."),
    "target": Listed("target", "Declare what a backfill is about."),
}
