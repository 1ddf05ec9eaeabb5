"""A recorded layer, ready to be asked again and again about one head, or about some rows of all heads.

The kernels' normal form of a call (`backends/normal.py`) is made once. A head, or a strip of queries, is a
cut of it, so that it costs what it holds. Layers that the kernels do not take are asked whole.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.asked import lower, results
from regard.backends import choose, native, normal
from regard.observers import Observer, Pooled
from regard.problem import Problem
from regard.recording import RecordedLayer
from regard.tiles import SIDE, Tabled, Tile
from regard.tiles import runs as runs_of
from regard.weights import Weights

_ROWS = 256  # queries whose masks are counted at a time


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
        return self._cut(range(self.heads), range(self.queries))[0]

    def box(self, head: int, queries: range, keys: range) -> Float[Tensor, "q k"]:
        """The weights of a rectangle."""
        if self._form is None:
            part = self.weights[0, head, queries.start : queries.stop, keys.start : keys.stop]
        else:
            part = self._head(head)[0, 0, queries.start : queries.stop, keys.start : keys.stop]
        return part

    def row(self, query: int) -> Float[Tensor, "h k"]:
        """What a query of every head gives to all keys."""
        if self._form is None:
            return self.weights[0, :, query]
        near = range(query // SIDE * SIDE, query + 1)  # strips begin where tiles do
        return Weights(*self._cut(range(self.heads), near))[0, :, -1]

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

    def see(
        self, queries: range, passing: Sequence[Observer[Any]], maps: Sequence[Pooled]
    ) -> tuple[list[Any], list[Tensor]]:
        """Statistics and maps of a strip, which begins at query 0 for them; positions count from the text's.

        `passing` take a pass over the keys; `maps` share one visit of each rectangle of final weights.
        """
        problem, rows = self._strip(queries)
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
            visited = native.revisit(asking, rows)
            parts = results(lower(drawn, asking.sizes), rows[0], visited)
        return found, [part[0][0] for part in parts]

    def visible(self) -> Tensor:
        """How many keys each query of each head may see, (h, q)."""
        found = torch.zeros(self.heads, self.queries, dtype=torch.int64)
        lowered = None if self._form is None else self._form[0].seen
        if lowered is not None and lowered.tiles is None:
            if lowered.spans is None:
                return found + self.keys
            spans = torch.from_numpy(lowered.spans.copy())[0]
            return found + (spans[..., 1] - spans[..., 0]).sum(-1).expand_as(found)
        mask, heads = self.weights.problem.mask, range(self.heads)
        for start in range(0, self.queries, _ROWS):
            queries = range(start, min(start + _ROWS, self.queries))
            for run in runs_of(mask, range(1), heads, queries, self.keys):
                here = found[:, queries.start : queries.stop]
                here += len(run.keys) if run.kind is Tile.FULL else self._allowed(queries, run.keys)
        return found

    def _allowed(self, queries: range, keys: range) -> Tensor:
        from regard.shapes import Box

        box = Box(range(1), range(self.heads), queries, keys)
        allowed = self.weights.problem.mask.block(box, torch.device("cpu"))
        whole = (1, self.heads, len(queries), len(keys))
        return allowed.expand(whole)[0].sum(-1)

    @functools.cached_property
    def _form(self) -> tuple[normal.Form, normal.Tensors] | None:
        """The normal form of the whole layer; None where the kernels do not take it."""
        problem = self.weights.problem
        if native.why_not(problem) is not None:
            return None
        form, tensors = normal.form(replace(problem, observers=()))
        return form, tensors

    @functools.cached_property
    def _mask(self) -> Tabled:
        problem = self.weights.problem
        return Tabled.of(problem.mask, problem.sizes)

    @functools.lru_cache(maxsize=64)  # noqa: B019  a layer lives as long as the server
    def _head(self, head: int) -> Weights:
        return Weights(*self._cut(range(head, head + 1), range(self.queries)))

    def _strip(self, queries: range) -> tuple[Problem, Tensor]:
        if self._form is None:
            problem = self.weights.problem
            return replace(problem, observers=()), self.weights.rows
        return self._cut(range(self.heads), queries)

    def _cut(self, h: range, q: range) -> tuple[Problem, Tensor]:
        """One head or all of them, and some queries, as a call of their own, with what its rows left."""
        assert self._form is not None, "only what is in the normal form is cut"
        form, tensors = self._form
        sizes = form.sizes
        repeats = sizes.h // sizes.g
        g = range(h.start // repeats, (h.stop - 1) // repeats + 1)
        own = sizes._replace(b=1, h=len(h), g=len(g), q=len(q))
        table = tensors.table
        if table is not None:
            few = table if table.shape[0] == 1 else _of(table, 0, h)
            table = few[:, q.start : q.stop + sizes.k - 1].contiguous()
        pairs = tensors.pairs
        if pairs is not None:
            pairs = _of(_of(_of(pairs, 0, range(1)), 1, h), 2, q)
        parts = normal.Tensors(
            tensors.q[:1, h.start : h.stop, q.start : q.stop],
            tensors.k[:1, g.start : g.stop],
            tensors.k[:1, g.start : g.stop, :, :1],
            table,
            pairs,
            None if tensors.sink is None else _of(tensors.sink, 0, h),
        )
        whole = self._mask
        kinds = whole.kinds
        if kinds is not None:
            assert q.start % SIDE == 0, "strips begin where tiles do"
            kinds = _rows(kinds, h, range(q.start // SIDE, -(-q.stop // SIDE)))
        mask = Tabled(None if whole.runs is None else _rows(whole.runs, h, q), kinds, whole.words)
        problem = normal.problem(form._replace(sizes=own._replace(dv=1), mask=mask), parts, ())
        rows = self.weights.rows[:, :1, h.start : h.stop, q.start : q.stop].contiguous()
        return problem, rows


def _of(tensor: Tensor, dim: int, part: range) -> Tensor:
    """A part of a dimension, or all of one that is shared."""
    shared = tensor.shape[dim] == 1
    return tensor if shared else tensor.narrow(dim, part.start, len(part))


def _rows(tensor: Tensor, h: range, q: range) -> Tensor:
    cut = _of(_of(tensor, 0, range(1)), 1, h)
    return cut.narrow(2, q.start, len(q)).contiguous()
