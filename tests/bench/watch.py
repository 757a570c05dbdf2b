"""Watching a large project through the API: the first count of all days, and the daily look.

    python -m tests.bench.watch [SESSIONS] [CANDIDATES]

5,000,000 sessions of five years and 250,000 candidates unless told, as in planning.py. So each of
1,826 days lacks something. The database's clock shows the end of the five years.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

from tests.bench.planning import CANDIDATES, LAST_DAY, SESSIONS, Scene, scene

# The days of the data are the last ones. It goes on as the real one does: a look is bounded by it.
CLOCK = """
create or replace function backfill_private.clock() returns timestamptz
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  return clock_timestamp() - (timestamptz '{began}' - timestamptz '{last_day}');
end
$$
"""
FILL = """
insert into public.fc_scores (session_id, version, scores_json, blocks_answered)
select session_id, 'v1.2', '{{"Te": 50}}', 1 from public.backfill_candidates
where missing_fc_scores and created_at < '{last_day}'::timestamptz - interval '35 days';
insert into public.profiles (session_id, results_version, type_code, payload)
select session_id, 'v1.2.1', 'INTJ', '{{}}' from public.backfill_candidates
where missing_profile and created_at < '{last_day}'::timestamptz - interval '35 days';
"""


async def looked(url: str, key: str, *, full: bool) -> tuple[list[float], Any]:
    """Seconds of each call of a look, and what it found."""
    import backfill
    from backfill.api.gateway import Gateway

    took_s: list[float] = []

    class Timed(Gateway):
        async def call(self, function: str, arguments: Any, shape: Any, **given: Any) -> Any:
            began = time.perf_counter()
            try:
                return await super().call(function, arguments, shape, **given)
            finally:
                took_s.append(time.perf_counter() - began)

    async with backfill.AsyncBackfill(Timed(url, key)) as bf:
        (found,) = (await bf.watch(full=full)).targets
    return took_s, found


def measure(stage: Scene, what: str, *, full: bool = False) -> None:
    """Look, and print how long that took and what it found."""
    given = {**os.environ, **stage.environment}
    took_s, found = asyncio.run(
        looked(given["SUPABASE_URL"], given["SUPABASE_SECRET_KEY"], full=full)
    )
    calls = f"{len(took_s)} call{'' if len(took_s) == 1 else 's'}, the longest {max(took_s):.2f} s"
    print(f"{what:46}{sum(took_s):8.2f} s in {calls}", flush=True)
    print(f"  {found.status}: {found.missing:,} of {found.wanted:,} missing", flush=True)


def main(sessions: int, candidates: int) -> None:
    """Measure and print."""
    began = time.perf_counter()
    with scene(sessions, candidates) as stage:
        print(f"{sessions:,} sessions loaded in {time.perf_counter() - began:.0f} s", flush=True)
        now = stage.db.execute("select clock_timestamp()::text").fetchone()
        assert now is not None
        stage.db.execute(CLOCK.format(began=now[0], last_day=LAST_DAY).encode())
        measure(stage, "the first count of all days")
        measure(stage, "the daily look, all days lack something")
        measure(stage, "a full count", full=True)
        stage.db.execute(FILL.format(last_day=LAST_DAY).encode())
        stage.db.execute("vacuum analyze")
        measure(stage, "a full count, 35 days lack something", full=True)
        measure(stage, "the daily look, 35 days lack something")


if __name__ == "__main__":
    given = [int(number) for number in sys.argv[1:]]
    main(*given, *(SESSIONS, CANDIDATES)[len(given) :])
