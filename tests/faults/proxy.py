"""A proxy between client and project that misbehaves on purpose, call by call.

It speaks HTTP, so that it can choose by function and session, and knows for each call whether the
project has committed it before anything happens to the reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from zlib import crc32

import aiohttp
from aiohttp import web
from anyio.from_thread import start_blocking_portal

from backfill.local.gateway import HOST, forwarded_headers

SCORING = ("score_fc_session", "score_prism", "clean_document", "embed_document")
KEYS = ("session_id", "document_id")
ELSEWHERE = "elsewhere"
OWN = ("backfill_start", "backfill_claim", "backfill_settle")


@dataclass(frozen=True)
class Call:
    """One request as the proxy sees it. nth: of this function for this session, from 1."""

    function: str
    session_id: str
    nth: int


@dataclass(frozen=True)
class Hit:
    """A call that a fault happened to, and when, by the machine's clock."""

    at: float
    call: Call
    fault: str


@dataclass(frozen=True)
class Exchange:
    """A request under way. reply: the project's, where the call has reached it.

    healed: set once the network works again. pass_on: send the call on, late.
    """

    request: web.BaseRequest
    reply: web.Response | None
    healed: asyncio.Event
    pass_on: Callable[[], Awaitable[web.Response]]

    def cut(self) -> web.Response:
        """Close the connection without a word."""
        if self.request.transport is not None:
            self.request.transport.abort()
        return web.Response()


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong. forwards: the project gets the call, and commits, before."""

    name: str
    forwards: bool
    answers: Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Strike:
    """A fault, and the calls that it happens to."""

    fault: Fault
    picks: Callable[[Call], bool]


def cut(*, forwards: bool) -> Fault:
    """The connection breaks: before the call is sent on, or after it was committed."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        return exchange.cut()

    return Fault("reply dropped" if forwards else "cut", forwards, answer)


def deaf() -> Fault:
    """The connection stands, and no answer ever comes."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        await exchange.healed.wait()
        return exchange.cut()

    return Fault("deaf", False, answer)


def held() -> Fault:
    """The network is cut: what was sent lies on the way, and arrives when it is whole again."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        await exchange.healed.wait()
        return await exchange.pass_on()

    return Fault("held", False, answer)


