"""The embedded stack's /auth/v1: as much of Supabase Auth as signing in takes.

Passwords, one-time codes, a second factor by TOTP, refresh, sign-out, in the answers of Supabase
Auth. It sends no mail: `backfill local user code` shows what one would hold. There is no sign-up,
no provider, no captcha and no limit on tries but that of a code.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import psycopg
from aiohttp import web
from psycopg import sql

from backfill.local.keys import mint_user_token

API_VERSION = "x-supabase-api-version"
NEW_ERRORS = "2024-01-01"  # the first version whose errors name their code in `code`
TOKEN_TTL_S = 3600
CODE_DIGITS = 6
TOTP_STEP_S = 30
CHALLENGE_TTL_S = 300

Json = dict[str, Any]


class Refused(Exception):
    """What Supabase Auth answers instead: a status, its code, its words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


BAD_CREDENTIALS = (400, "invalid_credentials", "Invalid login credentials")
BAD_CODE = (403, "otp_expired", "Token has expired or is invalid")
BANNED = (400, "user_banned", "User is banned")
BAD_TOTP = (422, "mfa_verification_failed", "Invalid TOTP code entered")
NO_SESSION = (403, "session_not_found", "Session from session_id claim in JWT does not exist")
NO_FACTOR = (404, "mfa_factor_not_found", "Factor not found")
NO_SIGN_UP = (422, "otp_disabled", "Signups not allowed for otp")
NO_BEARER = (401, "no_authorization", "This endpoint requires a valid Bearer token")
BAD_JWT = (403, "bad_jwt", "invalid JWT: unable to parse or verify signature")
UNREFRESHED = {
    "not_found": (400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found"),
    "already_used": (400, "refresh_token_already_used", "Invalid Refresh Token: Already Used"),
    "banned": BANNED,
}


@dataclass(frozen=True)
class Asked:
    """A request, taken apart. rest: what its path says after /auth/v1."""

    method: str
    rest: str
    query: Mapping[str, str]
    body: Json
    authorization: str

    def text(self, name: str) -> str:
        """A value of the body. Raises Refused if it is none."""
        value = self.body.get(name)
        if not isinstance(value, str) or not value:
            raise Refused(400, "validation_failed", f"{name} is required")
        return value


class Auth:
    """Sign-ins of one project, kept in its database."""

    def __init__(self, dsn: str, jwt_secret: str) -> None:
        """dsn: logs in as postgres. jwt_secret: signs the access tokens."""
        self._dsn = dsn
        self._jwt_secret = jwt_secret

    async def answer(self, request: web.BaseRequest, rest: str) -> web.Response:
        """Answer a request. rest: its path without /auth/v1."""
        version = request.headers.get(API_VERSION, "")
        try:
            asked = Asked(
                request.method,
                rest,
                request.query,
                _object(await request.read()),
                request.headers.get("Authorization", ""),
            )
            told = await self._decide(asked)
        except Refused as refused:
            return _error(refused, version)
        except psycopg.Error as failed:
            # Neither its statement nor its values are told: they may be a password.
            print(
                f"/auth/v1{rest}: {failed.sqlstate} {failed.diag.message_primary}", file=sys.stderr
            )
            return _error(Refused(500, "unexpected_failure", "Internal Server Error"), version)
        return web.Response(status=204) if told is None else web.json_response(told)

    async def _decide(self, asked: Asked) -> Json | None:
        ways: dict[tuple[str, str], Callable[[Asked], Awaitable[Json | None]]] = {
            ("POST", "/token"): self._token,
            ("POST", "/otp"): self._send_code,
            ("POST", "/verify"): self._with_code,
            ("GET", "/user"): self._user,
            ("POST", "/logout"): self._sign_out,
        }
        way = ways.get((asked.method, asked.rest))
        if way is None and asked.method == "POST" and asked.rest.startswith("/factors/"):
            way = self._factor
        if way is None:
            raise Refused(404, "not_found", "404 page not found")
        return await way(asked)

    async def _token(self, asked: Asked) -> Json:
        kind = asked.query.get("grant_type")
        if kind == "refresh_token":
            grant = await self._ask("local_refresh", asked.text("refresh_token"))
            if "refused" in grant:
                raise Refused(*UNREFRESHED[grant["refused"]])
            return self._session(grant)
        if kind != "password":
            raise Refused(400, "invalid_credentials", "unsupported_grant_type")
        known = await self._ask("local_known", asked.text("email"), asked.text("password"), None)
        return await self._signed_in(known, BAD_CREDENTIALS, "password")

    async def _send_code(self, asked: Asked) -> Json:
        code = "".join(secrets.choice("0123456789") for _ in range(CODE_DIGITS))
        if not await self._ask("local_new_code", asked.text("email"), code):
            raise Refused(*NO_SIGN_UP)
        return {}

    async def _with_code(self, asked: Asked) -> Json:
        known = await self._ask("local_known", asked.text("email"), None, asked.text("token"))
        return await self._signed_in(known, BAD_CODE, "otp")

    async def _signed_in(
        self, known: Json | None, unknown: tuple[int, str, str], method: str
    ) -> Json:
        if known is None:
            raise Refused(*unknown)
        if known["is_banned"]:
            raise Refused(*BANNED)
        return self._session(await self._ask("local_sign_in", known["id"], method))

    async def _user(self, asked: Asked) -> Json:
        user: Json | None = await self._ask("local_user_of", self._session_id(asked))
        if user is None:
            raise Refused(*NO_SESSION)
        return user

    async def _sign_out(self, asked: Asked) -> None:
        session_id = self._session_id(asked)
        await self._user(asked)
        await self._ask("local_sign_out", session_id, asked.query.get("scope", "global"))

    async def _factor(self, asked: Asked) -> Json:
        _, _, factor_id, verb = (*asked.rest.split("/"), "", "", "")[:4]
        session_id = self._session_id(asked)
        secret = None
        if _is_uuid(factor_id):
            secret = await self._ask("local_secret", session_id, factor_id)
        if secret is None or verb not in ("challenge", "verify"):
            raise Refused(*NO_FACTOR)
        if verb == "challenge":
            # Nothing is kept of it: a code of TOTP serves once by itself.
            expires_at = int(time.time()) + CHALLENGE_TTL_S
            return {"id": str(uuid.uuid4()), "type": "totp", "expires_at": expires_at}
        step = _step_of(secret, asked.text("code"))
        grant = (
            None if step is None else await self._ask("local_raise", session_id, factor_id, step)
        )
        if grant is None:
            raise Refused(*BAD_TOTP)
        return self._session(grant)

    def _session_id(self, asked: Asked) -> str:
        """The session of the bearer's token. Raises Refused."""
        kind, _, token = asked.authorization.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Refused(*NO_BEARER)
        try:
            claims = jwt.decode(token, self._jwt_secret, ["HS256"], audience="authenticated")
        except jwt.InvalidTokenError:
            raise Refused(*BAD_JWT) from None
        session_id = str(claims.get("session_id"))
        if not _is_uuid(session_id):
            raise Refused(*NO_SESSION)
        return session_id

    def _session(self, grant: Json) -> Json:
        user = grant["user"]
        now = int(time.time())
        return {
            "access_token": mint_user_token(
                self._jwt_secret,
                user["id"],
                user["email"],
                user["app_metadata"],
                ttl_s=TOKEN_TTL_S,
                session_id=grant["session_id"],
                aal=grant["aal"],
                methods=grant["methods"],
            ),
            "token_type": "bearer",
            "expires_in": TOKEN_TTL_S,
            "expires_at": now + TOKEN_TTL_S,
            "refresh_token": grant["refresh_token"],
            "user": user,
        }

    async def _ask(self, function: str, *values: object) -> Any:
        """What a function of the database in the schema auth answers."""
        async with await psycopg.AsyncConnection.connect(self._dsn) as connection:
            answer = await connection.execute(calling(function, values), values)
            row = await answer.fetchone()
        return row[0] if row else None


def calling(function: str, values: tuple[object, ...]) -> sql.Composed:
    """The call of a function of the schema auth with so many values."""
    places = sql.SQL(", ").join([sql.Placeholder()] * len(values))
    return sql.SQL("select {}({})").format(sql.Identifier("auth", function), places)


def totp(secret: str, step: int) -> str:
    """The code of a step of time (RFC 6238). secret: in base 32."""
    key = base64.b32decode(secret)
    digest = hmac.new(key, step.to_bytes(8, "big"), hashlib.sha1).digest()
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**CODE_DIGITS:0{CODE_DIGITS}}"


def new_secret() -> str:
    """The secret of a new second factor, in base 32."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def _step_of(secret: str, code: str) -> int | None:
    """The step whose code this is: now, or the one before or after. None if it is of none."""
    now = int(time.time()) // TOTP_STEP_S
    matching = (s for s in (now, now - 1, now + 1) if hmac.compare_digest(totp(secret, s), code))
    return next(matching, None)


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _object(body: bytes) -> Json:
    try:
        told = json.loads(body or b"{}")
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise Refused(400, "bad_json", "Could not parse request body as JSON")
    return told


def _error(refused: Refused, version: str) -> web.Response:
    """A refusal in the form that a client of this version of the API reads."""
    if version >= NEW_ERRORS:
        told: Json = {"code": refused.code, "message": refused.message}
        return web.json_response(told, status=refused.status, headers={API_VERSION: NEW_ERRORS})
    told = {"code": refused.status, "error_code": refused.code, "msg": refused.message}
    return web.json_response(told, status=refused.status)
