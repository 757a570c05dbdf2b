"""Ask whether a run could make its scoring calls, without making one.

The API is sent each call with two headers that it refuses: it chooses the function first, and then
refuses before it runs it. An Edge Function is sent what a browser sends before a call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

import anyio

from backfill.api import answers
from backfill.api.gateway import PAGE, CallFailed, Gateway
from backfill.results.run import Json

Told = dict[str, Json]  # {status, detail, next}, see sql/40_plan/function_marks.sql

# Either of them is enough: a media type that no function returns, and a preference that is none.
REFUSED = {
    "accept": "application/x-backfill-probe",
    "prefer": "handling=strict, backfill=probe",
}
_CHOSEN = {"PGRST107", "PGRST122"}  # what these headers are refused with
_UNKNOWN, _AMBIGUOUS = "PGRST202", "PGRST203"
_NOT_DEPLOYED, _NOT_STARTED = {"NOT_FOUND", "404"}, {"BOOT_ERROR", "503"}
EDGE_ANSWERS_WITHIN_S = 10.0


async def probed(gateway: Gateway, run_id: str | None) -> list[Told]:
    """How the API answers about each scoring call of a run, or of every target.

    [{mark, status, detail, next}], for `backfill_check` and `backfill_seal`.
    """
    calls = await gateway.call("backfill_calls", {"p_run_id": run_id}, answers.ROWS)
    return [{"mark": call["mark"], **await _answer_about(gateway, call)} for call in calls]


async def _answer_about(gateway: Gateway, call: Mapping[str, Json]) -> Told:
    if call["transport"] == "edge":
        return await _edge(gateway, call["function"])
    return await _rpc(gateway, call["function"], call["arguments"])


async def _rpc(gateway: Gateway, function: str, arguments: Sequence[str]) -> Told:
    code, message = await _refusal(gateway.score(function, dict.fromkeys(arguments), REFUSED))
    if code in _CHOSEN:
        return _told("ok", "the API can call it")
    cannot = f"the API cannot call it: {code} {message}"
    if code == _UNKNOWN:
        return _told("fail", cannot, "notify pgrst, 'reload schema';")
    if code == _AMBIGUOUS:
        return _told("fail", cannot, "rename one of them, or its arguments")
    return _not_asked("the API", code, message)


async def _edge(gateway: Gateway, function: str) -> Told:
    with anyio.move_on_after(EDGE_ANSWERS_WITHIN_S) as waiting:
        code, message = await _refusal(gateway.invoke(function, None, {}, "OPTIONS"))
    if waiting.cancelled_caught:
        return _not_asked("it", None, f"no answer within {EDGE_ANSWERS_WITHIN_S:g} s")
    deploy = f"supabase functions deploy {function}"
    if code in _NOT_DEPLOYED:
        return _told("fail", f"it is not deployed: {code} {message}", deploy)
    if code in _NOT_STARTED:
        return _told(
            "fail", f"it does not start: {code} {message}", f"look at its logs, then: {deploy}"
        )
    if code == "transport" and message != PAGE:  # an answer to OPTIONS is seldom JSON
        return _not_asked("it", code, message)
    return _told("ok", "it is deployed and answers")


async def _refusal(call: Awaitable[Json]) -> tuple[str | None, str]:
    """Code and message of a call's refusal. None and nothing if it was answered."""
    try:
        await call
    except CallFailed as refused:
        return refused.fault.code, refused.fault.message
    return None, ""


def _not_asked(whom: str, code: str | None, message: str) -> Told:
    said = " ".join(filter(None, (code, message))) or "it answered"
    return _told("warn", f"{whom} could not be asked: {said}", "backfill check")


def _told(status: str, detail: str, next_step: str = "") -> Told:
    return {"status": status, "detail": detail, "next": next_step}
