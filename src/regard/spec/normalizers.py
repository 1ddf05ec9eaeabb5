"""Normalizers: from a row of scores to a row of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from regard.errors import DtypeError, OptionError, ShapeError
from regard.shapes import Sizes
from regard.spec.values import Value

_TINY = 1e-30  # keeps the gradient of a square root at 0 finite

Rows = Float[Tensor, "b h q k"]


@dataclass(frozen=True)
class Normalizer(Value):
    """What turns the scores of a row into weights. A score of −inf always gets the weight 0.

    No row is all −inf: backends handle rows that see nothing, with weights of zero.
    """

    def weigh(self, scores: Rows) -> Rows:
        """The weights of each row."""
        raise NotImplementedError

    def lse(self, scores: Rows) -> Float[Tensor, "b h q"]:
        """The log-sum-exp of each row of scores."""
        return torch.logsumexp(scores, dim=-1)

    def heads(self, h: range) -> Self:
        """The part of this normalizer that these query heads need."""
        del h
        return self


@dataclass(frozen=True, eq=False)
class Softmax(Normalizer):
    """exp(score) over the sum of exp(scores): between 0 and 1, each row sums to 1.

    A `sink` is a logit for each head that is part of the sum and has no value (gpt-oss, 2025; a fixed
    0 is "softmax off by one"): a head can then attend to nothing. The weights of a row sum to less than 1,
    and lse includes the sink.
    """

    sink: Float[Tensor, " h"] | None = None

    @classmethod
    def with_learned_sink(cls, heads: int) -> Self:
        """With a fresh parameter of zeros for each head."""
        return cls(Parameter(torch.zeros(heads)))

    def bind(self, sizes: Sizes) -> Self:
        if self.sink is not None and self.sink.shape != (sizes.h,):
            raise ShapeError(
                "Softmax(sink=…)",
                f"shape {tuple(self.sink.shape)}",
                f"({sizes.h},), one logit for each head of q",
                "Expand a shared sink with .expand(heads).",
            )
        return super().bind(sizes)

    def weigh(self, scores: Rows) -> Rows:
        if self.sink is None:
            return torch.softmax(scores, dim=-1)
        return torch.softmax(self._with_sink(scores), dim=-1)[..., :-1]

    def lse(self, scores: Rows) -> Float[Tensor, "b h q"]:
        return torch.logsumexp(scores if self.sink is None else self._with_sink(scores), dim=-1)

    def heads(self, h: range) -> Self:
        return self if self.sink is None else replace(self, sink=self.sink[h.start : h.stop])

    def _with_sink(self, scores: Rows) -> Float[Tensor, "b h q keys_and_sink"]:
        assert self.sink is not None
        return torch.cat((scores, self.sink[:, None, None].expand(*scores.shape[:-1], 1)), dim=-1)


@dataclass(frozen=True)
class Sigmoid(Normalizer):
    """sigmoid(score + shift), each weight by itself; rows need not sum to 1 (Ramapuram et al., 2024).

    `shift` None is −log(number of keys), as the paper advises, so that a fresh row sums to about 1.
    """

    shift: float | None = None

    def __post_init__(self) -> None:
        if self.shift is not None and not math.isfinite(self.shift):
            raise OptionError(
                "Sigmoid(shift=…)", self.shift, "a finite number or None", "None is −log(number of keys)."
            )

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        return bound if self.shift is not None else replace(bound, shift=-math.log(max(sizes.k, 1)))

    def weigh(self, scores: Rows) -> Rows:
        assert self.shift is not None, "Sigmoid was used before bind()"
        return torch.sigmoid(scores + self.shift)


@dataclass(frozen=True)
class Sparsemax(Normalizer):
    """The point of the simplex nearest to the scores; most weights are 0 (Martins et al., 2016)."""

    def weigh(self, scores: Rows) -> Rows:
        z = _below_maximum(scores, 1.0)
        ordered = z.detach().sort(dim=-1, descending=True).values
        count = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
        inside = 1 + count * ordered > ordered.cumsum(-1)
        size = inside.sum(-1, keepdim=True)
        smallest = ordered.gather(-1, size - 1)
        # The threshold is recomputed with a fixed support, so that its gradient is exact.
        total = torch.where(z >= smallest, z, 0).sum(-1, keepdim=True)
        support = (z >= smallest).sum(-1, keepdim=True)
        return (z - (total - 1) / support).clamp(min=0)


@dataclass(frozen=True)
class Entmax15(Normalizer):
    """Between softmax and sparsemax: smooth, and sparse in its tails (Peters, Niculae, Martins, 2019)."""

    def weigh(self, scores: Rows) -> Rows:
        z = _below_maximum(scores, 2.0) / 2
        ordered = z.detach().sort(dim=-1, descending=True).values
        count = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
        mean = ordered.cumsum(-1) / count
        spread = (ordered.square().cumsum(-1) / count - mean.square()) * count
        threshold = mean - ((1 - spread) / count).clamp(min=0).sqrt()
        size = (threshold <= ordered).sum(-1, keepdim=True)
        inside = z >= ordered.gather(-1, size - 1)
        # As in sparsemax: the threshold is recomputed, differentiably, on the fixed support.
        support = inside.sum(-1, keepdim=True)
        mean = torch.where(inside, z, 0).sum(-1, keepdim=True) / support
        spread = torch.where(inside, (z - mean).square(), 0).sum(-1, keepdim=True)
        threshold = mean - ((1 - spread) / support).clamp(min=_TINY).sqrt()
        return (z - threshold).clamp(min=0).square()


def as_normalizer(normalizer: object) -> Normalizer:
    """The argument `normalizer` of a call as a `Normalizer`."""
    if normalizer is None:
        return Softmax()
    if isinstance(normalizer, Normalizer):
        return normalizer
    raise DtypeError(
        "normalizer",
        f"a {type(normalizer).__name__}",
        "a Normalizer or None",
        "None is Softmax(); others are Sigmoid(), Sparsemax(), Entmax15().",
    )


def _below_maximum(scores: Rows, reach: float) -> Rows:
    """Scores minus the maximum of their row. Scores more than `reach` below it have no weight, whatever their
    value, and are clamped just beyond it, so that −inf does not make the sums non-finite."""
    z = scores - scores.amax(-1, keepdim=True).detach()
    return torch.where(z > -reach, z, -reach - 1)
