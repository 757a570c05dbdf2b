"""The only door of the embedded stack: checks the API key and passes the request on.

Its own answers are those of a hosted project's gateway. Bodies pass through as raw bytes in both
directions, and no header is ever logged, since headers carry the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp
import jwt
from aiohttp import web
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from backfill.local.auth import Auth
from backfill.local.keys import ApiKeys

HOST = "127.0.0.1"
REST_PREFIX = "/rest/v1"
AUTH_PREFIX = "/auth/v1"
FUNCTIONS_PREFIX = "/functions/v1"
# A function of the database may run for 60 s at most, an Edge Function for 400 s. The answer needs
# a moment on top.
UPSTREAM_SILENCE_S = 65.0
FUNCTION_SILENCE_S = 405.0
CONNECT_S = 5.0
# Below this a body is read whole, which saves a task and the chunked encoding.
WHOLE_BODY_BYTES = 256 * 1024
LONGEST_LINE_BYTES = 64 * 1024
# They belong to one connection and not to the message (RFC 9110, 7.6.1). The two lengths are
# written anew for the bytes that are sent.
HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)

NO_KEY = {
    "message": "No API key found in request",
    "hint": "No `apikey` request header or url param was found.",
}
WRONG_KEY = {
    "message": "Invalid API key",
    "hint": "Double check your Supabase `anon` or `service_role` API key.",
}
NO_ROUTE = {"message": "no Route matched with those values"}
NO_JWT = {"code": "UNAUTHORIZED_INVALID_JWT_FORMAT", "message": "Invalid JWT"}
NO_FUNCTION = {"code": "NOT_FOUND", "message": "Requested function was not found"}
NOT_STARTED = {
    "code": "BOOT_ERROR",
    "message": "Function failed to start (please check logs)",
}
UPSTREAM_DOWN = {"message": "An invalid response was received from the upstream server"}
UPSTREAM_SILENT = {"message": "The upstream server is timing out"}


@dataclass(frozen=True)
class Door:
    """Where an Edge Function is served, and if its callers need a JWT. None: it did not start."""

    url: str | None
    verify_jwt: bool = True


@dataclass(frozen=True)
class Functions:
    """The Edge Functions by name, and the secret that signs the JWTs of their callers."""

    doors: Mapping[str, Door]
    jwt_secret: str = field(repr=False)

    def admits(self, authorization: str | None) -> bool:
        """Whether this is a bearer's JWT of the project."""
        kind, _, token = (authorization or "").partition(" ")
        try:
            jwt.decode(token, self.jwt_secret, ["HS256"], options={"verify_aud": False})
        except jwt.InvalidTokenError:
            return False
        return kind.lower() == "bearer"


@dataclass(frozen=True)
class Refusal:
    """An answer of the gateway itself."""

    status: int
    body: dict[str, str]

    def response(self) -> web.Response:
        """The refusal as JSON."""
        return web.json_response(self.body, status=self.status)


@dataclass(frozen=True)
class Route:
    """Where a request goes, and the JWT that replaces its Authorization, if one does."""

    target: URL
    token: str | None = field(repr=False)
    silence_s: float = UPSTREAM_SILENCE_S


@dataclass(frozen=True)
class ToAuth:
    """A request for Auth. rest: its path without /auth/v1."""

    rest: str


def route(
    raw_path: str,
    headers: MultiMapping[str],
    *,
    method: str,
    keys: ApiKeys,
    rest_url: str,
    functions: Functions | None = None,
) -> Route | ToAuth | Refusal:
    """Decide what becomes of a request, from only its first line and its headers.

    raw_path: path and query, encoded as the client sent them.
    """
    path, _, query = raw_path.partition("?")
    if path.startswith(f"{FUNCTIONS_PREFIX}/"):
        return _to_function(
            raw_path.removeprefix(FUNCTIONS_PREFIX), headers, method, functions, keys
        )
    is_auth = path.startswith(f"{AUTH_PREFIX}/")
    if not is_auth and path != REST_PREFIX and not path.startswith(f"{REST_PREFIX}/"):
        return Refusal(404, NO_ROUTE)
    key = headers.get("apikey")
    if key is None and "apikey=" in query:
        key, query = _take_key(query)
    # A browser sends its preflight without a key.
    if method != "OPTIONS":
        if not key:
            return Refusal(401, NO_KEY)
        if not keys.knows(key):
            return Refusal(401, WRONG_KEY)
    if is_auth:
        return ToAuth(path.removeprefix(AUTH_PREFIX))
    upstream = rest_url + (path.removeprefix(REST_PREFIX) or "/")
    target = URL(f"{upstream}?{query}" if query else upstream, encoded=True)
    return Route(target, _replacing_token(key, headers.get("Authorization"), keys))


def _to_function(
    raw_path: str,
    headers: MultiMapping[str],
    method: str,
    functions: Functions | None,
    keys: ApiKeys,
) -> Route | Refusal:
    """The same of a request for an Edge Function. It asks for a JWT, and for no key beside it.

    raw_path: /NAME, and what follows.
    """
    name = re.split("[/?]", raw_path)[1]
    door = functions.doors.get(name) if functions else None
    if functions is None or door is None:
        return Refusal(404, NO_FUNCTION)
    replacing = _replacing_token(headers.get("apikey"), headers.get("Authorization"), keys)
    bearer = f"Bearer {replacing}" if replacing else headers.get("Authorization")
    if door.verify_jwt and method != "OPTIONS" and not functions.admits(bearer):
        return Refusal(401, NO_JWT)
    if door.url is None:
        return Refusal(503, NOT_STARTED)
    return Route(URL(door.url + raw_path, encoded=True), replacing, FUNCTION_SILENCE_S)


