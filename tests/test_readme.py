"""What sql/README.md tells to type works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from postgrest import APIError

import backfill
from supabase import Client, create_client
from tests.conftest import Project
from tests.kit.readme import claim
from tests.kit.seed import SEED

READS = claim("Rights and roles", "items, receipts =", "executed")

# The client's own warning about how it sets up its transport.
pytestmark = pytest.mark.filterwarnings("ignore:The '(timeout|verify)' parameter is deprecated")


@pytest.fixture
def client(project: Project) -> Iterator[Client]:
    """A client of somebody's own, with the secret key."""
    made = create_client(project.url, project.keys.service_role)
    yield made
    made.postgrest.session.close()


def test_the_lines_that_read_items_and_receipts_work(client: Client, bf: backfill.Backfill) -> None:
    """They name their columns, as they must."""
    plan = bf.plan(since=SEED["since"])
    first, *reads = READS.splitlines()
    names: dict[str, Any] = {"client": client, "run_id": plan.run_id}
    exec(first, names)  # noqa: S102 - our own page
    answers: list[Any] = [eval(line, names) for line in reads]  # noqa: S307 - our own page
    assert [len(answer.data) for answer in answers] == [39, 0]


@pytest.mark.parametrize("table", ["backfill_items", "backfill_receipts"])
def test_without_named_columns_they_are_refused(client: Client, table: str) -> None:
    """The reason why the page says so: fences and contents are granted to nobody."""
    with pytest.raises(APIError, match="permission denied"):
        client.table(table).select("*").execute()
