"""Statistics of the weights, computed without forming the weights.

An observer is a value with one meaning, `Observer.of`: its statistic of a block of whole rows. The whole call is
one such block in the reference; elsewhere there are many, and `Observer.join` joins their statistics.
Statistics are of the weights before dropout. `regard.observe` returns each under its observer:

>>> from regard import observe, Causal
>>> q = k = v = torch.ones(1, 1, 4, 8)
>>> seen = observe(q, k, v, Entropy(), TopK(2), mask=Causal())
>>> seen[Entropy()].exp().round().tolist()
[[[1.0, 2.0, 3.0, 4.0]]]
>>> seen[TopK(2)].keys.tolist()
[[[[0, -1], [0, 1], [0, 1], [0, 1]]]]
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import OptionError
from regard.shapes import Sizes
from regard.spec.values import Aligned, Value, readable

Result = TypeVar("Result")
Shares = tuple[Float[Tensor, "b h q"], Float[Tensor, "b h q"]]


@dataclass(frozen=True)
class WeightRows:
    """A block of whole rows of weights: those of some queries, to all keys that they may see.

    Keys that none of these queries may see can be absent; `keys` is the index of each that is present.
    """

    weights: Float[Tensor, "b h q k"]
    scores: Float[Tensor, "b h q k"]
    log_sum_exp: Callable[[], Float[Tensor, "b h q"]]
    queries: range
    keys: Int[Tensor, " k"]
    sizes: Sizes

    @functools.cached_property
    def lse(self) -> Float[Tensor, "b h q"]:
        """The log-sum-exp of each row of scores; −inf where a row sees nothing."""
        return self.log_sum_exp()

    def positions(self, offset: int) -> Int[Tensor, " q"]:
        """The key position of each query, if the first query is at key `offset`."""
        start, stop = self.queries.start, self.queries.stop
        return torch.arange(start + offset, stop + offset, device=self.keys.device)

    def on_all_keys(self, per_key: Float[Tensor, "b h *s k"]) -> Float[Tensor, "b h *s all"]:
        """Numbers for the keys that are present, on all keys of the call: 0 for the absent."""
        if per_key.shape[-1] == self.sizes.k:
            return per_key
        empty = per_key.new_zeros((*per_key.shape[:-1], self.sizes.k))
        return empty.index_copy(-1, self.keys, per_key)


@dataclass(frozen=True)
class Observer(Value, Generic[Result]):
    """A statistic of the weights."""

    differentiable: ClassVar[bool] = False
    """Whether gradients flow through the statistic to queries, keys and biases."""

    by_row: ClassVar[bool] = True
    """Whether the statistic has a row for each query; otherwise blocks of rows add up."""

    tensors_made: ClassVar[int] = 1
    """How many tensors `of` returns."""

    display: ClassVar[Literal["lines", "maps", "columns", "top keys"]] = "lines"
    """How a notebook shows the result: numbers of each query or key, maps, a table of columns, or a list of keys."""

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        """The statistic of a block of rows, as tensors that begin with (b, h)."""
        raise NotImplementedError

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """One tensor of the whole from those of successive blocks of rows."""
        if len(parts) == 1:
            return parts[0]
        return torch.cat(list(parts), dim=2) if self.by_row else functools.reduce(torch.add, parts)

    def part(self, whole: Tensor, queries: range) -> Tensor:
        """The part of a whole tensor that a block of rows contributed to: its rows, or all; for gradients."""
        return whole.narrow(2, queries.start, len(queries)) if self.by_row else whole

    def merge(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares, keys: int
    ) -> tuple[Tensor, ...]:
        """The statistic of rows whose keys were split in two, from those of the pieces.

        `shares` is the part of each row's mass that each piece has, (b, h, q); the first has `keys` keys.
        """
        raise OptionError(
            "merge", repr(self), "statistics that follow from those of the pieces", "Ask for it in a run over all keys."
        )

    def append(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The statistic of the queries of two pieces, of which the second may see more keys."""
        if not self.by_row:
            raise OptionError(
                "append",
                repr(self),
                "statistics of rows, and what keys receive",
                "Ask for it in a run over all queries, or Weights.of(q, k, lse).",
            )
        return tuple(torch.cat(both, 2) for both in zip(first, second, strict=True))

    def result(self, *tensors: Tensor) -> Result:
        """What the caller gets, from the whole tensors."""
        return cast("Result", tensors[0])


