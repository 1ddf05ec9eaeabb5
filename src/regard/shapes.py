"""The dimensions of an attention call. Tensors are always (batch, heads, sequence, head size).

======  =========================================================
letter  dimension
======  =========================================================
``b``   batch
``h``   query heads
``g``   key and value heads; ``h`` is a multiple of ``g``
``q``   query positions
``k``   key positions
``d``   head size of queries and keys
``dv``  head size of values
======  =========================================================
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Queries = Float[Tensor, "b h q d"]
Keys = Float[Tensor, "b g k d"]
Values = Float[Tensor, "b g k dv"]
Output = Float[Tensor, "b h q dv"]


class Sizes(NamedTuple):
    """The sizes of one call, and the device of its tensors."""

    b: int
    h: int
    g: int
    q: int
    k: int
    d: int
    dv: int
    device: torch.device

    @property
    def offset(self) -> int:
        """What to add to a query's index to get its position among the keys.

        The last query is at the position of the last key, as decoding with a cache needs.
        """
        return self.k - self.q

    @property
    def pairs(self) -> Box:
        """Every pair of the call."""
        return Box(range(self.b), range(self.h), range(self.q), range(self.k))


class Box(NamedTuple):
    """A block of query-key pairs: half-open ranges of batch, heads, queries and keys, none empty."""

    b: range
    h: range
    q: range
    k: range

    def indices(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Batch row, head, query and key of each pair: four index tensors that broadcast to (b, h, q, k)."""
        b, h, q, k = (torch.arange(part.start, part.stop, device=device) for part in self)
        return b[:, None, None, None], h[:, None, None], q[:, None], k


def broadcasts_to(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether the tensor broadcasts to exactly this shape."""
    if tensor.ndim > len(shape):
        return False
    sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    return all(size in (1, needed) for size, needed in sizes)


def empty_with_layout_of(t: Tensor, rows: int, columns: int) -> Tensor:
    """An uninitialized (b, h, rows, columns) tensor with the memory layout of `t`.

    Where `t` stores heads within rows, as the output of a projection does, so does the result.
    """
    if t.is_contiguous() and t.size(3) == columns and t.size(2) == rows:
        return torch.empty_like(t)
    b, h = t.shape[:2]
    of_b, of_h, of_row, _ = t.stride()
    if h > 1 and of_h < of_row <= of_b:
        return t.new_empty((b, rows, h, columns)).transpose(1, 2)
    return t.new_empty((b, h, rows, columns))
