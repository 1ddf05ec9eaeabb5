"""A small picture of a head's map in block characters."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from rich.console import Console, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from regard.look.maps import DECADES, Scale, shrink, viridis
from regard.look.study import Head, Study

SHADES, PLAIN = " ░▒▓█", " .:*#"
SHADE_DECADES = 2
"""Four shades cannot tell more powers of ten apart."""

SMALL, LARGE = 40, 96


def blocks(console: Console) -> bool:
    """Whether the terminal's encoding has block characters."""
    return console.encoding.lower().startswith("utf")


def of_map(study: Study, head: Head, console: Console, *, large: bool) -> RenderableType:
    """The map of maxima: queries downwards, keys to the right, both named by their lines."""
    most = min(LARGE if large else SMALL, console.width - 12)
    values = shrink(head.maps["max"], most, most)
    colour = console.color_system is not None and blocks(console)
    drawn = _coloured(values) if colour else _shaded(values, blocks(console))
    rows, cols = values.shape
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(justify="right", style="dim", no_wrap=True, min_width=4)
    grid.add_column(no_wrap=True)
    step = max(len(drawn) // 4, 1)
    for i, line in enumerate(drawn):
        named = i % step == 0 and i + step // 2 < len(drawn)
        grid.add_row(str(_line(study, 2 * i, rows)) if named else "", line)
    grid.add_row("line", _ruler(study, cols))
    grid.add_row("", Text(_legend(study, values, colour), style="dim", no_wrap=False, overflow="fold"))
    return grid


def _coloured(values: ndarray) -> list[Text]:
    """Two cells in a character: its upper half and the ground behind it."""
    levels = Scale(1.0).of(values)
    colours = ["#%02x%02x%02x" % tuple(colour) for colour in viridis().tolist()]
    if len(levels) % 2:
        levels = np.concatenate((levels, np.zeros_like(levels[:1])))
    lines = list[Text]()
    for upper, lower in zip(levels[::2].tolist(), levels[1::2].tolist(), strict=True):
        line = Text()
        for top, bottom in zip(upper, lower, strict=True):
            if top:
                ground = colours[bottom - 1] if bottom else None
                line.append("▀", Style(color=colours[top - 1], bgcolor=ground))
            elif bottom:
                line.append("▄", Style(color=colours[bottom - 1]))
            else:
                line.append(" ")
        lines.append(line)
    return lines


def _shaded(values: ndarray, unicode: bool) -> list[Text]:
    """Two cells in a character, by the greater of them."""
    shades = SHADES if unicode else PLAIN
    pairs = np.maximum.reduceat(values, np.arange(0, len(values), 2), axis=0)
    levels = Scale(1.0, len(shades) - 1, SHADE_DECADES).of(pairs)
    return [Text("".join(shades[level] for level in row)) for row in levels.tolist()]


def _line(study: Study, place: int, places: int) -> int:
    """The line of the first token of a row or column."""
    return int(study.words.lines[min(-(-place * len(study.words) // places), len(study.words) - 1)])


def _ruler(study: Study, cols: int) -> Text:
    ruler = ""
    for place in range(0, cols, 10):
        named = str(_line(study, place, cols))
        if place >= len(ruler) and place + len(named) <= cols:
            ruler = ruler.ljust(place) + named
    return Text(ruler, style="dim")


def _legend(study: Study, values: ndarray, colour: bool) -> str:
    rows, cols = (-(-len(study.words) // count) for count in values.shape)
    if not colour:
        rows *= 2
    return (
        f"1 cell = {rows}×{cols} weights, maximum, log scale: blank under {10.0 ** -(DECADES if colour else SHADE_DECADES):g}, "
        f"{'yellow' if colour else 'darkest'} 1; queries down, keys across"
    )
