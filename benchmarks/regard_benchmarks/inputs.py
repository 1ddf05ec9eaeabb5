"""The tensors of a case, and its mask, bias and the rest as each kind of arm takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.spec.biases import ALiBi, Dense, Relative
from regard.spec.masks import Causal, Documents, Mask, Window
from regard.spec.normalizers import Softmax
from regard.spec.scores import Dot
from regard_benchmarks.cases import (
    ALIBI,
    ASCENDING,
    CAUSAL,
    DENSE,
    DOCUMENTS,
    DROPOUT,
    RELATIVE,
    SINKS,
    SOFTCAP,
    WINDOW,
    Case,
)

CAP = 5.0
"""Where soft-capped scores end: low enough that it shows in scores of random numbers."""

REACH = 128
"""The distance beyond which the learned relative bias stays the same."""


GROWTH = 8.0
"""By how much the last of ascending scores is above the first: low enough that no weight is 0."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensors of a case."""

    case: Case
    q: Float[Tensor, "b h q d"]
    k: Float[Tensor, "b g k d"]
    v: Float[Tensor, "b g k dv"]
    part: Tensor | None
    """What the twist learns: a dense bias (1, h, q, k), a table (h, distances) or sinks (h)."""
    upstream: Float[Tensor, "b h q dv"]
    """The gradient of the output."""

    @classmethod
    def of(cls, case: Case, seed: int = 0) -> Inputs:
        """The same tensors each time.

        >>> Inputs.of(Case("plain", (1, 2, 16, 8))).q.shape
        torch.Size([1, 2, 16, 8])
        """
        random = torch.Generator().manual_seed(seed)
        b, h, n, _ = case.shape
        keys = case.key_shape

        def normal(*sizes: int) -> Tensor:
            made = torch.randn(sizes, generator=random).to(case.dtype)
            return made.requires_grad_(case.backward)

        q, k = normal(*case.shape), normal(*keys)
        if case.twist == ASCENDING:
            _ascend(q, k)
        shapes = {DENSE: (1, h, n, keys[2]), RELATIVE: (h, 2 * REACH + 1), SINKS: (h,)}
        return cls(
            case,
            q=q,
            k=k,
            v=normal(*keys[:3], case.value_size),
            part=normal(*shapes[case.twist]) if case.twist in shapes else None,
            upstream=normal(b, h, n, case.value_size).detach(),
        )

    @property
    def learned(self) -> list[Tensor]:
        """What gets a gradient."""
        return [t for t in (self.q, self.k, self.v, self.part) if t is not None]

    @property
    def dropout(self) -> float:
        return 0.1 if self.case.twist == DROPOUT else 0.0

    @property
    def softcap(self) -> float | None:
        return CAP if self.case.twist == SOFTCAP else None

    def options(self) -> dict[str, Any]:
        """What `regard.attention` takes beside q, k and v."""
        twist, part = self.case.twist, self.part
        found: dict[str, Any] = {"mask": self._mask(), "dropout": self.dropout}
        if twist == DENSE and part is not None:
            found["bias"] = Dense(part)
        if twist == RELATIVE and part is not None:
            found["bias"] = Relative(part)
        if twist == ALIBI:
            found["bias"] = ALiBi(self.case.shape[1])
        if twist == SOFTCAP:
            found["score"] = Dot(softcap=CAP)
        if twist == SINKS:
            found["normalizer"] = Softmax(part)
        return found

    def _mask(self) -> Mask | None:
        span, n = self.case.span, self.case.shape[2]
        if self.case.pattern == DOCUMENTS:
            rest = [n % span] if n % span else []
            return Documents.of_lengths(*[span] * (n // span), *rest)
        return {CAUSAL: Causal(), WINDOW: Causal() & Window(span)}.get(self.case.pattern)

    def visible(self) -> Bool[Tensor, "q k"] | None:
        """The mask as all its pairs, for those who take it so; None where every query sees every key."""
        n, span = self.case.shape[2], self.case.span
        i, j = torch.arange(n)[:, None], torch.arange(n)
        if self.case.pattern == CAUSAL:
            return i >= j
        if self.case.pattern == WINDOW:
            return (i >= j) & (i - j <= span)
        if self.case.pattern == DOCUMENTS:
            return i // span == j // span
        return None

    def bias_map(self) -> Float[Tensor, "1 h q k"] | None:
        """The bias as all its pairs, in a graph that leads back to what is learned."""
        n = self.case.shape[2]
        apart = torch.arange(n)[:, None] - torch.arange(n)
        if self.case.twist == RELATIVE and self.part is not None:
            return self.part[:, apart.clamp(-REACH, REACH) + REACH][None]
        if self.case.twist == ALIBI:
            return (-slopes(self.case.shape[1])[:, None, None] * apart.abs())[None].to(self.q.dtype)
        return self.part if self.case.twist == DENSE else None


@torch.no_grad()
def _ascend(q: Float[Tensor, "b h q d"], k: Float[Tensor, "b g k d"]) -> None:
    """Let the score grow from each key to the next, by `GROWTH` in all: each is the strongest so far.

    In two numbers that also bfloat16 holds exactly, 64 steps of the one in each step of the other.
    """
    n, d = k.shape[2:]
    place = torch.arange(n)
    k[..., 0], k[..., 1] = place // 64, place % 64 / 64
    q.zero_()
    q[..., :2] = GROWTH * 64 / n * d**0.5


def slopes(heads: int) -> Float[Tensor, " h"]:
    """Of ALiBi, for a power of two of heads.

    >>> slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    return 2.0 ** (-8 / heads * torch.arange(1, heads + 1))
