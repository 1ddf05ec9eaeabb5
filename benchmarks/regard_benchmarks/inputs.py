"""The tensors of a case, and its mask, bias and the rest as each kind of method takes them."""

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
"""The bound of soft-capped scores: low enough to change scores of random numbers."""

MAX_DISTANCE = 128
"""The distance beyond which the learned relative bias is constant."""

ASCENT = 8.0
"""The difference between the last and the first of ascending scores: small enough that no weight is 0."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensors of a case."""

    case: Case
    q: Float[Tensor, "b h q d"]
    k: Float[Tensor, "b g k d"]
    v: Float[Tensor, "b g k dv"]
    parameter: Tensor | None
    """What the feature learns: a dense bias (1, h, q, k), a table (h, distances) or sinks (h)."""
    grad_output: Float[Tensor, "b h q dv"]
    """The gradient of the output."""

    @classmethod
    def of(cls, case: Case, seed: int = 0) -> Inputs:
        """The same tensors for the same seed.

        >>> Inputs.of(Case("plain", (1, 2, 16, 8))).q.shape
        torch.Size([1, 2, 16, 8])
        """
        random = torch.Generator().manual_seed(seed)
        b, h, n, _ = case.shape
        keys = case.key_shape

        def normal(*sizes: int) -> Tensor:
            values = torch.randn(sizes, generator=random).to(case.dtype)
            return values.requires_grad_(case.backward)

        q, k = normal(*case.shape), normal(*keys)
        if case.twist == ASCENDING:
            _make_scores_ascend(q, k)
        shapes = {DENSE: (1, h, n, keys[2]), RELATIVE: (h, 2 * MAX_DISTANCE + 1), SINKS: (h,)}
        return cls(
            case,
            q=q,
            k=k,
            v=normal(*keys[:3], case.value_size),
            parameter=normal(*shapes[case.twist]) if case.twist in shapes else None,
            grad_output=normal(b, h, n, case.value_size).detach(),
        )

    @property
    def differentiable(self) -> list[Tensor]:
        """The tensors that get a gradient."""
        return [t for t in (self.q, self.k, self.v, self.parameter) if t is not None]

    @property
    def dropout(self) -> float:
        return 0.1 if self.case.twist == DROPOUT else 0.0

    @property
    def softcap(self) -> float | None:
        return CAP if self.case.twist == SOFTCAP else None

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `regard.attention`."""
        twist, parameter = self.case.twist, self.parameter
        options: dict[str, Any] = {"mask": self._mask(), "dropout": self.dropout}
        if twist == DENSE and parameter is not None:
            options["bias"] = Dense(parameter)
        if twist == RELATIVE and parameter is not None:
            options["bias"] = Relative(parameter)
        if twist == ALIBI:
            options["bias"] = ALiBi(self.case.shape[1])
        if twist == SOFTCAP:
            options["score"] = Dot(softcap=CAP)
        if twist == SINKS:
            options["normalizer"] = Softmax(parameter)
        return options

    def _mask(self) -> Mask | None:
        span, n = self.case.span, self.case.shape[2]
        if self.case.pattern == DOCUMENTS:
            rest = [n % span] if n % span else []
            return Documents.of_lengths(*[span] * (n // span), *rest)
        return {CAUSAL: Causal(), WINDOW: Causal() & Window(span)}.get(self.case.pattern)

    def visible(self) -> Bool[Tensor, "q k"] | None:
        """The mask as a matrix of all pairs; None where every query sees every key."""
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
        """The bias as a matrix of all pairs, differentiable in the learned parameter."""
        n = self.case.shape[2]
        distance = torch.arange(n)[:, None] - torch.arange(n)
        if self.case.twist == RELATIVE and self.parameter is not None:
            return self.parameter[:, distance.clamp(-MAX_DISTANCE, MAX_DISTANCE) + MAX_DISTANCE][None]
        if self.case.twist == ALIBI:
            return (-slopes(self.case.shape[1])[:, None, None] * distance.abs())[None].to(self.q.dtype)
        return self.parameter if self.case.twist == DENSE else None


@torch.no_grad()
def _make_scores_ascend(q: Float[Tensor, "b h q d"], k: Float[Tensor, "b g k d"]) -> None:
    """Let the score grow from each key to the next, by `ASCENT` in all: each is the largest so far.

    Two components of k count the keys, 64 to a step of the first, so that bfloat16 represents both exactly.
    """
    n, d = k.shape[2:]
    position = torch.arange(n)
    k[..., 0], k[..., 1] = position // 64, position % 64 / 64
    q.zero_()
    q[..., :2] = ASCENT * 64 / n * d**0.5


def slopes(heads: int) -> Float[Tensor, " h"]:
    """The slopes of ALiBi, for a power of two of heads.

    >>> slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    return 2.0 ** (-8 / heads * torch.arange(1, heads + 1))
