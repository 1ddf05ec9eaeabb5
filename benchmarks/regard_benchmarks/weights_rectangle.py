"""A square of the weights far into a long text: regard's `Weights`, and whole rows in PyTorch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from regard.weights import Weights
from regard_benchmarks.cases import CAUSAL, Case
from regard_benchmarks.implementations import Arm, Call, native_not
from regard_benchmarks.inputs import Inputs

SIDE = 256


def sides(case: Case) -> tuple[slice, slice]:
    """Its queries, and its keys before them.

    >>> sides(Case("square", (1, 1, 131072, 64)))
    (slice(65536, 65792, None), slice(32768, 33024, None))
    """
    n = case.shape[2]
    return slice(n // 2, n // 2 + min(SIDE, n // 4)), slice(n // 4, n // 4 + min(SIDE, n // 4))


def _scores(inputs: Inputs) -> Float[Tensor, "b h rows k"]:
    """Of the square's queries to all keys."""
    i, (queries, _) = inputs, sides(inputs.case)
    scores = i.q[:, :, queries] @ i.k.mT * i.q.shape[3] ** -0.5
    if i.case.mask == CAUSAL:
        place = torch.arange(i.case.shape[2])
        scores.masked_fill_(place[queries, None] < place, -torch.inf)
    return scores


def weights(inputs: Inputs) -> Call:
    """`Weights` of the whole call, with the log-sum-exp of the square's rows alone: no other is read."""
    i, (queries, keys) = inputs, sides(inputs.case)
    lse = torch.zeros(i.q.shape[:3])
    lse[:, :, queries] = _scores(i).float().logsumexp(-1)
    whole = Weights.of(i.q, i.k, lse, mask=i.options()["mask"])
    return lambda: (whole[0, 0, queries, keys],)


def rows(inputs: Inputs) -> Call:
    """The softmax of whole rows, and the square out of it."""
    keys = sides(inputs.case)[1]
    return lambda: (_scores(inputs).softmax(-1)[0, 0, :, keys],)


WEIGHTS = Arm("regard Weights", weights, native_not)
ROWS = Arm("PyTorch, whole rows", rows, lambda case: None)
