"""A webhook hears of runs, signed and without contents. One that hangs delays nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast, get_args

import pytest

import backfill
from backfill.cli.from_files import NOTIFY_URL
from backfill.cli.notify import telling
from backfill.notify import KINDS, Webhook, message, sending, webhook
from backfill.results.event import Event, EventKind, ignore
from tests.conftest import Project
from tests.kit import verbs
from tests.kit.commands import Shell
from tests.kit.hooks import CLOSE, HANG, Answer, Hook, hook_served
from tests.kit.seed import SEED

RUN = "4f2c1b9e-0000-4000-8000-000000000001"
AT = datetime(2025, 9, 17, 8, tzinfo=UTC)
SIGNING = "a shared word"
SEALED: dict[str, Any] = {
    "digest": "9c1e",
    "environment": "staging",
    "sessions_total": 39,
    "expected_runtime_s": 120.0,
    "approval_sql": f"select public.backfill_approve('{RUN}', '9c1e', '…');",
}


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook on this machine."""
    with hook_served() as served:
        yield served


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between tries."""
    monkeypatch.setattr(sending, "DELAYS_S", (0.0,) * 4)


def event(kind: str = "awaiting_approval", **details: object) -> Event:
    """An event of a run."""
    return Event(cast(EventKind, kind), RUN, AT, details or SEALED)


# What is sent ------------------------------------------------------------------------------------


def test_json_is_signed_over_timestamp_and_body(hook: Hook) -> None:
    """Whoever has the secret computes the same from the headers that the page names."""
    with Webhook(hook.url, secret=SIGNING) as told:
        told(event())
    (posted,) = hook.posted
    assert posted.told == {
        "text": f"backfill: run {RUN} awaits approval\n{SEALED['approval_sql']}",
        "kind": "awaiting_approval",
        "run_id": RUN,
        "at": "2025-09-17T08:00:00+00:00",
        "details": SEALED,
    }
    signed = posted.headers["x-backfill-timestamp"].encode() + b"." + posted.body
    wanted = hmac.new(SIGNING.encode(), signed, hashlib.sha256).hexdigest()
    assert posted.headers["x-backfill-signature"] == f"sha256={wanted}"
    assert posted.headers["content-type"] == "application/json"
    assert len(posted.headers["x-backfill-id"]) == 36


def test_slack_gets_a_text_alone(hook: Hook) -> None:
    """Unsigned without a secret. What Slack would take for its own marks is escaped."""
    with Webhook(hook.url, form="slack") as told:
        told(event("run_paused", reason="<!channel> 5 > 3 & so on"))
    (posted,) = hook.posted
    assert posted.told == {
        "text": f"backfill: run {RUN} is paused\n&lt;!channel&gt; 5 &gt; 3 &amp; so on"
    }
    assert "x-backfill-signature" not in posted.headers


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://hooks.slack.com/services/T0/B0/x", "slack"),
        ("https://example.com/hooks.slack.com", "json"),
    ],
)
def test_the_form_is_that_of_the_host(url: str, form: str) -> None:
    """Slack's for Slack, unless something else is asked for."""
    assert sending.address_of(url).form == form
    assert sending.address_of(url, "json").form == "json"


def test_no_contents_and_no_names_of_sessions_go_out() -> None:
    """Neither lists nor maps, nor what names one session; a text is cut."""
    details = {
        "session_id": "s1", "sessions": ["s1"], "settled": [{"session_id": "s1"}], "claim": "c",
        "error": "the row (Ada) is there", "reason": "x" * 600, "done": 3, "code": None,
    }  # fmt: skip
    assert message.kept(details) == {"reason": "x" * 500, "done": 3, "code": None}


def test_no_event_of_a_single_session_is_told_by_default(hook: Hook) -> None:
    """What is told can be chosen."""
    of_sessions = {"call", "batch_started", "batch_settled", "bulk_settled", "waiting", "freshness"}
    assert of_sessions.isdisjoint(KINDS)
    with Webhook(hook.url) as told, Webhook(hook.url, kinds={"call"}) as of_calls:
        for kind in (*of_sessions, "run_completed"):
            told(event(kind, reason="r"))
            of_calls(event(kind, reason="r"))
    assert sorted(p.told["kind"] for p in hook.posted) == ["call", "run_completed"]


@pytest.mark.parametrize("kind", [*sorted(KINDS), "heal_halted"])
def test_every_kind_has_a_sentence(kind: str) -> None:
    """An alert has no run: then it is about its target. An unknown kind is told by its name."""
    assert message.text_of(event(kind, reason="why")).startswith(f"backfill: run {RUN} ")
    alert = Event(cast(EventKind, kind), "", AT, {"target": "orders"})
    assert message.text_of(alert).startswith("backfill: orders ")


