"""A recorded layer, ready to be asked again and again about one head, or about some rows of all heads.

The kernels' normal form of a call (`backends/normal.py`) is made once. A head, or a strip of queries, is a
cut of it, so that it costs what it holds. Layers that the kernels do not take are asked whole.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from regard.backends import choose, native
from regard.lowering.reductions import lower, results
from regard.lowering.tiles import SIDE
from regard.problem import Problem
from regard.recording import RecordedLayer
from regard.spec.observers import Observer, Pooled
from regard.weights import Weights


class Layer:
    """One layer of a recording, of which the first batch row is shown."""

    def __init__(self, recorded: RecordedLayer) -> None:
        self.recorded = recorded

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.recorded.heads

    @property
    def queries(self) -> int:
        """How many there are."""
        return self.recorded.queries

    @property
    def keys(self) -> int:
        """How many there are."""
        return self.recorded.keys

    @property
    def shift(self) -> int:
        """What to add to a query's number for the number of the key at the same place in the text."""
        return self.recorded.place.query - self.recorded.place.key

    @property
    def weights(self) -> Weights:
        """The weights of the whole layer."""
        return self.recorded.weights

    @property
    def whole(self) -> Problem | None:
        """The call in the kernels' normal form, its mask lowered; None where they do not take it."""
        if self._form is None:
            return None
        return self._cut(range(self.heads), range(self.queries)).problem

    def box(self, head: int, queries: range, keys: range) -> Float[Tensor, "q k"]:
        """The weights of a rectangle."""
        if self._form is None:
            part = self.weights[0, head, queries.start : queries.stop, keys.start : keys.stop]
        else:
            part = self._head(head)[0, 0, queries.start : queries.stop, keys.start : keys.stop]
        return part

    def row(self, query: int) -> Float[Tensor, "h k"]:
        """What a query of every head gives to all keys."""
        return self.weights[0, :, query]

    def pooled(self, head: int, observer: Pooled) -> Float[Tensor, "rows cols"]:
        """A map of a rectangle of one head."""
        if self._form is None:
            return self.weights.see(observer)[0, head]
        return self._head(head).see(observer)[0, 0]

    def strips(self, rows: int) -> list[range]:
        """The queries in strips, for `see`: of `rows` each, or all at once where they cannot be cut."""
        if self._form is None:
            return [range(self.queries)]
        return [range(at, min(at + rows, self.queries)) for at in range(0, self.queries, rows)]

    def reach(self, queries: range) -> range:
        """The keys from the first to the last that any of some queries may see, of any head."""
        first, last = 0, self.keys
        if self._form is None:
            return range(first, last)
        seen = self._form[0].seen
        if seen.spans is not None:
            spans = seen.spans[:1, :, queries.start : queries.stop]
            there = spans[..., 0] < spans[..., 1]
            first = int(spans[..., 0].min(initial=last, where=there))
            last = int(spans[..., 1].max(initial=0, where=there))
        if seen.tiles is not None:
            some = seen.tiles[:1, :, queries.start // SIDE : -(-queries.stop // SIDE)]
            cols = np.flatnonzero(some.any((0, 1, 2))) * SIDE
            first = max(first, int(cols.min(initial=last)))
            last = min(last, int(cols.max(initial=-SIDE)) + SIDE)
        return range(first, max(first, last))

    def see(
        self, queries: range, passing: Sequence[Observer[Any]], maps: Sequence[Pooled]
    ) -> tuple[list[Any], list[Tensor]]:
        """Statistics and maps of a strip, which begins at query 0 for them; positions count from the text's.

        `passing` take a pass over the keys; `maps` share one visit of each rectangle of final weights.
        """
        strip = self.weights if self._form is None else self._cut(range(self.heads), queries)
        problem = replace(strip.problem, observers=())
        asked = tuple(one.bind(problem.sizes) for one in passing)
        asking = replace(problem, observers=asked)
        with torch.no_grad():
            backend, _ = choose(asking)
            seen = backend.run(asking).observed if asked else ()
            found = [one.result(*tensors) for one, tensors in zip(asked, seen, strict=True)]
            drawn = tuple(one.bind(problem.sizes) for one in maps)
            if not drawn:
                return found, []
            asking = replace(problem, observers=drawn)
            if self._form is None:
                return found, [one[0][0] for one in choose(asking)[0].run(asking).observed]
            visited = native.revisit(asking, strip.rows)
            parts = results(lower(drawn, asking.sizes), strip.rows[0], visited)
        return found, [part[0][0] for part in parts]

    @functools.cached_property
    def _form(self) -> native.Formed | None:
        """The normal form of the whole layer; None where the kernels do not take it."""
        if native.why_not(self.weights.problem) is not None:
            return None
        return self.weights.formed

    @functools.lru_cache(maxsize=16)  # noqa: B019  the last few are kept, of all layers
    def _head(self, head: int) -> Weights:
        return self._cut(range(head, head + 1), range(self.queries))

    def _cut(self, h: range, q: range) -> Weights:
        """One head or all of them, and some queries, as a call of their own."""
        found = self.weights.cut(range(1), h, q)
        assert found is not None, "only what is in the normal form is cut"
        return found
