"""Which weights dropout keeps: a function of the seed and of the pair's place, the same in every backend.

Nothing is stored: forward and backward, in whatever order and on however many threads they run, ask again.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from regard.shapes import Box

_WORD = 0xFFFFFFFF


def keeps(seed: int, probability: float, box: Box, keys: Tensor) -> Bool[Tensor, "b h q k"]:
    """Whether each weight of a box stays; `keys` are the key indices of its columns.

    A 32-bit counter hash of (seed, batch row, head, query, key): each bit of the input changes half of
    the bits of the output. A weight stays where the word is at or above ``probability · 2³²``.
    """
    b, h, q = (torch.arange(r.start, r.stop, device=keys.device) for r in (box.b, box.h, box.q))
    row = _mix(_mix(_mix(seed + b)[:, None] + h)[:, :, None] + q)
    word = _mix(_mix(keys)[None, None, None, :] ^ row[..., None])
    return word >= int(probability * 2**32)


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words, as 64-bit integers (the constants are Wellons' "lowbias32", 2018)."""
    x = x & _WORD
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)
