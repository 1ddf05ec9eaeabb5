"""The weights of a call as a value: they are never formed, and any part of them can be computed.

A weight follows from its query, its key and the log-sum-exp of its row. So a single weight, a row, a
rectangle, or a map of one at another size, costs what it holds, wherever it is in a text of any length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from regard.backends import prepare
from regard.backends.prepared import Prepared
from regard.errors import OptionError
from regard.lowering.canonical import CanonicalCall
from regard.problem import Problem
from regard.shapes import Box, Keys, Queries
from regard.spec.attention_spec import AttentionSpec, ScoreFunction
from regard.spec.biases import Bias
from regard.spec.masks import Mask
from regard.spec.normalizers import Normalizer, Softmax
from regard.spec.observers import Observer
from regard.spec.scores import Score

Result = TypeVar("Result")
Index = int | slice


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights that some queries give to some keys, (b, h, q, k). Made by `Weights.of`.

    >>> import torch
    >>> from regard import Causal, Pooled, Weights
    >>> q, k = torch.randn(2, 1, 8, 4096, 64).unbind()
    >>> weights = Weights.of(q, k, mask=Causal())
    >>> weights.shape
    torch.Size([1, 8, 4096, 4096])
    >>> weights[0, 3, 4000].sum().round().item(), weights[0, 3, 100:200, 50:80].shape
    (1.0, torch.Size([100, 30]))
    >>> weights.see(Pooled(256, 256, "max", queries=(3072, 4096))).shape
    torch.Size([1, 8, 256, 256])
    """

    prepared: Prepared
    """The call, with one column of the values."""

    @classmethod
    def of(
        cls,
        q: Queries,
        k: Keys,
        lse: Float[Tensor, "b h q"] | None = None,
        *,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
        score: Score | ScoreFunction | None = None,
        normalizer: Normalizer | None = None,
    ) -> Weights:
        """The weights of a call of `attention` with the same arguments.

        Args:
            q, k: Queries and keys.
            lse: The log-sum-exp of each row, where it is known: `observe(…, LogSumExp())` gives it. Without
                it, one pass over all keys finds it.
            mask, bias, score, normalizer: As `attention` has them. The normalizer is a `Softmax`.

        Raises:
            OptionError: a normalizer whose weights do not follow from scores and log-sum-exp.
        """
        return cls.of_spec(q, k, AttentionSpec.of(mask, bias, score, normalizer), lse)

    @classmethod
    def of_spec(
        cls, q: Queries, k: Keys, spec: AttentionSpec, lse: Float[Tensor, "b h q"] | None = None, recorded: bool = False
    ) -> Weights:
        """The same, of a specification; `recorded` as `backends.prepare` has it."""
        problem = Problem.bound(q.detach(), k.detach(), k.detach()[..., :1], spec)
        if not isinstance(problem.normalizer, Softmax):
            raise OptionError(
                "Weights",
                f"normalizer={problem.normalizer!r}",
                "a Softmax",
                "Ask for whole rows: observe(q, k, v, Rows(…), normalizer=…).",
            )
        if lse is not None and lse.shape != q.shape[:3]:
            raise OptionError(
                "Weights(lse=…)",
                f"shape {tuple(lse.shape)}",
                f"{tuple(q.shape[:3])}",
                "It has a number for each query of each head.",
            )
        weights = cls(prepare(problem, lse=lse, recorded=recorded))
        weights.prepared.lse()  # once, while the tensors are as they were given
        return weights

    @property
    def problem(self) -> Problem:
        """The call."""
        return self.prepared.problem

    @property
    def shape(self) -> torch.Size:
        """(b, h, q, k)."""
        return torch.Size((*self.problem.q.shape[:3], self.problem.k.shape[2]))

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Tensor:
        """The weights of some batch rows, heads, queries and keys: numbers or slices, as in a tensor."""
        parts = index if isinstance(index, tuple) else (index,)
        if len(parts) > 4:
            raise OptionError(
                "Weights[…]", f"{len(parts)} indices", "4 at most: batch, head, query, key", "Leave some out."
            )
        parts = (*parts, *(slice(None),) * (4 - len(parts)))
        sides = [_side(part, n, name) for part, n, name in zip(parts, self.shape, _NAMES, strict=True)]
        box = Box(*sides)
        if 0 in [len(side) for side in box]:
            weights = self.prepared.lse().new_zeros([len(side) for side in box])
        else:
            weights = self.prepared.weights(box)
        return weights[tuple(0 if isinstance(part, int) else slice(None) for part in parts)]

    def see(self, observer: Observer[Result]) -> Result:
        """A statistic of the weights; with a rectangle (`Pooled`) or rows, at the cost of those alone."""
        return self.statistics((observer,))[0]

    def statistics(self, observers: Sequence[Observer[Any]]) -> tuple[Any, ...]:
        """Several statistics, in order: all that need a pass over the keys share one."""
        return _each(observers, self.prepared.statistics)

    def head(self, number: int, batch: int = 0) -> HeadWeights:
        """The weights of one head in one batch row, whose maps and statistics cost what that head costs.

        Raises:
            OptionError: a head or a batch row that is not there.
        """
        sides = zip((batch, number), self.shape, _NAMES, strict=False)
        b, h = (_one(i, n, name) for i, n, name in sides)
        return HeadWeights(self, b, h)

    def cut(self, b: range, h: range, q: range) -> Weights | None:
        """Some batch rows, heads and queries as a call of their own, which costs what they cost.

        None where the call cannot be cut. The queries begin at a multiple of 64.
        """
        part = self.prepared.part(b, h, q)
        return None if part is None else Weights(part)

    def rounded(self, dtype: torch.dtype) -> Weights:
        """The weights of queries and keys that are rounded to a dtype: with a log-sum-exp of their own."""
        problem = self.problem
        q, k = problem.q.to(dtype), problem.k.to(dtype)
        return Weights(prepare(replace(problem, q=q, k=k, v=k[..., :1])))

    def reach(self, queries: range) -> range:
        """The keys from the first to the last that any of some queries of the first batch row may see."""
        return self.prepared.reach(queries)

    @property
    def canonical(self) -> CanonicalCall | None:
        """The call in its canonical form, of which every weight follows; None where it has none."""
        return self.prepared.canonical()

    def __repr__(self) -> str:
        return f"Weights{tuple(self.shape)}"


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """The weights that the queries of one head give to its keys, (q, k). Made by `Weights.head`.

    >>> import torch
    >>> from regard import Causal, Entropy, Pooled, Weights
    >>> q, k = torch.randn(2, 1, 8, 1024, 64).unbind()
    >>> head = Weights.of(q, k, mask=Causal()).head(3)
    >>> head[1000].shape, head[100:200, 50:80].shape
    (torch.Size([1024]), torch.Size([100, 30]))
    >>> head.see(Entropy()).shape, head.see(Pooled(64, 64, "max")).shape
    (torch.Size([1024]), torch.Size([64, 64]))
    """

    whole: Weights
    batch: int
    number: int
    """Of the head."""

    @property
    def shape(self) -> torch.Size:
        """(q, k)."""
        return self.whole.shape[2:]

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Tensor:
        """The weights of some queries and keys: numbers or slices, as in a matrix."""
        parts = index if isinstance(index, tuple) else (index,)
        if len(parts) > 2:
            raise OptionError("HeadWeights[…]", f"{len(parts)} indices", "2 at most: query, key", "Leave some out.")
        return self.whole[(self.batch, self.number, *parts)]

    def see(self, observer: Observer[Result]) -> Result:
        """A statistic of the weights, without the dimensions of batch rows and heads."""
        return self.seen((observer,))[observer]

    def seen(self, observers: Sequence[Observer[Any]]) -> dict[Observer[Any], Any]:
        """Several statistics: all that need a pass over the keys share one."""
        weights, place = (self.whole, (self.batch, self.number)) if self._alone is None else (self._alone, (0, 0))
        results = weights.statistics(observers)
        return {observer: one_of(result, place) for observer, result in zip(observers, results, strict=True)}

    @functools.cached_property
    def _alone(self) -> Weights | None:
        b, h = self.batch, self.number
        return self.whole.cut(range(b, b + 1), range(h, h + 1), range(self.shape[0]))

    def __repr__(self) -> str:
        return f"HeadWeights{tuple(self.shape)}"


