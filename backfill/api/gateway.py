"""The only module that talks to Supabase: the real client, plain HTTP/1.1, named errors.

Scoring calls go through the client as a whole, which takes long to load. Our own functions and
views are asked through its PostgREST part, which needs neither Auth nor Storage nor Realtime.

Retries are ours: the client never retries an RPC. Every call of ours can be repeated, because
the database recognises it. A scoring call cannot, so its outcome is looked up instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx
from postgrest import APIError, AsyncPostgrestClient

from backfill.api import keys
from backfill.api.answers import ROWS, OddAnswer, Shape
from backfill.api.failures import no_answer, not_reached, refused
from backfill.api.faults import Fault, fault_of_api, fault_of_edge, fault_of_transport
from backfill.api.retries import BRIEF, Patience, ask_patiently
from backfill.api.transport import (
    address_in_words,
    transport_for,
    variables_in_words,
    why_not_reached,
)
from backfill.api.url import project_url
from backfill.errors import BadKey, NotAllowed
from backfill.results.run import Json

if TYPE_CHECKING:
    from supabase import AsyncClient, FunctionsError

T = TypeVar("T")
CONNECTIONS = 16
PAGE_ROWS = 1000  # default db-max-rows of hosted projects: longer answers are cut silently
CALL_TIMEOUT_S = 70.0  # the API ends a call after 60 s
EDGE_TIMEOUT_S = 410.0  # an Edge Function is ended after 150 s, on paid plans after 400 s
CONNECT_TIMEOUT_S = 10.0
PAGE = "a page instead of an answer"


@dataclass(frozen=True, slots=True)
class Envelope:
    """Status and headers of an answer, which the client's errors do not carry.

    is_empty: it has no body, which the client hands on as an empty list.
    """

    status: int | None = None
    is_json: bool = True
    is_empty: bool = False
    retry_after_s: float | None = None


NO_ENVELOPE = Envelope()
# Of this task's last answer.
_envelope: ContextVar[Envelope] = ContextVar("envelope", default=NO_ENVELOPE)


async def _note_envelope(response: httpx.Response) -> None:
    says_json = "json" in response.headers.get("content-type", "")
    _envelope.set(
        Envelope(
            status=response.status_code,
            is_json=says_json or response.status_code == httpx.codes.NO_CONTENT,
            is_empty=not await response.aread(),
            retry_after_s=_retry_after_s(response.headers),
        )
    )


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds, from a number or a date. A date is compared with the answer's own clock."""
    wanted = headers.get("retry-after", "")
    if wanted.isdigit():
        return float(wanted)
    try:
        until = parsedate_to_datetime(wanted)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max((until - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


def _fault(error: APIError) -> Fault:
    envelope = _envelope.get()
    code = str(error.code) if error.code else None
    return fault_of_api(code, error.message, envelope.status, envelope.retry_after_s)


def _edge_fault(error: FunctionsError) -> Fault:
    """What an Edge Function's error means, by what its body says, else by its status."""
    body: object = error.message
    if isinstance(error.__cause__, httpx.HTTPStatusError):
        response = error.__cause__.response
        try:
            body = response.json()
        except ValueError:
            body = response.text
    return fault_of_edge(body, error.status, _envelope.get().retry_after_s)


def _http(url: str, connections: int, timeout_s: float) -> httpx.AsyncClient:
    with variables_in_words(url):
        return httpx.AsyncClient(
            transport=transport_for(url, connections),
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            follow_redirects=False,
            event_hooks={"response": [_note_envelope]},
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )


class CallFailed(Exception):
    """A scoring call failed. `fault` says what that means."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Gateway:
    """A project's API, called with its secret key."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        connections: int = CONNECTIONS,
        call_timeout_s: float | None = None,
    ) -> None:
        """Connect lazily: nothing is sent yet. Raises BadKey, CannotConnect for unusable values."""
        self.url = project_url(url)
        self.host = urlsplit(self.url).hostname or ""
        self._address = address_in_words(self.url)
        self._key = keys.checked(key.strip())
        self._was_reached = False
        self._http = _http(self.url, connections, call_timeout_s or CALL_TIMEOUT_S)
        self._rest = AsyncPostgrestClient(
            f"{self.url}/rest/v1",
            headers={"apiKey": self._key, "Authorization": f"Bearer {self._key}"},
            http_client=self._http,
            retry_enabled=False,  # `ask_patiently` repeats, and says so to who waits
        )
        self._connections = connections
        self._edge_timeout_s = call_timeout_s or EDGE_TIMEOUT_S
        self._edge_http: httpx.AsyncClient | None = None  # until an Edge Function is called

    def _client_over(self, http: httpx.AsyncClient) -> AsyncClient:
        from supabase import AsyncClient, AsyncClientOptions

        options = AsyncClientOptions(
            httpx_client=http, auto_refresh_token=False, persist_session=False
        )
        return AsyncClient(self.url, self._key, options)

    def __repr__(self) -> str:
        return f"Gateway({self.host})"

    @property
    def uses_legacy_key(self) -> bool:
        """Whether the key is a legacy JWT, which Supabase retires by the end of 2026."""
        return keys.is_legacy(self._key)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        if self._edge_http is not None:
            await self._edge_http.aclose()

    async def call(
        self,
        function: str,
        arguments: Mapping[str, Json],
        shape: Shape[T],
        *,
        access_token: str | None = None,
        patience: Patience = BRIEF,
    ) -> T:
        """Call one of our functions. Repeats it after transport trouble, since each allows that.

        shape: of its answer. One of another shape counts as lost, and is asked for again.
        access_token: an Auth user's, instead of the key.
        Raises the BackfillError that the SQLSTATE names.
        """
        headers = {"Authorization": f"Bearer {access_token.strip()}"} if access_token else {}
        try:
            return await ask_patiently(
                lambda: self._answer_of(function, arguments, headers, shape),
                patience,
                self._was_never_reached,
            )
        except BadKey as bad:
            if not access_token:
                raise
            message = f"{self.host} does not accept this access token"
            raise NotAllowed(message, "sign in again for a new one: backfill login") from bad

    async def score(
        self, function: str, arguments: Mapping[str, Json], headers: Mapping[str, str]
    ) -> Json:
        """Make a scoring call once. Raises CallFailed with what its failure means."""
        try:
            answer = await self._execute(self._client, function, arguments, headers)
        except APIError as error:
            fault = _fault(error)
            raise CallFailed(fault) from _without_contents(error, fault)
        except httpx.HTTPError as error:
            raise CallFailed(fault_of_transport(type(error).__name__)) from error
        if not _envelope.get().is_json:
            raise CallFailed(fault_of_transport(PAGE))
        return answer

    @cached_property
    def _client(self) -> AsyncClient:
        return self._client_over(self._http)

    @cached_property
    def _edge(self) -> AsyncClient:
        # Functions may take longer than the API, and their client has no timeout per call.
        self._edge_http = _http(self.url, self._connections, self._edge_timeout_s)
        return self._client_over(self._edge_http)

    async def invoke(
        self,
        function: str,
        body: Mapping[str, Json] | None,
        headers: Mapping[str, str],
        method: str = "POST",
    ) -> Json:
        """Make a scoring call of an Edge Function once. Raises CallFailed."""
        from supabase import FunctionsError

        options = {"method": method, "body": body, "headers": dict(headers), "responseType": "json"}
        try:
            return await self._edge.functions.invoke(function, options)
        except FunctionsError as error:
            fault = _edge_fault(error)
            raise CallFailed(fault) from None  # its text may hold contents of a row
        except httpx.HTTPError as error:
            raise CallFailed(fault_of_transport(type(error).__name__)) from error
        except ValueError as error:
            raise CallFailed(fault_of_transport(PAGE)) from error

    async def rows(
        self,
        relation: str,
        *,
        columns: str,
        key: str,
        equal: Mapping[str, str] | None = None,
        at_least: Mapping[str, str] | None = None,
        page_rows: int = PAGE_ROWS,
    ) -> AsyncIterator[list[dict[str, Json]]]:
        """Pages of a table or view, by a unique ascending key, until one is empty.

        A short page need not be the last: a project may return fewer rows per page, and does not
        say how many.
        """
        after: Json = None
        asked = (relation, columns, key, equal or {}, at_least or {}, page_rows)
        while page := await self._page(*asked, after):
            yield page
            after = page[-1][key]

    async def first(
        self, relation: str, *, columns: str, equal: Mapping[str, str], is_known: bool = False
    ) -> dict[str, Json] | None:
        """One row, or None. is_known: it was seen before, so that no row is no answer."""
        request = self._rest.table(relation).select(columns)
        for column, value in equal.items():
            request = request.eq(column, value)
        found = await self._read(request.limit(1), columns, least=int(is_known))
        return found[0] if found else None

    async def newest(
        self,
        relation: str,
        *,
        columns: str,
        order: str,
        key: str,
        limit: int,
        equal: Mapping[str, str],
    ) -> list[dict[str, Json]]:
        """The last rows by a column, at most `limit`, even if the project returns fewer per page.

        key: a unique column, which orders rows that are equal in the first.
        """
        rows: list[dict[str, Json]] = []
        while len(rows) < limit:
            request = self._rest.table(relation).select(columns)
            for column, value in equal.items():
                request = request.eq(column, value)
            more = request.order(order, desc=True).order(key).range(len(rows), limit - 1)
            if not (page := await self._read(more, columns)):
                break
            rows += page
        return rows

    async def _page(
        self,
        relation: str,
        columns: str,
        key: str,
        equal: Mapping[str, str],
        at_least: Mapping[str, str],
        page_rows: int,
        after: Json,
    ) -> list[dict[str, Json]]:
        request = self._rest.table(relation).select(columns)
        for column, value in equal.items():
            request = request.eq(column, value)
        for column, value in at_least.items():
            request = request.gte(column, value)
        if after is not None:
            request = request.gt(key, after)
        return await self._read(request.order(key).limit(page_rows), columns)

    async def _read(self, request: Any, columns: str, least: int = 0) -> list[dict[str, Json]]:
        wanted = frozenset(columns.split(","))

        async def ask() -> list[dict[str, Json]]:
            rows = self._read_as(ROWS, (await self._named_errors(request.execute())).data)
            if len(rows) < least or not all(wanted <= row.keys() for row in rows):
                raise no_answer(self.host, "rows that are none of ours", self._was_reached)
            return rows

        return await ask_patiently(ask, BRIEF, self._was_never_reached)

    async def _answer_of(
        self,
        function: str,
        arguments: Mapping[str, Json],
        headers: Mapping[str, str],
        shape: Shape[T],
    ) -> T:
        asking = self._execute(self._rest, function, arguments, headers)
        return self._read_as(shape, await self._named_errors(asking))

    async def _named_errors(self, asking: Awaitable[Any]) -> Any:
        """The answer. A failure is raised as its BackfillError."""
        try:
            return await asking
        except APIError as error:
            # An error of PostgREST's own is a sign of life: a project that starts is waited for.
            self._was_reached |= _envelope.get().is_json and bool(error.code)
            fault = _fault(error)
            raise refused(self.host, error, fault) from _without_contents(error, fault)
        except httpx.HTTPError as error:
            why, kind = why_not_reached(error), type(error).__name__
            raise not_reached(self.host, self._address, why, kind) from error

    def _read_as(self, shape: Shape[T], answer: Json) -> T:
        """The answer, if it is one that a project gives. Raises OutcomeUnknown, NotInstalled."""
        try:
            read = shape.read(None if _envelope.get().is_empty else answer)
        except OddAnswer as odd:
            raise no_answer(self.host, str(odd), self._was_reached) from None
        self._was_reached = True
        return read

    async def _execute(
        self,
        client: AsyncClient | AsyncPostgrestClient,
        function: str,
        arguments: Mapping[str, Json],
        headers: Mapping[str, str],
    ) -> Json:
        request = client.rpc(function, dict(arguments))
        for name, value in headers.items():
            request.request.headers[name] = value
        return (await request.execute()).data

    def _was_never_reached(self) -> bool:
        # A project that never answered has a wrong URL. One that did is in trouble.
        return not self._was_reached


def _without_contents(error: APIError, fault: Fault) -> APIError:
    """The same error, to print as a cause. Its details, which may hold a row, are left out."""
    bare: dict[str, Any] = {
        "code": error.code,
        "message": fault.message,
        "hint": None,
        "details": None,
    }
    return APIError(bare).with_traceback(error.__traceback__)
