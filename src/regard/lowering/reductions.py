"""Observers as reductions that the kernels compute, shared by all observers of a call.

`TABLE` has a row for each observer that the kernels know: its kind of reduction, what it requests of that kind, and
how its result follows from the buffers. `KINDS` has the kinds: their buffers, how they are passed to the core, and
their gradients. Lowering, binding, gradients and the backends' refusals iterate over these two; an observer that is a
function of a reduction that exists is one more row.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard._native import core
from regard.shapes import Sizes
from regard.spec.observers import (
    DistanceMass,
    Entropy,
    LogSumExp,
    MaxScore,
    MeanDistance,
    Observer,
    Pooled,
    Received,
    Rows,
    SpanMass,
    TopK,
)

Span = tuple[int, int]
Tensors = tuple[Tensor, ...]


# ------------------------------------------------------------------ what a call requests of the kernels


@dataclass(frozen=True, eq=False)
class KeySets:
    """Sets of keys, each of any spans, as sorted ranges that do not overlap."""

    count: int
    ranges: Tensor
    """(ranges, 2), first key and one past the last."""
    set_starts: Tensor
    """(ranges + 1): where in `members` the sets of each range begin."""
    members: Tensor


@dataclass(frozen=True, eq=False)
class QueryGroups:
    """The queries cut into groups, so that every requested span of queries is some whole groups."""

    cuts: tuple[int, ...]
    """Where groups begin, and where the last ends."""
    of_query: Tensor
    """(q): the group of each query."""

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(self.cuts) - 1

    def within(self, span: Span) -> slice:
        """The groups of a span of queries."""
        return slice(*(bisect.bisect_left(self.cuts, end) for end in span))


@dataclass(frozen=True, eq=False)
class Reductions:
    """What the observers of a call need of the kernels, together."""

    observers: tuple[Observer[Any], ...]
    kinds: frozenset[Kind]
    top_count: int
    """The most strongest keys of a query that an observer requests."""
    distance_offsets: tuple[int, ...]
    """Of mean distances: the key position of the first query."""
    distance_bands: tuple[Span, ...]
    """Bands of keys, relative to the index of a query."""
    key_sets: KeySets | None
    key_set_columns: Mapping[SpanMass, int]
    """Where the sets of each span observer begin."""
    query_groups: QueryGroups | None
    pooled_maps: tuple[Pooled, ...]
    rows: tuple[int, ...]
    """Queries whose weights are requested in full, in order."""

    @functools.cached_property
    def forward_kinds(self) -> tuple[Kind, ...]:
        """The kinds that the forward pass itself computes."""
        return tuple(kind for kind in KINDS if kind in self.kinds and kind.allocate is not None)

    @functools.cached_property
    def second_pass(self) -> bool:
        """Whether any of it needs final weights, and so a second pass over them."""
        return any(kind.allocate is None and kind is not LOG_SUM_EXP for kind in self.kinds)


Buffers = dict["Kind", Tensors]
"""What the kernels computed of each kind, or gradients of it."""


# ------------------------------------------------------------------ kinds of reductions


def _no_observers(reductions: Reductions, grad: Tensor) -> list[tuple[Observer[Any], Tensor]]:
    raise AssertionError("a kind without gradient")


def _linear(grad: Tensor, result: Tensor, mass: Tensor) -> Tensor:
    return (grad * result).sum(-1)


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of reduction over weights that the kernels compute."""

    name: str
    allocate: Callable[[Reductions, tuple[int, int, int]], Tensors] | None = None
    """The buffers for batch rows, heads and queries; None where the forward pass does not compute it."""
    attach: Callable[[core.Statistics, Reductions, Tensors], None] | None = None
    """Pass the addresses of buffers, or of gradients of them, to the core."""
    differentiable: bool = False
    observers: Callable[[Reductions, Tensor], list[tuple[Observer[Any], Tensor]]] = field(default=_no_observers)
    """Observers with the gradients of their statistics, from the gradient of the buffer."""
    weighted: Callable[[Tensor, Tensor, Tensor], Tensor] | None = _linear
    """Σ weight · gradient of each row, from the buffer's gradient, the buffer and the rows' mass; None: by a pass."""

    def __repr__(self) -> str:
        return self.name


