"""The uniform baseline: what each key would receive if every query spread its weight evenly over its visible keys.

Early tokens are visible to more queries, so their totals are greater whatever the model does. The baseline measures
that exactly: what a key receives beyond it is due to the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from regard.lowering.tiles import KeyRun, key_runs
from regard.shapes import Box, Sizes
from regard.spec.masks import Mask, Tile

ROWS = 256
"""Queries that are counted at a time."""


@dataclass(frozen=True, eq=False)
class UniformBaseline:
    """For each head: how many keys each query may see, and what each key receives if weights are uniform."""

    visible: Int64[ndarray, "h q"]
    share: Float64[ndarray, "h k"]

    shift: int = 0
    """What to add to a query's index for that of the key at the same position."""

    @property
    def ahead(self) -> bool:
        """Whether the first query sees keys after itself, as in encoders."""
        return int(self.visible[:, 0].max()) > 1 + self.shift


def uniform_baseline(mask: Mask, sizes: Sizes, shift: int = 0) -> UniformBaseline:
    """Count the visible pairs of a mask, a block of queries at a time: memory grows with n, not with n²."""
    mask = mask.bind(sizes)
    visible = np.zeros((sizes.h, sizes.q), np.int64)
    share = np.zeros((sizes.h, sizes.k))
    heads = range(sizes.h)
    for start in range(0, sizes.q, ROWS):
        queries = range(start, min(start + ROWS, sizes.q))
        rows = slice(queries.start, queries.stop)
        visible_runs = key_runs(mask, range(1), heads, queries, sizes.k)
        allowed = [_allowed(mask, sizes, queries, run) for run in visible_runs]
        for run, pairs in zip(visible_runs, allowed, strict=True):
            visible[:, rows] += len(run.keys) if pairs is None else pairs.sum(-1)
        counts = visible[:, rows]
        weight = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
        for run, pairs in zip(visible_runs, allowed, strict=True):
            keys = slice(run.keys.start, run.keys.stop)
            if pairs is None:
                share[:, keys] += weight.sum(-1, keepdims=True)
            else:
                share[:, keys] += (weight[..., None] * pairs).sum(-2)
    return UniformBaseline(visible, share, shift)


def _allowed(mask: Mask, sizes: Sizes, queries: range, run: KeyRun) -> ndarray | None:
    """Which pairs of a run are allowed, (1 or h, q, k); None if all are."""
    if run.kind is Tile.FULL:
        return None
    indices = Box(range(1), range(sizes.h), queries, run.keys).indices(sizes.device)
    allowed = mask.allows(*indices)
    new_axes = (None,) * (4 - allowed.ndim)
    allowed = allowed[new_axes][0].cpu().numpy()
    return np.broadcast_to(allowed, (allowed.shape[0], len(queries), len(run.keys)))
