"""The weights of a call as a value: they are never formed, and any part of them can be had.

A weight follows from its query, its key and the log-sum-exp of its row. So a single weight, a row, a
rectangle, or a map of one at another size, costs what it holds, wherever in a text of any length it lies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from regard.backends import choose, chunked, native
from regard.errors import OptionError
from regard.lowering import canonical
from regard.lowering.reductions import lower, results
from regard.lowering.tiles import SIDE, Tabled
from regard.problem import Problem
from regard.shapes import Box, Keys, Queries
from regard.spec.biases import Bias
from regard.spec.masks import Mask
from regard.spec.normalizers import Normalizer, Softmax
from regard.spec.observers import LogSumExp, Observer, Pooled, Received, Rows
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

    problem: Problem
    """The call; of the values, one column that nobody reads."""
    rows: Float[Tensor, "n b h q"]
    """Of each row its log-sum-exp, and what else the backend keeps."""

    @classmethod
    def of(
        cls,
        q: Queries,
        k: Keys,
        lse: Float[Tensor, "b h q"] | None = None,
        *,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
        score: Score | Callable[[Tensor, Tensor], Tensor] | None = None,
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
        problem = Problem.of(
            q.detach(),
            k.detach(),
            k.detach()[..., :1],
            (LogSumExp(),),
            mask=mask,
            bias=bias,
            score=score,
            normalizer=normalizer,
        )
        if not isinstance(problem.normalizer, Softmax):
            raise OptionError(
                "Weights",
                f"normalizer={problem.normalizer!r}",
                "a Softmax",
                "Ask for whole rows: observe(q, k, v, Rows(…), normalizer=…).",
            )
        with torch.no_grad():
            runs = native.why_not(problem) is None and 0 not in problem.sizes[:5]
            if lse is None and runs:
                return cls(problem, native.forward(problem)[1])
            if lse is None:
                backend, _ = choose(problem)
                lse = backend.run(problem).observed[0][0]
            assert lse is not None, "found or given"
            if lse.shape != q.shape[:3]:
                raise OptionError(
                    "Weights(lse=…)",
                    f"shape {tuple(lse.shape)}",
                    f"{tuple(q.shape[:3])}",
                    "It has a number for each query of each head.",
                )
            return cls(problem, native.rows_of(problem, lse) if runs else lse[None])

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
        found = self._box(Box(*sides))
        kept = tuple(0 if isinstance(part, int) else slice(None) for part in parts)
        return found[kept]

    def see(self, observer: Observer[Result]) -> Result:
        """A statistic of the weights; with a rectangle (`Pooled`) or rows, at the cost of those alone."""
        bound = observer.bind(self.problem.sizes)
        asked = replace(self.problem, observers=(bound,))
        with torch.no_grad():
            if isinstance(observer, Received | Pooled | Rows) and native.why_not(asked) is None:
                found = native.revisit(asked, self.rows, self.formed)
                (tensors,) = results(lower((bound,), asked.sizes), self.rows[0], found)
            else:
                backend, _ = choose(asked)
                (tensors,) = backend.run(asked).observed
        return cast("Observer[Any]", bound).result(*tensors)

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

        A cut of the kernels' normal form: None where they do not take the call. The queries begin where tiles
        of masks do, at a multiple of 64.
        """
        if native.why_not(self.problem) is not None or 0 in self.shape:
            return None
        assert q.start % SIDE == 0, "cuts begin where tiles do"
        form, tensors = self.formed
        sizes, mask = form.sizes, self._tabled
        repeats = sizes.h // sizes.g
        g = range(h.start // repeats, (h.stop - 1) // repeats + 1)
        own = sizes._replace(b=len(b), h=len(h), g=len(g), q=len(q), dv=1)
        k = _part(tensors.k, b, g)
        table, pairs, sink = tensors.table, tensors.pairs, tensors.sink
        if table is not None:
            table = _part(table, h)[:, q.start : q.stop + sizes.k - 1].contiguous()
        parts = canonical.Tensors(
            _part(tensors.q, b, h, q),
            k,
            k[..., :1],
            table,
            None if pairs is None else _part(pairs, b, h, q),
            None if sink is None else _part(sink, h),
        )
        tiles = range(q.start // SIDE, -(-q.stop // SIDE))
        runs, kinds = (
            None if whole is None else _part(whole, b, h, rows).contiguous()
            for whole, rows in ((mask.runs, q), (mask.kinds, tiles))
        )
        form = form._replace(sizes=own, mask=Tabled(runs, kinds, mask.words))
        rows = self.rows[:, b.start : b.stop, h.start : h.stop, q.start : q.stop].contiguous()
        return Weights(canonical.problem(form, parts, ()), rows)

    @functools.cached_property
    def _tabled(self) -> Tabled:
        return Tabled.of(self.problem.mask, self.problem.sizes)

    @functools.cached_property
    def formed(self) -> native.Formed:
        """What the kernels take, made once: masks and biases of long texts take longer than a part."""
        with torch.no_grad():
            return canonical.form(self.problem)

    def _box(self, box: Box) -> Tensor:
        with torch.no_grad():
            if 0 in [len(side) for side in box]:
                return self.rows.new_zeros([len(side) for side in box])
            if native.why_not(self.problem) is None:
                return native.weights(self.problem, self.rows, box, self.formed)
            return chunked.weights(self.problem, self.rows[0], box)

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
        alone = [*filter(lambda one: isinstance(one, Received | Pooled | Rows), observers)]
        found: dict[Observer[Any], Any] = {one: weights.see(one) for one in alone}
        if passing := [one for one in observers if one not in found]:
            bound = tuple(one.bind(weights.problem.sizes) for one in passing)
            asked = replace(weights.problem, observers=bound)
            with torch.no_grad():
                answer = choose(asked)[0].run(asked).observed
            results = zip(passing, bound, answer, strict=True)
            found |= {one: mine.result(*tensors) for one, mine, tensors in results}
        return {one: one_of(found[one], place) for one in observers}

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
        parts = [one_of(one, place) for one in whole]
        return type(whole)(*parts) if hasattr(whole, "_fields") else tuple(parts)
    return result


def _part(tensor: Tensor, *sides: range) -> Tensor:
    """A part of each of the first dimensions, or all of one that is shared."""
    for dim, side in enumerate(sides):
        if tensor.shape[dim] != 1:
            tensor = tensor.narrow(dim, side.start, len(side))
    return tensor


def _one(part: object, n: int, name: str) -> int:
    return _side(None if isinstance(part, slice) else part, n, name)[0]


def _side(part: object, n: int, name: str) -> range:
    given = repr(part)
    if isinstance(part, slice) and (some := cast("slice[Any, Any, Any]", part)).step in (None, 1):
        start, stop, _ = some.indices(n)
        return range(start, stop) if start < stop else range(0)
    if isinstance(part, int) and not isinstance(part, bool) and -n <= part < n:
        return range(part % n, part % n + 1)
    allowed = f"for {name} a number from {-n} to {n - 1}, or a slice without a step"
    raise OptionError("Weights[…]", given, allowed, "Count from 0; of a slice, take every so many from what comes out.")
