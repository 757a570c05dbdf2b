"""The rules of the database as tables of cases. Mutants of the functions test the tables."""

from __future__ import annotations

from tests.rules import (
    batches,
    canary,
    causes,
    chain,
    gate,
    health,
    leases,
    others,
    pace,
    planning,
    requests,
    settling,
    standing,
    throttle,
    trial,
    trouble,
    verification,
)
from tests.rules.case import Case, Db, Rule, answer, holds
from tests.rules.world import prepare

__all__ = ["RULES", "Case", "Db", "Rule", "answer", "holds", "prepare"]

RULES = (
    *settling.RULES,
    *health.RULES,
    *others.RULES,
    *pace.RULES,
    *gate.RULES,
    *planning.RULES,
    *batches.RULES,
    *trouble.RULES,
    *trial.RULES,
    *leases.RULES,
    *throttle.RULES,
    *chain.RULES,
    *canary.RULES,
    *causes.RULES,
    *requests.RULES,
    *standing.RULES,
    *verification.RULES,
)
