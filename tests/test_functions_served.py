"""The embedded stack serves Edge Functions as they are written for the platform."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from backfill.errors import BadRequest
from backfill.local.functions import FunctionsServer, log_lines
from backfill.local.functions_folder import functions_in
from backfill.local.gateway import Functions, gateway_in_thread
from backfill.local.keys import ApiKeys
from tests.kit.edge import OF_TESTS

JWT_SECRET = "a secret of at least thirty-two characters"
KEYS = ApiKeys.new(JWT_SECRET)
BEARER = {"Authorization": f"Bearer {KEYS.anon}"}


class Wild(NamedTuple):
    """A served folder of functions with the habits of many projects."""

    server: FunctionsServer
    url: str
    log: Path

    def call(
        self, name: str, body: str = "", method: str = "POST", **headers: str
    ) -> httpx.Response:
        """One call of a function, without a key but for what the headers have."""
        return httpx.request(
            method, f"{self.url}/functions/v1/{name}", content=body, headers=headers, timeout=20
        )


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wild]:
    project = tmp_path_factory.mktemp("wild")
    shutil.copytree(OF_TESTS / "wild", project, dirs_exist_ok=True)
    log = project / "functions.log"
    with gateway_in_thread("http://127.0.0.1:1", KEYS) as gateway:
        variables = {"SUPABASE_URL": gateway.url}
        server = FunctionsServer.start(project / "functions", variables, log=log)
        gateway.functions = Functions(server.doors, JWT_SECRET)
        try:
            yield Wild(server, gateway.url, log)
        finally:
            server.stop()


def test_each_that_does_not_start_says_why_and_the_others_are_served(wild: Wild) -> None:
    """Five that fail in five ways, and each way to be served beside them."""
    why = {name: reason.split(' "file:')[0] for name, reason in wild.server.failed.items()}
    assert why.pop("bad_settings").startswith("deno.json cannot be read: ")
    assert why == {
        "exits": "Error: an Edge Function cannot end its process",
        "no_module": "Module not found",
        "serves_nothing": "it ended and did not call Deno.serve",
        "throws": "Error: OPENAI_API_KEY is not set",
    }
    for name in wild.server.failed:
        answer = wild.call(name, **BEARER)
        assert (answer.status_code, answer.json()["code"]) == (503, "BOOT_ERROR")
    served = {name for name, door in wild.server.doors.items() if door.url}
    assert served == {"elsewhere", "hook", "mapped", "on_listen", "on_node", "std_serve"}


def test_one_that_never_comes_to_serve_is_given_up() -> None:
    """Its process is ended, and the start goes on."""
    server = FunctionsServer.start(OF_TESTS / "hanging", {}, load_s=0.1)
    assert server.failed == {"hangs": "it did not call Deno.serve in time"}
    assert [process.poll() is None for process in server.processes] == [False]


def test_std_serve_gets_the_project_s_variables_and_maps(wild: Wild) -> None:
    """Std's serve by URL and by map, the client of esm.sh, `.env`, and the stack's own URL."""
    answer = wild.call("std_serve", '{"order_id": 7}', **BEARER)
    assert answer.json() == {
        "order_id": 7,
        "greeting": "hello, world",
        "url": wild.url,
        "same": True,
        "db": "function",
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mapped", "mapped function"),
        ("on_listen", "listened to us"),
        ("on_node", "on node"),
        ("elsewhere", "elsewhere"),
    ],
)
def test_every_way_to_listen_is_served(wild: Wild, name: str, said: str) -> None:
    for _ in range(2):
        assert wild.call(name, "us", **BEARER).text == said


def test_a_preflight_needs_no_key_and_is_the_function_s(wild: Wild) -> None:
    """404 and 503 are the platform's: of one that is not there, and one that did not start."""
    answer = wild.call("std_serve", method="OPTIONS")
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert wild.call("throws", method="OPTIONS").status_code == 503
    for name in ("nobody", "retired", "_shared"):
        assert wild.call(name, method="OPTIONS").status_code == 404


def test_only_a_function_that_says_so_is_called_without_a_jwt(wild: Wild) -> None:
    """verify_jwt = false in config.toml; a JWT alone is enough for the others."""
    assert wild.call("hook", "us").text == "hooked us"
    assert wild.call("mapped").status_code == 401
    assert wild.call("mapped", **BEARER).status_code == 200
    assert wild.call("mapped", apikey=KEYS.secret).status_code == 200


def test_what_a_handler_breaks_takes_nothing_along(wild: Wild) -> None:
    """A promise that nobody awaits, and an end of the process: the next call is answered."""
    assert wild.call("hook", "forget").text == "hooked forget"
    assert wild.call("hook", "wait").text == "hooked wait"
    assert wild.call("hook", "leave").status_code == 500
    assert wild.call("hook", "us").text == "hooked us"


LISTENS = "0A"  # the state, as Linux writes it in /proc/net/tcp


def listening(pid: int) -> set[str]:
    """The addresses that a process listens on, in Linux's hexadecimal form."""
    held = {str(place.readlink()) for place in Path(f"/proc/{pid}/fd").iterdir()}
    lines = (
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
    )
    return {of[1].split(":")[0] for of in lines if of[3] == LISTENS and f"socket:[{of[9]}]" in held}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_on_another_address_than_loopback(wild: Wild) -> None:
    """Whatever address a function asks for."""
    running = [process.pid for process in wild.server.processes if process.poll() is None]
    assert [listening(pid) for pid in running] == [{"0100007F"}] * 6


def test_the_log_names_the_function_of_each_line(wild: Wild) -> None:
    """Of one that did not start, too. Nobody else may read it."""
    wild.call("std_serve", '{"order_id": 8}', **BEARER)
    deadline = time.monotonic() + 20
    while not any("scored 8" in line for line in log_lines(wild.log, "std_serve", 50)):
        assert time.monotonic() < deadline
    assert any("OPENAI_API_KEY" in line for line in log_lines(wild.log, "throws", 50))
    assert not any("throws:" in line for line in log_lines(wild.log, "std_serve", 50))
    assert wild.log.stat().st_mode & 0o077 == 0


def test_nothing_is_written_into_the_project(wild: Wild) -> None:
    """No lock file, no node_modules: the folder is the user's."""
    made = {place.name for place in wild.log.parent.rglob("*")}
    assert not made & {"deno.lock", "node_modules"}


def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """At once, and by name: else functions would be served otherwise than deployed."""
    (tmp_path / "functions").mkdir()
    (tmp_path / "config.toml").write_text("[functions.a\n")
    with pytest.raises(BadRequest, match=r"config\.toml cannot be read: "):
        functions_in(tmp_path / "functions")