class Top(NamedTuple):
    """The strongest keys of each query, strongest first."""

    keys: Int[Tensor, "b h q n"]
    """Key indices; −1 where a query gives weight to fewer keys."""
    weights: Float[Tensor, "b h q n"]


@dataclass(frozen=True)
class TopK(Observer[Top]):
    """The `count` keys of greatest weight for each query; of equal weights, the lower key first."""

    count: int
    tensors_made = 2
    display = "top keys"

    def __post_init__(self) -> None:
        _at_least_one("TopK(count)", self.count)

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        weights = block.weights.detach()
        n = weights.shape[-1]
        top, where = _top_k(weights, min(self.count, n))
        index = block.keys[where] if n else where
        missing = self.count - top.shape[-1]
        index = torch.where(top > 0, index, -1)
        return (torch.nn.functional.pad(index, (0, missing), value=-1), torch.nn.functional.pad(top, (0, missing)))

    def merge(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares, keys: int
    ) -> tuple[Tensor, ...]:
        weights = torch.cat((first[1] * shares[0][..., None], second[1] * shares[1][..., None]), -1)
        later = torch.where(second[0] < 0, -1, second[0] + keys)
        best = _first(weights, self.count)
        return torch.cat((first[0], later), -1).gather(-1, best), weights.gather(-1, best)

    def result(self, *tensors: Tensor) -> Top:
        return Top(*tensors)


@dataclass(frozen=True)
class Entropy(Observer[Tensor]):
    """−Σ w ln w of each row, in nats: (b, h, q). Its exponential is the effective number of keys."""

    differentiable = True

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        return (_entropies(block.weights).sum(-1),)

    def merge(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares, keys: int
    ) -> tuple[Tensor, ...]:
        a, b = shares
        return (a * first[0] + _entropies(a) + b * second[0] + _entropies(b),)


