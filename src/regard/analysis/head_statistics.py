"""Statistics of the heads of a layer, gathered strip by strip of its queries: the one place that defines them.

The explorer's atlas, offline pages and `regard look` all show these numbers. A mean is taken over the queries that
may see more than one key; a query that sees a single key gives it weight 1 whatever the head does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from regard.analysis.head_ranking import LINK_CRITERIA, criteria_scores, link_kinds, rank_heads
from regard.analysis.layers import Layer
from regard.analysis.pyramid import Pyramid
from regard.analysis.uniform_baseline import uniform_baseline
from regard.spec.observers import DistanceMass, Entropy, MeanDistance, Observer, SpanMass, Top, TopK

TOP = 8
"""Strongest keys of each query whose weight is summed up, and among which links are looked for."""

SAMPLED_QUERIES = 256
"""Queries, evenly spaced, over which heads are compared."""

MEANS = ("entropy", "support", "first", "previous", "distance", "top")
"""The means that a pyramid file stores, in this order."""

OnFraction = Callable[[float], None]
"""Called with the fraction that is done; it raises where the work should end."""


class Redundancy(TypedDict):
    """The head whose weights are most like those of a given head, and their cosine similarity."""

    layer: int
    head: int
    similarity: float


class HeadSummary(TypedDict):
    """One head, as the explorer's atlas shows it."""

    layer: int
    head: int
    entropy: float
    """Mean of entropy ÷ log(visible keys): 0 is one key, 1 is all alike."""
    support: float
    """Mean of e^entropy: the effective number of keys."""
    first: float
    """Mean weight on the first token of the text."""
    previous: float
    """Mean weight on the token just before."""
    distance: float
    """Mean distance between query and key, in tokens."""
    top: float
    """Mean weight on the `TOP` strongest keys of each query."""
    received: float
    """The share of all weight that the key with the most weight receives."""
    redundancy: Redundancy | None


class Highlight(TypedDict):
    """A head that is worth showing, and why."""

    layer: int
    head: int
    title: str
    why: str


class HeadMeans(NamedTuple):
    """Of every head (h): means over the queries that may see more than one key. Fields as in `HeadSummary`."""

    entropy: Float[Tensor, " h"]
    support: Float[Tensor, " h"]
    first: Float[Tensor, " h"]
    previous: Float[Tensor, " h"]
    distance: Float[Tensor, " h"]
    top: Float[Tensor, " h"]
    next: Float[Tensor, " h"]
    """Mean weight on the token just after."""
    last: Float[Tensor, " h"]
    """Mean weight on the last token of the text, where encoders often rest (Clark et al., 2019)."""
    links: dict[str, Float[Tensor, " h"]]
    """Mean weight on the links that fulfil each of `LINK_CRITERIA`, of the `TOP` strongest of each query."""


class LayerStatistics:
    """Statistics of every head of a layer. Call `add` for each strip of queries, then read the rest.

    Args:
        layer: The layer; of its weights the first batch row counts.
        ids: A number for each token of the text, equal where tokens are equal; None if they are not known.
    """

    def __init__(self, layer: Layer, ids: Int[ndarray, " n"] | None = None) -> None:
        problem = layer.weights.problem
        self.shift, self.keys = layer.shift, layer.keys
        self.baseline = uniform_baseline(problem.mask, problem.sizes, layer.shift)
        covers_text = ids is not None and layer.shift + layer.queries <= layer.keys == len(ids)
        self.ids = ids if covers_text else None
        self.received = torch.zeros(layer.heads, layer.keys, dtype=torch.float64)
        """The weight that each key receives from all queries, (h, k); the caller adds to it."""
        names = "entropy", "first", "last", "previous", "next", "distance", "top", *LINK_CRITERIA
        self._by_query = {name: torch.zeros(layer.heads, layer.queries, dtype=torch.float64) for name in names}

    def observers(self, queries: range) -> list[Observer[Any]]:
        """What `add` takes the results of, for a strip that is observed as a call of its own."""
        offset = self.shift + queries.start
        return [
            Entropy(),
            SpanMass((0, 1), (self.keys - 1, self.keys)),
            DistanceMass(1, offset=offset),
            DistanceMass(-1, offset=offset),
            MeanDistance(offset=offset),
            TopK(TOP),
        ]

    def add(self, queries: range, results: Sequence[Any]) -> Top:
        """Add the results of `observers` for a strip, and return its strongest keys, each (h, queries, TOP)."""
        entropy, ends, previous, following, distance = (result[0] for result in results[:-1])
        top = Top(*(part[0] for part in results[-1]))
        positions = np.arange(self.shift + queries.start, self.shift + queries.stop)
        kinds = link_kinds(top.keys.cpu().numpy(), positions, self.ids, self.keys, self.baseline.ahead)
        links = {
            name: (top.weights * torch.from_numpy(of_kind).to(top.weights)).sum(-1) for name, of_kind in kinds.items()
        }
        by_query = {
            "entropy": entropy,
            "first": ends[..., 0],
            "last": ends[..., 1],
            "previous": previous,
            "next": following,
            "distance": distance,
            "top": top.weights.sum(-1),
            **links,
        }
        for name, values in by_query.items():
            self._by_query[name][:, queries.start : queries.stop] = values
        return top

    @property
    def entropy(self) -> Float[Tensor, "h q"]:
        """The entropy of each row of weights, in nats."""
        return self._by_query["entropy"]

    @functools.cached_property
    def means(self) -> HeadMeans:
        """Means over the queries that may see more than one key."""
        visible = torch.from_numpy(self.baseline.visible)
        counted = visible > 1
        count = counted.sum(-1).clamp(min=1)

        def mean(by_query: Float[Tensor, "h q"]) -> Float[Tensor, " h"]:
            return (by_query * counted).sum(-1) / count

        uniform_entropy = torch.where(counted, visible, 2).double().log()
        named = {name: mean(self._by_query[name]) for name in ("first", "previous", "distance", "top", "next", "last")}
        return HeadMeans(
            mean(self.entropy / uniform_entropy),
            mean(self.entropy.exp()),
            links={name: mean(self._by_query[name]) for name in LINK_CRITERIA},
            **named,
        )

    @property
    def received_share(self) -> Float[Tensor, " h"]:
        """Of all weight, the share of the key that receives most."""
        return self.received.amax(-1) / self.received.sum(-1).clamp(min=torch.finfo(torch.float64).tiny)

    @property
    def scores(self) -> Float[ndarray, "h criteria"]:
        """The scores of heads by the criteria of `head_ranking`."""
        means = self.means
        looks_ahead = float(self.baseline.ahead)  # criteria of what comes after count only where it can be seen
        scores = {
            **means.links,
            "previous token": means.previous,
            "next token": means.next * looks_ahead,
            "the start": means.first,
            "the end": means.last * looks_ahead,
            "collector": (self.received - torch.from_numpy(self.baseline.share)).amax(-1),
            "widest": means.support,
        }
        return criteria_scores({title: score.numpy() for title, score in scores.items()})


