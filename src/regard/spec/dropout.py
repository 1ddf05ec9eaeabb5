"""Which weights dropout keeps: a function of the seed and of the pair's indices, the same in every backend.

No mask is stored: forward and backward recompute it, in any order and on any number of threads.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from regard.shapes import Box

_MASK_32 = 0xFFFFFFFF


def keeps(seed: int, probability: float, box: Box, keys: Tensor) -> Bool[Tensor, "b h q k"]:
    """Whether each weight of a box is kept; `keys` are the key indices of its columns.

    A 32-bit counter hash of (seed, batch row, head, query, key): each bit of the input changes half of
    the bits of the output. A weight is kept where the hash is at least ``probability · 2³²``.
    """
    b, h, q = (torch.arange(r.start, r.stop, device=keys.device) for r in (box.b, box.h, box.q))
    row = _mix(_mix(_mix(seed + b)[:, None] + h)[:, :, None] + q)
    hashed = _mix(_mix(keys)[None, None, None, :] ^ row[..., None])
    return hashed >= int(probability * 2**32)


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words, as 64-bit integers (the constants are Wellons' "lowbias32", 2018)."""
    x = x & _MASK_32
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK_32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK_32
    return x ^ (x >> 16)
