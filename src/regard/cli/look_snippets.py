"""Tokens in their lines, as they may be shown: trimmed around the token, nothing invisible in them."""

from __future__ import annotations

from typing import NamedTuple

from regard.analysis.run_report import RunReport
from regard.display.text import printable


class Snippet(NamedTuple):
    """A token in its line."""

    position: int
    """Its line or, in prose, its number."""
    before: str
    token: str
    after: str


def snippet(report: RunReport, token: int, width: int) -> Snippet:
    """A token within at most `width` characters of its line, without the line's indentation."""
    position = report.position(token)
    text = report.source.text
    start, stop = report.tokens.spans[token]
    if start == stop:  # the model added it
        return Snippet(position, "", report.tokens.texts[token], "")
    piece = text[start:stop]
    if piece.strip():
        start += len(piece) - len(piece.lstrip())
        stop -= len(piece) - len(piece.rstrip())
    begin = text.rfind("\n", 0, start) + 1
    end = text.find("\n", start)
    end = len(text) if end < 0 else end
    stop = min(stop, end)
    shown = text[start:stop] if piece.strip() else "↵" if "\n" in piece else "␣"
    before, after = text[begin:start].lstrip(), text[stop:end].rstrip()
    available = max(width - len(shown), 8)
    if len(before) + len(after) > available:
        ahead = min(len(after), max(available // 2, available - len(before)))
        back = available - ahead
        before = before if len(before) <= back else "…" + before[len(before) - back + 1 :]
        after = after if len(after) <= ahead else after[: ahead - 1] + "…"
    cleaned = (printable(part).replace("\t", " ") for part in (before, shown, after))
    return Snippet(position, *cleaned)


def label(report: RunReport, token: int, width: int = 16) -> str:
    """A token by itself, as a name for it in a table."""
    return snippet(report, token, width).token[:width]
