"""The one module that talks to Supabase: the real client, plain HTTP/1.1, errors named.

Retries are ours: the client never retries an RPC. Every call of ours can be made again, because
the database recognises it; a scoring call cannot, so its outcome is looked up instead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import stamina
from postgrest import APIError

from backfill import keys
from backfill.errors import (
    BY_SQLSTATE,
    BackfillError,
    BadKey,
    CannotConnect,
    NotAllowed,
    NotInstalled,
    OutcomeUnknown,
)
from backfill.faults import Fault, fault_of_api, fault_of_transport
from backfill.models import Json
from supabase import AsyncClient, AsyncClientOptions

PAGE_ROWS = 1000  # db-max-rows of hosted projects: a longer answer would be cut silently
TIMEOUT = httpx.Timeout(70.0, connect=10.0, pool=70.0)  # the API ends a call after 60 s
ATTEMPTS = 6

# Without a handler the retries' warnings would go to stderr in programs that set up no logging.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class SupabaseClient(Protocol):
    """What `connect(client=…)` reads of a client: sync or async, it stays as it is."""

    @property
    def supabase_url(self) -> object:
        """The project's URL; a str, or what prints as one."""
        ...

    @property
    def supabase_key(self) -> str:
        """The project's key."""
        ...


# The HTTP status of this task's last answer: APIError does not carry it, and a gateway's own JSON
# has no code.
_status: ContextVar[int | None] = ContextVar("status", default=None)


async def _note_status(response: httpx.Response) -> None:
    _status.set(response.status_code)


