"""Tokens in their lines, as they may be shown: trimmed around the token, nothing invisible in them."""

from __future__ import annotations

from typing import NamedTuple

from regard.look.study import START, Study

# Control characters would move a terminal's cursor, and marks of direction would reorder code on screen.
_SHOWN = {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
_SHOWN |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_SHOWN |= dict.fromkeys(
    (*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD
)


def printable(text: str) -> str:
    """A text with a picture in place of each character that would act instead of being shown.

    >>> printable("a\\x1b[2Jb")
    'a␛[2Jb'
    """
    return text.translate(_SHOWN)


class Snippet(NamedTuple):
    """A token in its line."""

    line: int
    before: str
    token: str
    after: str


def snippet(study: Study, token: int, width: int) -> Snippet:
    """A token within at most `width` characters of its line, without the line's indentation."""
    line = int(study.words.lines[token])
    if token == 0:
        return Snippet(line, "", START, "")
    text = study.source.text
    start, stop = study.words.spans[token]
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
    room = max(width - len(shown), 8)
    if len(before) + len(after) > room:
        ahead = min(len(after), max(room // 2, room - len(before)))
        back = room - ahead
        before = before if len(before) <= back else "…" + before[len(before) - back + 1 :]
        after = after if len(after) <= ahead else after[: ahead - 1] + "…"
    tidy = (printable(part).replace("\t", " ") for part in (before, shown, after))
    return Snippet(line, *tidy)


def label(study: Study, token: int, width: int = 16) -> str:
    """A token by itself, as a name for it in a table."""
    return snippet(study, token, width).token[:width]
