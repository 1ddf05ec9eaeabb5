"""What each token would receive if every query spread its weight evenly over the keys that it may see.

Early tokens are seen by more queries, so their totals are greater whatever the model does. The even share
is the exact measure of that: what is received beyond it is the model's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from regard.lowering.tiles import KeyRun, key_runs
from regard.shapes import Sizes
from regard.spec.masks import Mask, Tile, indices_of

ROWS = 256


@dataclass(frozen=True, eq=False)
class UniformBaseline:
    """Of each head: how many keys each query may see, and the even share of each key."""

    visible: Int64[ndarray, "h q"]
    share: Float64[ndarray, "h k"]

    shift: int = 0
    """What to add to a query's number for that of the key at its own place."""

    @property
    def ahead(self) -> bool:
        """Whether the first query sees keys after itself, as in encoders."""
        return int(self.visible[:, 0].max()) > 1 + self.shift


def uniform_baseline(mask: Mask, sizes: Sizes, shift: int = 0) -> UniformBaseline:
    """Count what a mask lets be seen, a block of queries at a time: memory grows with n, not with n²."""
    mask = mask.bind(sizes)
    visible = np.zeros((sizes.h, sizes.q), np.int64)
    share = np.zeros((sizes.h, sizes.k))
    heads = range(sizes.h)
    for start in range(0, sizes.q, ROWS):
        queries = range(start, min(start + ROWS, sizes.q))
        rows = slice(queries.start, queries.stop)
        seen = key_runs(mask, range(1), heads, queries, sizes.k)
        allowed = [_allowed(mask, sizes, queries, run) for run in seen]
        for run, some in zip(seen, allowed, strict=True):
            visible[:, rows] += len(run.keys) if some is None else some.sum(-1)
        counts = visible[:, rows]
        each = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
        for run, some in zip(seen, allowed, strict=True):
            keys = slice(run.keys.start, run.keys.stop)
            if some is None:
                share[:, keys] += each.sum(-1, keepdims=True)
            else:
                share[:, keys] += (each[..., None] * some).sum(-2)
    return UniformBaseline(visible, share, shift)


def _allowed(mask: Mask, sizes: Sizes, queries: range, run: KeyRun) -> ndarray | None:
    """Which pairs of a run may be (1 or h, q, k); None if all may."""
    if run.kind is Tile.FULL:
        return None
    indices = indices_of(range(1), range(sizes.h), queries, run.keys, sizes.device)
    allowed = mask.allows(*indices)
    whole = (None,) * (4 - allowed.ndim)
    allowed = allowed[whole][0].cpu().numpy()
    return np.broadcast_to(allowed, (allowed.shape[0], len(queries), len(run.keys)))
