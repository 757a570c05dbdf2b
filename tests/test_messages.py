"""What a person reads: one form of words everywhere, and a name for what goes by another."""

from __future__ import annotations

import re

import pytest

import backfill
from backfill.targets.file_check import form_of
from tests.conftest import Project
from tests.kit.commands import Shell
from tests.kit.jars import PLAN, TOML, jars

FILE = TOML.format(key="bigint", needs="")
# One, of several. A name such as `1 session_id` is none of it.
ONE_OF_SEVERAL = re.compile(
    r"(?<![\d.,:-])1 (?:sessions|rows|events|calls|batches|checks|conflicts|jars)\b"
)


def test_one_is_never_several(project: Project, bf: backfill.Backfill, shell: Shell) -> None:
    """Over a run of one session, from the check to the undo. No sentence ends twice."""
    jars(project, 1)
    plan = bf.plan(**{**PLAN, "rehearse": 1})
    project.approve(plan)
    said = [plan.markdown()]
    for verb in ("check", "status", "apply", "status", "verify", "show", "rollback", "runs"):
        more = {"check": ["--verbose"], "runs": []}.get(verb, [plan.run_id])
        ran = shell(verb, *more)
        said += [ran.out, ran.err]
    text = "\n".join(said)
    assert ONE_OF_SEVERAL.findall(text) == []
    assert ";;" not in text
    assert "any number of session starts per minute, any number of sessions per plan" in text
    assert "the throttle wins" not in text


OTHERWISE = {
    "show": "get(run)",
    "logs": "write_logs(run, folder)",
    "undo": "rollback(run)",
    "install": "only the command line has it",
    "nothing_like_it": "has no attribute 'nothing_like_it'",
}


@pytest.mark.parametrize("name", OTHERWISE)
@pytest.mark.parametrize("face", [backfill.Backfill, backfill.AsyncBackfill])
def test_a_verb_that_is_called_otherwise_is_named(face: type, name: str) -> None:
    """Both faces say how."""
    with pytest.raises(AttributeError, match=re.escape(OTHERWISE[name])):
        getattr(object.__new__(face), name)


def test_a_verb_of_a_connection_is_no_function_of_the_package() -> None:
    """And it says whose it is."""
    with pytest.raises(AttributeError, match=r"'plan': it is a method of connect\(\)$"):
        _ = backfill.plan  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no attribute 'plam'$"):
        _ = backfill.plam  # type: ignore[attr-defined]


# The session's key by another name, in the declaration of the jars.
@pytest.mark.parametrize("name", ["id", "session", "jar_id"])
def test_a_session_by_another_name_is_one_fault(name: str) -> None:
    """What follows from it is not told."""
    text = FILE.replace('jar_id = "session_id"', f'jar_id = "{name}"')
    assert [(e.message, e.next_step) for e in form_of(text).errors] == [
        (
            f"component label: arguments.jar_id: there is no parameter {name};"
            " it is called session_id here",
            'arguments = { jar_id = "session_id" }',
        )
    ]
