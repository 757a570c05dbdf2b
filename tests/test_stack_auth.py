"""Signing in at the embedded stack: supabase-py and supabase-js, as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from supabase_auth.errors import AuthApiError

import backfill
from backfill.local.auth import new_secret
from supabase import Client, ClientOptions
from tests.conftest import Project
from tests.kit.copies import Copy
from tests.kit.npm import installed, run_node
from tests.kit.seed import SEED
from tests.kit.signing import ADA, PASSWORD, add_user, code_now, with_auth

SUPABASE_JS = "@supabase/supabase-js@2.119.1"


@pytest.fixture
def signing(project: Project, project_copy: Copy) -> Project:
    """A project whose gateway answers /auth/v1, with an approver."""
    return with_auth(project, project_copy)


@pytest.fixture
def client(signing: Project) -> Iterator[Client]:
    """The real client with the anon key, as an app has it."""
    with closing(httpx.Client(timeout=30)) as http:
        options = ClientOptions(httpx_client=http, auto_refresh_token=False, persist_session=False)
        yield Client(signing.url, signing.keys.anon, options)


def sign_in(client: Client, password: str = PASSWORD) -> Any:
    return client.auth.sign_in_with_password({"email": ADA.upper(), "password": password})


def refusal(ask: Callable[[], object]) -> tuple[int, str | None]:
    with pytest.raises(AuthApiError) as refused:
        ask()
    return refused.value.status, refused.value.code


def test_a_password_is_kept_as_auth_keeps_it(signing: Project) -> None:
    """As bcrypt of cost 10, so that a copy of a hosted project's users signs in."""
    kept = signing.value("select encrypted_password from auth.users where email = %s", ADA)
    assert kept.startswith("$2a$10$")


def test_supabase_py_signs_in_refreshes_and_signs_out(signing: Project, client: Client) -> None:
    """And its token approves a plan."""
    with signing.connect() as bf:
        signing.db.execute(
            "update public.backfill_settings set approval_policy = 'second_person' where only_row"
        )
        plan = bf.plan(**SEED)
        session = sign_in(client).session
        assert (session.user.email, session.expires_in) == (ADA, 3600)
        answer: Any = client.auth.get_user(session.access_token)
        assert answer.user.app_metadata["backfill_role"] == "approver"
        again: Any = client.auth.refresh_session(session.refresh_token).session
        approved = bf.approve(plan.run_id, digest=plan.digest, access_token=again.access_token)
        assert approved.approved_by == ADA
    client.auth.admin.sign_out(again.access_token, "local")
    assert refusal(lambda: client.auth.get_user(again.access_token)) == (403, "session_not_found")
    late = refusal(lambda: client.auth.refresh_session(again.refresh_token))
    assert late == (400, "refresh_token_not_found")


def test_a_wrong_password_or_nobody_is_refused_alike(client: Client) -> None:
    """With the code that Auth gives, from which the client makes its error."""
    wrong = (400, "invalid_credentials")
    assert refusal(lambda: sign_in(client, "wrong horse")) == wrong
    nobody = {"email": "eve@example.org", "password": PASSWORD}
    assert refusal(lambda: client.auth.sign_in_with_password(nobody)) == wrong  # type: ignore[arg-type]


def test_a_banned_user_does_not_sign_in(signing: Project, client: Client) -> None:
    """Nor refresh."""
    session = sign_in(client).session
    signing.db.execute("update auth.users set banned_until = 'infinity'")
    assert refusal(lambda: sign_in(client)) == (400, "user_banned")
    again = refusal(lambda: client.auth.refresh_session(session.refresh_token))
    assert again == (400, "user_banned")


def test_a_refresh_token_that_comes_again_ends_its_session(client: Client) -> None:
    """Somebody else has it."""
    session = sign_in(client).session
    again: Any = client.auth.refresh_session(session.refresh_token).session
    used = refusal(lambda: client.auth.refresh_session(session.refresh_token))
    assert used == (400, "refresh_token_already_used")
    assert refusal(lambda: client.auth.get_user(again.access_token)) == (403, "session_not_found")


def test_another_password_ends_all_sessions(signing: Project, client: Client) -> None:
    """The old one signs nobody in."""
    session = sign_in(client).session
    add_user(signing, password="battery staple")
    assert refusal(lambda: client.auth.get_user(session.access_token))[0] == 403
    assert refusal(lambda: sign_in(client)) == (400, "invalid_credentials")
    assert sign_in(client, "battery staple").session


def test_a_one_time_code_signs_in_once(signing: Project, client: Client) -> None:
    """The stack keeps what the mail would hold. Nobody signs up."""
    options: Any = {"should_create_user": False}
    client.auth.sign_in_with_otp({"email": ADA, "options": options})
    code = signing.value("select auth.local_code(%s)", ADA)
    wrong = refusal(lambda: client.auth.verify_otp({"email": ADA, "token": "x", "type": "email"}))
    assert wrong == (403, "otp_expired")
    signed = client.auth.verify_otp({"email": ADA, "token": code, "type": "email"})
    assert signed.user is not None
    assert signed.user.email == ADA
    again = refusal(lambda: client.auth.verify_otp({"email": ADA, "token": code, "type": "email"}))
    assert again == wrong
    unknown = refusal(lambda: client.auth.sign_in_with_otp({"email": "eve@example.org"}))
    assert unknown == (422, "otp_disabled")


