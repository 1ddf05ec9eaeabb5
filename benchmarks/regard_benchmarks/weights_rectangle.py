"""A rectangle of the weights of a long sequence: regard's `Weights`, and whole rows in PyTorch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from regard.weights import Weights
from regard_benchmarks.cases import CAUSAL, Case
from regard_benchmarks.inputs import Inputs
from regard_benchmarks.methods import Call, Method, why_not_native

SIDE = 256


def rectangle(case: Case) -> tuple[slice, slice]:
    """The queries of the rectangle, and its keys, which come before them.

    >>> rectangle(Case("square", (1, 1, 131072, 64)))
    (slice(65536, 65792, None), slice(32768, 33024, None))
    """
    n = case.shape[2]
    return slice(n // 2, n // 2 + min(SIDE, n // 4)), slice(n // 4, n // 4 + min(SIDE, n // 4))


def _scores(inputs: Inputs) -> Float[Tensor, "b h rows k"]:
    """Scores of the rectangle's queries to all keys."""
    i, (queries, _) = inputs, rectangle(inputs.case)
    scores = i.q[:, :, queries] @ i.k.mT * i.q.shape[3] ** -0.5
    if i.case.mask == CAUSAL:
        position = torch.arange(i.case.shape[2])
        scores.masked_fill_(position[queries, None] < position, -torch.inf)
    return scores


def weights(inputs: Inputs) -> Call:
    """`Weights` of the whole call, with the log-sum-exp of only the rectangle's rows: no other is read."""
    i, (queries, keys) = inputs, rectangle(inputs.case)
    lse = torch.zeros(i.q.shape[:3])
    lse[:, :, queries] = _scores(i).float().logsumexp(-1)
    all_weights = Weights.of(i.q, i.k, lse, mask=i.options()["mask"])
    return lambda: (all_weights[0, 0, queries, keys],)


def whole_rows(inputs: Inputs) -> Call:
    """The softmax of whole rows, and the rectangle of it."""
    keys = rectangle(inputs.case)[1]
    return lambda: (_scores(inputs).softmax(-1)[0, 0, :, keys],)


WEIGHTS = Method("regard Weights", weights, why_not_native)
ROWS = Method("PyTorch, whole rows", whole_rows, lambda case: None)
