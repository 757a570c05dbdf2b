"""The model's counterexamples on the real database: each meets the safeguard that it lacks.

`poe model` finds them with spin, and holds each against the one that is kept here to be played.
"""

from __future__ import annotations

import re

import pytest

import backfill
from backfill.local.servers import PostgresServer
from tests.conftest import Project
from tests.kit.clocks import DatabaseClock
from tests.kit.outsider import running
from tests.kit.readme import PAGES
from tests.protocol import __main__ as command
from tests.protocol.configurations import CONFIGURATIONS, INVARIANTS, Configuration
from tests.protocol.player import Player
from tests.protocol.spin import MODEL

# The step that does not happen, and what happens instead.
HELD_UP = {
    "no fence": ("worker 1 writes row 1 of 0", "OB011"),
    "no row lock": ("receipts of 0 are read", "waits"),
    "no row lock, outcome": ("receipts of 0 are read", "waits"),
    "settle before the fence changes": ("receipts of 0 are read", "waits"),
    "receipts not looked up": ("worker 1 settles 0: PENDING", "it is done"),
    "steps without receipts": ("worker 2 writes row 1 of 0", "it is no step"),
    "no run lock": ("worker 2 asks for 1", "waits"),
    "undo without comparing": ("others undo 0", "it stays"),
    "undo without row locks": ("others edit 0", "waits"),
    "it ends well": ("", ""),
}
PLAYED = [c for c in CONFIGURATIONS if c.breaks]


@pytest.mark.parametrize("configuration", PLAYED, ids=lambda c: c.name)
def test_a_counterexample_meets_its_safeguard(
    configuration: Configuration,
    project: Project,
    postgres_server: PostgresServer,
    timed: backfill.Backfill,
    clock: DatabaseClock,
) -> None:
    """Up to that step the database does what the model does."""
    player = Player(postgres_server.dsn(project.db.info.dbname), project, timed, clock)
    pace = {"throttle_per_minute": 1} if configuration.breaks == "paced" else {}
    limit = configuration.size["SESSIONS"]
    run_id = running(project, timed, batch_size=1, limit=limit, **pace)
    is_in_parts = configuration.size["COMPONENTS"] > 1
    held_up = player.play(run_id, configuration.trace, is_in_parts=is_in_parts)
    assert held_up == HELD_UP[configuration.name]


def test_each_invariant_has_a_configuration_that_breaks_it() -> None:
    """So none is empty, and each safeguard of the model is taken out by one."""
    assert {c.breaks for c in PLAYED} == {*INVARIANTS}
    safeguards = set(re.findall(r"^#ifn?def ([A-Z_]+)$", MODEL.read_text(), re.MULTILINE))
    sizes = {name for c in CONFIGURATIONS for name in c.size} | {"WATCHED"}
    assert {c.without for c in CONFIGURATIONS if c.without} == safeguards - sizes


def test_the_page_names_the_configurations() -> None:
    """In the table that `poe model` prints."""
    section = PAGES["tests/README.md"].partition("## The protocol, modelled")[2]
    rows = re.findall(r"^\| ([a-z ,]+) \| (\w+) \| (\w+) \|", section, re.MULTILINE)
    assert rows == [(c.name, c.breaks or "holds", c.breaks or "holds") for c in CONFIGURATIONS]


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing else is tried."""
    monkeypatch.setenv("PATH", "")
    assert command.main([]) == 2
    assert capsys.readouterr().out == "The model needs spin and gcc: apt-get install spin gcc\n"


def test_a_configuration_that_is_none_is_answered_with_the_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "missing", list)
    assert command.main(["nonsense"]) == 2
    assert "two sessions" in capsys.readouterr().out
