"""Proxies and certificates that the environment names: what is wrong with them is told in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import backfill
from backfill.api.auth import Auth
from backfill.local.servers import free_port
from tests.kit.checkout import ROOT

RUN = "00000000-0000-4000-8000-000000000000"
KEY = "sb_secret_x"
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
NO_PROXY_THERE = "{name} is not the address of a proxy"
NO_PACKAGE = "{name} names a SOCKS proxy, for which a package is missing"
FIX_PROXY = "export {name}=http://<host>:<port>, or unset it"
INSTALL = "pip install 'httpx[socks]', or unset {name}"
# What was given -> variable, value, message, next step.
WRONG = {
    "a malformed proxy": ("HTTPS_PROXY", "http://us:pw@h:x", NO_PROXY_THERE, FIX_PROXY),
    "a SOCKS proxy": ("ALL_PROXY", "socks5://127.0.0.1:1", NO_PACKAGE, INSTALL),
    "a missing file of certificates": (
        "SSL_CERT_FILE",
        "/nowhere/ca.pem",
        "{name} cannot be read as certificates: No such file or directory",
        "set {name} to a file of certificates (PEM), or unset it",
    ),
    "a missing folder of certificates": (
        "SSL_CERT_DIR",
        "/nowhere:/nowhere/else",
        "{name} names no folder",
        "set {name} to a folder of certificates, or unset it",
    ),
}
MALFORMED = (
    "http://:::x", "ftp://h:1", "socks4://h:1", "http://[::1", ":1", "http://", "http://h:99999",
    "http://h:0", "http://a:b:c", "http://h\x01:1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_packages_and_no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if SOCKS proxies were not installed, and nothing were set."""
    (tmp_path / "socksio.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT))))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("what", WRONG)
def test_a_shell_says_it_in_a_sentence_that_names_the_variable(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for any project that cannot be reached, and nothing of the value: it may hold a login."""
    name, value, message, step = WRONG[what]
    for variable, given in (
        (name, value),
        ("SUPABASE_URL", "https://127.0.0.1:1"),
        ("SUPABASE_SECRET_KEY", KEY),
    ):
        monkeypatch.setenv(variable, given)
    ran = subprocess.run(
        [sys.executable, "-m", "backfill", "status", RUN],
        capture_output=True,
        text=True,
        check=False,
    )
    told = f"{message}\n  Next: {step}\n".format(name=name)
    assert (ran.returncode, ran.stdout, ran.stderr) == (5, "", told)


@pytest.mark.parametrize("what", WRONG)
def test_the_library_raises_the_same(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever signs in, or connects."""
    name, value, message, step = WRONG[what]
    monkeypatch.setenv(name, value)
    with (
        pytest.raises(backfill.CannotConnect) as refused,
        backfill.connect("https://127.0.0.1:1", KEY) as bf,
    ):
        bf.status(RUN)
    assert refused.value.args == (message.format(name=name), step.format(name=name))
    with pytest.raises(backfill.CannotConnect) as signing, Auth("https://127.0.0.1:1", KEY):
        pass
    assert signing.value.args == refused.value.args


@pytest.mark.parametrize("value", MALFORMED)
def test_no_malformed_proxy_gets_through(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower-case name goes first, as for every other program."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", value)
    with pytest.raises(backfill.CannotConnect, match="http_proxy is not the address of a proxy"):
        backfill.connect("http://127.0.0.1:1", KEY)


def test_a_malformed_exception_from_the_proxies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read by the same library."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "[::1")
    with pytest.raises(backfill.CannotConnect, match="NO_PROXY is not a list of hosts"):
        backfill.connect("http://127.0.0.1:1", KEY)


def test_a_file_without_a_certificate_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is there, and says nothing that TLS understands."""
    (tmp_path / "ca.pem").write_text("nonsense")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(backfill.CannotConnect, match="SSL_CERT_FILE cannot be read as cert"):
        backfill.connect("https://127.0.0.1:1", KEY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "socks5://127.0.0.1:1"),
        ("NO_PROXY", "[::1"),
        ("SSL_CERT_DIR", "/nowhere"),
        ("HTTP_PROXY", ""),
    ],
)
def test_what_is_not_used_for_this_project_stops_nobody(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy carries its calls, and they are not encrypted."""
    monkeypatch.setenv(name, value)
    port = free_port()
    with (
        backfill.connect(f"http://127.0.0.1:{port}", KEY) as bf,
        pytest.raises(backfill.CannotConnect, match="connection refused"),
    ):
        bf.status(RUN)
    with (
        Auth(f"http://127.0.0.1:{port}", KEY) as auth,
        pytest.raises(backfill.CannotConnect, match="connection refused"),
    ):
        auth.sign_in("a@example.org", "x")
