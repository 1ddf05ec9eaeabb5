"""The shape of the embedded model: small enough for 8 MB, and of a kind that keeps to any length.

Three kinds of layer. The first sees 32 tokens with a learned number for each distance, which is all that a
previous-token head needs. `local` layers see 128 tokens with rotary positions: what they compute does not
depend on how long the text is. `far` layers see everything behind them, with linear biases that fade
from a few tokens to a few thousand, and so keep their meaning beyond the lengths of training (Press et al.,
2022). Twelve of 30 heads are far, so 25,000 tokens stay cheap to look at.
"""

from __future__ import annotations

import torch
from torch import nn

from regard.nn import MultiHeadAttention, Transformer
from regard.positions import Rotary
from regard.spec.biases import ALiBi, Relative
from regard.spec.masks import Causal, Window

WIDTH, HEADS = 192, 6
LAYERS = ("near", "local", "far", "local", "far")
NEAR, LOCAL = 32, 128
# A head fades to 1/e over 4, 16, 64, 256, 1024 and 2048 tokens.
SLOPES = tuple(2.0**-power for power in (2, 4, 6, 8, 10, 11))


def build(vocabulary: int) -> Transformer:
    """A fresh model; `torch.manual_seed` fixes its weights.

    >>> sum(p.numel() for p in build(4096).parameters()) < 4_000_000
    True
    """
    return Transformer(vocabulary, [_layer(kind) for kind in LAYERS])


def _layer(kind: str) -> MultiHeadAttention:
    match kind:
        case "near":
            return MultiHeadAttention(
                WIDTH,
                HEADS,
                qk_norm=nn.RMSNorm,
                mask=Causal() & Window(NEAR - 1),
                bias=Relative.learned(HEADS, max_distance=NEAR),
            )
        case "local":
            return MultiHeadAttention(
                WIDTH, HEADS, qk_norm=nn.RMSNorm, mask=Causal() & Window(LOCAL - 1), position=Rotary()
            )
        case _:
            return MultiHeadAttention(
                WIDTH, HEADS, qk_norm=nn.RMSNorm, mask=Causal(), bias=ALiBi(slopes=torch.tensor(SLOPES))
            )