def token_ids(tokens: Sequence[str] | None) -> Int[ndarray, " n"] | None:
    """A number for each token of a text, equal where their texts are; None where they are not known."""
    return None if tokens is None else np.unique(np.array(tokens), return_inverse=True)[1]


def head_summaries(layer: int, pyramid: Pyramid) -> list[HeadSummary]:
    """The summaries of the heads of a layer, from its pyramid file; their redundancy is still None."""
    means, share = pyramid.array("means"), pyramid.array("share")
    return [
        HeadSummary(
            layer=layer,
            head=head,
            received=float(share[head]),
            redundancy=None,
            **{name: float(mean) for name, mean in zip(MEANS, means[head], strict=True)},
        )
        for head in range(len(means))
    ]


def highlights(scores: Sequence[ndarray]) -> list[Highlight]:
    """The heads of all layers that are most worth showing; `scores` are those of each layer, (h, criteria)."""
    heads = [(layer, head) for layer, each in enumerate(scores) for head in range(len(each))]
    return [
        Highlight(layer=layer, head=head, title=ranked.criterion.title, why=ranked.why)
        for ranked in rank_heads(np.concatenate(scores))
        for layer, head in [heads[ranked.head]]
    ]


def head_similarity(layers: Sequence[Layer], on_fraction: OnFraction) -> Float[ndarray, "heads heads"]:
    """The cosine similarity of every two heads' weights, over some whole rows, the same of each layer.

    Rows are `SAMPLED_QUERIES` evenly spaced queries. Heads of layers with other numbers of queries or keys, as in
    models with two towers, have similarity 0.
    """
    total = sum(layer.heads for layer in layers)
    products = np.zeros((total, total))
    for shape in dict.fromkeys((layer.queries, layer.keys) for layer in layers):
        indices, same_shape = list[int](), list[Layer]()
        first = 0
        for layer in layers:
            if (layer.queries, layer.keys) == shape:
                same_shape.append(layer)
                indices += range(first, first + layer.heads)
            first += layer.heads
        block, rows = np.ix_(indices, indices), torch.empty(len(indices), shape[1])
        for query in _sampled(shape[0]):
            on_fraction(query / shape[0])
            torch.cat([layer.row(query) for layer in same_shape], out=rows)
            products[block] += (rows @ rows.T).numpy()
    lengths = np.sqrt(np.diagonal(products)).clip(1e-300)
    return products / lengths / lengths[:, None]


def with_redundancy(heads: Sequence[HeadSummary], similarity: Float[ndarray, "heads heads"]) -> list[HeadSummary]:
    """The same summaries, each with the other head that is most similar."""
    others = similarity - 2 * np.eye(len(heads))
    result: list[HeadSummary] = []
    for head, row in zip(heads, others, strict=True):
        nearest = int(row.argmax())
        redundancy = None
        if len(heads) > 1:
            other = heads[nearest]
            redundancy = Redundancy(layer=other["layer"], head=other["head"], similarity=float(row[nearest]))
        result.append({**head, "redundancy": redundancy})
    return result


def _sampled(queries: int) -> list[int]:
    count = min(SAMPLED_QUERIES, queries)
    return [i * queries // count + queries // count // 2 for i in range(count)]