def test_a_code_is_guessed_at_five_times(signing: Project, client: Client) -> None:
    """Then the right one is wrong, too."""
    client.auth.sign_in_with_otp({"email": ADA})
    code = signing.value("select auth.local_code(%s)", ADA)
    for guess in ("1", "2", "3", "4", "5", code):
        got = refusal(
            lambda guess=guess: client.auth.verify_otp(  # type: ignore[misc]
                {"email": ADA, "token": guess, "type": "email"}
            )
        )
        assert got == (403, "otp_expired")


def test_a_second_factor_raises_the_session(signing: Project, client: Client) -> None:
    """Once per code, and it stays when the session is refreshed."""
    secret = new_secret()
    add_user(signing, secret=secret)
    sign_in(client)
    [factor] = client.auth.mfa.list_factors().totp
    given = {"factor_id": factor.id, "code": code_now(secret)}
    assert client.auth.mfa.get_authenticator_assurance_level().current_level == "aal1"
    client.auth.mfa.challenge_and_verify(given)  # type: ignore[arg-type]
    client.auth.refresh_session()
    assert client.auth.mfa.get_authenticator_assurance_level().current_level == "aal2"
    used = refusal(lambda: client.auth.mfa.challenge_and_verify(given))  # type: ignore[arg-type]
    assert used == (422, "mfa_verification_failed")


# What is asked of it, and the status and the code that answer.
BROKEN: dict[str, tuple[str, str, dict[str, Any] | None, tuple[int, str]]] = {
    "no grant": ("POST", "/token", {}, (400, "invalid_credentials")),
    "no e-mail": ("POST", "/token?grant_type=password", {}, (400, "validation_failed")),
    "no text": (
        "POST",
        "/token?grant_type=password",
        {"email": 1, "password": []},
        (400, "validation_failed"),
    ),
    "no token": ("GET", "/user", None, (401, "no_authorization")),
    "a sign-up": ("POST", "/signup", {}, (404, "not_found")),
    "an admin's way": ("GET", "/admin/users", None, (404, "not_found")),
    "a factor of nobody": ("POST", "/factors/x/verify", {}, (401, "no_authorization")),
}


@pytest.mark.parametrize("way", BROKEN)
def test_what_is_not_there_is_refused_in_auths_form(signing: Project, way: str) -> None:
    """Both in the form of today and in that of a client that names no version."""
    method, path, body, (status, code) = BROKEN[way]
    with httpx.Client(
        base_url=f"{signing.url}/auth/v1", headers={"apikey": signing.keys.anon}
    ) as api:
        old = api.request(method, path, json=body)
        new = api.request(method, path, json=body, headers={"x-supabase-api-version": "2024-01-01"})
    assert (old.status_code, old.json()["code"], old.json()["error_code"]) == (status, status, code)
    assert (new.status_code, new.json()["code"]) == (status, code)
    assert new.headers["x-supabase-api-version"] == "2024-01-01"


def test_a_token_of_another_project_and_a_request_without_a_key_are_refused(
    signing: Project,
) -> None:
    """The gateway asks for a key, Auth for a signature."""
    with httpx.Client(base_url=f"{signing.url}/auth/v1") as api:
        assert api.get("/user").status_code == 401
        foreign = {"apikey": signing.keys.secret, "Authorization": f"Bearer {signing.keys.anon}"}
        answer = api.get("/user", headers=foreign)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "bad_jwt")
        no_json = api.post(
            "/token?grant_type=password", content=b"\xff", headers={"apikey": signing.keys.secret}
        )
        assert (no_json.status_code, no_json.json()["error_code"]) == (400, "bad_json")


def test_supabase_js_signs_in(signing: Project, bf: backfill.Backfill) -> None:
    """With a second factor, too, by which it approves where the project asks for one."""
    secret = new_secret()
    add_user(signing, secret=secret)
    plan = bf.plan(**SEED)
    signing.db.execute("update public.backfill_settings set require_aal2 = true where only_row")
    home = installed(SUPABASE_JS).parent
    script = Path(__file__).parent / "kit" / "sign_in.mjs"
    told = json.loads(
        run_node(
            str(script),
            cwd=home,
            environment={
                "PATH": os.defpath,
                "HOME_OF_PACKAGE": str(home),
                "URL_OF_PROJECT": signing.url,
                "KEY": signing.keys.publishable,
                "EMAIL": ADA,
                "PASSWORD": PASSWORD,
                "FACTOR_CODE": code_now(secret),
                "RUN": plan.run_id,
                "DIGEST": plan.digest,
            },
        )
    )
    expired = {"name": "AuthApiError", "code": "refresh_token_already_used", "status": 400}
    assert told == {
        "wrong": {"name": "AuthApiError", "code": "invalid_credentials", "status": 400},
        "email": ADA,
        "expires_in": 3600,
        "read": "approver",
        "levels": told["levels"],
        "refused": "OB005",
        "wrong_factor": {"name": "AuthApiError", "code": "mfa_verification_failed", "status": 422},
        "raised": None,
        "used_factor": {"name": "AuthApiError", "code": "mfa_verification_failed", "status": 422},
        "refreshed": told["refreshed"],
        "level": "aal2",
        "approved": None,
        "used": expired,
        "ended": told["ended"],
        "out": None,
    }
    assert (told["levels"]["currentLevel"], told["levels"]["nextLevel"]) == ("aal1", "aal2")
    assert told["ended"]["name"] in ("AuthApiError", "AuthSessionMissingError")
    approved_by = signing.value("select approved_by from public.backfill_runs")
    assert approved_by == ADA