def late(comes: Callable[[], object], *, forwards: bool) -> Fault:
    """What was sent, or its answer, lies on the way until something has come."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        await asyncio.to_thread(comes)
        return exchange.reply or await exchange.pass_on()

    return Fault("late", forwards, answer)


def half_a_body() -> Fault:
    """The status says well, and the connection breaks in the middle of the body."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        assert exchange.reply is not None
        body = exchange.reply.body
        assert isinstance(body, bytes)
        begun = web.StreamResponse(headers={"Content-Type": "application/json"})
        begun.content_length = len(body)
        await begun.prepare(exchange.request)
        await begun.write(body[: len(body) // 2])
        exchange.cut()
        return begun

    return Fault("half a body", True, answer)


def says(
    status: int,
    body: str | Mapping[str, object] | Sequence[object],
    *,
    forwards: bool = False,
    **headers: str,
) -> Fault:
    """Somebody on the way answers in the project's place: a text as HTML, anything else as JSON."""
    if not isinstance(body, str):
        return says_json(status, json.dumps(body), forwards=forwards, **headers)
    return _answers(str(status), status, body, "text/html", forwards, headers)


def says_json(status: int, text: str, *, forwards: bool = False, **headers: str) -> Fault:
    """The same with a text that is called JSON, whether it is or not."""
    name = f"{status} {text}".strip() if status < 300 else str(status)
    return _answers(name, status, text, "application/json", forwards, headers)


def _answers(
    name: str, status: int, text: str, kind: str, forwards: bool, headers: Mapping[str, str]
) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(exchange: Exchange) -> web.StreamResponse:
        return web.Response(status=status, text=text, content_type=kind, headers=named)

    return Fault(name, forwards, answer)


def does(callback: Callable[[], object], *, forwards: bool) -> Fault:
    """Something happens elsewhere while the call is on its way, and its reply is lost.

    The callback says by itself when it has happened: see Scene.struck.
    """

    async def answer(exchange: Exchange) -> web.StreamResponse:
        await asyncio.to_thread(callback)
        return exchange.cut()

    return Fault(ELSEWHERE, forwards, answer)


def meanwhile(callback: Callable[[], object]) -> Fault:
    """Something happens elsewhere before a call is passed on, and nothing happens to the call."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        await asyncio.to_thread(callback)
        return await exchange.pass_on()

    return Fault(ELSEWHERE, False, answer)


def first_call_of_every(nth: int, *, beginning_with: int = 0) -> Callable[[Call], bool]:
    """The first scoring calls of one session in so many, told by its id."""

    def picks(call: Call) -> bool:
        chosen = call.session_id and crc32(call.session_id.encode()) % nth == beginning_with
        return bool(chosen) and call.function in SCORING and call.nth == 1

    return picks


def numbered(function: str, *numbers: int) -> Callable[[Call], bool]:
    """These calls of one of our functions, counted from 1."""
    return lambda call: call.function == function and call.nth in numbers


def in_turn(faults: Sequence[Fault], picks: Callable[[Call], bool]) -> list[Strike]:
    """One fault after the other, on each call that is picked."""
    came: dict[Call, int] = {}

    def turn(nth: int) -> Callable[[Call], bool]:
        return lambda call: picks(call) and came.setdefault(call, len(came)) % len(faults) == nth

    return [Strike(fault, turn(nth)) for nth, fault in enumerate(faults)]


class Nth:
    """Calls of some functions by their number over all of them, from `first` to `last`."""

    def __init__(self, functions: Sequence[str], first: int, last: int | None = None) -> None:
        self._functions = functions
        self._numbers = range(first, (last or first) + 1)
        self._seen = 0

    def __call__(self, call: Call) -> bool:
        if call.function not in self._functions:
            return False
        self._seen += 1
        return self._seen in self._numbers


@dataclass
class Proxy:
    """Listens on the loopback, passes on what nothing happens to, counts what something did."""

    upstream: str
    strikes: list[Strike] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    url: str = ""
    heal: Callable[[], None] = field(default=lambda: None, repr=False)
    healed: asyncio.Event = field(default_factory=asyncio.Event)
    _client: aiohttp.ClientSession | None = field(default=None, repr=False)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        """Listen on a free port until the block ends."""
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.1)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as client:
            self._client = client
            await runner.setup()
            await web.TCPSite(runner, HOST, 0).start()
            self.url = f"http://{HOST}:{runner.addresses[0][1]}"
            try:
                yield self
            finally:
                self.healed.set()
                await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        call = self._seen(request.path, body)
        fault = next((s.fault for s in self.strikes if s.picks(call)), None)
        if fault is None:
            return await self._pass_on(request, body)
        self.hits.append(Hit(time.time(), call, fault.name))
        pass_on = partial(self._pass_on, request, body)
        reply = await pass_on() if fault.forwards else None
        return await fault.answers(Exchange(request, reply, self.healed, pass_on))

    def _seen(self, path: str, body: bytes) -> Call:
        function = path.rpartition("/")[2]
        given = json.loads(body) if function in SCORING else {}
        session_id = next((str(given[key]) for key in KEYS if key in given), "")
        self.calls[function, session_id] += 1
        return Call(function, session_id, self.calls[function, session_id])

    async def _pass_on(self, request: web.BaseRequest, body: bytes) -> web.Response:
        assert self._client is not None
        async with self._client.request(
            request.method,
            self.upstream + request.raw_path,
            headers=forwarded_headers(request.headers),
            data=body or None,
            allow_redirects=False,
        ) as answer:
            headers = forwarded_headers(answer.headers)
            return web.Response(status=answer.status, headers=headers, body=await answer.read())


@contextlib.contextmanager
def proxy_in_thread(upstream: str) -> Iterator[Proxy]:
    """A proxy on an event loop of its own."""
    with start_blocking_portal() as portal:
        proxy = Proxy(upstream)
        proxy.heal = lambda: portal.call(proxy.healed.set)
        with portal.wrap_async_context_manager(proxy.serving()):
            yield proxy
