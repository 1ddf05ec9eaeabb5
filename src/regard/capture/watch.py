"""Watching the attention of a whole model while it runs: of ours, or of transformers'.

    with regard.watch(model, Entropy(), TopK(8), Received()) as seen:
        model(**inputs)                       # or model.generate(**inputs)
    seen.layer(3)[Entropy()]                  # (b, h, q)

Nothing of the model changes, and no weights are formed: `regard.observe` makes each layer's call in place of
`regard.attention`, with the same output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from regard.capture.interceptor import InterceptedCall, Interceptor, TextPosition, use_regard
from regard.display import repr_html
from regard.errors import DtypeError, OptionError
from regard.integrations.compat.torch_internals import in_backward
from regard.integrations.torch_functions import torch_functions
from regard.spec.masks import Given, Mask, Padding
from regard.spec.observers import Observer, Received, SpanMass, Top, TopK
from regard.spec.values import Aligned

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Pass:
    """The statistics of one call of a layer: a forward pass has one, `generate` one for each step."""

    place: TextPosition
    queries: int
    keys: int
    _results: dict[Observer[Any], Any]

    def __getitem__(self, observer: Observer[Result]) -> Result:
        if observer not in self._results:
            observers = ", ".join(repr(each) for each in self._results)
            raise OptionError(
                "seen.layer(…)[…]",
                repr(observer),
                f"the observers asked for: {observers}",
                "Ask for it in watch(…), or of a recording.",
            )
        return cast("Result", self._results[observer])

    def __repr__(self) -> str:
        return f"Pass(queries={self.queries}, keys={self.keys}, first query {self.place.query})"

    def _repr_html_(self) -> str:
        """In a notebook, each result as a small picture or table."""
        return repr_html.observer_results(f"{self.queries:,} queries × {self.keys:,} keys", self._results)


class WatchedLayer:
    """The statistics of one attention layer, of one pass or of several that continue each other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.passes: list[Pass] = []

    def __getitem__(self, observer: Observer[Result]) -> Result:
        """The statistic of all queries: of later passes, as `generate` makes them, after those of earlier.

        Raises:
            OptionError: an observer that was not given; passes that do not continue each other.
        """
        first, *later = self.passes
        result = first[observer]
        for before, following in zip(self.passes, later, strict=False):
            if following.place.query != before.place.query + before.queries:
                raise OptionError(
                    f"seen.layer({self.name!r})[…]",
                    f"{len(self.passes)} passes that do not continue each other",
                    "one pass, or the steps of one generation",
                    f"Take one: seen.layer({self.name!r}).passes[0][…].",
                )
            result = _append(observer, result, following[observer])
        return result

    def __repr__(self) -> str:
        return f"WatchedLayer({self.name!r}, {len(self.passes)} passes)"


