"""What the atlas tells of every head, gathered in the same pass as a layer's pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from regard.analysis.head_ranking import LINK_CRITERIA, criteria_scores, link_kinds, rank_heads
from regard.analysis.layers import Layer
from regard.analysis.pyramid import STRIP, Pyramid, PyramidWriter
from regard.analysis.uniform_baseline import uniform_baseline
from regard.spec.observers import DistanceMass, Entropy, MeanDistance, Observer, Pooled, SpanMass, TopK

TOP = 8
"""Of the mass of so many strongest keys the atlas tells."""

SAMPLED = 256
"""Queries, evenly spaced, over which heads are compared."""

MEANS = ("entropy", "support", "first", "previous", "distance", "top")
"""Means over the queries that may see more than one key, in the order in which they are kept."""

_TOLD = "next", "last", *LINK_CRITERIA
"""What else is kept of each query, to say which heads tell most."""

_STRIP = 2048  # queries in a strip where there is no pyramid

Progress = Callable[[float], None]
"""Told which part is done; it raises where the work should end."""


class _Piece(NamedTuple):
    """A rectangle of a strip's queries and of keys, whose cells are all of one size."""

    q: range
    k: range
    rows: int
    cols: int

    def maps(self, cell: int) -> list[Pooled]:
        """What is asked of it: what its keys receive, and its cells."""
        ends: dict[str, Any] = {"queries": (self.q.start, self.q.stop), "keys": (self.k.start, self.k.stop)}
        received = Pooled(1, len(self.k), "sum", **ends)
        if not cell:
            return [received]
        return [received, *(Pooled(self.rows, self.cols, how, **ends) for how in ("max", "sum"))]


