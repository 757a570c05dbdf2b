"""Is it the URL of a project? Other URLs that people paste are refused with the right one."""

from __future__ import annotations

import re
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from backfill.errors import CannotConnect

_OF_AN_API = re.compile(r"/(?:rest|auth|storage|functions|realtime|graphql)/v\d+(?:/.*)?$")
_DASHBOARD = re.compile(r"https://(?:app\.)?supabase\.com/dashboard/project/(?P<project>\w+)")
_LOGIN = re.compile("//[^/@]*@")
SHOWN_CHARS = 80


def project_url(given: str) -> str:
    """The URL without a trailing slash.

    Raises CannotConnect if it is none, or that of one of the project's APIs.
    """
    url = given.strip().rstrip("/")
    parts = _parts(url)
    if parts is None:
        raise _refused("this is no project URL", url, "https://<project>.supabase.co")
    meant = _meant(url, parts)
    if meant is not None:
        raise _refused("this is the URL of something else, not of the project", url, meant)
    return url


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if is_usable else None


def _meant(url: str, parts: SplitResult) -> str | None:
    """The project's URL if this is another one, None if it is the project's."""
    if on_dashboard := _DASHBOARD.match(url):
        return f"https://{on_dashboard['project']}.supabase.co"
    if not (_OF_AN_API.search(parts.path) or parts.query or parts.fragment):
        return None
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{_OF_AN_API.sub('', parts.path)}".rstrip("/")


def _refused(what: str, url: str, meant: str) -> CannotConnect:
    shown = _LOGIN.sub("//", url)[:SHOWN_CHARS]
    return CannotConnect(f"{what}: {shown}", f"export SUPABASE_URL={meant}")


class SupabaseClient(Protocol):
    """What `connect(client=…)` reads of a client, sync or async. It changes nothing."""

    @property
    def supabase_url(self) -> object:
        """The project's URL, a str or an object that prints as one."""
        ...

    @property
    def supabase_key(self) -> str:
        """The project's key."""
        ...


def address_of(client: SupabaseClient) -> tuple[str, str]:
    """URL and key of a given client."""
    return str(client.supabase_url).rstrip("/"), client.supabase_key
