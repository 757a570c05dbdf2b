"""The HTML around a page: its policy forbids scripts and everything from outside. Pure."""

from __future__ import annotations

import html

from backfill.render.page.style import STYLE

_SHEET = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<div class="page">
{body}
</div>
</body>
</html>
"""


def sheet(title: str, body: str) -> str:
    """A whole page. title: text, not yet escaped. body: HTML."""
    return _SHEET.format(title=html.escape(title), style=STYLE, body=body)
