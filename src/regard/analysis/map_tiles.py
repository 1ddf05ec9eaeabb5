"""The numbers of a map: computed by the kernels where they are few, put together from a pyramid where not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from regard.analysis.layers import Layer
from regard.analysis.pyramid import LEVELS, Pyramid
from regard.spec.observers import Pooled

DIRECT = 1 << 28
"""The most weights that are computed for one map; for more a pyramid is used, if there is one."""

FINE = 8
"""Along a pixel there are at least so many positions to which its edges may be moved, where cells allow."""

BLOCK = 1 << 24
"""Weights that are computed between two calls of `Check`."""

Check = Callable[[], None]
"""Called between blocks of work; raises where the result is no longer needed."""


class NotBuilt(Exception):
    """The map needs a pyramid that is still being built."""


@dataclass(frozen=True)
class MapView:
    """A rectangle of one head's weights, and the size of its map.

    Row r of the map pools the queries from ``q.start + r · len(q) // rows`` on, and columns likewise.
    """

    head: int
    q: range
    k: range
    rows: int
    cols: int
    how: str

    @property
    def exact(self) -> bool:
        """Whether each number of the map is one weight."""
        return self.rows == len(self.q) and self.cols == len(self.k)

    @property
    def pixel(self) -> str:
        """What a number of the map is, as text."""
        if self.exact:
            return "1x1 exact"
        height, width = (-(-len(side) // n) for side, n in ((self.q, self.rows), (self.k, self.cols)))
        return f"{height}x{width} {self.how}"


@dataclass(frozen=True)
class MapTile:
    """The numbers of a map."""

    values: Float[ndarray, "rows cols"]
    snapped: int = 0
    """If edges of pixels were moved to multiples of so many weights, that number; else 0."""


def map_tile(layer: Layer, view: MapView, pyramid: Pyramid | None, building: bool, check: Check) -> MapTile:
    """The numbers of a map.

    Args:
        layer: The layer.
        view: Its head, the rectangle and the size.
        pyramid: That of the layer, if it is built.
        building: Whether it is still being built.
        check: Called between blocks of work.

    Raises:
        NotBuilt: the map needs the pyramid, which is still being built.
    """
    work = len(view.q) * len(view.k)
    if pyramid is not None and pyramid.cell:
        cell = pyramid.cell
        rows, cols = (_edges(side, n) for side, n in ((view.q, view.rows), (view.k, view.cols)))
        if _on(rows, cell, layer.queries) and _on(cols, cell, layer.keys):
            return MapTile(_from_pyramid(layer, view, pyramid, rows, cols, cell))
        pixel = min(len(view.q) // view.rows, len(view.k) // view.cols)
        if work > DIRECT and pixel >= cell:
            while 2 * cell * FINE <= pixel:
                cell *= 2
            return MapTile(_from_pyramid(layer, view, pyramid, rows, cols, cell), cell)
    if building and work > DIRECT:
        raise NotBuilt
    return MapTile(_direct(layer, view, check))


def head_cells(layer: Layer, head: int, how: str, cell: int, check: Check) -> Float[ndarray, "rows cols"]:
    """A head's whole map, by the kernels, in cells of `cell` × `cell` weights, the last cut by the end."""
    sides = [
        [part for part in (range(n // cell * cell), range(n // cell * cell, n)) if len(part)]
        for n in (layer.queries, layer.keys)
    ]

    def part(q: range, k: range) -> ndarray:
        view = MapView(head, q, k, -(-len(q) // cell), -(-len(k) // cell), how)
        return _direct(layer, view, check)

    return np.block([[part(q, k) for k in sides[1]] for q in sides[0]])


def _direct(layer: Layer, view: MapView, check: Check) -> Float[ndarray, "rows cols"]:
    """By the kernels, some rows of the map at a time."""
    edges = _edges(view.q, view.rows)
    step = max(BLOCK // max(len(view.k) * -(-len(view.q) // view.rows), 1), 1)
    parts: list[ndarray] = []
    for top in range(0, view.rows, step):
        check()
        bottom = min(top + step, view.rows)
        # Some rows of a map are the map of their queries alone only if their edges agree: else fewer at a time.
        for a, b in _runs(edges, top, bottom):
            queries = range(int(edges[a]), int(edges[b]))
            if view.exact:
                values = layer.box(view.head, queries, view.k)
            else:
                span = (view.k.start, view.k.stop)
                pooled = Pooled(b - a, view.cols, view.how, queries=(queries.start, queries.stop), keys=span)
                values = layer.pooled(view.head, pooled)
            parts.append(values.numpy())
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _edges(side: range, count: int) -> Int64[ndarray, " edges"]:
    """Where pixels begin, and the last one ends: index i falls into pixel ``i · count // len(side)``."""
    return side.start - (-np.arange(count + 1, dtype=np.int64) * len(side) // count)


def _runs(edges: ndarray, top: int, bottom: int) -> list[tuple[int, int]]:
    """Rows from top to bottom in runs that `Pooled` divides at the same edges when it is given them alone."""
    result: list[tuple[int, int]] = []
    while top < bottom:
        end = bottom
        while end > top + 1:
            queries = range(int(edges[top]), int(edges[end]))
            if (_edges(queries, end - top) == edges[top : end + 1]).all():
                break
            end = top + (end - top) // 2
        result.append((top, end))
        top = end
    return result


def _on(edges: ndarray, cell: int, whole: int) -> bool:
    return bool(((edges % cell == 0) | (edges == whole)).all())


def _from_pyramid(
    layer: Layer, view: MapView, pyramid: Pyramid, rows: ndarray, cols: ndarray, step: int
) -> Float[ndarray, "rows cols"]:
    """From cells, with edges of pixels moved to the nearest multiples of so many weights."""
    part = 0 if view.how == "max" else 1
    cell = pyramid.cell
    # In cells; a last edge at the end of the text is behind the last cell, however full.
    row_cells, col_cells = (
        np.where(edges == whole, -(-whole // cell), (edges + step // 2) // step * (step // cell))
        for edges, whole in ((rows, layer.queries), (cols, layer.keys))
    )
    level = 0
    while (
        level + 1 < LEVELS
        and _fine(row_cells, level + 1, pyramid.cells[0])
        and _fine(col_cells, level + 1, pyramid.cells[1])
    ):
        level += 1
    r, c = -(-row_cells // (1 << level)), -(-col_cells // (1 << level))
    cells = pyramid.level(view.head, level, part, range(int(r[0]), int(r[-1])), range(int(c[0]), int(c[-1])))
    fold = np.maximum if part == 0 else np.add
    precise = cells if part == 0 else cells.astype(np.float64)
    values = fold.reduceat(fold.reduceat(precise, r[:-1] - r[0], 0), c[:-1] - c[0], 1)
    if view.how == "mean":
        heights, widths = (
            np.diff(np.minimum(ends * cell, whole))
            for ends, whole in ((row_cells, layer.queries), (col_cells, layer.keys))
        )
        values = values / (heights[:, None] * widths)
    return values.astype(np.float32)


def _fine(edges: ndarray, level: int, whole: int) -> bool:
    """Whether edges, in cells of level 0, are edges of a level too."""
    return bool(((edges % (1 << level) == 0) | (edges == whole)).all())


def half(values: np.ndarray) -> np.ndarray:
    """Weights in float16. Weights above 0 stay above 0, since 0 looks like a masked pair.

    >>> half(np.array([0, 1e-9, 0.5]))
    array([0.e+00, 6.e-08, 5.e-01], dtype=float16)
    """
    least = np.finfo(np.float16).smallest_subnormal
    return np.where(values > 0, np.maximum(values, least), values).astype(np.float16)
