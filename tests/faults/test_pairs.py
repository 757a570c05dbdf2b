"""A push leaves subjects of a case out, of each case by itself."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.kit.whole import OTHER, examples


def test_a_case_meets_as_many_subjects_as_it_should(request: pytest.FixtureRequest) -> None:
    """Whatever else of this suite was asked for."""
    subject = re.compile(rf"\b({'|'.join(OTHER)})\b")
    met = Counter(
        subject.sub("", item.nodeid)
        for item in request.session.items
        if isinstance(item, pytest.Function) and "scoring" in item.fixturenames
    )
    assert max(met.values(), default=0) <= examples(len(OTHER), at_a_push=2)
