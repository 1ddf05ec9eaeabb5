"""Observers as what kernels know: a few kinds of sums over the weights, shared by all that ask for them.

Kernels see work, not names: every distance observer becomes an offset or a band, every span observer some
sets of keys, every total received a few lots of queries. `lower` finds what a call's observers need
together; `results` gives each observer its part of what was found.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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

KINDS = (Entropy, TopK, MeanDistance, DistanceMass, SpanMass, LogSumExp, MaxScore, Received, Pooled, Rows)
"""What kernels know of."""

DIFFERENTIABLE = ("entropy", "distances", "bands", "masses", "received")
"""Names of what has a gradient, in the order in which it is handed on."""

Span = tuple[int, int]
Found = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Sets:
    """Sets of keys, each of any spans, as sorted ranges that do not overlap."""

    count: int
    ranges: Tensor
    """(ranges, 2), from the first key to behind the last."""
    in_sets: Tensor
    """(ranges + 1): where in `members` the sets of each range begin."""
    members: Tensor


@dataclass(frozen=True, eq=False)
class Lots:
    """The queries cut into lots, so that every span of queries is some whole lots."""

    cuts: tuple[int, ...]
    """Where lots begin, and where the last ends."""
    of_query: Tensor
    """(q): the lot of each query."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.cuts) - 1

    def within(self, span: Span) -> slice:
        """The lots of a span of queries."""
        return slice(*(bisect.bisect_left(self.cuts, end) for end in span))


@dataclass(frozen=True, eq=False)
class Asked:
    """What a call's observers need of the kernels."""

    observers: tuple[Observer[Any], ...]
    entropy: bool
    greatest: bool
    top: int
    """The strongest keys of each query that are asked for."""
    offsets: tuple[int, ...]
    """Of distances: where the first query stands among the keys."""
    bands: tuple[Span, ...]
    """Bands of keys, relative to the index of a query."""
    sets: Sets | None
    columns: Mapping[SpanMass, int]
    """Where the sets of each span observer begin."""
    lots: Lots | None
    maps: tuple[Pooled, ...]
    rows: tuple[int, ...]
    """Queries whose weights are asked for in full, in order."""

    @functools.cached_property
    def first_pass(self) -> bool:
        """Whether the forward pass itself gives any of it, beyond the log-sum-exp."""
        return any((self.entropy, self.greatest, self.top, self.offsets, self.bands, self.sets))

    @functools.cached_property
    def second_pass(self) -> bool:
        """Whether any of it takes another visit to the weights."""
        return bool(self.lots or self.maps or self.rows)


def _of(observers: Iterable[Observer[Any]], kind: type[Any]) -> list[Any]:
    return [observer for observer in observers if type(observer) is kind]


@functools.lru_cache(maxsize=64)
def lower(observers: tuple[Observer[Any], ...], sizes: Sizes) -> Asked:
    """What bound observers, each of one of `KINDS`, need together."""
    spans = _of(observers, SpanMass)
    begins = itertools.accumulate((one.count for one in spans), initial=0)
    received = _of(observers, Received)
    return Asked(
        observers,
        entropy=bool(_of(observers, Entropy)),
        greatest=bool(_of(observers, MaxScore)),
        top=max((one.count for one in _of(observers, TopK)), default=0),
        offsets=tuple(dict.fromkeys(one.shift for one in _of(observers, MeanDistance))),
        bands=tuple(dict.fromkeys(_band(one) for one in _of(observers, DistanceMass))),
        sets=_sets(spans),
        columns=dict(zip(spans, begins, strict=False)),
        lots=_lots([span for one in received for span in one.spans], sizes.q) if received else None,
        maps=tuple(dict.fromkeys(_summed(one) for one in _of(observers, Pooled))),
        rows=tuple(sorted({query for one in _of(observers, Rows) for query in one.queries})),
    )


def _band(one: DistanceMass) -> Span:
    """From the last of the distances to behind the first: key = query + offset − distance."""
    return one.shift - one.high, one.shift - one.low + 1


def _summed(one: Pooled) -> Pooled:
    """What the kernels are asked for: a mean is a sum."""
    return one if one.how == "max" else Pooled(one.rows, one.cols, "sum", one.queries, one.keys)


