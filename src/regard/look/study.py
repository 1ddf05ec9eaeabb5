"""One pass of a model over a text, with the exact statistics of every head's weights.

Nothing here is n×n: each statistic is an observer of `regard.observe`, which sees the weights a block of
rows at a time.
"""

from __future__ import annotations

import bisect
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from regard.attend import Seen
from regard.errors import OptionError
from regard.look.band import bands
from regard.look.even import Even, even
from regard.look.opening import Opened
from regard.look.source import Source
from regard.masks import as_mask
from regard.nn import Block, MultiHeadAttention
from regard.observers import (
    DistanceMass,
    Entropy,
    MeanDistance,
    Pooled,
    Received,
    SpanMass,
    TopK,
)
from regard.shapes import Sizes

LINKS = 8
CELLS = 128
START = "⟨start⟩"
POOLINGS = ("max", "mean")

Progress = Callable[[int, int], None]
"""Told how many pairs of query and key are done, of how many."""


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens of a text. The first is the start token, which covers no characters."""

    ids: Int[ndarray, " n"]
    texts: list[str]
    spans: list[tuple[int, int]]
    lines: Int[ndarray, " n"]
    """The line, from 1, on which each token's first visible character stands."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class Head:
    """One head's weights over the whole text, in numbers. Means are over all queries but the first."""

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
    distance: float
    """Mean distance looked back, in tokens."""
    visible: Int[ndarray, " n"]
    received: Float[ndarray, " n"]
    """The weight that each token receives from all queries."""
    share: Float[ndarray, " n"]
    """What it would receive if all queries spread their weight evenly."""
    keys: Int[ndarray, "n links"]
    """The strongest keys of each query; −1 where there are fewer."""
    weights: Float[ndarray, "n links"]
    maps: dict[str, Float[ndarray, "rows cols"]]
    """By how a cell is pooled. The columns are keys in the order of the text or, with `band`, distances."""
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
    peak: int | None = field(default=None)
    """The most memory that the process has held, in bytes, where the system tells."""

    def cell(self, head: Head) -> tuple[int, int]:
        """Queries and keys (or distances) in a cell of a head's map, at most."""
        rows, cols = head.maps["max"].shape
        return -(-len(self.words) // rows), 1 if head.band else -(-len(self.words) // cols)


def words_of(opened: Opened, text: str) -> Words:
    """A text as the model reads it."""
    encoded = opened.tokens.encode(text)
    breaks = [i for i, character in enumerate(text) if character == "\n"]
    lines = [1]
    for start, stop in encoded.spans:
        piece = text[start:stop]
        # Line breaks belong to the line that they end; a word after them to its own.
        blank = len(piece) - len(piece.lstrip()) if piece.strip() else 0
        lines.append(bisect.bisect_left(breaks, start + blank) + 1)
    return Words(
        np.array([opened.tokens.start, *encoded.ids]),
        [START, *encoded.texts],
        [(0, 0), *encoded.spans],
        np.array(lines),
    )


@torch.no_grad()
def study(
    opened: Opened, source: Source, *, layer: int | None = None, head: int | None = None,
    progress: Progress | None = None,
) -> Study:  # fmt: skip
    """Run a model over a text and observe its heads, or only those of one layer, or only one.

    Raises:
        OptionError: the model has no such layer or head, or the text is no token long.
    """
    began = time.monotonic()
    blocks = [block for block in opened.model.blocks if isinstance(block, Block)]
    per_layer = max(block.attention.heads for block in blocks)
    _within("--layer", layer, len(blocks))
    _within("--head", head, per_layer if layer is None else blocks[layer].attention.heads)
    words = words_of(opened, source.text)
    chosen = range(len(blocks)) if layer is None else range(layer, layer + 1)
    shares = {i: _even(blocks[i].attention, len(words), len(words)) for i in chosen}
    done, total = 0, sum(int(each.visible.sum()) for each in shares.values())
    x = opened.model.embedding_norm(opened.model.embedding(torch.from_numpy(words.ids)[None]))
    heads = list[Head]()
    for i, block in enumerate(blocks[: chosen.stop]):
        if i not in chosen:
            x = block(x)
            continue
        x, seen, maps = _observed(block, x, shares[i])
        done += int(shares[i].visible.sum())
        if progress is not None:
            progress(done, total)
        heads += [
            _head(i, j, seen, shares[i], maps)
            for j in range(block.attention.heads)
            if head in (None, j)
        ]  # fmt: skip
    return Study(
        source, opened.name, words, heads, [_sees(block.attention) for block in blocks], per_layer,
        time.monotonic() - began, peak_memory(),
    )  # fmt: skip


STATISTICS = (
    Entropy(), DistanceMass(1), SpanMass((0, 1)), MeanDistance(), Received(), TopK(LINKS),
)  # fmt: skip

Maps = dict[str, Tensor]


def _observed(block: Block, x: Tensor, shares: Even) -> tuple[Tensor, Seen, Maps]:
    """A layer's stream, what was seen of its weights, and their maps by how a cell is pooled.

    The maps are of keys; of distances where a map of keys would show a thin line and nothing else.
    """
    if _by_distance(shares):
        weights = block.attention.weights(block.attention_norm(x))
        x, seen = block.observe(x, *STATISTICS)
        return x, seen, bands(weights, CELLS, int(shares.visible.max()))
    pooled = {how: Pooled(CELLS, CELLS, how) for how in POOLINGS}
    x, seen = block.observe(x, *STATISTICS, *pooled.values())
    return x, seen, {how: seen[one] for how, one in pooled.items()}


def _by_distance(shares: Even) -> bool:
    reach, n = int(shares.visible.max()), shares.visible.shape[1]
    return reach <= CELLS and 4 * reach <= n


def _head(layer: int, head: int, seen: Seen, shares: Even, maps: Maps) -> Head:
    visible = shares.visible[head]
    entropy = _array(seen[Entropy()], head)
    several = visible > 1
    shared = entropy[several] / np.log(visible[several])

    def mean(values: ndarray) -> float:
        # The first query sees the first token alone, and has no choice.
        return float((values[1:] if len(values) > 1 else values).mean())

    top = seen[TopK(LINKS)]
    return Head(
        layer,
        head,
        entropy=float(shared.mean()) if len(shared) else 0.0,
        effective=mean(np.exp(entropy)),
        previous=mean(_array(seen[DistanceMass(1)], head)),
        first=mean(_array(seen[SpanMass((0, 1))], head)[:, 0]),
        distance=mean(_array(seen[MeanDistance()], head)),
        visible=visible,
        received=_array(seen[Received()], head),
        share=shares.share[head],
        keys=_array(top.keys, head).astype(np.int32),
        weights=_array(top.weights, head).astype(np.float32),
        maps={how: _array(found, head) for how, found in maps.items()},
        band=_by_distance(shares),
    )


def _array(observed: Tensor, head: int) -> ndarray:
    return observed[0, head].cpu().numpy()


def _even(attention: MultiHeadAttention, queries: int, keys: int) -> Even:
    mask = as_mask(None if attention.mask is None else attention.mask())
    h, g, d, dv = (
        attention.heads, attention.key_value_heads, attention.head_size, attention.value_size,
    )  # fmt: skip
    return even(mask, Sizes(1, h, g, queries, keys, d, dv, attention.query.weight.device))


def _sees(attention: MultiHeadAttention) -> str:
    """What a layer may see, found by asking its mask about the last query of a long text."""
    far = 4096
    reach = int(_even(attention, 1, far).visible.max())
    return "sees everything before it" if reach == far else f"sees {reach} tokens back"


def _within(option: str, given: int | None, count: int) -> None:
    if given is not None and not 0 <= given < count:
        what = option.strip("-")
        raise OptionError(option, given, f"0 to {count - 1}, the {what}s of this model",
                          f"{what.capitalize()}s are counted from 0.")  # fmt: skip


def peak_memory() -> int | None:
    """The most memory that this process has held so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