def _take_key(query: str) -> tuple[str | None, str]:
    """The key in a query and the query without it, which the REST server would take as a filter."""
    pairs = query.split("&")
    given = [pair.removeprefix("apikey=") for pair in pairs if pair.startswith("apikey=")]
    others = [pair for pair in pairs if not pair.startswith("apikey=")]
    return (given[0] if given else None), "&".join(others)


def _replacing_token(key: str | None, authorization: str | None, keys: ApiKeys) -> str | None:
    """The JWT for a key of the new style, unless the caller brings the token of a user."""
    if key and authorization in (None, f"Bearer {key}"):
        return keys.token_for(key)
    return None


def forwarded_headers(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """The headers of the message itself, without those of the connection it came on."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    dropped = HOP_BY_HOP | named
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in dropped
    )


class Gateway:
    """An HTTP server on the loopback, in the event loop that starts it."""

    def __init__(self, rest_url: str, keys: ApiKeys, *, port: int = 0) -> None:
        """port: 0 takes a free one.

        `functions` is set later, since they call this gateway. Without `auth` there is no /auth/v1.
        """
        self._rest_url = rest_url
        self.functions: Functions | None = None
        self.auth: Auth | None = None
        self._keys = keys
        self.port = port
        self._owned = contextlib.AsyncExitStack()
        self._client: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """What a client takes as SUPABASE_URL, once the gateway is started."""
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._client = await self._owned.enter_async_context(_upstream_client())
        # No access log: its lines would cost more than the request.
        server = web.Server(
            self._answer,
            access_log=None,
            auto_decompress=False,
            max_line_size=LONGEST_LINE_BYTES,
            max_field_size=LONGEST_LINE_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        self._owned.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, HOST, self.port).start()
        self.port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening and drop the connections. Safe to call twice."""
        await self._owned.aclose()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        decided = route(
            request.raw_path,
            request.headers,
            method=request.method,
            keys=self._keys,
            rest_url=self._rest_url,
            functions=self.functions,
        )
        if isinstance(decided, Refusal):
            return decided.response()
        if isinstance(decided, ToAuth):
            if self.auth is None:
                return Refusal(404, NO_ROUTE).response()
            return await self.auth.answer(request, decided.rest)
        try:
            return await self._pass_on(request, decided)
        except TimeoutError:
            return Refusal(504, UPSTREAM_SILENT).response()
        except aiohttp.ClientError:
            return Refusal(502, UPSTREAM_DOWN).response()

    async def _pass_on(self, request: web.BaseRequest, decided: Route) -> web.StreamResponse:
        if self._client is None:
            raise RuntimeError("The gateway is not started.")
        headers = forwarded_headers(request.headers)
        if decided.token is not None:
            headers["Authorization"] = f"Bearer {decided.token}"
        upstream = self._client.request(
            request.method,
            decided.target,
            headers=headers,
            data=await _request_body(request, headers),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=CONNECT_S, sock_read=decided.silence_s
            ),
        )
        async with upstream as answer:
            return await _relay(request, answer)


async def _request_body(
    request: web.BaseRequest, headers: CIMultiDict[str]
) -> bytes | aiohttp.StreamReader | None:
    """The body as bytes if it is short, else as a stream of the announced length."""
    if not request.body_exists:
        return None
    length = request.content_length
    if length is not None and length <= WHOLE_BODY_BYTES:
        return await request.content.read()
    if length is not None:
        headers["Content-Length"] = str(length)
    return request.content


async def _relay(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Send the answer on, in one piece if it has arrived whole, else as it arrives."""
    headers = forwarded_headers(answer.headers)
    first = await answer.content.readany()
    if answer.content.at_eof():
        if request.method == "HEAD" and "Content-Length" in answer.headers:
            headers["Content-Length"] = answer.headers["Content-Length"]
        return web.Response(
            status=answer.status, reason=answer.reason, headers=headers, body=first or None
        )
    return await _stream(request, answer, headers, first)


async def _stream(
    request: web.BaseRequest,
    answer: aiohttp.ClientResponse,
    headers: CIMultiDict[str],
    first: bytes,
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
    response.content_length = answer.content_length
    await response.prepare(request)
    await response.write(first)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientError, TimeoutError):
        # The status is sent already. Only a cut connection still tells that the body is not whole.
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def _upstream_client() -> aiohttp.ClientSession:
    """A client that adds no header, follows nothing and unpacks nothing."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        max_line_size=LONGEST_LINE_BYTES,
        max_field_size=LONGEST_LINE_BYTES,
        trust_env=False,
    )


@contextlib.contextmanager
def gateway_in_thread(rest_url: str, keys: ApiKeys, *, port: int = 0) -> Iterator[Gateway]:
    """A gateway with its own thread and event loop, for code that has no loop."""
    gateway = Gateway(rest_url, keys, port=port)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="backfill-gateway", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(gateway.start(), loop).result()
        yield gateway
    finally:
        asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
