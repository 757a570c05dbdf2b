"""aiohttp's connections, which the extra `fast` brings. When they are taken: transport.py."""

from __future__ import annotations

import asyncio
import weakref

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport


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
