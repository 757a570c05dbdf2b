"""Signing in as an Auth user, by the real client.

A client of its own: signing in on the one that holds the secret key would turn that into the
user's. No error of the client is kept as a cause, since its text may hold a token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from backfill.api import keys
from backfill.api.transport import (
    address_in_words,
    is_by_proxy,
    variables_in_words,
    why_not_reached,
)
from backfill.api.url import project_url
from backfill.errors import BackfillError, BadKey, CannotConnect, NotAllowed
from supabase import AuthApiError, AuthError, AuthRetryableError, Client, ClientOptions

TIMEOUT_S = 20.0
EARLY_S = 60  # a token that ends so soon may end on its way
SIGN_IN_AGAIN = "backfill login"
# What Auth says -> what that means. Any other code is told in Auth's own words.
MEANINGS = {
    "invalid_credentials": "no user has this e-mail address and this password",
    "otp_expired": "this code is wrong or has expired",
    "otp_disabled": "no user has this e-mail address",
    "mfa_verification_failed": "this code of the second factor is wrong or was used",
    "email_not_confirmed": "this e-mail address is not confirmed yet",
    "user_banned": "this user is banned",
    "captcha_failed": "this project asks for a captcha, which only a browser can show",
    "over_request_rate_limit": "too many tries, wait a few minutes",
    "over_email_send_rate_limit": "too many mails, wait a few minutes",
}
ENDED = (
    "refresh_token_not_found",
    "refresh_token_already_used",
    "session_expired",
    "session_not_found",
)


class SessionEnded(NotAllowed):
    """The session of a signed-in user is over."""


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in user. expires_at: of the access token, in seconds since 1970."""

    email: str
    role: str | None
    level: str
    expires_at: int
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)

    @property
    def is_current(self) -> bool:
        """Whether the access token is good for the next call."""
        return self.expires_at - EARLY_S > time.time()


class Auth:
    """A project's Auth. Close it, or use it as a context manager."""

    def __init__(self, url: str, key: str) -> None:
        """key: any of the project's. Raises BadKey, CannotConnect for unusable values."""
        self.url = project_url(url)
        with variables_in_words(self.url):
            way = None if is_by_proxy(self.url) else httpx.HTTPTransport()
            self._http = httpx.Client(transport=way, timeout=TIMEOUT_S, follow_redirects=False)
        options = ClientOptions(
            httpx_client=self._http, auto_refresh_token=False, persist_session=False
        )
        self._auth = Client(self.url, keys.checked(key.strip()), options).auth

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def sign_in(self, email: str, password: str) -> Session:
        """Sign in with a password. Raises NotAllowed, CannotConnect."""
        return self._session_of(
            lambda: self._auth.sign_in_with_password({"email": email, "password": password})
        )

    def send_code(self, email: str) -> None:
        """Have a one-time code sent. Nobody signs up by it. Raises NotAllowed, CannotConnect."""
        with self._named_errors():
            self._auth.sign_in_with_otp({"email": email, "options": {"should_create_user": False}})

    def sign_in_with_code(self, email: str, code: str) -> Session:
        """Sign in with the code that was sent. Raises NotAllowed, CannotConnect."""
        token = code.strip()
        return self._session_of(
            lambda: self._auth.verify_otp({"email": email, "token": token, "type": "email"})
        )

    def factor(self) -> str | None:
        """The second factor of who signed in just now. None without one, or once it is given."""
        with self._named_errors():
            level = self._auth.mfa.get_authenticator_assurance_level()
            if level.current_level == level.next_level:
                return None
            return next((factor.id for factor in self._auth.mfa.list_factors().totp), None)

    def give_factor(self, factor: str, code: str) -> Session:
        """Raise the session by its second factor. Raises NotAllowed, CannotConnect."""

        def raised() -> Any:
            self._auth.mfa.challenge_and_verify({"factor_id": factor, "code": code.strip()})
            return self._auth.refresh_session()

        return self._session_of(raised)

    def refreshed(self, session: Session) -> Session:
        """The session with a new access token. Raises SessionEnded, CannotConnect."""
        return self._session_of(lambda: self._auth.refresh_session(session.refresh_token))

    def sign_out(self, session: Session) -> None:
        """End a session, unless it is over. Raises CannotConnect."""
        with self._named_errors(), suppress(AuthApiError):
            self._auth.admin.sign_out(session.access_token, "local")

    def _session_of(self, ask: Callable[[], Any]) -> Session:
        with self._named_errors():
            session = ask().session
            return Session(
                email=session.user.email or session.user.id,
                role=session.user.app_metadata.get("backfill_role"),
                level=keys.claims_of(session.access_token).get("aal", "aal1"),
                expires_at=session.expires_at,
                access_token=session.access_token,
                refresh_token=session.refresh_token,
            )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Raise what goes wrong as the BackfillError that it means."""
        failed: BackfillError
        try:
            yield
        except AuthRetryableError as error:
            failed = self._unreachable(error)
        except AuthApiError as error:
            failed = self._meant(error)
        except (AuthError, ValueError, AttributeError):
            failed = CannotConnect(
                f"{address_in_words(self.url)} gave no answer of Auth", "check SUPABASE_URL"
            )
        else:
            return
        raise failed from None

    def _unreachable(self, error: AuthRetryableError) -> CannotConnect:
        cause = error.__cause__
        why = why_not_reached(cause) if isinstance(cause, httpx.HTTPError) else None
        return CannotConnect(
            f"cannot reach Auth at {address_in_words(self.url)}: {why or 'no answer'}",
            "check SUPABASE_URL and the network",
        )

    def _meant(self, error: AuthApiError) -> BackfillError:
        if error.code in ENDED:
            return SessionEnded("this session has ended", SIGN_IN_AGAIN)
        if error.code is None and error.status == httpx.codes.UNAUTHORIZED:
            return BadKey(f"{address_in_words(self.url)} does not accept this key", keys.WHERE)
        if error.code is None and error.status == httpx.codes.NOT_FOUND:
            return CannotConnect(
                f"{address_in_words(self.url)} has no Auth to sign in at", "check SUPABASE_URL"
            )
        meaning = MEANINGS.get(str(error.code)) or f"Auth says: {error.message[:200]}"
        return NotAllowed(f"not signed in: {meaning}", SIGN_IN_AGAIN)
