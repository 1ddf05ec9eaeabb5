"""What a notebook shows of results: small HTML in its own colours, with no script and nothing to load.

Every text is escaped here, so that a token such as ``<script>`` is shown and not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from regard.display.images import DECADES, Scale, uri, viridis
from regard.display.text import printable
from regard.spec.observers import Observer, Top

MAP = 64
"""Pixels along a side of a small map."""

FIGURES = "mean", "min", "median", "max"

_POINTS = 60  # of a line
_MAPS = 4  # of each observer, and as many of all of them together as stay within _MOST_CHARACTERS
_HEADS = 6
_QUERIES = 4
_MOST_CHARACTERS = 40_000  # characters, beyond which an observer is only named
_NAMED = 40
_CELL = "text-align:left;padding:.1em .8em .1em 0"


class Html(str):
    """Markup, which is shown as it is; any other text is escaped."""


def safe(content: object) -> Html:
    """A text as markup that shows it.

    >>> safe("<script>"), safe(Html("<b>it</b>"))
    ('&lt;script&gt;', '<b>it</b>')
    """
    if isinstance(content, Html):
        return content
    return Html(escape(printable(str(content)).replace("\n", "␊").replace("\t", "␉")))


def section(title: object, *parts: str) -> str:
    """A title and what is below it."""
    named = f'<p style="margin:.3em 0"><b>{safe(title)}</b></p>'
    return f'<div style="color-scheme:light dark">{named}{"".join(parts)}</div>'


def paragraph(*parts: object) -> Html:
    """A sentence."""
    return Html(f'<p style="margin:.3em 0">{" ".join(map(safe, parts))}</p>')


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """Rows of cells under their names."""
    names = "".join(f'<th scope="col" style="{_CELL}">{safe(name)}</th>' for name in head)
    cells = ((f'<td style="{_CELL}">{safe(cell)}</td>' for cell in row) for row in rows)
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return Html(
        '<div style="max-height:24em;overflow:auto"><table style="border-collapse:collapse">'
        f"<thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def picture(values: ndarray, alt: object, high: float, side: int = 128, colours: int = 255) -> Html:
    """A small map of weights, on a log scale that ends at `high`."""
    drawn = uri(Scale(high, colours).of(values), viridis(colours))
    return Html(
        f'<img src="{drawn}" alt="{safe(alt)}" width="{side}" '
        f'height="{side}" style="image-rendering:pixelated;border:1px solid;margin:0 .5em .2em 0">'
    )


def ceiling(maps: Iterable[ndarray]) -> float:
    """Where the scale of some maps ends: at 1, so that they compare, or at their greatest if small."""
    top = max((float(values.max(initial=0)) for values in maps), default=0.0)
    return 1.0 if 1e-2 < top <= 1 or top <= 0 else top


def shrunk(values: ndarray, most: int) -> tuple[ndarray, tuple[int, int]]:
    """A map with at most so many rows and columns, each the greatest of so many cells, and how many."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0)
    steps = tuple(max(-(-n // most), 1) for n in values.shape)
    for axis, step in enumerate(steps):
        if step > 1:
            values = np.maximum.reduceat(values, np.arange(0, values.shape[axis], step), axis)
    return values, (steps[0], steps[1])


def legend(high: float, pixel: str) -> str:
    """The legend of a picture of a map."""
    return (
        f"queries downwards, keys to the right; 1 px = {pixel}; log scale: blank under "
        f"{high / 10**DECADES:.1g}, yellow {high:.3g}"
    )


def line(numbers: ndarray, alt: object) -> Html:
    """Numbers as a line, each point the mean of its neighbours where there are many."""
    finite = numbers[np.isfinite(numbers)].astype(np.float64)
    if len(finite) < 2:
        return Html("")
    ends = np.linspace(0, len(finite), min(len(finite), _POINTS) + 1).astype(int)
    points = np.add.reduceat(finite, ends[:-1]) / np.diff(ends)
    low, high = points.min(), points.max()
    heights = 18 - 16 * (points - low) / (high - low if high > low else 1)
    places = np.linspace(1, 119, len(points))
    drawn = " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(places, heights, strict=True))
    return Html(
        f'<svg role="img" aria-label="{safe(alt)}" width="120" height="20" viewBox="0 0 120 20">'
        f'<polyline points="{drawn}" fill="none" stroke="currentColor"/></svg>'
    )


def observer_results(title: object, results: Mapping[Observer[Any], Any]) -> str:
    """A small view of each observer's result: its cost is linear in the result, and its size is bounded."""
    parts, left = list[str](), _MOST_CHARACTERS
    for observer, result in list(results.items())[:_NAMED]:
        drawn = _drawn(observer, result) if left > 0 else ""
        left -= len(drawn)
        parts.append(f"{paragraph(_name(observer), _shapes(result))}{drawn if left > 0 else ''}")
    if len(results) > _NAMED:
        parts.append(paragraph(f"and {len(results) - _NAMED} more"))
    if left <= 0:
        parts.append(paragraph("What is only named here is there all the same: seen[observer]."))
    return section(title, *parts)


def figures(numbers: ndarray) -> list[str]:
    """What `FIGURES` names, of the finite numbers."""
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return ["none finite", "", "", ""]
    values = finite.mean(), finite.min(), np.median(finite), finite.max()
    return [number(float(x)) for x in values]


def number(value: float) -> str:
    """A number in few digits.

    >>> number(0.12345), number(12345.6)
    ('0.123', '12,346')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def size(tensor: Tensor) -> str:
    """A shape as text."""
    return " × ".join(f"{n:,}" for n in tensor.shape)


def _name(observer: object) -> Html:
    name = repr(observer)
    return Html(f"<code>{safe(name if len(name) <= 120 else f'{name[:119]}…')}</code>")


def _shapes(result: Any) -> str:
    if isinstance(result, Tensor):
        return size(result)
    if isinstance(result, tuple):
        return ", ".join(_shapes(part) for part in result[:4])
    return type(result).__name__


def _drawn(observer: Observer[Any], result: Any) -> str:
    if observer.display == "top keys":
        return _top_keys(result) if result.keys.numel() else paragraph("nothing")
    if not isinstance(result, Tensor) or not result.ndim or result.is_complex():
        return ""
    if not result.numel():
        return paragraph("nothing")
    if result.ndim < 3:  # of one head alone, without the dimensions of batch rows and heads
        names, flat, many = ["this head"], result.detach()[None], 1
    else:
        rows, heads = result.shape[:2]
        many = rows * heads
        names = [
            f"head {i % heads}" if rows == 1 else f"row {i // heads}, head {i % heads}"
            for i in range(min(many, _HEADS))
        ]
        flat = result.detach().flatten(0, 1)[: len(names)]
    heads = [head.to("cpu", torch.float32).numpy() for head in flat]
    drawn = _DISPLAYS[observer.display](observer, names, heads)
    more = many - (min(len(names), _MAPS) if observer.display == "maps" else len(names))
    return drawn + (paragraph(f"and {more} more heads") if more > 0 else "")


def _maps(observer: Any, names: Sequence[str], maps: Sequence[ndarray]) -> str:
    small = [shrunk(values, MAP)[0] for values in maps[:_MAPS]]
    high, (down, right) = ceiling(small), shrunk(maps[0], MAP)[1]
    cell = f"the {observer.how} of a cell's weights"
    drawn = "".join(
        '<figure style="display:inline-block;margin:0">'
        f"{picture(values, f'{name}: {cell}', high)}<figcaption>{safe(name)}</figcaption></figure>"
        for name, values in zip(names, small, strict=False)
    )
    pixel = cell if down == right == 1 else f"the greatest of {down} × {right} cells, each {cell}"
    return drawn + paragraph(legend(high, pixel))


def _columns(observer: Any, names: Sequence[str], heads: Sequence[ndarray]) -> str:
    shown = min(heads[0].shape[-1], _HEADS)
    columns = ["mean over queries", *(f"span {i}" for i in range(shown))]
    means = [[number(float(x)) for x in head.mean(0)[:shown]] for head in heads]
    return table(columns, ([name, *row] for name, row in zip(names, means, strict=True)))


def _lines(observer: Any, names: Sequence[str], heads: Sequence[ndarray]) -> str:
    rows: list[list[object]] = []
    for name, values in zip(names, heads, strict=True):
        along = values if values.ndim == 1 else values.reshape(-1, values.shape[-1]).mean(0)
        rows.append([name, *figures(values), line(along, f"{name}, from first to last")])
    return table(["", *FIGURES, "from first to last"], rows)


_DISPLAYS: dict[str, Callable[[Any, Sequence[str], Sequence[ndarray]], str]] = {
    "lines": _lines,
    "maps": _maps,
    "columns": _columns,
}
"""How results of one tensor are shown, by `Observer.display`."""


def _top_keys(top: Top) -> str:
    first, name = ((0, 0), "head 0") if top.keys.ndim > 2 else ((), "this head")
    keys, weights = top.keys[first].detach().cpu(), top.weights[first].detach().float().cpu()
    n = len(keys)
    rows = [
        [
            f"query {query:,}",
            ", ".join(
                f"{key:,} ({number(weight)})"
                for key, weight in zip(keys[query, :_HEADS].tolist(), weights[query].tolist(), strict=False)
                if key >= 0
            )
            or "none",
        ]
        for query in dict.fromkeys(i * (n - 1) // max(_QUERIES - 1, 1) for i in range(_QUERIES))
    ]
    return table([name, "strongest keys (weight)"], rows)