class CallFailed(Exception):
    """A scoring call that did not come back well; `fault` says what that means."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Gateway:
    """A project's API under its secret key."""

    def __init__(self, url: str, key: str, *, connections: int = 16) -> None:
        """Connect lazily: nothing is sent yet. Raises BadKey, CannotConnect for unusable values."""
        self.url = _checked_url(url)
        self.host = urlsplit(self.url).hostname or ""
        self._key = keys.checked(key.strip())
        self._was_reached = False
        self._http = httpx.AsyncClient(
            http1=True,
            http2=False,
            timeout=TIMEOUT,
            follow_redirects=False,
            event_hooks={"response": [_note_status]},
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        self._client = AsyncClient(
            self.url,
            self._key,
            AsyncClientOptions(
                httpx_client=self._http, auto_refresh_token=False, persist_session=False
            ),
        )

    def __repr__(self) -> str:
        return f"Gateway({self.host})"

    @property
    def uses_legacy_key(self) -> bool:
        """Whether the key is a legacy JWT, which Supabase retires by the end of 2026."""
        return keys.is_legacy(self._key)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(
        self,
        function: str,
        arguments: Mapping[str, Json],
        *,
        expect: type | tuple[type, ...] = (dict, list),
        access_token: str | None = None,
    ) -> Any:
        """Call one of our functions; again after transport trouble, since each can be repeated.

        access_token: an Auth user's, instead of the key. expect: the type of the answer.
        Raises the BackfillError that the SQLSTATE names.
        """
        headers = {"Authorization": f"Bearer {access_token.strip()}"} if access_token else {}
        async for attempt in stamina.retry_context(
            on=self._is_worth_another_try, attempts=ATTEMPTS, timeout=120.0, wait_max=8.0
        ):
            with attempt:
                try:
                    return await self._answer_of(function, arguments, headers, expect)
                except BadKey as refused:
                    if not access_token:
                        raise
                    raise _refused_token(self.host) from refused
        raise AssertionError("the retry loop returns or raises")

    async def score(
        self, function: str, arguments: Mapping[str, Json], headers: Mapping[str, str]
    ) -> Json:
        """Make one scoring call, once. Raises CallFailed with what its failure means."""
        try:
            answer = await self._execute(function, arguments, headers)
        except APIError as error:
            fault = fault_of_api(error.code, error.message, _status.get())
            raise CallFailed(fault) from _without_contents(error, fault)
        except httpx.HTTPError as error:
            raise CallFailed(fault_of_transport(type(error).__name__)) from error
        if isinstance(answer, str) and answer.lstrip().startswith("<"):
            raise CallFailed(fault_of_transport("an HTML page instead of an answer"))
        return answer

    async def rows(
        self,
        relation: str,
        *,
        columns: str,
        key: str,
        equal: Mapping[str, str] | None = None,
        at_least: Mapping[str, str] | None = None,
    ) -> AsyncIterator[list[dict[str, Json]]]:
        """Pages of a table or view, by a unique ascending key, so that no limit can hide a row."""
        after: Json = None
        while True:
            page = await self._page(relation, columns, key, equal or {}, at_least or {}, after)
            if page:
                yield page
            if len(page) < PAGE_ROWS:
                return
            after = page[-1][key]

    async def first(
        self, relation: str, *, columns: str, equal: Mapping[str, str]
    ) -> dict[str, Json] | None:
        """One row, or None."""
        request = self._client.table(relation).select(columns)
        for column, value in equal.items():
            request = request.eq(column, value)
        found = await self._read(request.limit(1))
        return found[0] if found else None

    async def newest(
        self, relation: str, *, columns: str, order: str, limit: int, equal: Mapping[str, str]
    ) -> list[dict[str, Json]]:
        """The last rows by a column, at most `limit`."""
        request = self._client.table(relation).select(columns)
        for column, value in equal.items():
            request = request.eq(column, value)
        return await self._read(request.order(order, desc=True).limit(limit))

    async def _page(
        self,
        relation: str,
        columns: str,
        key: str,
        equal: Mapping[str, str],
        at_least: Mapping[str, str],
        after: Json,
    ) -> list[dict[str, Json]]:
        request = self._client.table(relation).select(columns)
        for column, value in equal.items():
            request = request.eq(column, value)
        for column, value in at_least.items():
            request = request.gte(column, value)
        if after is not None:
            request = request.gt(key, after)
        return await self._read(request.order(key).limit(PAGE_ROWS))

    async def _read(self, request: Any) -> list[dict[str, Json]]:
        async for attempt in stamina.retry_context(
            on=self._is_worth_another_try, attempts=ATTEMPTS, timeout=120.0, wait_max=8.0
        ):
            with attempt:
                try:
                    answer = (await request.execute()).data
                except APIError as error:
                    fault = fault_of_api(error.code, error.message, _status.get())
                    raise self._named(error, fault) from _without_contents(error, fault)
                except httpx.HTTPError as error:
                    raise self._unreachable(error) from error
                if not isinstance(answer, list):
                    raise _no_answer(self.host)
                self._was_reached = True
                return answer
        raise AssertionError("the retry loop returns or raises")

    async def _answer_of(
        self,
        function: str,
        arguments: Mapping[str, Json],
        headers: Mapping[str, str],
        expect: type | tuple[type, ...],
    ) -> Any:
        try:
            answer = await self._execute(function, arguments, headers)
        except APIError as error:
            fault = fault_of_api(error.code, error.message, _status.get())
            raise self._named(error, fault) from _without_contents(error, fault)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not isinstance(answer, expect):
            raise _no_answer(self.host)
        self._was_reached = True
        return answer

    async def _execute(
        self, function: str, arguments: Mapping[str, Json], headers: Mapping[str, str]
    ) -> Json:
        request = self._client.rpc(function, dict(arguments))
        for name, value in headers.items():
            request.request.headers[name] = value
        return (await request.execute()).data

    def _is_worth_another_try(self, error: Exception) -> bool:
        # A project that never answered has a wrong URL; one that did is in trouble.
        return self._was_reached and isinstance(error, OutcomeUnknown)

    def _named(self, error: APIError, fault: Fault) -> BackfillError:
        """The BackfillError that an API error is."""
        kind = BY_SQLSTATE.get(fault.code)
        if kind is not None:
            return kind(error.message or "", error.hint or "")
        if fault.code in {"401", "PGRST301", "PGRST302", "PGRST303"}:
            return BadKey(f"{self.host} does not accept this key", keys.WHERE)
        if fault.code in {"PGRST202", "PGRST205", "42883", "42P01", "3F000"}:
            return NotInstalled(
                f"the backfill migrations are not installed in {self.host}",
                "backfill install, apply the migrations, then backfill check",
            )
        if fault.code == "42501":
            return NotAllowed(f"not allowed: {fault.message}", "backfill check")
        if fault.kind == "unknown":
            return OutcomeUnknown(f"{self.host} is in trouble: {fault.code} {fault.message}", "")
        return BackfillError(f"{fault.code}: {fault.message}")

    def _unreachable(self, error: httpx.HTTPError) -> CannotConnect:
        """Whatever the transport calls it: the call may or may not have happened."""
        if isinstance(error, httpx.ConnectError):
            return OutcomeUnknown(f"cannot reach {self.host}", "check SUPABASE_URL and the network")
        return OutcomeUnknown(
            f"no answer from {self.host} ({type(error).__name__})", "try again; nothing is lost"
        )


def _without_contents(error: APIError, fault: Fault) -> APIError:
    """The same error as a cause to be printed: its details, a row perhaps, stay out of it."""
    bare: dict[str, Any] = {
        "code": error.code,
        "message": fault.message,
        "hint": None,
        "details": None,
    }
    return APIError(bare).with_traceback(error.__traceback__)


def _refused_token(host: str) -> NotAllowed:
    return NotAllowed(f"{host} does not accept this access token", "sign in again for a new one")


def _no_answer(host: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"{host} does not answer like a Supabase project", "check SUPABASE_URL")


def _checked_url(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CannotConnect(
            f"this is no project URL: {url[:80]}",
            "export SUPABASE_URL=https://<project>.supabase.co",
        )
    return url.strip().rstrip("/")


def address_of(client: SupabaseClient) -> tuple[str, str]:
    """URL and key of somebody's client."""
    return str(client.supabase_url).rstrip("/"), client.supabase_key


__all__: Sequence[str] = ("CallFailed", "Gateway", "SupabaseClient", "address_of")
