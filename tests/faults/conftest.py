"""A sample of 200 sessions with counting scorers, a copy for every test, a proxy in front."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import stamina

from backfill.stack_servers import PostgresServer
from tests.faults.scenario import SESSIONS, Scene, Scoring, Undisturbed
from tests.faults.stack import Stack, disturb_nothing, make_template, scene_on


@pytest.fixture(scope="session")
def templates(postgres_server: PostgresServer) -> Callable[[Scoring], str]:
    """The database that every test of a worker copies, made when it is asked for first."""
    return cache(lambda scoring: make_template(postgres_server, SESSIONS, scoring))


@pytest.fixture(scope="session")
def undisturbed(
    postgres_server: PostgresServer, templates: Callable[[Scoring], str]
) -> Undisturbed:
    """Run once a session. Whoever scores, the rows are the same."""
    return disturb_nothing(postgres_server, templates("rpc"))


@pytest.fixture(params=["rpc", "edge", "silent"])
def scoring(request: pytest.FixtureRequest) -> Scoring:
    """Who scores. Where nothing is said at the write, a test says which of these it is for."""
    kind: Scoring = request.param
    return kind


@pytest.fixture
def scene_and_stack(
    postgres_server: PostgresServer,
    templates: Callable[[Scoring], str],
    undisturbed: Undisturbed,
    scoring: Scoring,
) -> Iterator[tuple[Scene, Stack]]:
    """A project of the test's own, and the servers under it."""
    with scene_on(postgres_server, templates(scoring), undisturbed, scoring) as made:
        yield made


@pytest.fixture
def scene(scene_and_stack: tuple[Scene, Stack]) -> Scene:
    """A project of the test's own, and a proxy in front of it that passes everything on."""
    return scene_and_stack[0]


@pytest.fixture
def stack(scene_and_stack: tuple[Scene, Stack]) -> Stack:
    """The servers under the scene."""
    return scene_and_stack[1]


@pytest.fixture
def at_once() -> Iterator[None]:
    """Our own calls are made again at once: what passes between two tries is not looked at."""
    stamina.set_testing(True, attempts=6, cap=True)
    yield
    stamina.set_testing(False)
