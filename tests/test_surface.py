"""What a program sees of the package, and that it leaves nothing open."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from typing import get_args, get_type_hints

import pytest

import backfill
from backfill.results.run import Mode, RunState
from tests.conftest import Project


def test_dir_shows_the_public_names() -> None:
    """Those that `from backfill import *` gives, and the version."""
    assert dir(backfill) == sorted({*backfill.__all__, "__version__"})
    assert all(hasattr(backfill, name) for name in dir(backfill))


def test_the_version_is_the_packages() -> None:
    assert backfill.__version__ == version("supabase-backfill")
    assert not hasattr(backfill, "version_of_nothing")


def test_states_and_modes_are_literals() -> None:
    """So that a type checker knows a misspelt one."""
    for kind in (backfill.Status, backfill.RunSummary):
        assert get_type_hints(kind)["state"] is RunState
    assert RunState in get_args(get_type_hints(backfill.Plan)["state"])
    assert get_args(get_type_hints(backfill.AsyncBackfill.plan)["mode"])[0] is Mode


BLOCKING = """
import backfill, os
bf = backfill.connect()
print(bf.runs())
"""
AWAITED = """
import anyio, backfill
async def main():
    bf = backfill.connect_async()
    print(await bf.runs())
anyio.run(main)
"""
GLOBAL = """
import anyio, backfill
async def main():
    global bf
    bf = backfill.connect_async()
    print(await bf.runs())
anyio.run(main)
"""
FORGOTTEN = """
import backfill, gc, threading
bf = backfill.connect()
print(bf.runs())
del bf
gc.collect()
[thread.join(5) for thread in threading.enumerate() if thread.name == "backfill"]
assert "backfill" not in [thread.name for thread in threading.enumerate()]
"""
TWICE = """
import backfill
with backfill.connect() as bf:
    print(bf.runs())
bf.close()
"""


@pytest.mark.parametrize("script", [BLOCKING, AWAITED, GLOBAL, FORGOTTEN, TWICE])
def test_connections_that_nobody_closed_close_silently(
    shared_project: Project, script: str
) -> None:
    """At the end of the program, or when the object is gone. Even with every warning on."""
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        env={
            **os.environ,
            "SUPABASE_URL": shared_project.url,
            "SUPABASE_SECRET_KEY": "",
            "SUPABASE_SERVICE_ROLE_KEY": shared_project.keys.service_role,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in ran.stderr.splitlines() if "Unclosed" in line or "aiohttp" in line]
    assert (ran.returncode, ran.stdout, said) == (0, "()\n", []), ran.stderr
