"""Maps of weights as pictures: pooled further, on a log scale, in the colours of viridis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from regard.look.study import Head

DECADES = 4
"""How many powers of ten the colours span."""

# Viridis (van der Walt and Smith, CC0) at 16 even places.
_STOPS = bytes.fromhex(
    "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e"
    "1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725"
)


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` as levels from 1 to `levels`, evenly in their logarithm.

    Level 0 is for what is below `low`, which on these maps is mostly what may not be seen.
    """

    high: float
    levels: int = 255
    decades: int = DECADES

    @property
    def low(self) -> float:
        """The least value with a colour of its own."""
        return self.high / 10**self.decades

    def of(self, values: Float[ndarray, "*s"]) -> UInt8[ndarray, "*s"]:
        """The level of each value."""
        with np.errstate(divide="ignore"):
            share = 1 + np.log10(values / self.high) / self.decades
        level = np.ceil(np.clip(share, 0, 1) * self.levels)
        return np.where(values >= self.low, np.maximum(level, 1), 0).astype(np.uint8)


def scale_for(head: Head, how: str) -> Scale:
    """Up to 1, so that heads compare; but means over many keys are small, and reach up to their greatest."""
    if how == "max" or head.band:
        return Scale(1.0)
    return Scale(max(float(head.maps[how].max()), 1e-12))


def shrink(head: Head, n: int, rows: int, cols: int) -> Float[ndarray, "r c"]:
    """A head's map with at most so many rows and columns, by whole factors: of `n` queries in all.

    It stays exact: a maximum of maxima, or a mean that weighs each row by its queries.
    """
    values = head.maps[head.pooling]
    height = -(-values.shape[0] // rows)
    width = -(-values.shape[1] // cols)
    down, right = (
        np.arange(0, size, step) for size, step in zip(values.shape, (height, width), strict=True)
    )
    if head.pooling == "max":
        return np.maximum.reduceat(np.maximum.reduceat(values, down, axis=0), right, axis=1)
    queries = np.bincount(np.arange(n) * len(values) // n, minlength=len(values))
    total = np.add.reduceat(values * queries[:, None], down, axis=0)
    columns = np.diff(np.append(right, values.shape[1]))
    return np.add.reduceat(total / np.add.reduceat(queries, down)[:, None], right, axis=1) / columns


def viridis(levels: int = 255) -> UInt8[ndarray, "levels 3"]:
    """The colours of level 1 to `levels`, from dark to light.

    >>> viridis()[0].tolist(), viridis()[-1].tolist()
    ([68, 1, 84], [253, 231, 37])
    """
    stops = np.frombuffer(_STOPS, np.uint8).reshape(-1, 3)
    places = np.linspace(0, len(stops) - 1, levels)
    each = [np.interp(places, np.arange(len(stops)), stops[:, i]) for i in range(3)]
    return np.stack(each, -1).round().astype(np.uint8)
