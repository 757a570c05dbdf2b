"""Edge Functions of a test's project, served by Deno and called through its gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backfill.local import sample
from backfill.local.functions import LOAD_S, WALL_CLOCK_S, FunctionsServer
from backfill.local.gateway import Functions
from backfill.targets.declaration import PRISM, Declaration, Receipts, declared, over_edge_functions
from backfill.targets.migrations import functions_folder
from tests.conftest import Project

OF_TESTS = Path(__file__).parents[1] / "functions"
SILENT = OF_TESTS / "silent"  # these do their work and pass no header on
TROUBLED = OF_TESTS / "troubled"


@contextmanager
def served(
    project: Project,
    folder: Path | None = None,
    *,
    wall_clock_s: float = WALL_CLOCK_S,
    load_s: float = LOAD_S,
    log: Path | None = None,
    **more: str,
) -> Iterator[FunctionsServer]:
    """A folder of Edge Functions, by default the sample's, behind the project's gateway.

    more: further variables of their environment.
    """
    variables = {
        "SUPABASE_URL": project.url,
        "SUPABASE_SERVICE_ROLE_KEY": project.keys.service_role,
        **more,
    }
    server = FunctionsServer.start(
        folder or functions_folder(),
        variables,
        wall_clock_s=wall_clock_s,
        load_s=load_s,
        log=log,
    )
    project.gateway.functions = Functions(server.doors, project.jwt_secret)
    try:
        yield server
    finally:
        project.gateway.functions = None
        server.stop()


def prism_over_edge(receipts: Receipts = "exact", version: str = "1") -> Declaration:
    """PRISM, scored by Edge Functions of the same names."""
    return over_edge_functions(declared(PRISM), version, receipts)


def declare(project: Project, target: Declaration) -> None:
    """Declare a target in a test's project, and wait until the API knows."""
    info = project.db.info
    sample.declare(
        f"postgresql://{info.user}:{info.password}@{info.host}:{info.port}/{info.dbname}", target
    )
    project.reload()
