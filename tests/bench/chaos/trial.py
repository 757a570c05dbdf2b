"""One system under one scenario, from a full list of work to what is left of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.bench.chaos.crew import Crew
from tests.bench.chaos.scenarios import Scenario
from tests.bench.chaos.stand import FUNCTIONS, Stand
from tests.bench.chaos.systems import System

LOOK_S = 0.05
LIMIT_S = 300.0  # whoever is not done by then never will be without a person
WORKERS = 2


@dataclass(frozen=True)
class Trial:
    """What came out. Sessions, but for the strikes, the starts and the seconds.

    recovered: have all their rows. lost: lack some, and the system thinks that they are done.
    twice: had a call committed more than once. left: not done in the system's own opinion.
    hits: strikes that found work under way. held: how many sessions were under way at them.
    """

    system: str
    scenario: str
    sessions: int
    recovered: int
    lost: int
    twice: int
    left: int
    strikes: int
    hits: int
    held: int
    starts: int
    seconds: float


def tried(stand: Stand, system: System, scenario: Scenario) -> Trial:
    """Fill, work, strike, wait for the end, count."""
    stand.clear()
    command = system.fill(stand)
    stand.db.execute("vacuum analyze")
    wanted = len(stand.sessions) * len(FUNCTIONS)
    due, held = [share * wanted for share in scenario.at], list[int]()
    began_s = time.monotonic()
    with Crew(stand, command, WORKERS) as crew:
        while time.monotonic() - began_s < LIMIT_S:
            number = len(held)
            if (
                number < len(due)
                and stand.calls() >= due[number]
                and (not scenario.of_one or crew.is_at_work(number))
            ):
                held.append(len(stand.rows(system.under_way)))
                scenario.strike(stand, crew, number)
            open_work = {row["id"] for row in stand.rows(system.open_work)}
            if len(open_work) <= int(stand.value(system.waits_for_a_person)):
                break
            crew.tend()
            time.sleep(LOOK_S)
        seconds = time.monotonic() - began_s
    open_work = {row["id"] for row in stand.rows(system.open_work)}
    scored = stand.scored()
    return Trial(
        system=system.name,
        scenario=scenario.name,
        sessions=len(stand.sessions),
        recovered=len(scored),
        lost=len(set(stand.sessions) - scored - open_work),
        twice=stand.twice(),
        left=len(open_work),
        strikes=len(held),
        hits=sum(1 for sessions in held if sessions),
        held=sum(held),
        starts=crew.starts,
        seconds=seconds,
    )
