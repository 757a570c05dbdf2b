"""The keys of a target's file: the JSON Schema and the table of the page say what is read."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from backfill.targets.schema import (
    PAGE,
    SHIPPED,
    keys_told,
    schema,
    schema_text,
    with_table,
)
from tests.kit.readme import ROOT
from tests.test_filters import MALFORMED, SAID


def read(text: str) -> Any:
    """A TOML text as an editor hands it to a schema: days and moments are texts."""
    return json.loads(json.dumps(tomllib.loads(text), default=str))


def test_the_shipped_schema_and_the_table_are_made_from_the_classes() -> None:
    """Whoever changes a key makes both anew: python -m backfill.targets.schema."""
    assert SHIPPED.read_text() == schema_text()
    assert PAGE.read_text() == with_table(PAGE.read_text())


def test_every_example_of_the_table_is_toml() -> None:
    """And of the type that its key takes."""
    for key in keys_told():
        if key.told.example.startswith(("[[", "see")) or key.shape.get("$ref"):
            continue
        text = key.told.example
        text = text if re.match(r"\w+ = ", text) else f"value = {text}"
        value = tomllib.loads(text)
        shown = value if key.name == "parameters" else value["value"]
        jsonschema.validate(shown, {**key.shape, "$defs": schema()["$defs"]})


def test_the_schema_knows_what_a_file_may_say() -> None:
    """PRISM's file and the second example are valid. A key that means nothing is not."""
    prism = (files("backfill.targets") / "prism.toml").read_text()
    documents = (ROOT / "supabase" / "examples" / "documents" / "documents.toml").read_text()
    for text in (prism, documents):
        file = tomllib.loads(text)
        jsonschema.validate(file, schema())
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**file, "owner": "me"}, schema())
    assert json.loads(schema_text()) == schema()


WHERE: dict[str, Any] = {"$ref": "#/$defs/where", "$defs": schema()["$defs"]}


@pytest.mark.parametrize("where", SAID)
def test_the_schema_takes_every_condition(where: str) -> None:
    """Those that the database is asked about elsewhere."""
    jsonschema.validate(read(f"where = {{ {where} }}")["where"], WHERE)


@pytest.mark.parametrize("where", MALFORMED)
def test_the_schema_marks_what_a_condition_cannot_say(where: str) -> None:
    """An editor says it before `target check` does."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(read(f"where = {{ {where} }}")["where"], WHERE)
