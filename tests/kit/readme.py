"""The README's fenced blocks, and which test runs each.

A test module claims a block by heading and first line, and adds its name to `CLAIMING`:
`BLOCK = claim("In CI", "name: backfill", "tests/test_ci.py")`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CLAIMING = [
    "tests.test_from_files",
    "tests.test_readme",
    "tests.test_ci_workflow",
    "tests.test_readme_views",
    "tests.test_readme_targets",
    "tests.test_target_new",
    "tests.test_spreading",
    "tests.test_readme_commands",
    "tests.test_in_a_service",
]
CLAIMED: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Block:
    """A fenced block: under which heading, in which language, its lines."""

    heading: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        """The line that tells it from the others under its heading."""
        return self.text.split("\n", 1)[0].strip()

    @property
    def key(self) -> tuple[str, str]:
        """What a claim names."""
        return self.heading, self.first_line


def blocks(text: str = README) -> Iterator[Block]:
    """Every fenced or indented block, in order."""
    heading = ""
    tokens = MarkdownIt().parse(text)
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and after is not None:
            heading = after.content
        elif token.type in ("fence", "code_block"):
            yield Block(heading, token.info.strip(), token.content)


def claim(heading: str, first_line: str, by: str, *, whole_line: bool = False) -> str:
    """The text of the block that begins so. From now on the named test answers for it."""
    found = [
        b
        for b in blocks()
        if b.heading == heading
        and (b.first_line == first_line or (not whole_line and b.first_line.startswith(first_line)))
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} blocks under {heading!r} begin with {first_line!r}")
    CLAIMED[found[0].key] = by
    return found[0].text


def unclaimed(text: str = README) -> list[tuple[str, str]]:
    """The blocks that no test answers for."""
    return [block.key for block in blocks(text) if block.key not in CLAIMED]
