"""Whether this project is ready: one line per check, the connection first."""

from __future__ import annotations

from backfill.api import answers, keys
from backfill.api.gateway import Gateway
from backfill.api.rows import check_of
from backfill.errors import NotInstalled
from backfill.results.check import Check
from backfill.run.probe import probed


async def check_project(gateway: Gateway) -> tuple[Check, ...]:
    """Every check, in the order in which a person fixes things.

    Missing migrations are a check that fails. Raises CannotConnect and BadKey, since nothing can
    be checked then.
    """
    try:
        asked = {"p_probed": await probed(gateway, None)}
        found = await gateway.call("backfill_check", asked, answers.ROWS)
    except NotInstalled as absent:
        installed = Check("migrations", "fail", absent.message, absent.next_step)
        return (_reachable(gateway.host), _key(gateway), installed)
    installed = Check("migrations", "ok", "installed")
    lines = tuple(check_of(line) for line in found)
    return (_reachable(gateway.host), _key(gateway), installed, *lines)


def _reachable(host: str) -> Check:
    return Check("reachable", "ok", f"{host} answers")


def _key(gateway: Gateway) -> Check:
    if not gateway.uses_legacy_key:
        return Check("key", "ok", "a secret key")
    return Check(
        "key", "warn", "a legacy JWT of service_role, retired by the end of 2026", keys.WHERE
    )
