"""The second example: documents of another schema, keyed by numbers, embedded over the edge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import backfill
from backfill.results.run import Mode
from backfill.targets.declaration import declared
from tests.conftest import Project
from tests.faults.proxy import Nth, Strike, cut, half_a_body, proxy_in_thread, says
from tests.kit.clocks import DatabaseClock
from tests.kit.commands import Shell
from tests.kit.edge import declare, served

EXAMPLE = Path(__file__).parent.parent / "supabase" / "examples" / "documents"
SINCE = "2025-08-01"


@pytest.fixture
def library(project: Project) -> Iterator[Project]:
    """The library beside the sample, declared and served."""
    project.db.execute((EXAMPLE / "schema.sql").read_bytes())
    declare(project, declared(str(EXAMPLE / "documents.toml")))
    with served(project):
        yield project


@pytest.fixture
def bf_documents(library: Project) -> Iterator[backfill.Backfill]:
    """Its backfills."""
    with library.connect() as connected:
        yield connected


def test_the_plan_counts_what_is_missing(bf_documents: backfill.Backfill) -> None:
    """Twenty lack both, twenty the embedding; a draft, a deleted and an empty one are none."""
    plan = bf_documents.plan(since=SINCE, target="documents", throttle_per_minute="none")
    shown = plan.as_dict()
    assert shown["candidates"] == {
        "total": 40, "missing": {"plain_text": 20, "embedding": 40}, "missing_plain_text": 20,
        "missing_embedding": 40, "missing_both": 20,
    }  # fmt: skip
    assert shown["categories"] == {"embedding+plain_text": 20, "embedding": 20, "plain_text": 0}
    assert shown["expected_calls"] == {"clean_document": 20, "embed_document": 40, "total": 60}
    assert shown["expected_writes"] == {
        "plain_texts": 20, "embeddings": 40, "total": 60,
        "new": {"plain_texts": 20, "embeddings": 40},
        "replaced": {"plain_texts": 0, "embeddings": 0},
    }  # fmt: skip
    assert shown["excluded"] == [{"session_id": "63", "reason": "0 paragraphs, at least 1 needed"}]
    checks = {c["name"]: (c["status"], c["detail"]) for c in shown["checks"]}
    assert checks["rows of documents"] == (
        "ok", "40 of 40 have state published, deleted_at null",
    )  # fmt: skip
    assert checks["paragraphs"] == ("ok", "40 of 40 documents have enough, 3 to 3 each")


def test_the_whole_way(library: Project, bf_documents: backfill.Backfill) -> None:
    """Planned with a canary, approved, applied, verified, undone by date and by document."""
    bf = bf_documents
    plan = bf.plan(
        since=SINCE, target="documents", throttle_per_minute="none", priority=["9", "30"]
    )
    assert [s.session_id for s in plan.sessions[:2]] == ["30", "9"]  # the newest first
    library.approve(plan)
    assert bf.apply(plan.run_id).status.counts["done"] == 40
    seen = bf.verify(plan.run_id)
    assert (seen.verdict, seen.inferred) == ("pass", 0)
    assert {c.name for c in seen.criteria} >= {"embeddings_rows", "plain_texts_version"}
    undo = bf.rollback(plan.run_id, sessions=["9"])
    assert undo.confirm(reason="a test").deletes == {"embeddings": 1, "plain_texts": 1}
    later = bf.rollback(plan.run_id, since="2025-09-01")
    assert later.confirm(reason="a test").deletes == {"embeddings": 20, "plain_texts": 10}
    assert bf.verify(plan.run_id).verdict == "pass"
    missing = bf.missing(target="documents", since=SINCE)
    assert missing.missing == {"plain_text": 11, "embedding": 21}


PAGE = "<html><title>Bad gateway</title></html>"
FAULTS = {
    "reply dropped after commit": cut(forwards=True),
    "cut before it arrives": cut(forwards=False),
    "504 after the call committed": says(504, PAGE, forwards=True),
    "200 with a page": says(200, PAGE, forwards=True),
    "half a body": half_a_body(),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_lost_answer_is_looked_up(library: Project, clock: DatabaseClock, case: str) -> None:
    """Of SQL and of Edge Functions: each row is written once, and all can be taken back."""
    key = library.keys.service_role
    with proxy_in_thread(library.url) as proxy, backfill.connect(proxy.url, key, clock=clock) as bf:
        plan = bf.plan(since=SINCE, target="documents", throttle_per_minute="none", batch_size=10)
        library.approve(plan)
        proxy.strikes = [Strike(FAULTS[case], Nth(("clean_document", "embed_document"), 5, 25))]
        assert bf.apply(plan.run_id).is_complete
        assert len(proxy.hits) == 21
        assert {hit.call.function for hit in proxy.hits} == {"clean_document", "embed_document"}
        written = "select count(*) from public.backfill_receipts where operation = 'insert'"
        assert library.value(written) == library.value(written.partition(" where")[0]) == 60
        assert bf.verify(plan.run_id).verdict == "pass"
        undone = bf.rollback(plan.run_id).confirm(reason="a test")
        assert (undone.deletes, undone.conflicts) == ({"embeddings": 40, "plain_texts": 20}, ())


def test_an_embedding_waits_for_its_text(library: Project, bf_documents: backfill.Backfill) -> None:
    """The dependent component is not written where what it needs first failed."""
    library.db.execute(
        "create or replace function public.clean_document(document_id bigint, cleaner text)"
        " returns jsonb language sql return '{}'::jsonb"
    )
    plan = bf_documents.plan(
        since=SINCE, until="2025-08-09", target="documents", throttle_per_minute="none"
    )
    library.approve(plan)
    outcome = bf_documents.apply(plan.run_id)
    assert {(f.failed_step, f.error_code) for f in outcome.failures} == {("plain_text", "OB017")}
    assert outcome.status.counts["done"] == 3
    assert (
        library.value("select count(*) from library.embeddings where document_id in (3, 6, 9)") == 0
    )


def test_a_score_out_of_its_range_fails_the_canary(
    library: Project, bf_documents: backfill.Backfill
) -> None:
    """Every number of the vector is from -1 to 1, as declared."""
    library.db.execute(
        "create or replace function public.save_embedding(document_id bigint, model text,"
        " vector real[]) returns void language sql set search_path = '' as $$"
        " insert into library.embeddings values ($1, $2, array[0.1, 7]) $$"
    )
    plan = bf_documents.plan(
        since=SINCE, target="documents", throttle_per_minute="none", priority=["2"]
    )
    library.approve(plan)
    with pytest.raises(backfill.Paused, match=r"embeddings\.vector holds a number outside -1 to 1"):
        bf_documents.apply(plan.run_id)


def test_both_targets_live_side_by_side(
    library: Project, bf_documents: backfill.Backfill, shell: Shell
) -> None:
    """With two installed a plan says which; check has the lines of both; each has its own views."""
    with pytest.raises(backfill.BadRequest, match="several targets are installed"):
        bf_documents.plan(since=SINCE)
    names = [c.name for c in bf_documents.check()]
    assert {"table library.documents", "table public.profiles"} <= set(names)
    assert [c for c in bf_documents.check() if c.status == "fail"] == []
    assert len(bf_documents.plan(since=SINCE, target="prism").sessions) == 39
    answer = shell("missing", "--target", "documents", "--since", SINCE, "--json")
    assert (answer.json["missing_embedding"], answer.json["missing_both"]) == (40, 20)
    refused = shell("plan", "--since", SINCE, "--target", "documents", "--set", "min_words=3")
    assert (refused.code, "no parameter min_words" in refused.err) == (2, True)
    three = shell(
        "plan", "--since", SINCE, "--target", "documents", "--set", "min_paragraphs=4", "--json"
    )
    assert (three.json["state"], three.json["excluded_total"]) == ("empty", 41)


@pytest.mark.parametrize("mode", ["direct", "bulk"])
def test_a_run_writes_no_row_of_another_target(library: Project, mode: Mode) -> None:
    """It would have no receipt, or one that means another session's row."""
    library.db.execute(
        "create function public.stray() returns trigger language plpgsql security definer"
        " set search_path = '' as $$ begin"
        " insert into library.plain_texts (document_id, cleaner, words, text)"
        " select d.id, 'stray', 1, 'x' from library.documents as d where not exists"
        " (select from library.plain_texts as t where t.document_id = d.id) limit 1;"
        " return null; end $$;"
        "create trigger stray after insert on public.fc_scores"
        " for each row execute function public.stray()"
    )
    with library.connect() as bf:
        plan = bf.plan(
            target="prism", since=SINCE, mode=mode, throttle_per_minute="none", rehearse=0
        )
        library.approve(plan)
        with pytest.raises(backfill.Paused, match="critical"):
            bf.apply(plan.run_id)
    assert library.value("select count(*) from library.plain_texts where cleaner = 'stray'") == 0
