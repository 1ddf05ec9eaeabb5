"""Small maps of whole heads: pooled by keys, or by distance for heads that see only a few tokens back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from regard.weights import Weights

ROWS = 128
"""Queries whose weights are in memory at a time."""


@dataclass(frozen=True, eq=False)
class HeadMap:
    """A head's weights in cells. Row r pools the queries i with ``i · rows // q == r``; columns likewise."""

    values: Float[ndarray, "rows cols"]
    by_distance: bool
    """Whether columns are distances to the key, the nearest last, and cells are means.

    Else columns are keys and cells are maxima, which keep single links visible; by distance all links are strong.
    """

    @property
    def pooling(self) -> str:
        """ "mean" or "max"."""
        return "mean" if self.by_distance else "max"

    def shrink(self, queries: int, rows: int, cols: int) -> Float[ndarray, "r c"]:
        """The same with at most so many rows and columns, by whole factors; `queries` is how many there are in all.

        It stays exact: a maximum of maxima, or a mean that weights each row by its queries.
        """
        values = self.values
        height = -(-values.shape[0] // rows)
        width = -(-values.shape[1] // cols)
        down, right = (np.arange(0, size, step) for size, step in zip(values.shape, (height, width), strict=True))
        if not self.by_distance:
            return np.maximum.reduceat(np.maximum.reduceat(values, down, axis=0), right, axis=1)
        counts = np.bincount(np.arange(queries) * len(values) // queries, minlength=len(values))
        total = np.add.reduceat(values * counts[:, None], down, axis=0)
        columns = np.diff(np.append(right, values.shape[1]))
        return np.add.reduceat(total / np.add.reduceat(counts, down)[:, None], right, axis=1) / columns


def maps_by_distance(weights: Weights, rows: int, reach: int) -> Float[Tensor, "b h rows reach"]:
    """The weights by how far back their key is, the nearest last: the mean of each row's queries.

    Query i falls into row ``i · rows // q``; column ``c`` holds the key ``reach − 1 − c`` before it. Keys
    that do not exist or are masked count as 0.
    """
    b, h, q, k = weights.shape
    rows = min(rows, q)
    row_of = torch.arange(q) * rows // q
    total = torch.zeros(b, h, rows, reach)
    for start in range(0, q, ROWS):
        stop = min(start + ROWS, q)
        first = start + k - q - reach + 1  # the farthest key of the first query
        near = weights[:, :, start:stop, max(first, 0) : stop + k - q]
        near = functional.pad(near, (max(-first, 0), 0)).contiguous()
        # A row's farthest key is one column further right than that of the row before.
        strides = *near.stride()[:2], near.stride(2) + 1, 1
        near = near.as_strided((b, h, stop - start, reach), strides)
        total.index_add_(2, row_of[start:stop], near)
    return total / torch.bincount(row_of, minlength=rows)[:, None]
