"""The connections to a project: which HTTP stack carries the calls.

httpx's own pool looks at every connection for each request, so many connections slow it down.
With the extra `fast` aiohttp carries the calls. Without it each connection is its own pool.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx

try:
    import aiohttp
    from httpx_aiohttp import AiohttpTransport
except ModuleNotFoundError:
    IS_FAST = False
else:
    IS_FAST = True


def transport_for(url: str, connections: int) -> httpx.AsyncBaseTransport | None:
    """A transport with at most so many connections, HTTP/1.1.

    None if the environment names a proxy for this address, which only httpx itself uses.
    """
    address = urlsplit(url)
    if {address.scheme, "all"} & getproxies().keys() and not proxy_bypass(address.hostname or ""):
        return None
    if IS_FAST:
        return FastTransport(limits=httpx.Limits(max_connections=connections))
    return SplitTransport(connections)


def address_in_words(url: str) -> str:
    """Host and port of a URL, the port also where it does not name one."""
    address = urlsplit(url)
    return f"{address.hostname}:{address.port or (443 if address.scheme == 'https' else 80)}"


def why_not_reached(error: httpx.HTTPError) -> str | None:
    """Why there was no connection, in words. None if there was one."""
    if isinstance(error, httpx.ConnectTimeout):
        return "time-out"
    if not isinstance(error, httpx.ConnectError):
        return None
    causes = list(_causes(error))
    for kind, why in (
        (ssl.SSLCertVerificationError, "its TLS certificate is not accepted"),
        (ssl.SSLError, "TLS failed"),
        (socket.gaierror, "the name is unknown"),
        (ConnectionRefusedError, "connection refused"),
        (TimeoutError, "time-out"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return why
    said = (cause.strerror for cause in causes if isinstance(cause, OSError))
    return next((words for words in said if words), "no connection")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all that led to it."""
    if error is None:
        return
    yield error
    for one in getattr(error, "exceptions", ()):
        yield from _causes(one)
    yield from _causes(error.__cause__ or error.__context__)


class SplitTransport(httpx.AsyncBaseTransport):
    """Connections that share no pool. A request takes the free one that was used last."""

    def __init__(self, connections: int) -> None:
        self._free: list[httpx.AsyncHTTPTransport] = []
        self._all: list[httpx.AsyncHTTPTransport] = []
        self._room = anyio.Semaphore(connections)
        self._verify = httpx.create_ssl_context()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. The connection is free again once the answer is read or closed."""
        await self._room.acquire()
        connection = self._free.pop() if self._free else self._new()
        try:
            answer = await connection.handle_async_request(request)
        except BaseException:
            self._give_back(connection)
            raise
        answer.stream = _Lent(cast(httpx.AsyncByteStream, answer.stream), self, connection)
        return answer

    def _new(self) -> httpx.AsyncHTTPTransport:
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        connection = httpx.AsyncHTTPTransport(verify=self._verify, limits=one)
        self._all.append(connection)
        return connection

    def _give_back(self, connection: httpx.AsyncHTTPTransport) -> None:
        self._free.append(connection)
        self._room.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        for connection in self._all:
            await connection.aclose()


class _Lent(httpx.AsyncByteStream):
    """An answer's bytes. Closing it gives the connection back."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        owner: SplitTransport,
        connection: httpx.AsyncHTTPTransport,
    ) -> None:
        self._stream = stream
        self._owner = owner
        self._connection = connection
        self._is_back = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            if not self._is_back:
                self._is_back = True
                self._owner._give_back(self._connection)


if IS_FAST:

    class FastTransport(AiohttpTransport):
        """aiohttp's connections. Every failure is an httpx error, as the gateway expects."""

        def get_client(self) -> aiohttp.ClientSession:
            """The session, which is closed when the transport is forgotten."""
            session = super().get_client()
            if session is not self.client:
                weakref.finalize(self, _let_go, session, asyncio.get_running_loop())
            return session

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            """Send a request."""
            try:
                return await super().handle_async_request(request)
            except httpx.ConnectTimeout as error:
                # The package reports every lost connection as this.
                if isinstance(error.__cause__, aiohttp.ClientConnectorError):
                    raise httpx.ConnectError(str(error)) from error
                raise httpx.RemoteProtocolError(str(error)) from error
            except aiohttp.ClientError as error:
                raise httpx.RemoteProtocolError(type(error).__name__) from error

    def _let_go(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
        """Close a session that nobody closed, before aiohttp complains of it."""
        if loop.is_running() and _running_here() is not loop:
            loop.call_soon_threadsafe(_drop, session)
        else:
            _drop(session)

    def _running_here() -> asyncio.AbstractEventLoop | None:
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return None

    def _drop(session: aiohttp.ClientSession) -> None:
        connector = session.connector
        if connector is None:
            return  # it is closed
        session.detach()
        connector.__exit__()  # the only way that closes without an await
