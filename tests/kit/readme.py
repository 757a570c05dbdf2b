"""The fenced blocks of the pages that people read, and which test runs each.

A test module claims a block by heading and first line, and adds its name to `CLAIMING`:
`BLOCK = claim("In a service", "def tell_slack", "executed")`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / name).read_text()
    for name in (
        "README.md",
        "backfill/README.md",
        "sql/README.md",
        "supabase/README.md",
        "tests/README.md",
    )
}
CLAIMING = [
    "tests.test_drive",
    "tests.test_every_hour",
    "tests.test_from_files",
    "tests.test_readme",
    "tests.test_readme_commands",
    "tests.test_readme_targets",
    "tests.test_readme_views",
    "tests.test_readme_watch",
    "tests.test_readme_way",
    "tests.test_target_new_command",
    "tests.test_spreading",
    "tests.test_standing_verbs",
    "tests.test_in_a_service",
    "tests.test_wheel",
]
CLAIMED: dict[tuple[str, str, str], str] = {}


@dataclass(frozen=True)
class Block:
    """A fenced block: on which page, under which heading, in which language, its lines."""

    page: str
    heading: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        """The line that tells it from the others under its heading."""
        return self.text.split("\n", 1)[0].strip()

    @property
    def key(self) -> tuple[str, str, str]:
        """What a claim is kept by."""
        return self.page, self.heading, self.first_line


def blocks(page: str, text: str) -> Iterator[Block]:
    """Every fenced or indented block of a page, in order."""
    heading = ""
    tokens = MarkdownIt().parse(text)
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and after is not None:
            heading = after.content
        elif token.type in ("fence", "code_block"):
            yield Block(page, heading, token.info.strip(), token.content)


def claim(heading: str, first_line: str, by: str) -> str:
    """The text of the block that begins so. From now on the named test answers for it."""
    found = [
        b
        for page, text in PAGES.items()
        for b in blocks(page, text)
        if b.heading == heading and b.first_line.startswith(first_line)
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} blocks under {heading!r} begin with {first_line!r}")
    CLAIMED[found[0].key] = by
    return found[0].text


def unclaimed(page: str, text: str) -> list[tuple[str, str, str]]:
    """The blocks of a page that no test answers for."""
    return [block.key for block in blocks(page, text) if block.key not in CLAIMED]
