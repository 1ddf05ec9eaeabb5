"""The statistics of a case: as observers, and in plain PyTorch from the whole weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from regard.spec.observers import Entropy, MeanDistance, Observer, Pooled, Received, SpanMass, TopK
from regard_benchmarks.cases import PENALTY, SIX, Case

TOP, SPANS, MAP = 8, 16, 512
"""The number of strongest keys, the number of spans of keys, and the sides of the map."""


def observers(case: Case) -> tuple[Observer[Any], ...]:
    """The observers of a case, in order.

    >>> observers(Case("statistics", (1, 1, 64, 8), seen=PENALTY)), observers(Case("plain", (1, 1, 64, 8)))
    ((Entropy(),), ())
    """
    if case.seen in ("", PENALTY):
        return (Entropy(),) if case.seen else ()
    four = (Entropy(), TopK(TOP), MeanDistance(), SpanMass(*_spans(case)))
    return (*four, Received(), Pooled(MAP, MAP)) if case.seen == SIX else four


def statistics_in_pytorch(case: Case) -> Callable[[Tensor], Iterator[Tensor]]:
    """The same statistics from the weights, in the same order. What depends on sizes alone is computed once."""
    if case.seen in ("", PENALTY):
        return lambda weights: iter((_entropy(weights),) if case.seen else ())
    spans, n = _spans(case), case.shape[2]
    position = torch.arange(n)
    distance = (position[:, None] - position).abs().to(case.dtype)

    def call(weights: Tensor) -> Iterator[Tensor]:
        yield _entropy(weights)
        top = weights.topk(TOP)
        yield from (top.indices, top.values)
        yield (weights * distance).sum(-1)
        yield torch.stack([weights[..., start:stop].sum(-1) for start, stop in spans], -1)
        if case.seen == SIX:
            yield weights.sum(-2)
            yield functional.adaptive_avg_pool2d(weights, min(MAP, n))

    return call


def _spans(case: Case) -> list[tuple[int, int]]:
    return [*itertools.pairwise(case.key_shape[2] * i // SPANS for i in range(SPANS + 1))]


def _entropy(weights: Tensor) -> Tensor:
    if not weights.requires_grad:
        return torch.special.entr(weights).sum(-1)
    # The gradient of entr is not finite at 0, where masked keys are.
    return -(weights * weights.clamp(min=torch.finfo(weights.dtype).tiny).log()).sum(-1)
