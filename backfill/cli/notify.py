"""Telling a webhook what happens: the verb that tries one, and the option that others take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, cast
from uuid import uuid4

import typer

from backfill.cli import terminal
from backfill.cli.from_files import NOTIFY_SECRET, NOTIFY_URL, environ
from backfill.cli.options import AsJson
from backfill.errors import BadRequest, CannotConnect
from backfill.notify import Form, Webhook
from backfill.notify.message import TEST, body_of
from backfill.notify.sending import Address, Answer, address_of, deliver
from backfill.results.event import Event, EventKind, OnEvent

if TYPE_CHECKING:
    from backfill.results.run import Json

Notify = Annotated[
    str | None,
    typer.Option(
        "--notify",
        metavar="URL",
        help=f"Tell this webhook what happens to the run. [{NOTIFY_URL}]",
        show_default=False,
    ),
]

verbs = typer.Typer()


@contextmanager
def telling(url: str | None, listener: OnEvent) -> Iterator[OnEvent]:
    """What hears the events of a verb herein: its own listener and the webhook, if there is one.

    url: of `--notify`. Else the environment or an env file may name one. At the end, what is on
    its way is waited for some seconds, and a line on stderr says what the webhook did not get.
    Raises BadRequest.
    """
    given = environ()
    address = url or given.get(NOTIFY_URL)
    if address is None:
        yield listener
        return
    webhook = Webhook(address, secret=given.get(NOTIFY_SECRET))
    try:
        yield _both(listener, webhook)
    finally:
        if missed := webhook.close().in_words:
            terminal.err.print(missed)


def _both(first: OnEvent, webhook: OnEvent) -> OnEvent:
    def hear(event: Event) -> None:
        webhook(event)
        first(event)

    return hear


@verbs.command(epilog="Example: backfill notify --test https://hooks.slack.com/services/…")
def notify(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help=f"The address of a webhook. [{NOTIFY_URL}]"),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Send one test message. So it does without this.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option("--form", metavar="slack|json", help="By default what suits the host."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try a webhook: send one message, and say what came back."""
    del test
    given = environ()
    address = address_of(url or given.get(NOTIFY_URL) or _missing(), _form(form))
    answer = _tried(address, given.get(NOTIFY_SECRET), _pause)
    if as_json:
        terminal.print_json(_told(address, answer))
    else:
        tries = "" if answer.tries == 1 else f", at the {answer.tries}. try"
        sent = f"sent to {address.host}, in the form {address.form}"
        terminal.out.print(f"{sent}: {answer.said}{tries}")


def _missing() -> str:
    raise BadRequest(
        "no webhook is named", f"backfill notify URL, or export {NOTIFY_URL}=https://…"
    )


def _form(text: str | None) -> Form | None:
    if text not in (None, "slack", "json"):
        raise BadRequest("--form is slack or json", "backfill notify --form json URL")
    return cast("Form | None", text)


def _tried(address: Address, secret: str | None, wait: Callable[[float], bool]) -> Answer:
    """Raises CannotConnect if the webhook did not take it."""
    event = Event(cast(EventKind, TEST), "", datetime.now(UTC), {})
    body, now_s = body_of(event, address.form), lambda: int(time.time())
    answer = deliver(address, body, str(uuid4()), secret, now_s=now_s, wait=wait)
    if not answer.is_taken:
        tries = "" if answer.tries == 1 else f", after {answer.tries} tries"
        said = f"the webhook at {address.host} did not take the message: {answer.said}{tries}"
        raise CannotConnect(said, "look at its address, then: backfill notify --test")
    return answer


def _told(address: Address, answer: Answer) -> dict[str, Json]:
    """The shape of `backfill notify --json`."""
    told = {"delivered": answer.is_taken, "host": address.host, "form": address.form}
    return told | {"status": answer.status, "tries": answer.tries}


def _pause(seconds: float) -> bool:
    terminal.err.print(f"tried again in {seconds:g} s")
    time.sleep(seconds)
    return False