def build(
    layer: Layer, cell: int, writer: PyramidWriter, progress: Progress, ids: Int[ndarray, " n"] | None = None
) -> None:
    """Pass once over a layer's weights: its pyramid, if `cell` is not 0, and the statistics of its heads.

    `ids` are those of the text's tokens, equal where these are.
    """
    h, n, keys = layer.heads, layer.queries, layer.keys
    by_row = {name: torch.zeros(h, n, dtype=torch.float64) for name in (*MEANS, *_TOLD)}
    problem = layer.weights.problem
    evenly = uniform_baseline(problem.mask, problem.sizes, layer.shift)
    if ids is not None and not layer.shift + n <= keys == len(ids):
        ids = None  # of another text than the keys are
    received = torch.zeros(h, keys, dtype=torch.float64)
    strips = layer.strips(STRIP * cell if cell else _STRIP)
    for number, queries in enumerate(strips):
        progress(number / len(strips))
        near = _reached(layer, queries, cell)
        pieces = _pieces(cell, len(queries), near)
        asked = [one for piece in pieces for one in piece.maps(cell)]
        first = layer.shift + queries.start
        seen, drawn = layer.see(queries, _passing(first, keys), asked)
        _keep(by_row, queries, seen)
        top, places = seen[-1], np.arange(first, first + len(queries))
        kinds = link_kinds(top.keys[0].numpy(), places, ids, keys, evenly.ahead)
        for name, hit in kinds.items():
            found = (top.weights[0] * torch.from_numpy(hit)).sum(-1)
            by_row[name][:, queries.start : queries.stop] = found
        each = 3 if cell else 1
        found = [drawn[i : i + each] for i in range(0, len(drawn), each)]
        for piece, maps in zip(pieces, found, strict=True):
            received[:, piece.k.start : piece.k.stop] += maps[0][:, 0]
        if cell and pieces:
            cells = _cells(cell, queries, near, pieces, found)
            for i, start in enumerate(range(0, cells.shape[2], STRIP)):
                part = cells[:, :, start : start + STRIP]
                writer.strip(number + i, near.start // cell, part)
    visible = torch.from_numpy(evenly.visible)
    chooses = visible > 1
    choice = torch.where(chooses, visible, 2).double().log()
    count = chooses.sum(-1).clamp(min=1)
    entropies = by_row["entropy"].clone()
    by_row["support"] = entropies.exp()
    by_row["entropy"] = entropies / choice
    mean = {name: (each * chooses).sum(-1) / count for name, each in by_row.items()}
    means = torch.stack([mean[name] for name in MEANS], -1)
    share = received.amax(-1) / received.sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    writer.put("entropy", entropies.float().numpy())
    writer.put("received", received.float().numpy())
    writer.put("means", means.numpy())
    writer.put("share", share.numpy())
    beyond = (received - torch.from_numpy(evenly.share)).amax(-1)
    both = float(evenly.ahead)  # only of these it is told
    scores = {
        **{name: mean[name] for name in LINK_CRITERIA},
        "previous token": mean["previous"],
        "next token": mean["next"] * both,
        "the start": mean["first"],
        "the end": mean["last"] * both,
        "collector": beyond,
        "widest": mean["support"],
    }
    writer.put("telling", criteria_scores({name: each.numpy() for name, each in scores.items()}))


def of_heads(number: int, pyramid: Pyramid) -> list[dict[str, Any]]:
    """What the atlas tells of the heads of a layer."""
    means, share = pyramid.array("means"), pyramid.array("share")
    return [
        {
            "layer": number,
            "head": head,
            **{name: float(x) for name, x in zip(MEANS, means[head], strict=True)},
            "received": float(share[head]),
            "redundancy": None,
        }
        for head in range(len(means))
    ]


def tell(scores: Sequence[ndarray]) -> list[dict[str, Any]]:
    """The heads of all layers that tell most, and why, as the atlas says it; `scores` are each layer's."""
    heads = [(i, head) for i, each in enumerate(scores) for head in range(len(each))]
    return [
        {"layer": heads[one.head][0], "head": heads[one.head][1], "title": one.criterion.title, "why": one.why}
        for one in rank_heads(np.concatenate(scores))
    ]


def similar(layers: Sequence[Layer], progress: Progress) -> Float[ndarray, "heads heads"]:
    """The cosine of every two heads' weights over some whole rows, the same of each layer.

    Rows are `SAMPLED` evenly spaced queries. Heads of layers with other numbers of queries or keys, as of
    models with two towers, are 0 alike.
    """
    total = sum(layer.heads for layer in layers)
    products = np.zeros((total, total))
    for shape in dict.fromkeys((layer.queries, layer.keys) for layer in layers):
        places, alike = list[int](), list[Layer]()
        at = 0
        for layer in layers:
            if (layer.queries, layer.keys) == shape:
                alike.append(layer)
                places += range(at, at + layer.heads)
            at += layer.heads
        where, held = np.ix_(places, places), torch.empty(len(places), shape[1])
        for query in _sampled(shape[0]):
            progress(query / shape[0])
            torch.cat([layer.row(query) for layer in alike], out=held)
            products[where] += (held @ held.T).numpy()
    lengths = np.sqrt(np.diagonal(products)).clip(1e-300)
    return products / lengths / lengths[:, None]


def with_nearest(heads: Sequence[dict[str, Any]], alike: Float[ndarray, "heads heads"]) -> list[dict[str, Any]]:
    """The same with each head's nearest other."""
    others = alike - 2 * np.eye(len(heads))
    found: list[dict[str, Any]] = []
    for head, near in zip(heads, others, strict=True):
        nearest = int(near.argmax())
        told = None
        if len(heads) > 1:
            other = heads[nearest]
            told = {"layer": other["layer"], "head": other["head"], "similarity": float(near[nearest])}
        found.append({**head, "redundancy": told})
    return found


def _passing(offset: int, keys: int) -> list[Observer[Any]]:
    return [
        Entropy(),
        SpanMass((0, 1), (keys - 1, keys)),
        DistanceMass(1, offset=offset),
        DistanceMass(-1, offset=offset),
        MeanDistance(offset=offset),
        TopK(TOP),
    ]


def _keep(by_row: dict[str, Tensor], queries: range, seen: Sequence[Any]) -> None:
    entropy, ends, previous, following, distance, top = seen
    found = {
        "entropy": entropy,
        "first": ends[..., 0],
        "last": ends[..., 1],
        "previous": previous,
        "next": following,
        "distance": distance,
        "top": top.weights.sum(-1),
    }
    for name, numbers in found.items():
        by_row[name][:, queries.start : queries.stop] = numbers[0]


def _reached(layer: Layer, queries: range, cell: int) -> range:
    """The keys that a strip may see, from an edge of all levels on to whole cells."""
    near, cell = layer.reach(queries), max(cell, 1)
    edge = cell * STRIP
    return range(near.start // edge * edge, min(-(-near.stop // cell) * cell, layer.keys))


def _pieces(cell: int, queries: int, keys: range) -> list[_Piece]:
    """A strip in up to four pieces: whole cells, and what is left of queries and keys."""
    if not cell:
        return [_Piece(range(queries), keys, 1, len(keys))] if len(keys) else []
    rows, cols = _parted(range(queries), cell), _parted(keys, cell)
    return [_Piece(q, k, -(-len(q) // cell), -(-len(k) // cell)) for q in rows for k in cols]


def _parted(side: range, cell: int) -> list[range]:
    whole = side.start + len(side) // cell * cell
    return [part for part in (range(side.start, whole), range(whole, side.stop)) if len(part)]


def _cells(cell: int, queries: range, near: range, pieces: Sequence[_Piece], found: Sequence[list[Tensor]]) -> ndarray:
    """The cells of a strip, maxima and sums, (2, h, rows, cols), to whole cells of the coarsest level."""
    heads = len(found[0][0])
    rows, cols = (-(-len(side) // (cell * STRIP)) * STRIP for side in (queries, near))
    cells = np.zeros((2, heads, rows, cols), np.float32)
    for piece, (_, *both) in zip(pieces, found, strict=True):
        top, left = piece.q.start // cell, (piece.k.start - near.start) // cell
        for part, values in zip(cells, both, strict=True):
            part[:, top : top + piece.rows, left : left + piece.cols] = values.numpy()
    return cells


def _sampled(queries: int) -> list[int]:
    count = min(SAMPLED, queries)
    return [i * queries // count + queries // count // 2 for i in range(count)]
