"""The request that the sample was made for, and what its plan is expected to hold."""

from __future__ import annotations

from typing import Any

REHEARSED: dict[str, Any] = {
    "since": "2025-08-01",
    "engine_version": "v1.2.1",
    "fc_version": "v1.2",
    "throttle_per_minute": 20,
    "batch_size": 5,
    "priority": ["618c5ea6", "070d9bf2"],
    "environment": "staging",
}
# A rehearsal takes two thirds of the time of a plan, so only tests that are about it rehearse.
SEED: dict[str, Any] = {**REHEARSED, "rehearse": 0}
CANARY = "618c5ea6-3f0d-4b8e-9a41-5d2c7e90b1f4"
CANDIDATES = (
    "select session_id::text from public.backfill_candidates"
    " where created_at >= '2025-08-01' order by created_at"
)