_NAMES = "batch rows", "heads", "queries", "keys"


def one_of(result: Any, place: tuple[int, int]) -> Any:
    """Of a statistic of all heads that of one; some have several tensors."""
    if isinstance(result, Tensor):
        return result[place]
    if isinstance(result, tuple):
        whole = cast("tuple[Any, ...]", result)
        parts = [one_of(part, place) for part in whole]
        return type(whole)(*parts) if hasattr(whole, "_fields") else tuple(parts)
    return result


def _each(
    observers: Sequence[Observer[Any]], statistics: Callable[[Sequence[Observer[Any]]], tuple[Any, ...]]
) -> tuple[Any, ...]:
    """The statistics of observers, of which some may be equal."""
    distinct = [*dict.fromkeys(observers)]
    results = dict(zip(distinct, statistics(distinct), strict=True))
    return tuple(results[observer] for observer in observers)


def _one(part: object, n: int, name: str) -> int:
    return _side(None if isinstance(part, slice) else part, n, name)[0]


def _side(part: object, n: int, name: str) -> range:
    text = repr(part)
    if isinstance(part, slice) and (some := cast("slice[Any, Any, Any]", part)).step in (None, 1):
        start, stop, _ = some.indices(n)
        return range(start, stop) if start < stop else range(0)
    if isinstance(part, int) and not isinstance(part, bool) and -n <= part < n:
        return range(part % n, part % n + 1)
    allowed = f"for {name} a number from {-n} to {n - 1}, or a slice without a step"
    raise OptionError("Weights[…]", text, allowed, "Count from 0; of a slice, take every so many from what comes out.")
