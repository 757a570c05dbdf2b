"""The configurations of the model: which hold, which have to fail, and the counterexamples.

A size says how much there is of everything. It is chosen so that every state can be visited.
"""

from __future__ import annotations

from dataclasses import dataclass

# The invariants, as protocol.pml numbers them.
INVARIANTS = {
    "once": 1,
    "fenced": 2,
    "paced": 3,
    "older": 4,
    "true": 5,
    "never": 6,
}
SESSIONS = {"SESSIONS": 2, "COMPONENTS": 1, "FENCES": 2, "FRESH": 2, "WINDOW": 2}
COMPONENTS = {"SESSIONS": 2, "COMPONENTS": 2, "FENCES": 2, "FRESH": 1, "WINDOW": 0}
ATTEMPTS = {"SESSIONS": 1, "COMPONENTS": 2, "FENCES": 4, "FRESH": 2, "WINDOW": 2}
SMALL = {"SESSIONS": 1, "COMPONENTS": 1, "FENCES": 2, "FRESH": 1, "WINDOW": 2}


@dataclass(frozen=True, eq=False)
class Configuration:
    """A model to check.

    without: the safeguard that is taken out, a macro of protocol.pml
    breaks: the one invariant that is watched, and that has to break. None: all hold
    trace: the steps of the shortest counterexample
    """

    name: str
    size: dict[str, int]
    without: str | None = None
    breaks: str | None = None
    trace: tuple[str, ...] = ()

    @property
    def macros(self) -> list[str]:
        """What spin is told."""
        defined = {**self.size, "WATCHED": INVARIANTS[self.breaks] if self.breaks else 0}
        named = [f"-D{name}={value}" for name, value in defined.items()]
        return [*named, f"-D{self.without}"] if self.without else named


CONFIGURATIONS = (
    Configuration("two sessions", SESSIONS),
    Configuration("two components", COMPONENTS),
    Configuration("four attempts", ATTEMPTS),
    Configuration(
        "it ends well",
        {**SMALL, "SESSIONS": 2},
        None,
        "never",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "worker 1 writes row 1 of 0",
            "worker 1 commits row 1 of 0",
            "worker 2 asks for 1",
            "worker 2 claims 1",
            "worker 2 writes row 1 of 1",
            "worker 2 commits row 1 of 1",
            "others pause",
            "receipts of 1 are read",
            "others take back 1: DONE",
            "receipts of 0 are read",
            "others take back 0: DONE",
            "others look at 0",
            "others undo 0",
        ),
    ),
    Configuration(
        "no fence",
        SMALL,
        "NO_FENCE",
        "fenced",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "time ends lease 0",
            "receipts of 0 are read",
            "others release 0: PENDING",
            "worker 2 asks for 0",
            "worker 2 claims 0",
            "worker 1 writes row 1 of 0",
            "worker 1 commits row 1 of 0",
        ),
    ),
    Configuration(
        "no row lock",
        SMALL,
        "NO_ROW_LOCK",
        "fenced",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "worker 1 writes row 1 of 0",
            "others pause",
            "receipts of 0 are read",
            "others take back 0: PENDING",
            "worker 1 commits row 1 of 0",
        ),
    ),
    Configuration(
        "no row lock, outcome",
        SMALL,
        "NO_ROW_LOCK",
        "true",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "worker 1 writes row 1 of 0",
            "worker 1 leaves its call of 0",
            "receipts of 0 are read",
            "a late call commits row 1 of 0",
            "worker 1 settles 0: PENDING",
        ),
    ),
    Configuration(
        "settle before the fence changes",
        SMALL,
        "SETTLE_FIRST",
        "true",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "worker 1 writes row 1 of 0",
            "worker 1 leaves its call of 0",
            "receipts of 0 are read",
            "a late call commits row 1 of 0",
            "worker 1 settles 0: PENDING",
        ),
    ),
    Configuration(
        "receipts not looked up",
        SMALL,
        "NO_RECEIPTS",
        "true",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "worker 1 writes row 1 of 0",
            "worker 1 commits row 1 of 0",
            "worker 1 hears nothing of 0",
            "receipts of 0 are read",
            "worker 1 settles 0: PENDING",
        ),
    ),
    Configuration(
        "steps without receipts",
        {**SMALL, "COMPONENTS": 2},
        "NO_STEPS",
        "once",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "worker 1 writes row 1 of 0",
            "worker 1 commits row 1 of 0",
            "worker 1 hears nothing of 0",
            "receipts of 0 are read",
            "worker 1 settles 0: PENDING",
            "worker 2 asks for 0",
            "worker 2 claims 0",
            "worker 2 writes row 1 of 0",
            "worker 2 commits row 1 of 0",
        ),
    ),
    Configuration(
        "no run lock",
        {**SMALL, "SESSIONS": 2, "WINDOW": 1},
        "NO_RUN_LOCK",
        "paced",
        (
            "worker 1 asks for 0",
            "worker 2 asks for 1",
            "worker 1 claims 0",
            "worker 2 claims 1",
        ),
    ),
    Configuration(
        "undo without comparing",
        SMALL,
        "UNDO_BLIND",
        "older",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "worker 1 writes row 1 of 0",
            "worker 1 commits row 1 of 0",
            "others pause",
            "receipts of 0 are read",
            "others take back 0: DONE",
            "others edit 0",
            "others look at 0",
            "others undo 0",
        ),
    ),
    Configuration(
        "undo without row locks",
        SMALL,
        "UNDO_LOOSE",
        "older",
        (
            "worker 1 asks for 0",
            "worker 1 claims 0",
            "worker 1 writes row 1 of 0",
            "worker 1 commits row 1 of 0",
            "others pause",
            "receipts of 0 are read",
            "others take back 0: DONE",
            "others look at 0",
            "others edit 0",
            "others undo 0",
        ),
    ),
)
