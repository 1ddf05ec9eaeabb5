"""The meaning of an attention call, in float64 and n² memory: the oracle that every backend agrees with.

Never chosen by ``backend="auto"``; ``backend="reference"`` runs it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regard.backends.prepared import Memory, Prepared, PreparedInPyTorch
from regard.problem import Answer, Problem
from regard.spec.dropout import keeps
from regard.spec.masks import dense
from regard.spec.observers import WeightRows

name = "reference"


def available() -> str | None:
    """Why this backend cannot run on this machine, or None."""
    return None


def why_not(problem: Problem) -> str | None:
    """Why this backend cannot run the call, or None."""
    del problem
    return None


def prepare(problem: Problem, lse: Tensor | None = None, recorded: bool = False) -> Prepared:
    """One call; nothing of it is computed yet."""
    del recorded  # whatever is observed takes a pass over the keys here
    return PreparedInPyTorch(problem, lse, run, memory, torch.float64)


def memory(problem: Problem) -> Memory:
    """Queries that are computed together, and the bytes of scores in memory at a time."""
    sizes = problem.sizes
    return Memory(max(sizes.q, 1), 8 * sizes.b * sizes.h * sizes.q * sizes.k)


def run(problem: Problem) -> Answer:
    """Attention as it is defined, on the whole map at once."""
    clean, bad_queries, bad_keys = problem.finite()
    exact, sizes = clean.cast(torch.float64), clean.sizes
    whole = sizes.pairs
    keys = torch.arange(sizes.k, device=sizes.device)

    scores = exact.score.at(exact.q, exact.k, whole.q, keys) + exact.bias.block(whole)
    scores = scores.masked_fill(~dense(exact.mask, sizes), -torch.inf)
    sees = (scores > -torch.inf).any(-1, keepdim=True)
    rows = torch.where(sees, scores, 0)
    weights = torch.where(sees, exact.normalizer.weigh(rows), 0) if sizes.k else rows
    lse = torch.where(sees[..., 0], exact.normalizer.lse(rows), -torch.inf)
    if bad_queries is not None and bad_keys is not None:
        bad_keys = bad_keys.repeat_interleave(sizes.h // max(sizes.g, 1), dim=1)
        seen = (scores > -torch.inf) & (bad_queries[..., :, None] | bad_keys[..., None, :])
        weights = torch.where(seen.any(-1, keepdim=True), torch.nan, weights)
        lse = torch.where(seen.any(-1), torch.nan, lse)

    after_dropout = weights
    if problem.dropout:
        after_dropout = weights * keeps(problem.seed, problem.dropout, whole, keys) / (1 - problem.dropout)
    values = exact.v.repeat_interleave(sizes.h // max(sizes.g, 1), dim=1)
    out = after_dropout @ values

    block = WeightRows(weights, scores, lambda: lse, whole.q, keys, sizes)
    observed = tuple(observer.of(block) for observer in exact.observers)
    return Answer(out.to(problem.q.dtype), observed)
