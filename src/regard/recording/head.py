"""One head of a recorded layer: its weights, its statistics, and what a notebook shows of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from regard.capture.watch import Pass, observe_in_text
from regard.display import repr_html
from regard.errors import OptionError
from regard.spec.masks import Given
from regard.spec.normalizers import Softmax
from regard.spec.observers import DistanceMass, Entropy, MeanDistance, Observer, Pooled, SpanMass, Top, TopK
from regard.weights import HeadWeights, one_of

if TYPE_CHECKING:
    from regard.recording.layer import RecordedLayer

CHEAP = 1 << 30
"""Weights that are looked at before a notebook shows a head: about two seconds' work."""

_SIDE = 128
_LINKS = 8
_SMALL, _THUMBNAILS = 32, 36
_MASSES = {"first token": SpanMass((0, 1)), "previous token": DistanceMass(1)}
_TOP = TopK(_LINKS + 1)


class RecordedHead:
    """One head of a recorded layer, in one batch row. Made by `RecordedLayer.head`.

    >>> import tempfile, torch
    >>> from regard import Causal, Entropy, record
    >>> from regard.nn import MultiHeadAttention, Transformer
    >>> model = Transformer(100, [MultiHeadAttention(32, 2, mask=Causal())])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = record(model, torch.zeros(1, 10, dtype=torch.long), to=f"{folder}/run.safetensors")
    ...     head = run.layer(0).head(1)
    ...     head.see(Entropy())[Entropy()].shape, head.weights[9].sum().round().item()
    (torch.Size([10]), 1.0)
    """

    def __init__(self, layer: RecordedLayer, number: int, batch: int = 0) -> None:
        """One that is there.

        Raises:
            OptionError: a head or a batch row that the layer does not have.
        """
        rows = layer.lse.shape[0]
        for name, given, most in (("head", number, layer.heads), ("batch", batch, rows)):
            if type(given) is not int or not 0 <= given < most:
                raise OptionError(f"layer.head({name}=…)", repr(given), f"0 to {most - 1}", "Count from 0.")
        self.layer, self.number, self.batch = layer, number, batch

    @property
    def tokens(self) -> tuple[str, ...] | None:
        """What each token of the text looks like, where that was recorded."""
        return self.layer.run.tokens

    @functools.cached_property
    def weights(self) -> HeadWeights:
        """All its weights as a value, (q, k): single ones, rows and rectangles cost what they hold.

        Raises:
            OptionError: another normalizer than `Softmax`, of which lse does not tell: `see` has its rows.
        """
        return self.layer.weights.head(self.number, self.batch)

    def see(self, *observers: Observer[Any]) -> Pass:
        """Statistics of its weights, without the dimensions of batch rows and heads.

        Those of ``layer.see`` for this head, at the cost of this head alone.
        """
        if not observers:
            raise OptionError(
                "see(…)", "no observers", "observers: Entropy(), TopK(8), Received() …", "Say what to see."
            )
        layer = self.layer
        sides = layer.place, layer.mask, layer.queries, layer.keys
        results = layer._guarded(lambda: observe_in_text(self._statistics, observers, *sides))
        return Pass(layer.place, layer.queries, layer.keys, results)

    def _statistics(self, observers: Sequence[Observer[Any]], real: Given | None) -> dict[Observer[Any], Any]:
        layer = self.layer
        if real is None and isinstance(layer.normalizer, Softmax):
            return self.weights.seen(observers)
        place = self.batch, self.number
        return {one: one_of(it, place) for one, it in layer._statistics(observers, real).items()}

    def token(self, side: str, index: int) -> str:
        """The text of the token at which a query (or key) stands; empty where it is not known."""
        first = self.layer.place.query if side == "query" else self.layer.place.key
        tokens = self.tokens or ()
        return tokens[first + index] if first + index < len(tokens) else ""

    def __repr__(self) -> str:
        of = f"{self.layer.number}, {self.layer.name!r}"
        return f"RecordedHead({self.number} of layer {of}, {self.layer.queries} × {self.layer.keys})"

    def _repr_html_(self) -> str:
        """What a notebook shows: its map, its statistics and its strongest links."""
        layer, (q, k) = self.layer, (self.layer.queries, self.layer.keys)
        title = f"{layer.run.path.name}: layer {layer.number} ({layer.name}), head {self.number}"
        sides = repr_html.paragraph(f"{q:,} queries × {k:,} keys")
        if q * k > CHEAP:
            many = f"They are {q * k:,} weights, which takes a while:"
            ask = repr_html.Html("<code>head.see(Pooled(512, 512, 'max'))</code>")
            return repr_html.section(title, sides, repr_html.paragraph(many, ask, "makes a map of them."))
        drawn = Pooled(_SIDE, _SIDE, "max")
        seen = self.see(drawn, Entropy(), MeanDistance(), *_MASSES.values(), _TOP)
        values = seen[drawn].float().numpy()
        high = repr_html.ceiling([values])
        pixel = f"{-(-q // len(values))}×{-(-k // values.shape[1])} weights, maximum"
        return repr_html.section(
            title,
            sides,
            repr_html.picture(values, f"map of the weights: {pixel}", high, 2 * _SIDE),
            repr_html.paragraph(repr_html.legend(high, pixel)),
            self._figures(seen),
            self._links(seen[_TOP]),
        )

    def _figures(self, seen: Pass) -> str:
        entropy = seen[Entropy()]
        statistics = {
            "entropy, nats": entropy,
            "effective keys": entropy.exp(),
            "mean distance": seen[MeanDistance()],
            **{f"mass on the {name}": seen[one].reshape(-1) for name, one in _MASSES.items()},
        }
        each = ((name, one.float().numpy()) for name, one in statistics.items())
        rows = [
            (name, *repr_html.figures(one), repr_html.line(one, f"{name}, from first query to last"))
            for name, one in each
        ]
        return repr_html.table(["of each query", *repr_html.FIGURES, "from first to last"], rows)

    def _links(self, top: Top) -> str:
        shift = self.layer.place.query - self.layer.place.key
        rows = [
            (
                repr_html.number(weight),
                f"{query:,}",
                _quoted(self.token("query", query)),
                f"{key:,}",
                _quoted(self.token("key", key)),
            )
            for query, key, weight in strongest(top, shift, _LINKS)
        ]
        names = ["weight", "query", "", "key", ""]
        return repr_html.paragraph("Strongest links but those of a token to itself:") + repr_html.table(names, rows)


