"""Whatever happens between client and project, a run ends as one that nobody disturbed."""

from __future__ import annotations

import httpx
import pytest

from tests.faults.proxy import (
    SCORING,
    Call,
    Fault,
    Proxy,
    Scorings,
    Strike,
    cut,
    deaf,
    first_call_of_every,
    half_a_body,
    numbered,
    says,
)
from tests.faults.scenario import Scene, hits_of

pytestmark = pytest.mark.usefixtures("at_once")

PAGE = "<html><head><title>Bad gateway</title></head><body>It will be back.</body></html>"
SOME = first_call_of_every(3)
OTHERS = first_call_of_every(3, beginning_with=1)
OWN = ("backfill_start", "backfill_claim", "backfill_settle")


def on_own_calls(call: Call) -> bool:
    """Some of the calls that are ours and not the project's: each of them once in a row."""
    return numbered("backfill_claim", 1, 4, 9)(call) or numbered("backfill_settle", 2, 7)(call)


UNKNOWN: dict[str, list[Fault]] = {
    "reply dropped after commit": [cut(forwards=True)],
    "connection cut before the request is forwarded": [cut(forwards=False)],
    "502 with an HTML page": [says(502, PAGE), says(502, PAGE, forwards=True)],
    "200 with an HTML page": [says(200, PAGE), says(200, PAGE, forwards=True)],
    "half a body, then the connection closes": [half_a_body()],
    "504 after the call committed": [says(504, PAGE, forwards=True)],
    "520 without a body": [says(520, ""), says(520, "", forwards=True)],
}


def strike(proxy: Proxy, faults: list[Fault]) -> None:
    """The first fault on a third of the sessions, the last on another, and on calls of ours."""
    proxy.strikes = [
        Strike(faults[0], SOME),
        Strike(faults[-1], OTHERS),
        Strike(faults[-1], on_own_calls),
    ]


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_outcome_is_looked_up_and_not_guessed(scene: Scene, case: str) -> None:
    """Two thirds of the sessions and some calls of ours lose their answer; the run ends the same."""
    strike(scene.proxy, UNKNOWN[case])
    run_id = scene.planned()
    assert scene.apply(run_id).is_complete
    assert scene.outcomes()["unknown"] >= hits_of(scene.proxy.hits, *SCORING) > 100
    assert hits_of(scene.proxy.hits, *OWN) == 5
    scene.ends_as_undisturbed(case, run_id)
