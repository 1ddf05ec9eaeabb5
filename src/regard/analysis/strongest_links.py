"""The strongest weights of a head, exactly, without computing all: by cells, the greatest maximum first."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from regard.analysis.layers import Layer
from regard.analysis.map_tiles import Check, head_cells
from regard.analysis.pyramid import Pyramid

_CELL = 64  # weights along the side of a cell where there is no pyramid
_COARSE_LEVEL = 3  # of a pyramid: its few cells give a lower bound of the strongest weights
_CELLS_PER_CHECK = 32


class StrongLink(TypedDict):
    """A query and key, and their weight."""

    query: int
    key: int
    weight: float


def strongest_links(
    layer: Layer, head: int, count: int, diagonal: bool, pyramid: Pyramid | None, check: Check
) -> list[StrongLink]:
    """The `count` strongest weights above 0, strongest first; of equal ones the lower query, then key.

    `diagonal` is whether the key at a query's own position counts.
    """
    cell = pyramid.cell if pyramid is not None and pyramid.cell else _CELL
    rows, cols = (-(-n // cell) for n in (layer.queries, layer.keys))
    if pyramid is not None and pyramid.cell:
        maxima = pyramid.level(head, 0, 0, range(rows), range(cols))
        tops = pyramid.level(head, _COARSE_LEVEL, 0, *(range(-(-n >> _COARSE_LEVEL)) for n in (rows, cols)))
    else:
        maxima = tops = head_cells(layer, head, "max", cell, check)
    # The maxima of so many different cells are weights, so that the least of them is a lower bound. The diagonal,
    # which may not count, meets at most two cells in each row of cells.
    most = count + (0 if diagonal else 2 * len(tops))
    enough = np.partition(tops, -most, None)[-most] if most < tops.size else 0
    candidates = np.flatnonzero((maxima > 0) & (maxima >= enough))
    order = candidates[np.argsort(-maxima.ravel()[candidates], kind="stable")]
    bounds = maxima.ravel()[order]
    kept = np.zeros((0, 3))
    for number, index in enumerate(order):
        if len(kept) >= count and bounds[number] < kept[count - 1, 0]:
            break
        if number % _CELLS_PER_CHECK == 0:
            check()
        row, col = divmod(int(index), cols)
        q = range(row * cell, min((row + 1) * cell, layer.queries))
        k = range(col * cell, min((col + 1) * cell, layer.keys))
        weights = layer.box(head, q, k).numpy().astype(np.float64)
        queries, keys = np.meshgrid(np.array(q), np.array(k), indexing="ij")
        least = kept[count - 1, 0] if len(kept) >= count else 0
        eligible = (weights > 0) & (weights >= least)
        if not diagonal:
            eligible &= queries + layer.shift != keys
        links = np.stack((weights[eligible], queries[eligible], keys[eligible]), 1)
        kept = np.concatenate((kept, links))
        kept = kept[np.lexsort((kept[:, 2], kept[:, 1], -kept[:, 0]))][:count]
    return [StrongLink(query=int(q), key=int(k), weight=float(weight)) for weight, q, k in kept]
