"""The tests that a page names: the text of a link to their file is what each claims."""

from __future__ import annotations

import ast
import re
from pathlib import Path

LINK = re.compile(r"\[([^\[\]]+)\]\(((?:\.\./)?(?:tests/)?[\w/]*test_\w+\.py)\)")


def named_tests(page: Path, text: str) -> list[tuple[Path, str]]:
    """File and name of each test that some text of a page names, in its order."""
    return [
        ((page.parent / file).resolve(), "test_" + re.sub(r"\W+", "_", claim))
        for claim, file in LINK.findall(text)
    ]


def missing(named: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Those of some tests that are not there."""
    return [(file, name) for file, name in named if name not in _tests_of(file)]


def _tests_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module([], [])
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}
