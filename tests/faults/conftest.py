"""A sample with counting scorers, a copy for every test, a proxy in front."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache

import pytest
import stamina

from backfill.local.servers import PostgresServer
from tests.faults.scenario import SESSIONS, Scene, Undisturbed
from tests.faults.stack import Stack, disturb_nothing, make_template, scene_on
from tests.faults.subjects import Scoring, subject
from tests.kit.copies import HOSTED, Copies
from tests.kit.folders import server_folder
from tests.kit.whole import WHOLE, pair


@dataclass(frozen=True)
class Prepared:
    """By subject and size, each made when it is asked for first.

    copies: of a database. undisturbed: what a run leaves in a twin of it that nobody disturbs.
    """

    copies: Callable[[Scoring, int], Copies]
    undisturbed: Callable[[Scoring, int], Undisturbed]


def case_of(item: pytest.Function) -> str:
    """What a test tries, whoever scores."""
    # The values: in `indices` those of one parameter differ from subject to subject.
    values = {name: v for name, v in item.callspec.params.items() if name != "scoring"}
    return f"{item.path.name} {item.originalname} {values}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a pair of subjects for each case, unless the whole is asked for."""
    cases: dict[str, dict[str, pytest.Item]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and "scoring" in item.fixturenames:
            cases.setdefault(case_of(item), {})[str(item.callspec.params["scoring"])] = item
    left_out = {
        item
        for case, by_subject in cases.items()
        for name, item in by_subject.items()
        if not WHOLE and name not in pair(case, by_subject)
    }
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def prepared(postgres_server: PostgresServer) -> Iterator[Prepared]:
    """Databases to disturb, and the rows that they should end with."""
    with ExitStack() as owned:

        @cache
        def copies(scoring: Scoring, sessions: int) -> Copies:
            template = make_template(postgres_server, sessions, subject(scoring))
            return owned.enter_context(closing(Copies(postgres_server, template, HOSTED)))

        @cache
        def twin(scoring: Scoring, sessions: int) -> Undisturbed:
            return disturb_nothing(copies(scoring, sessions), subject(scoring))

        def undisturbed(scoring: Scoring, sessions: int) -> Undisturbed:
            # SQL functions and Edge Functions leave the same rows of PRISM.
            return twin(scoring if scoring in ("documents", "kinds") else "rpc", sessions)

        yield Prepared(copies, undisturbed)


@pytest.fixture(params=["rpc", "edge", "silent", "documents"])
def scoring(request: pytest.FixtureRequest) -> Scoring:
    """Who scores what. Where nothing is said at the write, a test says for which it is."""
    kind: Scoring = request.param
    return kind


@pytest.fixture
def scene_and_stack(prepared: Prepared, scoring: Scoring) -> Iterator[tuple[Scene, Stack]]:
    """A project of the test's own, and the servers under it."""
    copies, undisturbed = prepared.copies, prepared.undisturbed
    with scene_on(
        copies(scoring, SESSIONS), subject(scoring), undisturbed(scoring, SESSIONS)
    ) as made:
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


@pytest.fixture
def mortal(prepared: Prepared, scoring: Scoring) -> Iterator[tuple[Scene, Stack]]:
    """A scene whose PostgreSQL may die: the other tests have another."""
    folder = server_folder()
    with ExitStack() as owned:
        owned.callback(shutil.rmtree, folder, ignore_errors=True)
        server = PostgresServer.start(folder / "data")
        owned.callback(server.stop)
        copies = Copies(server, make_template(server, SESSIONS, subject(scoring)), HOSTED)
        undisturbed = prepared.undisturbed(scoring, SESSIONS)
        with scene_on(copies, subject(scoring), undisturbed) as (scene, stack):
            owned.callback(lambda: stack.server.stop())
            owned.callback(copies.close)
            yield scene, stack