def strongest(top: Top, shift: int, count: int) -> list[tuple[int, int, float]]:
    """The strongest of a head's weights as (query, key, weight), leaving out each query's own place.

    Exact where `top` has more keys of each query than are wanted of all. Of equal ones the first query, then
    the first key.
    """
    keys, weights = top.keys.numpy(), top.weights.float().numpy()
    queries: ndarray = np.broadcast_to(np.arange(len(keys))[:, None], keys.shape)
    selected = (keys >= 0) & (keys != queries + shift) & np.isfinite(weights)
    links = queries[selected], keys[selected], weights[selected]
    order = np.lexsort((links[1], links[0], -links[2]))[:count]
    return [(int(q), int(k), float(w)) for q, k, w in zip(*(column[order] for column in links), strict=True)]


def thumbnails(layers: Sequence[RecordedLayer]) -> str:
    """A small map of every head, if that takes no time to speak of; else how to see one."""
    heads = sum(layer.heads for layer in layers)
    if heads > _THUMBNAILS or sum(layer.heads * layer.queries * layer.keys for layer in layers) > CHEAP // 8:
        ask = repr_html.Html("<code>run.layer(0).head(0)</code>")
        return repr_html.paragraph("Maps of all heads would take a while:", ask, "shows one of them.")
    drawn = Pooled(_SMALL, _SMALL, "max")
    rows = [
        (
            layer.number,
            *(
                repr_html.picture(one.float().numpy(), f"map of head {i} of layer {layer.number}", 1.0, 48, 31)
                for i, one in enumerate(layer.see(drawn)[drawn][0])
            ),
        )
        for layer in layers
    ]
    most = max(layer.heads for layer in layers)
    return repr_html.table(["layer", *(f"head {i}" for i in range(most))], rows) + repr_html.paragraph(
        repr_html.legend(1.0, "the maximum of its weights")
    )


def _quoted(text: str) -> str:
    return f"“{text if len(text) <= 40 else text[:39] + '…'}”" if text else ""