def test_an_alert_says_how_far_the_target_is_from_its_level() -> None:
    """A look tells a breach each time, whoever opened its alert: nobody else may have told it."""
    told = {"target": "orders", "coverage": 0.97, "min_coverage": 0.99, "missing": 12}
    breached = Event("coverage_breached", "", AT, {**told, "is_new": False})
    assert message.text_of(breached) == (
        "backfill: orders is below its service level\n"
        "coverage 97.00%, at least 99.00% wanted, 12 missing"
    )
    assert {"coverage_breached", "coverage_restored"} <= KINDS <= {*get_args(EventKind), "critical"}


# What it answers ---------------------------------------------------------------------------------


def delivered(hook: Hook, *answers: Answer) -> tuple[sending.Answer, list[float]]:
    """What becomes of one message if the webhook answers so, and the pauses between tries."""
    hook.answers[:] = answers
    waits: list[float] = []
    body = message.body_of(event(), "json")

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    answer = sending.deliver(
        sending.address_of(hook.url), body, "id", SIGNING,
        now_s=lambda: 1000 + len(waits), wait=wait,
    )  # fmt: skip
    return answer, waits


def test_it_is_tried_again_with_a_growing_pause(hook: Hook) -> None:
    """The same message under the same id, signed anew for each try."""
    answer, waits = delivered(hook, 500, CLOSE, 503)
    assert (answer.is_taken, answer.status, answer.tries, waits) == (True, 200, 4, [1, 2, 4])
    assert len({p.body for p in hook.posted}) == 1
    assert {p.headers["x-backfill-id"] for p in hook.posted} == {"id"}
    signatures = [p.headers["x-backfill-signature"] for p in hook.posted]
    assert signatures == [
        f"sha256={message.signature_of(hook.posted[0].body, SIGNING, 1000 + n)}" for n in range(4)
    ]


def test_it_is_given_up_after_five_tries(hook: Hook) -> None:
    """The last answer is told."""
    answer, waits = delivered(hook, *[500] * 9)
    assert (answer.is_taken, answer.said, answer.tries) == (False, "it answered 500", 5)
    assert waits == list(sending.DELAYS_S)


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7), ("0", 1), ("9999", 30), ("Wed, 21 Oct 2026 07:28:00 GMT", 1)]
)
def test_what_it_asks_for_is_waited_within_a_bound(hook: Hook, asked: str, waited: float) -> None:
    """A date is none, since clocks differ."""
    answer, waits = delivered(hook, (429, {"Retry-After": asked}))
    assert (answer.is_taken, waits) == (True, [waited])


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_refusal_is_not_tried_again(hook: Hook, status: int) -> None:
    """It would be refused again."""
    answer, waits = delivered(hook, status)
    assert (answer.is_taken, answer.said, waits) == (False, f"it answered {status}", [])


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_elsewhere_is_not_followed(hook: Hook, status: int) -> None:
    """What is sent is for the address that was given, and nobody else."""
    with hook_served() as elsewhere:
        answer, _ = delivered(hook, (status, {"Location": elsewhere.url}))
        assert not answer.is_taken
        assert "redirects elsewhere" in answer.said
        assert elsewhere.posted == []


