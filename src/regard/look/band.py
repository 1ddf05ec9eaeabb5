"""Maps by distance, for heads that see a few tokens back: on a map of keys they are a thin line."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from regard.weights import Weights

ROWS = 128
"""Queries whose weights are held at a time."""


def bands(weights: Weights, rows: int, reach: int) -> Float[Tensor, "b h rows reach"]:
    """The weights by how far back their key lies, the nearest last: the mean of each row's queries.

    Query i falls into row ``i · rows // q``; column ``c`` holds the key ``reach − 1 − c`` before it. Keys
    that are not there or may not be seen count as 0.
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
        # Its farthest key stands one place further right in each row.
        along = *near.stride()[:2], near.stride(2) + 1, 1
        near = near.as_strided((b, h, stop - start, reach), along)
        total.index_add_(2, row_of[start:stop], near)
    return total / torch.bincount(row_of, minlength=rows)[:, None]
