"""A layer's pyramid file: its cells and the statistics of its heads, from one pass over its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from regard.analysis.head_statistics import MEANS, LayerStatistics, OnFraction
from regard.analysis.layers import Layer
from regard.analysis.pyramid import STRIP, PyramidWriter
from regard.spec.observers import Pooled

_QUERIES = 2048
"""Queries in a strip where there is no pyramid."""


def write_layer(
    layer: Layer, cell: int, writer: PyramidWriter, on_fraction: OnFraction, ids: Int[ndarray, " n"] | None = None
) -> None:
    """Pass once over a layer's weights, and write the statistics of its heads and, if `cell` is not 0, its cells.

    `ids` has a number for each token of the text, equal where tokens are.
    """
    statistics = LayerStatistics(layer, ids)
    strips = layer.strips(STRIP * cell if cell else _QUERIES)
    for number, queries in enumerate(strips):
        on_fraction(number / len(strips))
        reached = _reached_keys(layer, queries, cell)
        rectangles = _rectangles(cell, len(queries), reached)
        observers = [observer for rectangle in rectangles for observer in rectangle.observers(cell)]
        results, maps = layer.statistics(queries, statistics.observers(queries), observers)
        statistics.add(queries, results)
        each = 3 if cell else 1
        by_rectangle = [maps[i : i + each] for i in range(0, len(maps), each)]
        for rectangle, (received, *_) in zip(rectangles, by_rectangle, strict=True):
            statistics.received[:, rectangle.keys.start : rectangle.keys.stop] += received[:, 0]
        if cell and rectangles:
            cells = _cells(cell, queries, reached, rectangles, by_rectangle)
            for i, start in enumerate(range(0, cells.shape[2], STRIP)):
                writer.strip(number + i, reached.start // cell, cells[:, :, start : start + STRIP])
    writer.put("entropy", statistics.entropy.float().numpy())
    writer.put("received", statistics.received.float().numpy())
    writer.put("means", torch.stack([getattr(statistics.means, name) for name in MEANS], -1).numpy())
    writer.put("share", statistics.received_share.numpy())
    writer.put("telling", statistics.scores)


class _Rectangle(NamedTuple):
    """Some of a strip's queries and some keys, in cells that are all of one size."""

    queries: range
    keys: range
    rows: int
    cols: int

    def observers(self, cell: int) -> list[Pooled]:
        """What its keys receive and, with cells, their maxima and sums."""
        ends: dict[str, Any] = {
            "queries": (self.queries.start, self.queries.stop),
            "keys": (self.keys.start, self.keys.stop),
        }
        received = Pooled(1, len(self.keys), "sum", **ends)
        if not cell:
            return [received]
        return [received, *(Pooled(self.rows, self.cols, how, **ends) for how in ("max", "sum"))]


def _reached_keys(layer: Layer, queries: range, cell: int) -> range:
    """The keys that a strip may see, from an edge of all levels on to whole cells."""
    reach, cell = layer.reach(queries), max(cell, 1)
    edge = cell * STRIP
    return range(reach.start // edge * edge, min(-(-reach.stop // cell) * cell, layer.keys))


def _rectangles(cell: int, queries: int, keys: range) -> list[_Rectangle]:
    """A strip in up to four rectangles: whole cells, and what is left of queries and keys."""
    if not cell:
        return [_Rectangle(range(queries), keys, 1, len(keys))] if len(keys) else []
    rows, cols = _split(range(queries), cell), _split(keys, cell)
    return [_Rectangle(q, k, -(-len(q) // cell), -(-len(k) // cell)) for q in rows for k in cols]


def _split(side: range, cell: int) -> list[range]:
    whole = side.start + len(side) // cell * cell
    return [part for part in (range(side.start, whole), range(whole, side.stop)) if len(part)]


def _cells(
    cell: int, queries: range, reached: range, rectangles: Sequence[_Rectangle], maps: Sequence[Sequence[Tensor]]
) -> ndarray:
    """The cells of a strip, maxima and sums, (2, h, rows, cols), padded to whole cells of the coarsest level."""
    heads = len(maps[0][0])
    rows, cols = (-(-len(side) // (cell * STRIP)) * STRIP for side in (queries, reached))
    cells = np.zeros((2, heads, rows, cols), np.float32)
    for rectangle, (_, *pooled) in zip(rectangles, maps, strict=True):
        top, left = rectangle.queries.start // cell, (rectangle.keys.start - reached.start) // cell
        for part, values in zip(cells, pooled, strict=True):
            part[:, top : top + rectangle.rows, left : left + rectangle.cols] = values.numpy()
    return cells
