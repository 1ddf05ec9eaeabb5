"""Maps of a study's heads: pooled further, and the scale that each is drawn on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from regard.look.study import Head


def shrink(head: Head, n: int, rows: int, cols: int) -> Float[ndarray, "r c"]:
    """A head's map with at most so many rows and columns, by whole factors: of `n` queries in all.

    It stays exact: a maximum of maxima, or a mean that weighs each row by its queries.
    """
    values = head.map
    height = -(-values.shape[0] // rows)
    width = -(-values.shape[1] // cols)
    down, right = (np.arange(0, size, step) for size, step in zip(values.shape, (height, width), strict=True))
    if head.pooling == "max":
        return np.maximum.reduceat(np.maximum.reduceat(values, down, axis=0), right, axis=1)
    queries = np.bincount(np.arange(n) * len(values) // n, minlength=len(values))
    total = np.add.reduceat(values * queries[:, None], down, axis=0)
    columns = np.diff(np.append(right, values.shape[1]))
    return np.add.reduceat(total / np.add.reduceat(queries, down)[:, None], right, axis=1) / columns