def _empty(rows: tuple[int, int, int], *columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty((*rows, *columns), dtype=dtype)


def _attach_key_sets(statistics: core.Statistics, reductions: Reductions, buffers: Tensors) -> None:
    sets = reductions.key_sets
    assert sets is not None
    ranges, starts, members = (t.data_ptr() for t in (sets.ranges, sets.set_starts, sets.members))
    statistics.set_key_sets(len(sets.ranges), ranges, starts, members, sets.count, buffers[0].data_ptr())


ENTROPY = Kind(
    "entropy",
    lambda reductions, rows: (_empty(rows),),
    lambda statistics, reductions, buffers: statistics.set_entropy(buffers[0].data_ptr()),
    differentiable=True,
    observers=lambda reductions, grad: [(Entropy(), grad)],
    weighted=lambda grad, result, mass: grad * (result - mass),
)
DISTANCES = Kind(
    "mean distances",
    lambda reductions, rows: (_empty(rows, len(reductions.distance_offsets)),),
    lambda statistics, reductions, buffers: statistics.set_distances(
        reductions.distance_offsets, buffers[0].data_ptr()
    ),
    differentiable=True,
    observers=lambda reductions, grad: [
        (MeanDistance(offset=offset), grad[..., i]) for i, offset in enumerate(reductions.distance_offsets)
    ],
)
BANDS = Kind(
    "distance bands",
    lambda reductions, rows: (_empty(rows, len(reductions.distance_bands)),),
    lambda statistics, reductions, buffers: statistics.set_bands(reductions.distance_bands, buffers[0].data_ptr()),
    differentiable=True,
    observers=lambda reductions, grad: [
        (DistanceMass(1 - stop, -start, offset=0), grad[..., i])
        for i, (start, stop) in enumerate(reductions.distance_bands)
    ],
)
SPAN_MASSES = Kind(
    "span masses",
    lambda reductions, rows: (_empty(rows, reductions.key_sets.count if reductions.key_sets else 0),),
    _attach_key_sets,
    differentiable=True,
    observers=lambda reductions, grad: [
        (observer, grad[..., begin : begin + observer.count])
        for observer, begin in reductions.key_set_columns.items()
        if observer.count
    ],
)
MAX_SCORE = Kind(
    "greatest scores",
    lambda reductions, rows: (_empty(rows),),
    lambda statistics, reductions, buffers: statistics.set_max_score(buffers[0].data_ptr()),
)
TOP_KEYS = Kind(
    "strongest keys",
    lambda reductions, rows: (
        _empty(rows, reductions.top_count, dtype=torch.int64),
        _empty(rows, reductions.top_count),
    ),
    lambda statistics, reductions, buffers: statistics.set_top_keys(
        reductions.top_count, *(buffer.data_ptr() for buffer in buffers)
    ),
)
LOG_SUM_EXP = Kind("log-sum-exp")
RECEIVED = Kind(
    "attention received",
    differentiable=True,
    observers=lambda reductions, grad: [
        (Received(*itertools.pairwise(reductions.query_groups.cuts if reductions.query_groups else ())), grad)
    ],
    weighted=None,
)
POOLED = Kind("pooled maps")
ROWS = Kind("rows of weights")

KINDS = (ENTROPY, DISTANCES, BANDS, SPAN_MASSES, RECEIVED, MAX_SCORE, TOP_KEYS, LOG_SUM_EXP, POOLED, ROWS)
"""Every kind; those with a gradient in the order in which the autograd step passes it on."""


# ------------------------------------------------------------------ the table


def _always(observer: Any) -> bool:
    return True


@dataclass(frozen=True, eq=False)
class ReductionRow:
    """How one class of observers follows from a kind of reduction."""

    observer: type[Observer[Any]]
    kind: Kind
    finish: Callable[[Reductions, Any, Tensors], Tensors]
    """The observer's tensors, from the buffers of the kind."""
    needed: Callable[[Any], bool] = field(default=_always)
    """Whether an observer of the class needs the reduction at all: one of no spans does not."""


def _top_keys(reductions: Reductions, observer: TopK, buffers: Tensors) -> Tensors:
    if observer.count == reductions.top_count:
        return buffers
    return tuple(t[..., : observer.count].contiguous() for t in buffers)


def _span_masses(reductions: Reductions, observer: SpanMass, buffers: Tensors) -> Tensors:
    begin = reductions.key_set_columns[observer]
    return (buffers[0][..., begin : begin + observer.count],)


def _received(reductions: Reductions, observer: Received, buffers: Tensors) -> Tensors:
    (received,) = buffers
    if not observer.spans:
        return (received.sum(2),)
    groups = reductions.query_groups
    assert groups is not None
    return (torch.stack([received[:, :, groups.within(span)].sum(2) for span in observer.spans], 2),)


def _rows(reductions: Reductions, observer: Rows, buffers: Tensors) -> Tensors:
    return (buffers[0][:, :, [reductions.rows.index(query) for query in sorted(observer.queries)]],)


TABLE = (
    ReductionRow(Entropy, ENTROPY, lambda reductions, observer, buffers: buffers),
    ReductionRow(MaxScore, MAX_SCORE, lambda reductions, observer, buffers: buffers),
    ReductionRow(LogSumExp, LOG_SUM_EXP, lambda reductions, observer, buffers: buffers),
    ReductionRow(
        MeanDistance,
        DISTANCES,
        lambda reductions, observer, buffers: (buffers[0][..., reductions.distance_offsets.index(observer.shift)],),
    ),
    ReductionRow(
        DistanceMass,
        BANDS,
        lambda reductions, observer, buffers: (buffers[0][..., reductions.distance_bands.index(_band(observer))],),
    ),
    ReductionRow(TopK, TOP_KEYS, _top_keys),
    ReductionRow(SpanMass, SPAN_MASSES, _span_masses, needed=lambda observer: observer.count > 0),
    ReductionRow(Received, RECEIVED, _received),
    ReductionRow(
        Pooled,
        POOLED,
        lambda reductions, observer, buffers: (
            observer.finished(buffers[reductions.pooled_maps.index(_summed(observer))]),
        ),
    ),
    ReductionRow(Rows, ROWS, _rows),
)
"""Every observer that the kernels know."""


def row_of(observer: Observer[Any]) -> ReductionRow | None:
    """The row of an observer's class; None where the kernels do not know it."""
    kind = type(observer)
    return next((row for row in TABLE if row.observer is kind), None)


@functools.lru_cache(maxsize=64)
def lower_observers(observers: tuple[Observer[Any], ...], sizes: Sizes) -> Reductions:
    """What bound observers, each with a row in `TABLE`, need together."""
    rows = [(row, observer) for observer in observers if (row := row_of(observer)) is not None and row.needed(observer)]

    def of(kind: Kind) -> list[Any]:
        return [observer for row, observer in rows if row.kind is kind]

    spans, received = of(SPAN_MASSES), of(RECEIVED)
    begins = itertools.accumulate((observer.count for observer in spans), initial=0)
    return Reductions(
        observers,
        frozenset(row.kind for row, _ in rows),
        top_count=max((observer.count for observer in of(TOP_KEYS)), default=0),
        distance_offsets=tuple(dict.fromkeys(observer.shift for observer in of(DISTANCES))),
        distance_bands=tuple(dict.fromkeys(_band(observer) for observer in of(BANDS))),
        key_sets=_key_sets(spans) if spans else None,
        key_set_columns=dict(zip(spans, begins, strict=False)),
        query_groups=_query_groups([span for observer in received for span in observer.spans], sizes.q)
        if received
        else None,
        pooled_maps=tuple(dict.fromkeys(_summed(observer) for observer in of(POOLED))),
        rows=tuple(sorted({query for observer in of(ROWS) for query in observer.queries})),
    )


def finish(reductions: Reductions, lse: Tensor, buffers: Buffers) -> tuple[Tensors, ...]:
    """Each observer's tensors, from the log-sum-exp of rows and what the kernels computed."""
    buffers = {**buffers, LOG_SUM_EXP: (lse,)}
    results: list[Tensors] = []
    for observer in reductions.observers:
        row = row_of(observer)
        assert row is not None, f"the kernels do not know {observer!r}"
        if row.needed(observer):
            results.append(row.finish(reductions, observer, buffers[row.kind]))
        else:
            results.append((lse.new_zeros((*lse.shape, 0)),))
    return tuple(results)


def _band(observer: DistanceMass) -> Span:
    """From the last of the distances to one past the first: key = query + offset − distance."""
    return observer.shift - observer.high, observer.shift - observer.low + 1


def _summed(observer: Pooled) -> Pooled:
    """What the kernels compute for a map: a mean is a sum."""
    if observer.how == "max":
        return observer
    return Pooled(observer.rows, observer.cols, "sum", observer.queries, observer.keys)


def _key_sets(observers: Sequence[SpanMass]) -> KeySets:
    cuts = sorted({end for observer in observers for span in observer.spans for end in span})
    members: list[dict[int, None]] = [{} for _ in cuts]
    begin = 0
    for observer in observers:
        for (start, stop), column in zip(observer.spans, observer.columns, strict=True):
            for i in range(bisect.bisect_left(cuts, start), bisect.bisect_left(cuts, stop)):
                members[i][begin + column] = None
        begin += observer.count
    used = [i for i, sets in enumerate(members) if sets]
    ends = itertools.accumulate((len(members[i]) for i in used), initial=0)
    return KeySets(
        begin,
        torch.tensor([(cuts[i], cuts[i + 1]) for i in used], dtype=torch.int32).reshape(-1, 2),
        torch.tensor(list(ends), dtype=torch.int32),
        torch.tensor([column for i in used for column in members[i]], dtype=torch.int32),
    )


def _query_groups(spans: Iterable[Span], queries: int) -> QueryGroups:
    cuts = tuple(sorted({0, queries, *(end for span in spans for end in span)}))
    lengths = torch.tensor([b - a for a, b in itertools.pairwise(cuts)])
    groups = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths)
    return QueryGroups(cuts, groups)