class Watched:
    """The statistics of a watched model, layer by layer."""

    def __init__(self) -> None:
        self._layers: dict[str, WatchedLayer] = {}
        self.calls: torch_functions | None = None
        """How calls of PyTorch's own attention were carried out, where the model is not of transformers."""

    def layer(self, which: int | str) -> WatchedLayer:
        """A layer by its number, in the order in which they were first called, or by its module's name.

        Raises:
            OptionError: a layer that was not called, or is not watched.
        """
        if not self._layers:
            reasons = "; ".join(self.calls.left) if self.calls is not None else ""
            raise OptionError(
                "watch",
                "a model none of whose layers called regard.attention",
                "models of transformers that take attn_implementation, regard.nn, and what calls "
                "regard.attention or PyTorch's attention functions",
                f"PyTorch kept its calls: {reasons}."
                if reasons
                else "Run the model inside `with watch(…)`. If it did run, it computes attention by itself: "
                "let its layers call regard.attention.",
            )
        names = self.names
        if isinstance(which, str) and which in self._layers:
            return self._layers[which]
        if isinstance(which, int) and -len(names) <= which < len(names):
            return self._layers[names[which]]
        raise OptionError(
            "seen.layer", repr(which), f"0 to {len(names) - 1}, or one of {', '.join(names)}", "seen.names lists them."
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modules that attended, in the order of their first calls."""
        return tuple(self._layers)

    def __iter__(self) -> Iterator[WatchedLayer]:
        return iter(self._layers.values())

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        passes = max((len(layer.passes) for layer in self), default=0)
        return f"Watched({len(self)} layers, {passes} passes)"


@contextmanager
def watch(
    model: nn.Module, *observers: Observer[Any], layers: str | int | Sequence[str | int] | None = None
) -> Iterator[Watched]:
    """Watch the attention of a model while it runs: exact statistics of every layer's weights.

    Args:
        model: A model of transformers (it runs on ``attn_implementation="regard"`` while it is watched), one
            of modules of `regard.nn`, or any that calls `regard.attention` or PyTorch's attention functions.
        observers: Statistics: ``Entropy()``, ``TopK(8)``, ``Received()``, ``SpanMass(…)`` and the others.
        layers: Which layers, all by default: numbers in the order of their calls, or names of modules, in
            which ``*`` stands for anything.

    Yields:
        `Watched`: ``seen.layer(3)[Entropy()]``. In `generate`, later steps follow earlier ones,
        and ``seen.layer(3).passes[i][…]`` is one step. Positions are those of the whole text, also where a
        cache drops old keys. Padded queries are not counted in what keys receive. In a beam search a
        row is whatever beam stands there at that step.

    Raises:
        OptionError: no observers; a layer that was not called.

    Statistics have gradients where their observer does, so that a loss may be made of them. A compiled model
    runs uncompiled while it is watched.

    >>> import torch
    >>> from regard import Causal, Entropy, Received, watch
    >>> from regard.nn import MultiHeadAttention, Transformer
    >>> model = Transformer(100, [MultiHeadAttention(32, 2, mask=Causal()) for _ in range(2)])
    >>> with watch(model, Entropy(), Received()) as seen:
    ...     logits = model(torch.zeros(1, 10, dtype=torch.long))
    >>> seen.names
    ('blocks.0.attention', 'blocks.1.attention')
    >>> seen.layer(1)[Entropy()].shape, seen.layer(1)[Received()].shape
    (torch.Size([1, 2, 10]), torch.Size([1, 2, 10]))
    """
    if not isinstance(cast("object", model), nn.Module):
        raise DtypeError(
            "watch(model)",
            f"a {type(model).__name__}",
            "a module of PyTorch",
            "Give the model first, then the observers.",
        )
    wrong = next((each for each in observers if not isinstance(cast("object", each), Observer)), None)
    if not observers or wrong is not None:
        raise OptionError(
            "watch(…)",
            "no observers" if wrong is None else repr(wrong),
            "observers: Entropy(), TopK(8), Received() …",
            "Say what to see.",
        )
    seen = Watched()
    watcher = _Watcher(seen, tuple(dict.fromkeys(observers)), layers)
    with use_regard(model) as seen.calls, watcher.on(model):
        yield seen


class _Watcher(Interceptor):
    """Collects the statistics of each call."""

    def __init__(
        self, seen: Watched, observers: tuple[Observer[Any], ...], layers: str | int | Sequence[str | int] | None
    ) -> None:
        super().__init__(layers)
        self.seen, self.observers = seen, observers

    def handle(self, call: InterceptedCall) -> Tensor:
        queries, keys, mask = call.q.shape[2], call.k.shape[2], call.spec.mask
        before = self.seen._layers.get(call.layer)  # pyright: ignore[reportPrivateUsage]
        position = position_of(before, queries, keys, mask) if call.position is None else call.position
        outputs: list[Tensor] = []

        def statistics(observers: Sequence[Observer[Any]], real: Given | None) -> dict[Observer[Any], Any]:
            spec = call.spec if real is None else call.spec.changed(mask=mask & real, dropout=0.0)
            seen = call.observe(*observers, spec=spec)
            outputs.append(seen.out)
            return {observer: seen[observer] for observer in seen}

        results = observe_in_text(statistics, self.observers, position, mask, queries, keys)
        # What checkpoints recompute there was seen before.
        if not in_backward():
            layer = self.seen._layers.setdefault(call.layer, WatchedLayer(call.layer))  # pyright: ignore[reportPrivateUsage]
            layer.passes.append(Pass(position, queries, keys, results))
        return outputs[0]


def position_of(layer: WatchedLayer | None, queries: int, keys: int, mask: Mask) -> TextPosition:
    """Where queries stand if the caller does not know: after those before, or the last one at the last key."""
    if layer is not None and layer.passes and queries < keys:
        before = layer.passes[-1]
        if keys in (before.keys, before.keys + queries):
            return TextPosition(before.place.query + before.queries, 0)
    aligned = any(isinstance(part, Aligned) for part in mask.conjuncts())
    return TextPosition(max(keys - queries, 0) if aligned else 0, 0)


@runtime_checkable  # tests check signatures at run time
class Statistics(Protocol):
    """Observes a call: with all its queries, or with those alone that a mask of queries allows."""

    def __call__(self, observers: Sequence[Observer[Any]], real: Given | None) -> dict[Observer[Any], Any]: ...


def observe_in_text(
    statistics: Statistics,
    observers: Sequence[Observer[Any]],
    position: TextPosition,
    mask: Mask,
    queries: int,
    keys: int,
) -> dict[Observer[Any], Any]:
    """The statistics of one call, with positions in the whole text; padded queries give keys nothing."""
    local = {observer: _local(observer, position, keys) for observer in observers}
    padded = _padded_queries(mask, queries, keys)
    separate = [] if padded is None else [observer for observer in local.values() if not observer.by_row]
    results = statistics([observer for observer in local.values() if observer not in separate], None)
    if separate:
        results = results | statistics(separate, padded)
    return {observer: _in_text(inner, results[inner], position.key) for observer, inner in local.items()}


def _padded_queries(mask: Mask, queries: int, keys: int) -> Given | None:
    """The queries that are no padding, by the keys' padding: in self-attention, query i is key i."""
    if queries != keys:
        return None
    real: Tensor | None = None
    for part in mask.conjuncts():
        if isinstance(part, Padding):
            positions = torch.arange(keys, device=part.lengths.device)
            lengths = part.lengths[:, None]
            unpadded = positions < lengths if part.side == "right" else positions >= keys - lengths
        elif isinstance(part, Given) and part.table.ndim == 4 and part.table.shape[1:3] == (1, 1):
            unpadded = part.table[:, 0, 0].expand(-1, keys)
        else:
            continue
        real = unpadded if real is None else real & unpadded
    if real is None or bool(real.all()):
        return None
    return Given(real[:, None, :, None])


def _local(observer: Observer[Any], position: TextPosition, keys: int) -> Observer[Any]:
    """The observer for a call whose keys are some of the text's."""
    if isinstance(observer, Aligned) and observer.offset is None:
        return observer._with(offset=position.query - position.key)
    if isinstance(observer, SpanMass):
        shifted = tuple(
            (min(max(start - position.key, 0), keys), min(max(stop - position.key, 0), keys))
            for start, stop in observer.spans
        )
        return observer._with(spans=shifted)
    return observer


def _in_text(observer: Observer[Any], result: Any, first: int) -> Any:
    """A result about keys, with their positions in the whole text."""
    if first and isinstance(observer, TopK):
        return Top(torch.where(result.keys < 0, -1, result.keys + first), result.weights)
    if first and isinstance(observer, Received):
        return nn.functional.pad(result, (first, 0))
    return result


def _append(observer: Observer[Any], before: Any, following: Any) -> Any:
    parts = (result if isinstance(result, tuple) else (result,) for result in (before, following))
    return observer.result(*observer.append(*parts))
