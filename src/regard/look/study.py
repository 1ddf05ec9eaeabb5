"""One pass of a model over a text, with the exact statistics of every head's weights.

Nothing here is n×n: each statistic is an observer of `regard.observe`, which sees the weights a block of
rows at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from regard.analysis.uniform_baseline import UniformBaseline, uniform_baseline
from regard.attend import Seen, observe, taken_over
from regard.errors import OptionError
from regard.look.band import bands
from regard.look.opening import Openable
from regard.look.words import Words
from regard.shapes import Sizes
from regard.spec.masks import Mask, Window, as_mask
from regard.spec.observers import DistanceMass, Entropy, MeanDistance, Observer, Pooled, Received, SpanMass, TopK
from regard.system.hardware import peak_memory
from regard.system.text_source import Source
from regard.weights import Weights

LINKS = 8
LONG_LINE = 30
"""Tokens in a line, on average, from which on a text is prose and not code."""
CELLS = 128

Progress = Callable[[int, int], None]
"""Told how many layers are done, of how many."""


class Ahead(NamedTuple):
    """Of a head that looks both ways, as those of encoders do."""

    following: float
    """Mean weight on the token just after."""
    last: float
    """Mean weight on the last token of the text, where encoders often rest (Clark et al., 2019)."""


@dataclass(frozen=True, eq=False)
class Head:
    """One head's weights over the whole text, in numbers. Means are over the queries that have a choice."""

    layer: int
    head: int
    entropy: float
    """Mean of entropy ÷ log(visible keys): 0 is one key, 1 is all alike."""
    effective: float
    """Mean of e^entropy: how many keys a query looks at, as it were."""
    previous: float
    """Mean weight on the token just before."""
    first: float
    """Mean weight on the first token of the text."""
    ahead: Ahead | None
    """What a head does that also looks ahead; None where queries see nothing after themselves."""
    distance: float
    """Mean distance looked, in tokens."""
    visible: Int[ndarray, " n"]
    received: Float[ndarray, " n"]
    """The weight that each token receives from all queries."""
    share: Float[ndarray, " n"]
    """What it would receive if all queries spread their weight evenly."""
    keys: Int[ndarray, "n links"]
    """The strongest keys of each query; −1 where there are fewer."""
    weights: Float[ndarray, "n links"]
    map: Float[ndarray, "rows cols"]
    """Pooled as `pooling` says. Its columns are keys in the order of the text or, with `band`, distances."""
    band: bool
    """Whether the head sees so few tokens back that its map is drawn by distance."""

    @property
    def name(self) -> str:
        """Layer and head, both from 0."""
        return f"{self.layer}.{self.head}"

    @property
    def pooling(self) -> str:
        """How a map tells most: maxima keep single links in sight, but by distance they are all strong."""
        return "mean" if self.band else "max"

    @property
    def collector(self) -> int:
        """The token that receives most beyond its even share."""
        return int((self.received - self.share).argmax())


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that is shown."""

    source: Source
    model: str
    words: Words
    heads: list[Head]
    layers: list[str]
    """In words, what each layer of the model may see."""
    heads_per_layer: int
    seconds: float
    peak: int
    """The greatest resident memory of the process, in bytes."""

    @property
    def ahead(self) -> bool:
        """Whether queries of some head see keys after themselves."""
        return any(head.ahead for head in self.heads)

    @property
    def prose(self) -> bool:
        """Whether the text's lines are so long that a place in it is told by its token."""
        return len(self.words) / len(np.unique(self.words.lines)) > LONG_LINE

    def place(self, token: int) -> int:
        """Where a token stands: its line or, in prose, its number among the tokens."""
        return token if self.prose else int(self.words.lines[token])


@torch.no_grad()
def study(
    opened: Openable,
    source: Source,
    *,
    layer: int | None = None,
    head: int | None = None,
    first: int | None = None,
    progress: Progress | None = None,
) -> Study:
    """Run a model over a text, or its first tokens, and observe its heads, or those of one layer, or one.

    Raises:
        OptionError: the model has no such layer or head, none that can be watched, or no room for the text.
    """
    began = time.monotonic()
    if first is not None and first < 1:
        raise OptionError("--first", first, "1 or more tokens", "Leave it out to read the whole text.")
    words = opened.words(source.text, first)
    looking = _Looking(layer, head, opened.depth, progress)
    handing = taken_over.set(looking.attend)
    try:
        opened.run(torch.from_numpy(words.ids)[None])
    finally:
        taken_over.reset(handing)
    counts = looking.counts
    if not counts:
        raise OptionError(
            "--model",
            opened.name,
            "models that use the attention interface of transformers",
            "This one computes attention by itself, where nothing can watch it.",
        )
    _within("--layer", layer, len(counts))
    _within("--head", head, max(counts) if layer is None else counts[layer])
    return Study(
        source, opened.name, words, looking.heads, looking.sees, max(counts), time.monotonic() - began, peak_memory()
    )


