"""Markdown as the HTML of a page. Pure.

markdown-it escapes the text. A mark is drawn, since not every machine has a glyph for its emoji.
Each cell of a table carries its header, so that a phone can show a row as a card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from backfill.render.markdown import MARKS

LONG_ROWS = 20  # a longer list of sessions is folded
FEW_COLUMNS = 2  # so many fit a phone as a table
_READER = MarkdownIt("commonmark", {"html": False}).enable("table")
_LINES = {
    "ok": '<path d="M4.5 8.3l2.5 2.5 4.6-5.3"/>',
    "warn": '<path d="M8 4v5M8 11.5v.3"/>',
    "fail": '<path d="M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6"/>',
}
_PIECES = re.compile("^(?=### )", re.M)  # no block of code has such a line
_KINDS = {MARKS[kind]: kind for kind in _LINES}
_EMOJI = re.compile(f"({'|'.join(map(re.escape, _KINDS))})")
# What says the same as the mark before it, which then needs no word of its own.
_SAYS_SO = re.compile(r" (?:PASS|PARTIAL|FAIL|[\d,]+ checks? failed)\b")


def html_of(markdown: str, *, one_title: str | None = None) -> str:
    """Markdown as HTML. one_title: heads the ids in a list of sessions, see LONG_ROWS.

    Piece by piece: what is read of a text takes many times the memory of the text.
    """
    return "".join(_html_of(piece, one_title) for piece in _PIECES.split(markdown))


def _html_of(markdown: str, one_title: str | None) -> str:
    tokens = list(_with_tables(_READER.parse(markdown), one_title))
    for token in tokens:
        if token.type == "inline":
            token.children = [new for child in token.children or () for new in _with_marks(child)]
    text: str = _READER.renderer.render(tokens, _READER.options, {})
    return text


def mark(kind: str, word: str) -> str:
    """A drawn mark (ok, warn or fail) with a word beside it."""
    return (
        f'<span class="mark {kind}"><svg viewBox="0 0 16 16" aria-hidden="true">'
        f'<circle cx="8" cy="8" r="8"/>{_LINES[kind]}</svg>{word}</span>'
    )


def _with_marks(child: Token) -> Iterator[Token]:
    if child.type != "text":
        yield child
        return
    parts = _EMOJI.split(child.content)
    for place, part in enumerate(parts):
        if part in _KINDS:
            word = "" if _SAYS_SO.match(parts[place + 1]) else _KINDS[part]
            yield _raw(mark(_KINDS[part], word), "html_inline")
        elif part:
            yield Token("text", "", 0, content=part)


def _with_tables(tokens: list[Token], one_title: str | None) -> Iterator[Token]:
    inside: list[Token] = []
    for token in tokens:
        if inside or token.type == "table_open":
            inside.append(token)
        else:
            yield token
        if token.type == "table_close":
            yield from _table(inside, one_title)
            inside = []


def _table(tokens: list[Token], one_title: str | None) -> Iterator[Token]:
    """A table that scrolls by itself if it must. A long list of sessions is folded."""
    header, cells = (_cells(tokens, kind) for kind in ("th_open", "td_open"))
    titles = ["".join(child.content for child in text.children or ()) for _, text in header]
    for place, (cell, _) in enumerate(cells):
        cell.attrSet("data-label", titles[place % len(titles)])
    for _, text in header:
        text.children = text.children or [_raw('<span class="unseen">Mark</span>', "html_inline")]
    if len(titles) > FEW_COLUMNS:
        tokens[0].attrSet("class", "cards")
    rows = len(cells) // len(titles)
    is_folded = one_title in titles and rows > LONG_ROWS
    yield _raw(f"<details><summary>{rows:,} rows</summary>" if is_folded else "")
    yield from (_raw('<div class="wide">'), *tokens, _raw("</div>"))
    yield _raw("</details>" if is_folded else "")


def _cells(tokens: list[Token], kind: str) -> list[tuple[Token, Token]]:
    """Each cell's opening and its text."""
    return [(t, tokens[place + 1]) for place, t in enumerate(tokens) if t.type == kind]


def _raw(content: str, kind: str = "html_block") -> Token:
    return Token(kind, "", 0, content=content)
