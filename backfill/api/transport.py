"""The connections to a project: which HTTP stack carries the calls.

httpx's own pool looks at every connection for each request, so many connections slow it down.
With the extra `fast` aiohttp carries the calls. Without it each connection is its own pool. A
single connection is httpx's own: aiohttp would take as long to load as a question takes to answer.
The environment has a say: its proxies and its certificates are heeded.
"""

from __future__ import annotations

import importlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx

from backfill.errors import CannotConnect

IS_FAST = all(find_spec(name) for name in ("aiohttp", "httpx_aiohttp"))
_SOCKS = frozenset({"socks5", "socks5h"})


def is_by_proxy(url: str) -> bool:
    """Whether the environment names a proxy for this address."""
    address = urlsplit(url)
    is_named = {address.scheme, "all"} & getproxies().keys()
    return bool(is_named) and not proxy_bypass(address.hostname or "")


def transport_for(url: str, connections: int) -> httpx.AsyncBaseTransport | None:
    """A transport with at most so many connections, HTTP/1.1.

    None if the environment names a proxy for this address, which only httpx itself uses.
    """
    if is_by_proxy(url):
        return None
    if IS_FAST and connections > 1:
        from backfill.api.fast import FastTransport

        return FastTransport(limits=httpx.Limits(max_connections=connections))
    return SplitTransport(connections)


@contextmanager
def variables_in_words(url: str) -> Iterator[None]:
    """Make the client of this address herein.

    Raises CannotConnect with the variable of the environment that it cannot be made with.
    """
    if is_by_proxy(url):
        _check_proxies()
    if url.startswith("https:"):
        _check_folders()
    try:
        yield
    except httpx.InvalidURL:
        variable = _variable("no")
        raise CannotConnect(
            f"{variable} is not a list of hosts",
            f"export {variable}=<host>,<host>, or unset it",
        ) from None
    except OSError as error:
        if not os.environ.get("SSL_CERT_FILE"):
            raise
        raise CannotConnect(
            f"SSL_CERT_FILE cannot be read as certificates: {error.strerror}",
            "set SSL_CERT_FILE to a file of certificates (PEM), or unset it",
        ) from None


def _check_proxies() -> None:
    """Look at every proxy, as httpx reads all of them whichever it uses. Raises CannotConnect."""
    proxies = getproxies()
    for kind in ("http", "https", "all"):
        given = proxies.get(kind)
        if not given:
            continue
        variable = _variable(kind)
        scheme = _scheme_of_proxy(given if "://" in given else f"http://{given}")
        if scheme is None:
            raise CannotConnect(
                f"{variable} is not the address of a proxy",
                f"export {variable}=http://<host>:<port>, or unset it",
            )
        if scheme in _SOCKS and not _has_socks():
            raise CannotConnect(
                f"{variable} names a SOCKS proxy, for which a package is missing",
                f"pip install 'httpx[socks]', or unset {variable}",
            )


def _scheme_of_proxy(address: str) -> str | None:
    """None if it is no address of a proxy."""
    try:
        httpx.URL(address)
        parts = urlsplit(address)
        is_usable = parts.hostname and parts.port != 0
    except (httpx.InvalidURL, ValueError):
        return None
    return parts.scheme if is_usable and parts.scheme in {"http", "https", *_SOCKS} else None


def _has_socks() -> bool:
    try:
        importlib.import_module("socksio")
    except ImportError:
        return False
    return True


def _variable(kind: str) -> str:
    """The variable that names the proxies of this kind. The lower-case one goes first."""
    name = f"{kind}_proxy"
    return name if os.environ.get(name) else name.upper()


def _check_folders() -> None:
    """OpenSSL takes a folder that is not there for an empty one. Raises CannotConnect."""
    folders = os.environ.get("SSL_CERT_DIR")
    if not folders or os.environ.get("SSL_CERT_FILE"):
        return  # the file alone is read
    if not any(os.path.isdir(folder) for folder in folders.split(os.pathsep)):
        raise CannotConnect(
            "SSL_CERT_DIR names no folder",
            "set SSL_CERT_DIR to a folder of certificates, or unset it",
        )


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
