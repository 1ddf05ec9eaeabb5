"""What a call of attention says beside its tensors, as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from regard.errors import DtypeError, OptionError
from regard.shapes import Sizes
from regard.spec.biases import Bias, as_bias
from regard.spec.masks import Mask, as_mask
from regard.spec.normalizers import Normalizer, as_normalizer
from regard.spec.scores import Score, as_score
from regard.spec.values import Value

ScoreFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AttentionSpec(Value):
    """Mask, bias, score, normalizer and dropout of a call. Made by `AttentionSpec.of`, which checks them.

    Scores are scaled and soft-capped; then come bias, mask, normalizer and dropout, in this order.

    >>> from regard.spec.masks import Causal
    >>> AttentionSpec.of(mask=Causal()).score
    Dot(scale=None, softcap=None)
    """

    mask: Mask
    bias: Bias
    score: Score
    normalizer: Normalizer
    dropout: float = 0.0

    @classmethod
    def of(
        cls,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
        score: Score | ScoreFunction | None = None,
        normalizer: Normalizer | None = None,
        dropout: float = 0.0,
    ) -> AttentionSpec:
        """What a caller may give for each part, as values; `regard.attention` describes them.

        Raises:
            RegardError: a part of another type, or a dropout that is no probability.
        """
        if mask is None and bias is None and score is None and normalizer is None and not dropout:
            return _DEFAULT if dropout == 0.0 and not isinstance(dropout, bool) else cls._default_with(dropout)
        if isinstance(mask, Tensor) and mask.dtype != torch.bool and mask.is_floating_point():
            raise DtypeError(
                "mask",
                f"a {mask.dtype} tensor",
                "a Mask or a bool tensor, True = may attend",
                "A float tensor that is added to scores is a bias: bias=tensor.",
            )
        # Without the checks of a dataclass's __init__: this is on the path of every call.
        spec = object.__new__(cls)
        spec.__dict__.update(
            mask=_DEFAULT.mask if mask is None else as_mask(mask),
            bias=_DEFAULT.bias if bias is None else as_bias(bias),
            score=_DEFAULT.score if score is None else as_score(score),
            normalizer=_DEFAULT.normalizer if normalizer is None else as_normalizer(normalizer),
            dropout=_probability(dropout),
        )
        return spec

    @classmethod
    def _default_with(cls, dropout: object) -> AttentionSpec:
        return _DEFAULT._with(dropout=_probability(dropout))

    @property
    def parts(self) -> tuple[Mask, Bias, Score, Normalizer]:
        """Its values, without dropout."""
        return self.mask, self.bias, self.score, self.normalizer

    def bind(self, sizes: Sizes) -> Self:
        default = _DEFAULT
        if self is default:
            return self
        return self._with(
            score=self.score if self.score is default.score else self.score.bind(sizes),
            mask=self.mask if self.mask is default.mask else self.mask.bind(sizes),
            bias=self.bias if self.bias is default.bias else self.bias.bind(sizes),
            normalizer=self.normalizer if self.normalizer is default.normalizer else self.normalizer.bind(sizes),
        )

    def differentiable_tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that may need a gradient: those of score, bias and normalizer."""
        return tuple(t for part in (self.score, self.bias, self.normalizer) for t in part.tensors())

    def with_differentiable_tensors(self, tensors: Sequence[Tensor]) -> Self:
        """The same with other tensors, in the order of `differentiable_tensors`."""
        rest: Iterator[Tensor] = iter(tensors)

        def refilled(part: Any) -> Any:
            return part.with_tensors([next(rest) for _ in part.tensors()])

        score, bias, normalizer = refilled(self.score), refilled(self.bias), refilled(self.normalizer)
        return self._with(score=score, bias=bias, normalizer=normalizer)

    def cast(self, dtype: torch.dtype) -> Self:
        return self._with(
            score=self.score.cast(dtype), bias=self.bias.cast(dtype), normalizer=self.normalizer.cast(dtype)
        )

    def changed(self, **parts: Any) -> Self:
        """The same with other parts, which are values that fit."""
        return self._with(**parts)


def _probability(dropout: object) -> float:
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise OptionError("dropout", repr(dropout), "a probability, 0 ≤ dropout < 1", "Give 0.0 outside training.")
    return float(dropout)


_DEFAULT = AttentionSpec(as_mask(None), as_bias(None), as_score(None), as_normalizer(None))
