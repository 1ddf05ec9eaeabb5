"""A recorded layer, ready for many queries about one head, or about some rows of all heads.

Its call is prepared once. A head, or a strip of queries, is a cut of it, so that it costs in proportion to its size.
Calls that cannot be cut are computed whole.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

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
        """What to add to a query's index for the index of the key at the same position in the text."""
        return self.recorded.place.query - self.recorded.place.key

    @property
    def weights(self) -> Weights:
        """The weights of the whole layer."""
        return self.recorded.weights

    def box(self, head: int, queries: range, keys: range) -> Float[Tensor, "q k"]:
        """The weights of a rectangle."""
        part = slice(queries.start, queries.stop), slice(keys.start, keys.stop)
        return self.weights[(0, head, *part)] if self.whole is None else self._head(head)[(0, 0, *part)]

    def row(self, query: int) -> Float[Tensor, "h k"]:
        """The weights of one query of every head."""
        return self.weights[0, :, query]

    def pooled(self, head: int, observer: Pooled) -> Float[Tensor, "rows cols"]:
        """A map of a rectangle of one head."""
        return self.weights.see(observer)[0, head] if self.whole is None else self._head(head).see(observer)[0, 0]

    def strips(self, rows: int) -> list[range]:
        """The queries in strips, for `statistics`: of `rows` each, or all at once where they cannot be cut."""
        if self.whole is None:
            return [range(self.queries)]
        return [range(start, min(start + rows, self.queries)) for start in range(0, self.queries, rows)]

    def reach(self, queries: range) -> range:
        """The keys from the first to the last that any of some queries may see, of any head."""
        return self.weights.reach(queries)

    def statistics(
        self, queries: range, observers: Sequence[Observer[Any]], maps: Sequence[Pooled]
    ) -> tuple[list[Any], list[Tensor]]:
        """Statistics of a strip, whose first query is query 0 to them, and its maps, (h, rows, cols).

        All that need a pass over the keys share one; maps of one rectangle share one of final weights.
        """
        strip = self.weights if self.whole is None else self.weights.cut(range(1), range(self.heads), queries)
        assert strip is not None, "what can be cut once can be cut again"
        results = strip.statistics([*observers, *maps])
        return [*results[: len(observers)]], [cells[0] for cells in results[len(observers) :]]

    @functools.cached_property
    def whole(self) -> Weights | None:
        """The first batch row as a call of its own; None where the call cannot be cut."""
        return self.weights.cut(range(1), range(self.heads), range(self.queries))

    @functools.lru_cache(maxsize=16)  # noqa: B019  the last few are kept, of all layers
    def _head(self, head: int) -> Weights:
        part = self.weights.cut(range(1), range(head, head + 1), range(self.queries))
        assert part is not None, "what can be cut once can be cut again"
        return part