def _sets(spans: Sequence[SpanMass]) -> Sets | None:
    count = sum(one.count for one in spans)
    if not count:
        return None
    cuts = sorted({end for one in spans for span in one.spans for end in span})
    members: list[dict[int, None]] = [{} for _ in cuts]
    begin = 0
    for one in spans:
        for (start, stop), column in zip(one.spans, one.columns, strict=True):
            for i in range(bisect.bisect_left(cuts, start), bisect.bisect_left(cuts, stop)):
                members[i][begin + column] = None
        begin += one.count
    kept = [i for i, sets in enumerate(members) if sets]
    ends = itertools.accumulate((len(members[i]) for i in kept), initial=0)
    return Sets(
        count,
        torch.tensor([(cuts[i], cuts[i + 1]) for i in kept], dtype=torch.int32).reshape(-1, 2),
        torch.tensor(list(ends), dtype=torch.int32),
        torch.tensor([column for i in kept for column in members[i]], dtype=torch.int32),
    )


def _lots(spans: Sequence[Span], queries: int) -> Lots:
    cuts = tuple(sorted({0, queries, *(end for span in spans for end in span)}))
    lengths = torch.tensor([b - a for a, b in itertools.pairwise(cuts)])
    lots = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths)
    return Lots(cuts, lots)


def results(asked: Asked, lse: Tensor, found: Found) -> tuple[tuple[Tensor, ...], ...]:
    """Each observer's tensors, from what the kernels found, by name."""
    return tuple(_MAKERS[type(one)](asked, lse, found, one) for one in asked.observers)


def _top(asked: Asked, lse: Tensor, found: Found, one: TopK) -> tuple[Tensor, ...]:
    both = found["top_keys"], found["top_weights"]
    if one.count == asked.top:
        return both
    return tuple(t[..., : one.count].contiguous() for t in both)


def _masses(asked: Asked, lse: Tensor, found: Found, one: SpanMass) -> tuple[Tensor, ...]:
    if not one.count:
        return (lse.new_zeros((*lse.shape, 0)),)
    begin = asked.columns[one]
    return (found["masses"][..., begin : begin + one.count],)


def _received(asked: Asked, lse: Tensor, found: Found, one: Received) -> tuple[Tensor, ...]:
    lots = found["received"]
    if not one.spans:
        return (lots.sum(2),)
    assert asked.lots is not None
    return (torch.stack([lots[:, :, asked.lots.within(span)].sum(2) for span in one.spans], 2),)


def _pooled(asked: Asked, lse: Tensor, found: Found, one: Pooled) -> tuple[Tensor, ...]:
    return (one.finished(found[f"map {asked.maps.index(_summed(one))}"]),)


def _rows(asked: Asked, lse: Tensor, found: Found, one: Rows) -> tuple[Tensor, ...]:
    places = [asked.rows.index(query) for query in sorted(one.queries)]
    return (found["rows"][:, :, places],)


_MAKERS: dict[type[Any], Callable[[Asked, Tensor, Found, Any], tuple[Tensor, ...]]] = {
    Entropy: lambda asked, lse, found, one: (found["entropy"],),
    MaxScore: lambda asked, lse, found, one: (found["greatest"],),
    LogSumExp: lambda asked, lse, found, one: (lse,),
    MeanDistance: lambda asked, lse, found, one: (found["distances"][..., asked.offsets.index(one.shift)],),
    DistanceMass: lambda asked, lse, found, one: (found["bands"][..., asked.bands.index(_band(one))],),
    TopK: _top,
    SpanMass: _masses,
    Received: _received,
    Pooled: _pooled,
    Rows: _rows,
}


def again(asked: Asked, grads: Mapping[str, Tensor | None]) -> list[tuple[Observer[Any], Tensor]]:
    """Observers and the gradients of their statistics, from gradients of what is `DIFFERENTIABLE`."""
    pairs: list[tuple[Observer[Any], Tensor]] = []
    if (grad := grads.get("entropy")) is not None:
        pairs.append((Entropy(), grad))
    if (grad := grads.get("distances")) is not None:
        pairs += [(MeanDistance(offset=x), grad[..., i]) for i, x in enumerate(asked.offsets)]
    if (grad := grads.get("bands")) is not None:
        pairs += [
            (DistanceMass(1 - stop, -start, offset=0), grad[..., i]) for i, (start, stop) in enumerate(asked.bands)
        ]
    if (grad := grads.get("masses")) is not None:
        pairs += [(one, grad[..., begin : begin + one.count]) for one, begin in asked.columns.items() if one.count]
    if (grad := grads.get("received")) is not None and asked.lots is not None:
        pairs.append((Received(*itertools.pairwise(asked.lots.cuts)), grad))
    return pairs
