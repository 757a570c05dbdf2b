"""Text that a terminal must not get as it is, and how one tells."""

from __future__ import annotations

import re
import unicodedata

# Colours and a title, C1's CSI, DEL, a new order of letters, new lines of five kinds, markup.
HOSTILE = (
    "x\x1b[31;5my\x1b]0;owned\x07\x9b2J\x7f\u202eabc\u2066\u200b\n  Next: rm -rf /\r\u0085z\u2028"
    "\u2029end [bold]b[/] [link=https://x.test]l[/link] :bomb:"
)
# What it must look like instead, as far as it holds no letter that Rich may wrap at.
KEPT = ("[bold]b[/]", ":bomb:")
# Of a terminal's own: colours, and moving the cursor where a bar or a table is drawn again.
OWN = re.compile(r"\x1b\[(?:\d+(?:;\d+)*m|\?25[lh]|\d*[AKG])")
COLOURED = re.compile(r"\x1b\[(?:\d+;)*(?:31;5|5)m")


def harmful(shown: str) -> list[str]:
    """What in the text that was shown a terminal would obey, and lines that look like ours."""
    forged = re.findall(r"(?m)^ {0,8}Next: rm .*$", shown)
    blinking = COLOURED.findall(shown)
    rest = OWN.sub("", shown).replace("\n", "").replace("\r", "")
    raw = [c for c in rest if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    return [repr(found) for found in (*forged, *blinking, *raw)]
