"""Sending one message to a webhook: where to, what it answered, when to try again.

The address is a secret: whoever knows that of a Slack channel may write there. So no message, log
or traceback shows more of it than the host. httpx's client logs every address, and so its
transport alone is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from backfill.api.transport import is_by_proxy
from backfill.errors import BadRequest
from backfill.notify.message import Form, headers_of

VARIABLE = "BACKFILL_NOTIFY_URL"
SLACK = ("hooks.slack.com", "hooks.slack-gov.com")
TIMEOUT_S = 5.0  # of connecting, and of each wait for the other side
DELAYS_S = (1.0, 2.0, 4.0, 8.0)  # before each further try
LONGEST_DELAY_S = 30.0  # whatever it asks for
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_NEXT = f"export {VARIABLE}=https://…, then: backfill notify --test"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a webhook is. Only its host is ever shown."""

    url: httpx.URL = field(repr=False)
    host: str
    form: Form


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a message. said: in words, without the address. status: None if none came."""

    is_taken: bool
    said: str
    status: int | None = None
    tries: int = 1
    retry_after_s: float | None = None
    is_final: bool = False


def address_of(url: str, form: Form | None = None) -> Address:
    """Read the address of a webhook. form: by default Slack's for Slack, else JSON.

    Raises BadRequest, which does not repeat it.
    """
    try:
        read, scheme = httpx.URL(url), urlsplit(url).scheme
    except (httpx.InvalidURL, ValueError, TypeError):
        read, scheme = httpx.URL(), "none"
    if scheme == "none" or any(c.isspace() for c in url):
        raise BadRequest("the address of the webhook is not one", _NEXT)
    if scheme not in ("http", "https"):
        raise BadRequest("the address of the webhook begins neither with https nor http", _NEXT)
    if not read.host:
        raise BadRequest("the address of the webhook names no host", _NEXT)
    return Address(read, read.host, form or ("slack" if read.host in SLACK else "json"))


def deliver(
    address: Address,
    body: bytes,
    message_id: str,
    secret: str | None,
    *,
    now_s: Callable[[], int],
    wait: Callable[[float], bool],
) -> Answer:
    """Send a message, again after a pause if that may help. Raises nothing.

    wait: for so many seconds. True: it is to be given up.
    """
    delays = iter((*DELAYS_S, None))
    tries = 0
    while True:
        tries += 1
        answer = _try(address, body, headers_of(body, message_id, secret, now_s()))
        delay = next(delays)
        if answer.is_taken or answer.is_final or delay is None:
            break
        if wait(min(max(delay, answer.retry_after_s or 0), LONGEST_DELAY_S)):
            break
    return Answer(answer.is_taken, answer.said, answer.status, tries)


def _try(address: Address, body: bytes, headers: dict[str, str]) -> Answer:
    """One try. Whatever the library raises is an answer, since its text may hold the address."""
    try:
        return _answer(address, body, headers)
    except httpx.TimeoutException:
        return Answer(False, f"it did not answer within {TIMEOUT_S:g} s")
    except httpx.ConnectError:
        return Answer(False, "it cannot be reached")
    except httpx.TransportError as error:
        return Answer(False, f"the connection broke ({type(error).__name__})")
    except Exception as error:
        return Answer(False, f"it could not be sent ({type(error).__name__})", is_final=True)


def _answer(address: Address, body: bytes, headers: dict[str, str]) -> Answer:
    """Nothing of the answer is read but its head."""
    with _transport(address) as transport:
        request = _request(address, body, headers)
        response = transport.handle_request(request)
        try:
            return _read(response)
        finally:
            response.close()


def _request(address: Address, body: bytes, headers: dict[str, str]) -> httpx.Request:
    extensions = {"timeout": httpx.Timeout(TIMEOUT_S).as_dict()}
    url = address.url
    request = httpx.Request("POST", url, headers=headers, content=body, extensions=extensions)
    if url.username or url.password:
        return next(httpx.BasicAuth(url.username, url.password).auth_flow(request))
    return request


def _transport(address: Address) -> httpx.HTTPTransport:
    """A connection of its own, through the environment's proxy if it names one."""
    proxy = None
    if is_by_proxy(str(address.url)):
        proxies = getproxies()
        proxy = proxies.get(address.url.scheme) or proxies["all"]
    return httpx.HTTPTransport(proxy=proxy)


def _read(response: httpx.Response) -> Answer:
    status = response.status_code
    if response.is_success:
        return Answer(True, f"it answered {status}", status)
    if response.is_redirect:
        said = f"it answered {status}: it redirects elsewhere, and that is not followed"
        return Answer(False, said, status, is_final=True)
    again = status in _AGAIN
    asked_s = _seconds(response.headers.get("Retry-After", ""))
    return Answer(False, f"it answered {status}", status, 1, asked_s, not again)


def _seconds(text: str) -> float | None:
    """A Retry-After in seconds. A date is none, since clocks differ."""
    return float(text) if text.isascii() and text.isdigit() else None
