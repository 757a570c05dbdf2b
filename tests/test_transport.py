"""The connections under the client: as many as allowed, none lost, trouble is an httpx error."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

import backfill
from backfill.api import transport
from backfill.api.answers import ROWS
from backfill.api.gateway import Gateway
from backfill.api.transport import SplitTransport, transport_for
from backfill.local.servers import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
WELL = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
BROKEN = {
    "closed without a word": b"",
    "no HTTP at all": b"220 mail.example.org ESMTP\r\n\r\n",
    "half an answer": WELL[:-1],
    "a length that is none": WELL.replace(b": 2", b": x"),
    "a body that is no gzip": WELL.replace(b"content-type", b"content-encoding: gzip\r\nx"),
}


# Without the extra there is one less to look at.
INSTALLED = [True, False] if transport.IS_FAST else [False]


@pytest.fixture(params=INSTALLED, ids=lambda fast: "aiohttp" if fast else "httpx", autouse=True)
def is_fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With the extra, and as if it were not installed."""
    monkeypatch.setattr(transport, "IS_FAST", request.param)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return bool(request.param)


def made(connections: int) -> httpx.AsyncBaseTransport:
    """The transport of the test's stack, for a single connection too."""
    if not transport.IS_FAST:
        return SplitTransport(connections)
    from backfill.api.fast import FastTransport

    return FastTransport(limits=httpx.Limits(max_connections=connections))


