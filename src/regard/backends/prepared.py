"""One call, lowered once: what a backend prepares, and what every caller uses of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from regard.lowering.canonical import CanonicalCall
from regard.problem import Answer, Problem
from regard.shapes import Box
from regard.spec.observers import LogSumExp, Observer


class Memory(NamedTuple):
    """How much of the scores is in memory."""

    queries: int
    """Queries that are computed together."""
    scores: int
    """Bytes of scores at a time."""


@runtime_checkable
class Prepared(Protocol):
    """A call that a backend runs. Nothing is computed before a method needs it."""

    problem: Problem

    def forward(self) -> Answer:
        """The output and the statistics of the problem's observers, differentiable."""
        ...

    def save(self) -> tuple[Tensor, Tensor]:
        """The output and three numbers of each row, (3, b, h, q), without autograd: for a graph's backward pass."""
        ...

    def resume(self, out: Tensor, rows: Tensor) -> Answer:
        """`forward`, with gradients, from what `save` returned."""
        ...

    def statistics(self, observers: Sequence[Observer[Any]]) -> tuple[Any, ...]:
        """The result of each observer, without gradients; one pass or two is the planner's decision."""
        ...

    def weights(self, box: Box) -> Tensor:
        """The softmax weights of any rectangle, (b, h, q, k), at the cost of the rectangle."""
        ...

    def lse(self) -> Tensor:
        """The log-sum-exp of each row of scores, (b, h, q)."""
        ...

    def memory(self) -> Memory:
        """How much of the scores is in memory."""
        ...

    def part(self, b: range, h: range, q: range) -> Prepared | None:
        """Some batch rows, heads and queries at their own cost; None where the backend cannot cut a call."""
        ...

    def reach(self, queries: range) -> range:
        """The keys from the first to the last that any of some queries may see, or all keys."""
        ...

    def canonical(self) -> CanonicalCall | None:
        """The canonical form (`lowering/canonical.py`); None where the call has none."""
        ...


def thin(problem: Problem) -> Problem:
    """The same call with one column of the values: for statistics, which do not depend on them."""
    if problem.sizes.dv <= 1:
        return problem
    return replace(problem, v=problem.v[..., :1], sizes=problem.sizes._replace(dv=1))


class PreparedInPyTorch:
    """A call that plain PyTorch runs: nothing is lowered, and it cannot be cut."""

    def __init__(
        self,
        problem: Problem,
        lse: Tensor | None,
        run: Callable[[Problem], Answer],
        memory: Callable[[Problem], Memory],
        dtype: torch.dtype,
    ) -> None:
        self.problem = problem
        self._given_lse, self._run, self._memory, self._dtype = lse, run, memory, dtype

    def forward(self) -> Answer:
        return self._run(self.problem)

    def save(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            out = self._run(replace(self.problem, observers=())).out
        return out, torch.zeros((3, *self.problem.q.shape[:3]), dtype=torch.float32, device=out.device)

    def resume(self, out: Tensor, rows: Tensor) -> Answer:
        del out, rows  # the backward pass recomputes blocks by itself
        return self.forward()

    def statistics(self, observers: Sequence[Observer[Any]]) -> tuple[Any, ...]:
        problem = thin(self.problem).observing(*observers)
        with torch.no_grad():
            answer = self._run(problem)
        pairs = zip(problem.observers, answer.observed, strict=True)
        return tuple(observer.result(*tensors) for observer, tensors in pairs)

    def weights(self, box: Box) -> Tensor:
        with torch.no_grad():
            exact = self.problem.cast(self._dtype)
            sizes = exact.sizes
            if not (len(box.q) and len(box.k)):
                return self._lse.new_zeros([len(side) for side in box])
            heads = torch.arange(box.h.start, box.h.stop, device=sizes.device) // max(sizes.h // max(sizes.g, 1), 1)
            q = exact.q[box.b.start : box.b.stop, box.h.start : box.h.stop, box.q.start : box.q.stop]
            k = exact.k[box.b.start : box.b.stop, :, box.k.start : box.k.stop][:, heads]
            keys = torch.arange(box.k.start, box.k.stop, device=sizes.device)
            scores = exact.score.heads(box.h).at(q, k, box.q, keys) + exact.bias.cut(box.b, box.h, box.q).block(box)
            scores = scores.masked_fill(~exact.mask.block(box, sizes.device), -torch.inf)
            lse = self._lse[box.b.start : box.b.stop, box.h.start : box.h.stop, box.q.start : box.q.stop, None]
            return torch.where(lse == -torch.inf, 0, (scores - lse).exp()).to(lse.dtype)

    def lse(self) -> Tensor:
        return self._lse

    @functools.cached_property
    def _lse(self) -> Tensor:
        return self.statistics((LogSumExp(),))[0] if self._given_lse is None else self._given_lse

    def memory(self) -> Memory:
        return self._memory(self.problem)

    def part(self, b: range, h: range, q: range) -> Prepared | None:
        return None

    def reach(self, queries: range) -> range:
        return range(self.problem.sizes.k)

    def canonical(self) -> CanonicalCall | None:
        return None
