"""The source of a figure: the weights of one head, maps and rows of them, and what a pixel is as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from regard.errors import DtypeError, OptionError, ShapeError
from regard.recording import RecordedHead
from regard.shapes import Sizes
from regard.spec.observers import Pooled, Rows, WeightRows
from regard.weights import HeadWeights, Weights

HOW = {"max": "maximum", "mean": "mean", "sum": "sum"}
"""Poolings as text."""

Drawable = RecordedHead | HeadWeights | Weights | Tensor | ndarray
"""What can be drawn: a head of a recording, weights, or an array (queries, keys)."""


@dataclass(frozen=True)
class MapSource:
    """One head's weights, and the texts of its tokens."""

    weights: HeadWeights | RecordedHead | Tensor
    shape: tuple[int, int]
    query_texts: Sequence[str] | None
    key_texts: Sequence[str] | None

    def pooled(self, pooling: Pooled) -> ndarray:
        """A map of the weights."""
        if isinstance(self.weights, RecordedHead):
            return self.weights.see(pooling)[pooling].float().numpy()
        if isinstance(self.weights, HeadWeights):
            return self.weights.see(pooling).float().numpy()
        most = _pooled(self.weights, pooling)
        if pooling.how == "max" and bool((self.weights < 0).any()):
            least = -_pooled(-self.weights, pooling)
            most = np.where(most >= -least, most, least)
        return most

    def row(self, query: int) -> ndarray:
        """The weights of a query."""
        if isinstance(self.weights, RecordedHead):
            row = Rows(query)
            return self.weights.see(row)[row][0].float().numpy()
        return self.weights[query].float().numpy()


def map_source_of(weights: Any, head: int | None, batch: int, tokens: Sequence[str] | None) -> MapSource:
    """The source of a map of one head's weights; `tokens` are those of the whole text."""
    shift, named = 0, tokens
    if isinstance(weights, Weights):
        if head is None:
            raise OptionError(
                "head", "none", f"0 to {weights.shape[1] - 1}, for Weights of several heads", "Say which: head=0."
            )
        weights = weights.head(head, batch)
    elif head is not None or batch:
        raise OptionError(
            "head, batch",
            f"given with a {type(weights).__name__}",
            "both with Weights alone",
            "It is of one head already: leave them out.",
        )
    if isinstance(weights, RecordedHead):
        layer = weights.layer
        shape = layer.queries, layer.keys
        shift = layer.place.query - layer.place.key
        if named is None and weights.tokens is not None:
            named = weights.tokens[layer.place.key :]
            named = named if len(named) >= max(shape[1], shift + shape[0]) else None
    elif isinstance(weights, HeadWeights):
        shape = weights.shape[0], weights.shape[1]
        shift = shape[1] - shape[0]
    else:
        if not isinstance(weights, Tensor | ndarray):
            raise DtypeError(
                "weights",
                f"a {type(weights).__name__}",
                "a head of a recording, Weights, or a tensor (queries, keys)",
                "For a whole recording there is regard.plot.heads.",
            )
        weights = torch.as_tensor(weights).detach().to("cpu", torch.float32)
        if weights.ndim != 2 or 0 in weights.shape:
            raise ShapeError(
                "weights",
                f"shape {tuple(weights.shape)}",
                "(queries, keys), neither 0",
                "Take one batch row and head: weights[0, 3].",
            )
        shape = weights.shape[0], weights.shape[1]
        shift = shape[1] - shape[0]
    most = max(shape[1], shape[0] + shift)
    if named is not None and len(named) < most:
        raise ShapeError(
            "tokens", f"{len(named)} texts", f"one for each of {most} tokens", "Give those of the whole text."
        )
    queries = None if named is None else named[max(shift, 0) :]
    return MapSource(weights, shape, queries, named)


def bind_pooling(
    source: MapSource, size: int, how: str, queries: tuple[int, int] | None, keys: tuple[int, int] | None
) -> Pooled:
    """The pooling of a map of this source, of which neither side is empty."""
    pooling = Pooled(size, size, how, queries, keys).bind(sizes(*source.shape))
    for name, side in zip(("queries", "keys"), pooling.rectangle, strict=True):
        if not side:
            raise OptionError(
                name, f"({side.start}, {side.stop}), which is empty", "start < stop", "Ask for one at least."
            )
    return pooling


def sizes(queries: int, keys: int) -> Sizes:
    """The sizes of a call of one head."""
    return Sizes(1, 1, 1, queries, keys, 1, 1, torch.device("cpu"))


def _pooled(numbers: Tensor, pooling: Pooled) -> ndarray:
    """The map of these weights, by the observer itself."""
    whole = numbers[None, None]
    queries, keys = range(len(numbers)), torch.arange(numbers.shape[1])
    block = WeightRows(whole, whole, lambda: whole.logsumexp(-1), queries, keys, sizes(*numbers.shape))
    return pooling.of(block)[0][0, 0].numpy()


def maps_of(maps: Any, name: str, batch: int) -> ndarray:
    """The maps of a layer's heads, in one batch row."""
    given = torch.as_tensor(maps).detach().to("cpu", torch.float32)
    if given.ndim == 4 and 0 <= batch < given.shape[0]:
        given = given[batch]
    if given.ndim != 3 or 0 in given.shape:
        raise ShapeError(
            f"heads(…): layer {name}",
            f"shape {tuple(given.shape)}, batch row {batch}",
            "(batch, heads, rows, cols), or (heads, rows, cols)",
            "Give what seen[Pooled(64, 64, 'max')] is.",
        )
    return given.numpy()


def pixel(pooling: Pooled, values: ndarray | None = None) -> str:
    """What a pixel is, as text."""
    what = "difference" if values is not None and (values < 0).any() else "attention weight"
    down, right = (-(-len(side) // n) for side, n in zip(pooling.rectangle, (pooling.rows, pooling.cols), strict=True))
    if down == right == 1:
        return f"{what}\n1 px = 1 weight"
    how = "farthest from 0" if what == "difference" and pooling.how == "max" else HOW[pooling.how]
    return f"{what}\n1 px = {down}×{right} weights, {how}"
