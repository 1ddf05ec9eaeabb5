"""What a request asks for, checked: every number within its bounds, and nothing that is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from regard.analysis.layers import Layer
from regard.analysis.map_tiles import MapView
from regard.analysis.open_recording import OpenRecording
from regard.explorer.http_errors import HttpError
from regard.export.options import ExportOptions
from regard.recording import DTYPES

MOST_PIXELS = 1024
"""Along each side of a map."""
MOST_TOKENS = 20_000
"""In one answer."""
MOST_CELLS = 1000
"""Of the strongest, in one answer."""
MOST_TEXT = 1000
"""Characters of a text to search or to work through."""
MOST_DIGITS = 15
HOW = ("max", "mean", "sum")

Query = Mapping[str, str]


def known(query: Query, names: Sequence[str]) -> None:
    """Refuse a parameter that is not one of these."""
    for name in query:
        if name not in names:
            allowed = ", ".join(names) or "no parameters"
            raise HttpError(400, repr(name[:40]), "an unknown parameter", allowed, "Leave it out.")


def whole(name: str, given: str, least: int, most: int, status: int = 400) -> int:
    """A whole number in decimal digits from `least` to `most`."""
    good = given.isascii() and given.isdigit() and len(given) <= MOST_DIGITS
    if not good or not least <= int(given) <= most:
        raise HttpError(
            status,
            name,
            repr(given),
            f"a whole number from {least} to {most}",
            "Count from 0." if least == 0 else "Ask for less.",
        )
    return int(given)


def number(query: Query, name: str, default: int | None, least: int, most: int) -> int:
    """A parameter that is a whole number; one above `most` is too much to ask, not wrong."""
    given = query.get(name)
    if given is None:
        if default is None:
            raise HttpError(400, name, "nothing", "a whole number", f"Add {name}=… to the query.")
        return default
    large = given.isascii() and given.isdigit() and len(given) <= MOST_DIGITS and int(given) > most
    return whole(name, given, least, most, 413 if large else 400)


def optional(query: Query, name: str, least: int, most: int) -> int | None:
    """A parameter that is a whole number, or is not there."""
    return None if name not in query else number(query, name, None, least, most)


def span(query: Query, name: str, most: int) -> range:
    """A parameter that is START,STOP, within so many; all of them where it is not given."""
    given = query.get(name)
    if given is None:
        return range(most)
    ends = given.split(",")
    good = len(ends) == 2 and all(one.isascii() and one.isdigit() and len(one) <= MOST_DIGITS for one in ends)
    if not good or not 0 <= int(ends[0]) < int(ends[1]) <= most:
        raise HttpError(400, name, repr(given), f"START,STOP with 0 ≤ START < STOP ≤ {most}", "Spans are half-open.")
    return range(int(ends[0]), int(ends[1]))


def chosen(query: Query, name: str, default: str, allowed: Sequence[str]) -> str:
    """A parameter that is one of some words."""
    given = query.get(name, default)
    if given not in allowed:
        raise HttpError(400, name, repr(given), " or ".join(allowed), "Choose one of them.")
    return given


def real(query: Query, name: str, default: str) -> float | None:
    """A parameter that is a number; None where it is not given, which means the `default` in words."""
    given = query.get(name)
    try:
        return None if given is None else float(given)
    except ValueError:
        raise HttpError(400, name, repr(given)[:40], "a number", f"Leave it out for {default}.") from None


def text(query: Query, name: str) -> str:
    """A parameter that is a text of some length."""
    given = query.get(name, "")
    if not given:
        raise HttpError(400, name, "nothing", "a text", f"Add {name}=… to the query.")
    if len(given) > MOST_TEXT:
        raise HttpError(413, name, f"{len(given)} characters", f"at most {MOST_TEXT}", "Shorten it.")
    return given


def book(books: Mapping[str, OpenRecording], id: str) -> OpenRecording:  # noqa: A002  it is what the route calls it
    """A recording that is open."""
    found = books.get(id)
    if found is None:
        raise HttpError(
            404, "recording", repr(id[:40]), ", ".join(books) or "none is open yet", "GET /api/recordings lists them."
        )
    if found.recording.overwritten:
        raise HttpError(
            409,
            "recording",
            f"{found.name}, which was written over since it was opened",
            "a file that stays as it is",
            "Start regard explore again.",
        )
    return found


def head(of: OpenRecording, layer: str, head: str) -> tuple[int, Layer, int]:
    """A layer's number, the layer, and a head of it."""
    at = whole("layer", layer, 0, len(of.layers) - 1, 404)
    found = of.layers[at]
    return at, found, whole("head", head, 0, found.heads - 1, 404)


def view(query: Query, layer: Layer, head: int) -> MapView:
    """A map of a head."""
    q, k = span(query, "q", layer.queries), span(query, "k", layer.keys)
    rows, cols = (number(query, name, min(256, len(side)), 1, MOST_PIXELS) for name, side in (("rows", q), ("cols", k)))
    for name, count, side in (("rows", rows, q), ("cols", cols, k)):
        if count > len(side):
            raise HttpError(400, name, count, f"at most the {len(side)} of the span", "A weight is the smallest pixel.")
    return MapView(head, q, k, rows, cols, chosen(query, "how", "max", HOW))


def part(books: Mapping[str, OpenRecording], query: Query, name: str) -> tuple[OpenRecording, int, Layer, int]:
    """A parameter that is ID/LAYER/HEAD."""
    parts = query.get(name, "").split("/")
    if len(parts) != 3:
        raise HttpError(
            400, name, repr(query.get(name, ""))[:60], "ID/LAYER/HEAD", "GET /api/recordings lists the IDs."
        )
    found = book(books, parts[0])
    return found, *head(found, parts[1], parts[2])


def wanted(query: Query) -> ExportOptions:
    """What an offline page is to hold; layers and heads are held against the recording when it is made."""
    some = {f"{name}s": (number(query, name, None, 0, 10**6),) for name in ("layer", "head") if name in query}
    dtype = chosen(query, "dtype", "", ("", *DTYPES)) or None
    return ExportOptions(**some, dtype=dtype, values=chosen(query, "values", "0", ("0", "1")) == "1")