@dataclass(frozen=True)
class Received(Observer[Tensor]):
    """The weight that each key receives from all queries together, Σ_q w: (b, h, k).

    With spans of queries, (start, stop) pairs that may overlap and may be empty, what it receives from each:
    (b, h, spans, k).

    >>> from regard import observe, Causal
    >>> q = k = v = torch.zeros(1, 1, 4, 8)
    >>> answer = Received((2, 4))  # what the last two tokens attend to
    >>> observe(q, k, v, answer, mask=Causal())[answer].mul(12).round().tolist()
    [[[[7.0, 7.0, 7.0, 3.0]]]]
    """

    spans: tuple[tuple[int, int], ...]
    differentiable = True
    by_row = False

    def __init__(self, *spans: tuple[int, int]) -> None:
        object.__setattr__(self, "spans", _spans("Received", spans))

    def bind(self, sizes: Sizes) -> Self:
        _within("Received", self.spans, sizes.q, "queries")
        return self

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        if not self.spans:
            return (block.on_all_keys(block.weights.sum(-2)),)
        first = block.queries.start
        parts = [
            block.weights[:, :, max(start - first, 0) : max(stop - first, 0)].sum(-2) for start, stop in self.spans
        ]
        return (block.on_all_keys(torch.stack(parts, 2)),)

    def append(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.spans:
            raise OptionError("append", repr(self), "Received() of all queries", "Spans count the queries of one run.")
        (before,), (now,) = first, second
        later = now.shape[-1] - before.shape[-1]
        return (torch.nn.functional.pad(before, (0, later)) + now,)


@dataclass(frozen=True)
class MeanDistance(Aligned, Observer[Tensor]):
    """Σ w · |query position − key position| of each row, in tokens: (b, h, q)."""

    differentiable = True

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        w, keys, dtype = block.weights, block.keys, block.weights.dtype
        if not len(keys) or not len(block.queries):
            return (w.sum(-1),)
        # Keys before all of the block's queries: Σ w (p − k) = Σ w (first − k) + (p − first) Σ w, one
        # narrow matrix product. Only the keys among and after the queries need a distance for each pair.
        positions = block.positions(self.shift)
        first = positions[0]
        near = int(torch.searchsorted(keys, first)) if readable(keys) else 0
        table = torch.stack((first - keys[:near], torch.ones_like(keys[:near])), -1).to(dtype)
        far, mass = _mass(w[..., :near], table).unbind(-1)
        ahead = (positions - first).to(dtype)
        apart = (positions[:, None] - keys[near:]).abs().to(dtype)
        return (far + ahead * mass + (w[..., near:] * apart).sum(-1),)

    def merge(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares, keys: int
    ) -> tuple[Tensor, ...]:
        return _shared(first, second, shares)


@dataclass(frozen=True)
class SpanMass(Observer[Tensor]):
    """The weight that each query gives to each span of keys: (b, h, q, spans).

    `spans` are (start, stop) pairs of key indices, half-open; they may overlap and may be empty. Keys that
    are not adjacent are counted together by their labels: `SpanMass.by_label`.

    >>> SpanMass((0, 1), (1, 100)).spans
    ((0, 1), (1, 100))
    """

    spans: tuple[tuple[int, int], ...]
    columns: tuple[int, ...]
    """The column of the result in which each span counts."""
    differentiable = True
    display = "columns"

    def __init__(self, *spans: tuple[int, int]) -> None:
        object.__setattr__(self, "spans", _spans("SpanMass", spans))
        object.__setattr__(self, "columns", tuple(range(len(spans))))

    @classmethod
    def by_label(cls, labels: Sequence[int] | Tensor) -> Self:
        """The weight on the keys of each label: (b, h, q, labels).

        Labels, one for each key, count from 0; a key whose label is negative belongs to none. So the
        tokens of a speaker, a document or a kind of word are watched, wherever they stand.

        >>> SpanMass.by_label([0, 0, 1, -1, 0])
        SpanMass((0, 2), (2, 3), (4, 5), columns=(0, 1, 0))
        """
        values = cast("list[object]", labels.tolist() if isinstance(labels, Tensor) else [*labels])  # pyright: ignore[reportUnknownMemberType]
        if wrong := next((x for x in values if not isinstance(x, int)), None):
            raise OptionError(
                "SpanMass.by_label", repr(wrong), "whole numbers, one for each key", "Number the labels from 0."
            )
        runs = [(label, len([*run])) for label, run in itertools.groupby(cast("list[int]", values))]
        ends = [*itertools.accumulate(length for _, length in runs)]
        spans = [(label, end - n, end) for (label, n), end in zip(runs, ends, strict=True) if label >= 0]
        observer = cls(*((start, end) for _, start, end in spans))
        object.__setattr__(observer, "columns", tuple(label for label, _, _ in spans))
        return observer

    @property
    def count(self) -> int:
        """Columns of the result."""
        return max(self.columns, default=-1) + 1

    def bind(self, sizes: Sizes) -> Self:
        _within("SpanMass", self.spans, sizes.k, "keys")
        return self

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        table = block.weights.new_zeros((len(block.keys), self.count))
        for (start, stop), column in zip(self.spans, self.columns, strict=True):
            table[(block.keys >= start) & (block.keys < stop), column] = 1
        return (_mass(block.weights, table),)

    def merge(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares, keys: int
    ) -> tuple[Tensor, ...]:
        return _shared(first, second, shares)

    def __repr__(self) -> str:
        parts = [repr(span) for span in self.spans]
        if self.columns != tuple(range(len(self.spans))):
            parts.append(f"columns={self.columns}")
        return f"SpanMass({', '.join(parts)})"


@dataclass(frozen=True)
class DistanceMass(Aligned, Observer[Tensor]):
    """The weight that each query gives to the keys `low` to `high` places before it: (b, h, q).

    ``DistanceMass(1)`` is the weight on the previous token.
    """

    low: int
    high: int
    differentiable = True

    def __init__(self, low: int, high: int | None = None, *, offset: int | None = None) -> None:
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", low if high is None else high)
        if self.low > self.high:
            raise OptionError(
                "DistanceMass", (self.low, self.high), "low ≤ high", "Distances are query position − key position."
            )

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        w, keys = block.weights, block.keys
        if not len(keys):
            return (w.sum(-1),)
        if self.high - self.low >= 16:
            distance = block.positions(self.shift)[:, None] - keys
            return ((w * ((self.low <= distance) & (distance <= self.high))).sum(-1),)
        reach = torch.arange(self.low, self.high + 1, device=keys.device)
        target = block.positions(self.shift)[:, None] - reach
        place = torch.searchsorted(keys, target).clamp(max=len(keys) - 1)
        there = keys[place] == target
        return ((w.gather(-1, place.expand(*w.shape[:2], *place.shape)) * there).sum(-1),)

    def merge(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares, keys: int
    ) -> tuple[Tensor, ...]:
        return _shared(first, second, shares)


@dataclass(frozen=True)
class Pooled(Observer[Tensor]):
    """The map of weights at a size one can look at: (b, h, rows, cols).

    Of the `queries` and `keys` from start to stop (all, if not given), the i-th query falls into row
    ``i · rows // queries``, the j-th key into column ``j · cols // keys``; `how` is "mean", "max" or "sum"
    over all pairs of a cell, the masked ones as 0. There are never more rows than queries, nor more columns
    than keys: so zooming into a map is observing a rectangle of it at the same size.

    >>> Pooled(256, 256, "max", queries=(4096, 8192), keys=(0, 1024)).rows
    256
    """

    rows: int
    cols: int
    how: str = "mean"
    queries: tuple[int, int] | None = None
    keys: tuple[int, int] | None = None
    by_row = False
    display = "maps"

    def __post_init__(self) -> None:
        _at_least_one("Pooled(rows)", self.rows)
        _at_least_one("Pooled(cols)", self.cols)
        if self.how not in ("mean", "max", "sum"):
            raise OptionError(
                "Pooled(how)",
                repr(self.how),
                "'mean', 'max' or 'sum'",
                "A maximum keeps single strong weights visible.",
            )

    def bind(self, sizes: Sizes) -> Self:
        queries, keys = self.queries or (0, sizes.q), self.keys or (0, sizes.k)
        queries, keys = _spans("Pooled", (queries, keys))
        _within("Pooled(queries=…)", (queries,), sizes.q, "queries")
        _within("Pooled(keys=…)", (keys,), sizes.k, "keys")
        rows, cols = (max(stop - start, 1) for start, stop in (queries, keys))
        return replace(self, rows=min(self.rows, rows), cols=min(self.cols, cols), queries=queries, keys=keys)

    @property
    def rectangle(self) -> tuple[range, range]:
        """The queries and keys that a bound value is about."""
        if self.queries is None or self.keys is None:
            raise AssertionError("Pooled was used before bind()")
        return range(*self.queries), range(*self.keys)

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        queries, keys = self.rectangle
        result = block.weights.new_zeros((*block.weights.shape[:2], self.rows, self.cols))
        inside = (block.keys >= keys.start) & (block.keys < keys.stop)
        first, last = max(block.queries.start, queries.start), min(block.queries.stop, queries.stop)
        if first >= last or not len(keys) or not len(block.keys):
            return (result,)
        weights = block.weights.detach()[..., inside]
        column = ((block.keys[inside] - keys.start) * self.cols).div(len(keys), rounding_mode="floor")
        row = first
        while row < last:
            place = (row - queries.start) * self.rows // len(queries)
            end = min(queries.start + -(-(place + 1) * len(queries) // self.rows), last)
            rows = weights[:, :, row - block.queries.start : end - block.queries.start]
            line = rows.amax(2) if self.how == "max" else rows.sum(2)
            target = result[:, :, place]
            if self.how == "max":
                target.scatter_reduce_(-1, column.expand_as(line), line, "amax")
            else:
                target.index_add_(-1, column, line)
            row = end
        return (self.finished(result),)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return functools.reduce(torch.maximum if self.how == "max" else torch.add, parts)

    def finished(self, cells: Tensor) -> Tensor:
        """The result, from the sums or maxima of cells."""
        if self.how != "mean":
            return cells
        high, wide = (_sizes(len(span), n).to(cells) for span, n in zip(self.rectangle, cells.shape[-2:], strict=True))
        return (cells / high[:, None]).div_(wide)


@dataclass(frozen=True)
class Rows(Observer[Tensor]):
    """The weights of some queries in full, in the order given: (b, h, len(queries), k)."""

    queries: tuple[int, ...]

    def __init__(self, *queries: int) -> None:
        object.__setattr__(self, "queries", tuple(int(query) for query in queries))

    def bind(self, sizes: Sizes) -> Self:
        for query in self.queries:
            if not 0 <= query < sizes.q:
                raise OptionError(
                    "Rows", query, f"0 to {sizes.q - 1}, the queries of this call", "Count queries from 0."
                )
        return self

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        inside = [query - block.queries.start for query in self._inside(block.queries)]
        return (block.on_all_keys(block.weights.detach()[:, :, inside]),)

    def result(self, *tensors: Tensor) -> Tensor:
        # Blocks come in the order of queries: put the rows in the order requested.
        by_query = sorted(range(len(self.queries)), key=lambda i: self.queries[i])
        order = [by_query.index(i) for i in range(len(self.queries))]
        return tensors[0][:, :, order]

    def _inside(self, queries: range) -> list[int]:
        return sorted(query for query in self.queries if query in queries)


@dataclass(frozen=True)
class LogSumExp(Observer[Tensor]):
    """The log-sum-exp of each row of scores: (b, h, q); −inf where a query sees nothing.

    With softmax, a weight is exp(score − lse): with q, k and lse any weight can be recomputed.
    """

    differentiable = True

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        return (block.lse,)

    def merge(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares, keys: int
    ) -> tuple[Tensor, ...]:
        return (torch.logaddexp(first[0], second[0]),)


@dataclass(frozen=True)
class MaxScore(Observer[Tensor]):
    """The greatest score of each row: (b, h, q); −inf where a query sees nothing."""

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        scores = block.scores.detach()
        if not scores.shape[-1]:
            return (scores.new_full(scores.shape[:-1], -torch.inf),)
        return (scores.amax(-1),)

    def merge(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares, keys: int
    ) -> tuple[Tensor, ...]:
        return (torch.maximum(first[0], second[0]),)


def _sizes(n: int, cells: int) -> Tensor:
    """How many of n fall into each cell, i into i · cells // n; 1 where there are none at all."""
    ends = -(torch.arange(cells + 1) * -n).div(cells, rounding_mode="floor")
    return ends.diff().clamp(min=1)


def _spans(name: str, given: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    spans = tuple((int(start), int(stop)) for start, stop in given)
    for start, stop in spans:
        if not 0 <= start <= stop:
            raise OptionError(name, (start, stop), "0 ≤ start ≤ stop", "Spans are half-open.")
    return spans


def _within(name: str, spans: Sequence[tuple[int, int]], count: int, what: str) -> None:
    for start, stop in spans:
        if stop > count:
            raise OptionError(
                name, (start, stop), f"spans within the {count} {what}", f"Cut the span at the last {_ONE[what]}."
            )


_ONE = {"keys": "key", "queries": "query"}


def _entropies(w: Tensor) -> Tensor:
    """−w ln w. For 0 the smallest normal number is taken: nothing all the same, with a finite gradient."""
    logarithm = w.clamp(min=torch.finfo(w.dtype).tiny).log()
    return -w * logarithm if w.requires_grad or not readable(w) else logarithm.mul_(w).neg_()


def _mass(weights: Tensor, table: Tensor) -> Tensor:
    """weights @ table. A narrow product is many times slower than as many with vectors."""
    if table.shape[-1] > 8 or not table.shape[-1]:
        return weights @ table
    return torch.stack([weights @ column for column in table.unbind(-1)], dim=-1)


def _shared(first: tuple[Tensor, ...], second: tuple[Tensor, ...], shares: Shares) -> tuple[Tensor, ...]:
    """The merge of a statistic that is linear in the weights: its shares add up."""
    (left,), (right,) = first, second
    a, b = (share if left.ndim == 3 else share[..., None] for share in shares)
    return (a * left + b * right,)


_GROUP = 32


def _top_k(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` greatest of each row and their places; of equal ones the lower place first.

    A full sort is slow. The strongest `count` stand in the `count` groups of 32 neighbours with the
    strongest members (ties to the lower group): those groups first, then the strongest of their members.
    """
    n = weights.shape[-1]
    if n <= 4 * _GROUP * count:
        where = _first(weights, count)
        return weights.gather(-1, where), where
    whole = n // _GROUP * _GROUP
    groups = _first(weights[..., :whole].reshape(*weights.shape[:-1], -1, _GROUP).amax(-1), count)
    groups = groups.sort(dim=-1).values  # ascending, so that the lower place still comes first
    place = (groups[..., None] * _GROUP + torch.arange(_GROUP, device=weights.device)).flatten(-2)
    rest = torch.arange(whole, n, device=weights.device).expand(*place.shape[:-1], n - whole)
    place = torch.cat((place, rest), dim=-1)
    candidates = weights.gather(-1, place)
    best = _first(candidates, count)
    return candidates.gather(-1, best), place.gather(-1, best)


def _first(numbers: Tensor, count: int) -> Tensor:
    """The places of the `count` greatest of each row, none negative; of equal ones the lower first."""
    if numbers.dtype != torch.float32:
        return numbers.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    # topk keeps no order among equals. The bits of floats ≥ 0 are ordered as the floats are, so a number
    # and its place fit into one integer, and no two are equal.
    places = torch.arange(numbers.shape[-1], device=numbers.device)
    keys = (numbers.contiguous().view(torch.int32).long() << 32) | (2**32 - 1 - places)
    return 2**32 - 1 - (keys.topk(count, dim=-1).values & (2**32 - 1))


def _at_least_one(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(name, repr(value), "a whole number ≥ 1", "Ask for at least one.")