class Server:
    """A server that answers every request with the same bytes, and counts its connections."""

    def __init__(self, answer: bytes, wait_s: float = 0.0) -> None:
        self.answer, self.wait_s = answer, wait_s
        self.open = self.most = self.total = self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open, self.total = self.open + 1, self.total + 1
        self.most = max(self.most, self.open)
        try:
            while (await reader.readuntil(b"\r\n\r\n")) and await reader.readexactly(2):
                self.requests += 1
                await asyncio.sleep(self.wait_s)
                writer.write(self.answer)
                await writer.drain()
                if not self.answer.endswith(b"{}"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def served(
    answer: bytes, connections: int, wait_s: float = 0.0
) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    """A server, and a client with so many connections."""
    server = Server(answer, wait_s)
    listening = await asyncio.start_server(server.serve, "127.0.0.1")
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    carrier = made(connections)
    try:
        async with httpx.AsyncClient(base_url=url, transport=carrier) as client:
            yield server, client
    finally:
        listening.close()


async def ask(client: httpx.AsyncClient) -> None:
    """A call as the gateway makes it."""
    assert (await client.post("/rpc", content=b"{}")).json() == {}


def test_it_is_the_one_that_is_installed(is_fast: bool) -> None:
    """The extra alone decides."""
    chosen = type(transport_for("https://x.supabase.co", 4)).__name__
    assert chosen == ("FastTransport" if is_fast else "SplitTransport")


def test_a_single_connection_is_httpxs_own() -> None:
    """A verb that asks one thing at a time does not load aiohttp for it."""
    assert type(transport_for("https://x.supabase.co", 1)) is SplitTransport


def test_a_proxy_of_the_environment_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx does it, so it gets the connection; not for an address that goes past the proxy."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert transport_for("https://x.supabase.co", 4) is None
    assert transport_for("https://localhost", 4) is not None
    assert transport_for("http://x.supabase.co", 4) is not None
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example.org:3128")
    assert transport_for("http://x.supabase.co", 4) is None


def test_no_more_connections_than_allowed_and_each_is_used_again() -> None:
    """Forty calls over four connections."""

    async def run() -> Server:
        async with served(WELL, 4, wait_s=0.001) as (server, client):
            async with anyio.create_task_group() as calls:
                for _ in range(40):
                    calls.start_soon(ask, client)
            return server

    server = anyio.run(run)
    assert (server.requests, server.most, server.total) == (40, 4, 4)


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_trouble_is_an_httpx_error_and_costs_no_connection(answer: bytes) -> None:
    """Five times with one connection: it would hang if one were lost. Nothing is sent twice."""

    async def run() -> Server:
        async with served(answer, 1) as (server, client):
            for _ in range(5):
                with pytest.raises(httpx.HTTPError):
                    await ask(client)
            return server

    assert anyio.run(run).requests == 5


def test_nobody_there_is_a_connect_error() -> None:
    """So that the message can say that the project cannot be reached."""

    async def run() -> None:
        url = f"http://127.0.0.1:{free_port()}"
        async with httpx.AsyncClient(base_url=url, transport=made(1)) as client:
            for _ in range(3):
                with pytest.raises(httpx.ConnectError):
                    await ask(client)

    anyio.run(run)


def test_an_answer_that_takes_too_long_is_a_timeout() -> None:
    """And the connection can be used again."""

    async def run() -> None:
        async with served(WELL, 1, wait_s=5.0) as (server, client):
            client.timeout = httpx.Timeout(0.05)
            for _ in range(3):
                with pytest.raises(httpx.TimeoutException):
                    await ask(client)
            server.wait_s = 0.0
            client.timeout = httpx.Timeout(5.0)
            await ask(client)

    anyio.run(run)


def test_a_cancelled_call_costs_no_connection() -> None:
    """Ctrl-C in the middle of a call; the batch is settled over the same connections."""

    async def run() -> None:
        async with served(WELL, 1, wait_s=5.0) as (server, client):
            with anyio.move_on_after(0.05) as scope:
                await ask(client)
            assert scope.cancelled_caught
            server.wait_s = 0.0
            with anyio.fail_after(3):
                await ask(client)

    anyio.run(run)


def test_an_answer_that_is_not_read_gives_its_connection_back() -> None:
    """Closing it is enough."""

    async def run() -> None:
        async with served(WELL, 1) as (_, client):
            for _ in range(3):
                async with client.stream("POST", "/rpc", content=b"{}"):
                    pass
            with anyio.fail_after(3):
                await ask(client)

    anyio.run(run)


UNREACHABLE = {
    "http://127.0.0.1:{port}": "cannot reach 127.0.0.1:{port}: connection refused",
    "http://nowhere.invalid": "cannot reach nowhere.invalid:80: the name is unknown",
    "https://nowhere.invalid": "cannot reach nowhere.invalid:443: the name is unknown",
}


@pytest.mark.parametrize("url", UNREACHABLE)
def test_what_cannot_be_reached_is_named_with_port_and_cause(url: str) -> None:
    """Whichever stack carries the calls."""
    port = free_port()
    key = "sb_secret_x"
    with (
        backfill.connect(url.format(port=port), key) as bf,
        pytest.raises(backfill.CannotConnect) as refused,
    ):
        bf.runs()
    assert refused.value.message == UNREACHABLE[url].format(port=port)


def test_a_port_without_tls_is_named_as_such() -> None:
    async def reached() -> str:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, backfill.connect_async(f"https://127.0.0.1:{port}", "sb_secret_x") as bf:
            with pytest.raises(backfill.CannotConnect) as refused:
                await bf.runs()
        return refused.value.message.replace(str(port), "PORT")

    assert anyio.run(reached) == "cannot reach 127.0.0.1:PORT: TLS failed"


STARTING = b'{"code":"PGRST002","message":"Could not query the database for the schema cache."}'


def answered(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\nconnection: close\r\n\r\n" + body


READ: dict[str, Callable[[Gateway], Awaitable[object]]] = {
    "GET": lambda project: project.first("runs", columns="id", equal={}),
    "POST": lambda project: project.call("runs", {}, ROWS),
}


@pytest.mark.parametrize("method", READ)
def test_a_project_that_starts_is_waited_for_at_the_first_call(method: str) -> None:
    """Its API answers, so the URL is right."""
    answers = [answered("503 Service Unavailable", STARTING), answered("200 OK", b"[]")]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(method.encode())
        writer.write(answers.pop(0))
        await writer.drain()
        writer.close()

    async def ask_it() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            project = Gateway(f"http://127.0.0.1:{port}", "sb_secret_x")
            try:
                await READ[method](project)
            finally:
                await project.close()

    anyio.run(ask_it)
    assert not answers


def caused(error: httpx.HTTPError, cause: BaseException) -> httpx.HTTPError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (httpx.ConnectTimeout("x"), "time-out"),
        (caused(httpx.ConnectError("x"), TimeoutError()), "time-out"),
        (
            caused(httpx.ConnectError("x"), ExceptionGroup("all", [ConnectionRefusedError(111)])),
            "connection refused",
        ),
        (
            caused(httpx.ConnectError("x"), ssl.SSLCertVerificationError(1, "x")),
            "its TLS certificate is not accepted",
        ),
        (caused(httpx.ConnectError("x"), OSError(113, "No route to host")), "No route to host"),
        (httpx.ConnectError("x"), "no connection"),
        (httpx.ReadTimeout("x"), None),
        (httpx.RemoteProtocolError("x"), None),
    ],
)
def test_each_cause_has_its_words(error: httpx.HTTPError, why: str | None) -> None:
    assert transport.why_not_reached(error) == why
