"""Maps of weights as pictures: pooled further, on a log scale, in the colours of viridis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

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


def scale_for(how: str, values: Float[ndarray, "rows cols"]) -> Scale:
    """Maxima on one scale up to 1, so that heads compare; means up to the greatest of the map."""
    return Scale(1.0 if how == "max" else max(float(values.max()), 1e-12))


def shrink(values: Float[ndarray, "rows cols"], rows: int, cols: int) -> Float[ndarray, "r c"]:
    """A map of maxima with at most so many rows and columns, by whole factors."""
    for axis, most in enumerate((rows, cols)):
        factor = -(-values.shape[axis] // most)
        starts = np.arange(0, values.shape[axis], factor)
        values = np.maximum.reduceat(values, starts, axis=axis)
    return values


def viridis(levels: int = 255) -> UInt8[ndarray, "levels 3"]:
    """The colours of level 1 to `levels`, from dark to light.

    >>> viridis()[0].tolist(), viridis()[-1].tolist()
    ([68, 1, 84], [253, 231, 37])
    """
    stops = np.frombuffer(_STOPS, np.uint8).reshape(-1, 3)
    places = np.linspace(0, len(stops) - 1, levels)
    each = [np.interp(places, np.arange(len(stops)), stops[:, i]) for i in range(3)]
    return np.stack(each, -1).round().astype(np.uint8)