def test_one_that_does_not_answer_is_left(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a bound; then it is tried again."""
    monkeypatch.setattr(sending, "TIMEOUT_S", 0.05)
    answer, waits = delivered(hook, HANG)
    assert (answer.is_taken, waits) == (True, [1])


def test_one_that_is_not_there_is_told() -> None:
    """Nobody listens at that port any more."""
    with hook_served() as gone:
        pass
    answer, waits = delivered(gone)
    assert (answer.said, answer.status, len(waits)) == ("it cannot be reached", None, 4)


# Nothing waits for it ----------------------------------------------------------------------------


def test_one_that_hangs_delays_nothing(hook: Hook) -> None:
    """Neither an event nor the end: what was not sent by then is counted, in one line."""
    hook.answers[:] = [HANG]
    told = Webhook(hook.url)
    told(event())
    hook.came.acquire()
    for _ in range(webhook.MOST_WAITING + 3):
        told(event())
    missed = told.close(wait_s=0)
    assert (missed.sent, missed.failed, missed.dropped) == (0, 0, webhook.MOST_WAITING + 4)
    assert missed.in_words == f"the webhook at 127.0.0.1 did not get {missed.dropped} messages"
    told(event())
    assert told.close().dropped == missed.dropped + 1


def test_a_webhook_that_was_told_nothing_starts_nothing(hook: Hook) -> None:
    """No thread, no call, no line."""
    before = threading.active_count()
    with Webhook(hook.url) as told:
        told(event("call"))
        assert threading.active_count() == before
    assert told.close().in_words is None
    assert hook.posted == []


# The address is never shown ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://ada:T0SECRET@example.com/T0SECRET", "begins neither with https nor http"),
        ("file:///T0SECRET", "begins neither with https nor http"),
        ("T0SECRET", "begins neither with https nor http"),
        ("https:///T0SECRET", "names no host"),
        ("https://exa mple.com/T0SECRET", "is not one"),
        ("https://[T0SECRET", "is not one"),
    ],
)
def test_an_address_that_is_none_is_refused_unseen(url: str, said: str, shell: Shell) -> None:
    """In one sentence, before anything is sent."""
    refused = shell("notify", "--test", url)
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err
    assert "T0SECRET" not in refused.err
    with pytest.raises(backfill.BadRequest, match=said):
        Webhook(url)


@pytest.mark.usefixtures("at_once")
def test_credentials_of_an_address_are_sent_and_never_shown(
    hook: Hook, shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    """No log, not even httpx's own, no repr and no line has more than the host."""
    caplog.set_level(logging.DEBUG)
    url = hook.url.replace("127.0.0.1", "ada:T0SECRET@127.0.0.1")
    hook.answers[:] = [200, 403]
    assert shell("notify", "--test", url).code == 0
    assert hook.posted[0].headers["authorization"].startswith("Basic ")
    refused = shell("notify", "--test", url)
    assert refused.code == 5
    assert "127.0.0.1" in refused.err
    told = Webhook(url, secret="T0SECRET")
    seen = (refused.err, caplog.text, repr(told), repr(sending.address_of(url)))
    assert [text for text in seen if "T0SECRET" in text] == []


# The command line --------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
def test_a_test_message_says_what_came_back(hook: Hook, shell: Shell) -> None:
    """Also under --json, also at a later try, and from the environment."""
    hook.answers[:] = [200, 500, 200]
    sent = shell("notify", "--test", hook.url)
    assert (sent.code, sent.err) == (0, "")
    assert sent.out == "sent to 127.0.0.1, in the form json: it answered 200\n"
    told = shell("notify", "--json", "--form", "slack", BACKFILL_NOTIFY_URL=hook.url)
    assert json.loads(told.out) == {
        "delivered": True, "host": "127.0.0.1", "form": "slack", "status": 200, "tries": 2,
    }  # fmt: skip
    assert "this is a test, nothing has happened" in hook.posted[0].told["text"]
    signed = shell("notify", hook.url, BACKFILL_NOTIFY_SECRET=SIGNING)
    assert signed.code == 0
    assert "x-backfill-signature" in hook.posted[-1].headers


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("answers", "said"), [([404], "it answered 404"), ([500] * 5, "it answered 500, after 5 tries")]
)
def test_a_webhook_that_does_not_take_it_ends_with_5(
    hook: Hook, shell: Shell, answers: list[Answer], said: str
) -> None:
    """One sentence, and what to do."""
    hook.answers[:] = answers
    refused = shell("notify", hook.url, "--json")
    assert refused.code == 5
    error = json.loads(refused.out)["error"]
    assert error["message"] == f"the webhook at 127.0.0.1 did not take the message: {said}"
    assert error["next"]


@pytest.mark.parametrize("words", [(), ("--form", "xml", "https://example.com")])
def test_what_is_missing_or_unknown_is_usage(shell: Shell, words: tuple[str, ...]) -> None:
    """No address, or no such form."""
    refused = shell("notify", *words)
    assert (refused.code, refused.out) == (2, "")
    assert "Next: backfill notify" in refused.err


def test_plan_tells_that_it_halts_and_apply_its_end(
    project: Project, hook: Hook, shell: Shell
) -> None:
    """By option or by environment. The answer is what it is without."""
    asked = ("--since", SEED["since"], "--throttle", "60000", "--environment", "staging")
    planned = shell("plan", *asked, "--rehearse", "0", "--json", BACKFILL_NOTIFY_URL=hook.url)
    run_id = json.loads(planned.out)["run_id"]
    assert [p.told["kind"] for p in hook.posted] == ["awaiting_approval"]
    assert "select public.backfill_approve(" in hook.posted.pop().told["text"]
    verbs.approve(project.db, run_id)
    done = shell("apply", run_id, "--notify", hook.url, "--json")
    assert (done.code, json.loads(done.out)["state"]) == (0, "completed")
    assert [p.told["kind"] for p in hook.posted] == ["run_completed"]
    assert hook.posted[0].told["run_id"] == run_id
    assert hook.url not in done.err


def test_watch_tells_a_breach(hook: Hook, shell: Shell) -> None:
    """With how far the target is from its level. The exit code is what it is without."""
    assert shell("watch", "--notify", hook.url).code == 4
    (posted,) = hook.posted
    assert (posted.told["kind"], posted.told["run_id"]) == ("coverage_breached", "")
    assert posted.told["details"]["target"] == "prism"
    assert "coverage 20.33%, at least 99.00% wanted, 47 missing" in posted.told["text"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("named", [{NOTIFY_URL: ""}, {}])
def test_what_a_webhook_did_not_get_is_one_line(
    hook: Hook,
    named: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On stderr, with the host alone. The verb's own listener hears all that it heard before."""
    monkeypatch.delenv(NOTIFY_URL, raising=False)
    hook.answers[:] = [404]
    heard: list[Event] = []
    with telling(hook.url if named else None, heard.append) as hear:
        hear(event("run_completed", reason=None))
    assert len(heard) == 1
    line = "the webhook at 127.0.0.1 did not get 1 message: it answered 404\n"
    assert capsys.readouterr().err == (line if named else "")
    with telling(None, ignore) as hear:
        assert hear is ignore
