"""A small picture of a head's map in block characters."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from rich.console import Console, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from regard.analysis.run_report import HeadReport, RunReport
from regard.display.images import DECADES, Scale, viridis

SHADES, PLAIN = " ░▒▓█", " .:*#"
SHADE_DECADES = 2
"""Four shades cannot tell more powers of ten apart."""

SMALL, LARGE = 40, 96


def blocks(console: Console) -> bool:
    """Whether the terminal's encoding has block characters."""
    return console.encoding.lower().startswith("utf")


def of_map(report: RunReport, head: HeadReport, console: Console, *, large: bool) -> RenderableType:
    """A head's map: queries downwards, keys (or distances) to the right; lines or tokens name the places."""
    most = min(LARGE if large else SMALL, console.width - 12)
    values = head.map.shrink(len(report.tokens), most, most)
    colour = console.color_system is not None and blocks(console)
    drawn = _coloured(values) if colour else _shaded(values, head.map.pooling, blocks(console))
    rows, cols = values.shape
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(justify="right", style="dim", no_wrap=True, min_width=5)
    grid.add_column()
    step = max(len(drawn) // 4, 1)
    for i, line in enumerate(drawn):
        named = i % step == 0 and i + step // 2 < len(drawn)
        grid.add_row(str(_position(report, 2 * i, rows)) if named else "", line)
    names = [_position(report, column, cols) for column in range(cols)]
    if head.map.by_distance:
        reach = head.map.values.shape[1]
        names = [reach - 1 - column * -(-reach // cols) for column in range(cols)]
    grid.add_row("back" if head.map.by_distance else "token" if report.prose else "line", _ruler(names))
    grid.add_row("", Text(_legend(report, head, rows, cols, colour), style="dim"))
    return grid


def _coloured(values: ndarray) -> list[Text]:
    """Two cells in a character: its upper half and its background."""
    levels = Scale(1.0).of(values)
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in viridis().tolist()]
    if len(levels) % 2:
        levels = np.concatenate((levels, np.zeros_like(levels[:1])))
    lines = list[Text]()
    for upper, lower in zip(levels[::2].tolist(), levels[1::2].tolist(), strict=True):
        line = Text()
        for top, bottom in zip(upper, lower, strict=True):
            if top:
                background = colours[bottom - 1] if bottom else None
                line.append("▀", Style(color=colours[top - 1], bgcolor=background))
            elif bottom:
                line.append("▄", Style(color=colours[bottom - 1]))
            else:
                line.append(" ")
        lines.append(line)
    return lines


def _shaded(values: ndarray, how: str, unicode: bool) -> list[Text]:
    """Two cells in a character, pooled as the cells are."""
    shades = SHADES if unicode else PLAIN
    starts = np.arange(0, len(values), 2)
    pairs = np.maximum.reduceat(values, starts, axis=0)
    if how == "mean":
        pairs = np.add.reduceat(values, starts, axis=0) / np.diff(np.append(starts, len(values)))[:, None]
    levels = Scale(1.0, len(shades) - 1, SHADE_DECADES).of(pairs)
    return [Text("".join(shades[level] for level in row)) for row in levels.tolist()]


def _position(report: RunReport, cell: int, cells: int) -> int:
    """The position of the first token of a row or column."""
    return report.position(min(-(-cell * len(report.tokens) // cells), len(report.tokens) - 1))


def _ruler(names: list[int]) -> Text:
    ruler = ""
    for column in range(0, len(names), 10):
        label = str(names[column])
        if column >= len(ruler) and column + len(label) <= len(names):
            ruler = ruler.ljust(column) + label
    return Text(ruler, style="dim")


def _legend(report: RunReport, head: HeadReport, rows: int, cols: int, colour: bool) -> str:
    queries = -(-len(report.tokens) // rows) * (1 if colour else 2)
    keys = -(-(head.map.values.shape[1] if head.map.by_distance else len(report.tokens)) // cols)
    across = "distances back" if head.map.by_distance else "keys"
    how = "maximum" if head.map.pooling == "max" else "mean"
    low = 10.0 ** -(DECADES if colour else SHADE_DECADES)
    return (
        f"1 cell = {queries:,}×{keys:,} weights, {how}, log scale: blank under {low:g}, "
        f"{'yellow' if colour else 'darkest'} 1; queries downwards, {across} to the right"
    )