class _Looking:
    """Answers a model's calls of `attention`, layer after layer, and keeps of each what is shown."""

    def __init__(self, layer: int | None, head: int | None, depth: int, progress: Progress | None) -> None:
        self.layer, self.head, self.depth, self.progress = layer, head, depth, progress
        self.heads: list[Head] = []
        self.sees: list[str] = []
        self.counts: list[int] = []
        self._shares: list[tuple[Mask, int, UniformBaseline]] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, place: tuple[int, int] | None = None, **call: Any) -> Tensor:
        del place  # of a whole text, which begins at 0
        i, mask = len(self.counts), as_mask(call["mask"])
        shares = self._even(mask, q, k)
        self.sees.append(_sees(mask, shares))
        self.counts.append(q.shape[1])
        if self.layer not in (None, i):
            return observe(q, k, v, **call).out
        seen, maps = _observed(q, k, v, shares, call)
        if self.progress is not None:
            self.progress(i + 1, max(self.depth, i + 1))
        self.heads += [_head(i, j, seen, shares, maps) for j in range(q.shape[1]) if self.head in (None, j)]
        return seen.out

    def _even(self, mask: Mask, q: Tensor, k: Tensor) -> UniformBaseline:
        """What the mask lets be seen: counted once for all layers that share it."""
        for known, heads, shares in self._shares:
            if known is mask and heads == q.shape[1]:
                return shares
        b, h, n, d = q.shape
        shares = uniform_baseline(mask, Sizes(b, h, k.shape[1], n, k.shape[2], d, d, q.device))
        self._shares.append((mask, h, shares))
        return shares


def _ends(n: int) -> SpanMass:
    return SpanMass((0, 1), (n - 1, n))


def _statistics(n: int) -> tuple[Observer[Any], ...]:
    return (Entropy(), DistanceMass(1), DistanceMass(-1), _ends(n), MeanDistance(), Received(), TopK(LINKS))


def _observed(q: Tensor, k: Tensor, v: Tensor, shares: UniformBaseline, call: dict[str, Any]) -> tuple[Seen, Tensor]:
    """What was seen of a layer's weights, and their maps.

    These are of keys; of distances where a map of keys would show a thin line and nothing else.
    """
    statistics = _statistics(k.shape[2])
    if _by_distance(shares):
        meaning = {name: value for name, value in call.items() if name not in ("dropout", "backend")}
        seen = observe(q, k, v, *statistics, **call)
        return seen, bands(Weights.of(q, k, **meaning), CELLS, int(shares.visible.max()))
    pooled = Pooled(CELLS, CELLS, "max")
    seen = observe(q, k, v, *statistics, pooled, **call)
    return seen, seen[pooled]


def _by_distance(shares: UniformBaseline) -> bool:
    reach, n = int(shares.visible.max()), shares.visible.shape[1]
    return not shares.ahead and reach <= CELLS and 4 * reach <= n


def _head(layer: int, head: int, seen: Seen, shares: UniformBaseline, maps: Tensor) -> Head:
    visible = shares.visible[head]
    n = len(visible)
    entropy = _array(seen[Entropy()], head)
    several = visible > 1
    shared = entropy[several] / np.log(visible[several])

    def mean(values: ndarray, among: slice = slice(1, None)) -> float:
        # Without the query that has no such key; a first query that sees itself alone has no choice.
        return float((values[among] if len(values) > 1 else values).mean())

    top, ends = seen[TopK(LINKS)], _array(seen[_ends(n)], head)
    choosing = slice(None) if shares.ahead else slice(1, None)
    all_but_last = slice(None, -1)
    ahead = Ahead(mean(_array(seen[DistanceMass(-1)], head), all_but_last), mean(ends[:, 1], all_but_last))
    return Head(
        layer,
        head,
        entropy=float(shared.mean()) if len(shared) else 0.0,
        effective=mean(np.exp(entropy), choosing),
        previous=mean(_array(seen[DistanceMass(1)], head)),
        first=mean(ends[:, 0]),
        ahead=ahead if shares.ahead else None,
        distance=mean(_array(seen[MeanDistance()], head), choosing),
        visible=visible,
        received=_array(seen[Received()], head),
        share=shares.share[head],
        keys=_array(top.keys, head).astype(np.int32),
        weights=_array(top.weights, head),
        map=_array(maps, head),
        band=_by_distance(shares),
    )


def _array(observed: Tensor, head: int) -> ndarray:
    return observed[0, head].float().cpu().numpy()


def _sees(mask: Mask, shares: UniformBaseline) -> str:
    """In words, what a layer may see."""
    most, least = int(shares.visible.max()), int(shares.visible.min())
    if shares.ahead:
        whole = least == shares.visible.shape[1]
        return "sees the whole text" if whole else f"sees up to {most} tokens around it"
    # A window longer than the text is a window all the same.
    backs = [part.back + 1 for part in mask.conjuncts() if isinstance(part, Window)]
    if backs or most < shares.visible.shape[1]:
        return f"sees {min([*backs, most]) if most < shares.visible.shape[1] else min(backs)} tokens back"
    return "sees everything before it"


def _within(option: str, given: int | None, count: int) -> None:
    if given is not None and not 0 <= given < count:
        what = option.strip("-")
        raise OptionError(
            option, given, f"0 to {count - 1}, the {what}s of this model", f"{what.capitalize()}s are counted from 0."
        )
