"""Figures of attention for papers and notebooks, drawn with matplotlib: ``import regard.plot``.

A map is pooled to a size that can be looked at, whatever the length of the text, and its colour bar says
what a pixel is. Every function draws into the axes given, or makes some, and returns them; nothing is shown
and nothing global is changed. Viridis stays ordered for colour-blind eyes and in grey.

>>> import torch
>>> from regard import Causal, Weights
>>> q, k = torch.randn(2, 1, 8, 4096, 64).unbind()
>>> ax = map(Weights.of(q, k, mask=Causal()), head=3, size=256)
>>> ax.images[0].get_array().shape
(256, 256)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray
from torch import Tensor

from regard.display.images import DECADES, signed
from regard.display.repr_html import ceiling
from regard.display.text import printable
from regard.errors import OptionError
from regard.plot.source import HOW, Drawable, bind_pooling, map_source_of, maps_of, pixel, sizes
from regard.recording import Recording
from regard.spec.observers import Pooled

try:
    from matplotlib import colors
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, MaxNLocator
except ImportError as error:
    raise OptionError(
        "regard.plot",
        f"no {error.name}",
        "an installation with the extra plot",
        'Install it: pip install "regard[plot]"',
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN = 3.3
"""Inches across a column of a two-column paper."""

READABLE = 40
"""Tokens along an axis up to which each is written out."""

_SMALL = 7  # points, of a token


def map(  # noqa: A001  regard.plot.map is what it is
    weights: Drawable,
    *,
    head: int | None = None,
    batch: int = 0,
    queries: tuple[int, int] | None = None,
    keys: tuple[int, int] | None = None,
    tokens: Sequence[str] | None = None,
    size: int = 512,
    how: str = "max",
    log: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """A map of one head's weights: queries downwards, keys to the right.

    Args:
        weights: A head of a recording, ``run.layer(3).head(2)``; `Weights` and which `head` of them; or a
            tensor (queries, keys), where numbers below 0, as of a difference of heads, get signed colours.
        head, batch: Of `Weights`, which.
        queries, keys: From where to where, (start, stop); all by default.
        tokens: The text of each token, of the whole text; a recording knows its own. They are written out
            where at most 40 are shown.
        size: Rows and columns at most; more weights than that are pooled.
        how: "max", "mean" or "sum" of the weights of a pixel. Of numbers with signs "max" is the one that is
            farthest from 0.
        log: Colours even in the logarithm, over four powers of ten; what is less is blank. Numbers with signs
            are always drawn evenly.
        ax: Where to draw; a new figure one column wide by default.

    Raises:
        OptionError, ShapeError: what does not fit, and what to do about it.
    """
    source = map_source_of(weights, head, batch, tokens)
    pooling = bind_pooling(source, size, how, queries, keys)
    values = source.pooled(pooling)
    q, k = pooling.rectangle
    ax = _axes((COLUMN, COLUMN * 0.85)) if ax is None else ax
    extent = (k.start - 0.5, k.stop - 0.5, q.stop - 0.5, q.start - 0.5)
    drawn = {"extent": extent, "aspect": "auto", "interpolation": "nearest"}
    image = ax.imshow(_shown(values, log), **drawn, **_colours([values], log))
    bar = ax.figure.colorbar(image, ax=ax)
    _label(bar, pixel(pooling, values))
    _ticks(ax.xaxis, k, source.key_texts, "key", 90)
    _ticks(ax.yaxis, q, source.query_texts, "query", 0)
    return ax


def heads(
    recording: Recording | Mapping[str, Tensor] | Sequence[Tensor] | Tensor,
    *,
    batch: int = 0,
    size: int = 64,
    how: str = "max",
    log: bool = True,
) -> ndarray:
    """Every head of every layer as a small map, all on one scale: an array of Axes, (layers, heads).

    Args:
        recording: A recording; or maps that were pooled already, as `Pooled` gives them: for each layer
            (batch, heads, rows, cols) or (heads, rows, cols), in a sequence or under the layers' names.
        batch: Which batch row.
        size: Rows and columns of a map of a recording, at most.
        how: How a pixel of it is pooled: "max", "mean" or "sum".
        log: As in `map`.

    Each layer of a recording takes one pass: of the embedded model's 30 heads over 10,000 tokens, seconds.

    >>> import torch
    >>> from regard import Causal, Pooled, observe
    >>> q = torch.randn(1, 4, 300, 16)
    >>> seen = observe(q, q, q, Pooled(32, 32, "max"), mask=Causal())
    >>> heads([seen[Pooled(32, 32, "max")]] * 2).shape
    (2, 4)
    """
    if isinstance(recording, Recording):
        pooling = Pooled(size, size, how)
        layers = {str(layer.number): layer.see(pooling)[pooling] for layer in recording}
        sides = {(layer.queries, layer.keys) for layer in recording}
        bound_poolings = [pooling.bind(sizes(*side)) for side in sides]
        what = pixel(bound_poolings[0]) if len(bound_poolings) == 1 else f"attention weight, {HOW[how]} of a pixel's"
    elif isinstance(recording, Mapping):
        layers, what = dict(recording), "attention weight, pooled"
    else:
        layers = {str(i): one for i, one in enumerate(recording)}
        what = "attention weight, pooled"
    maps = {name: maps_of(one, name, batch) for name, one in layers.items()}
    if not maps:
        raise OptionError("heads(…)", "no layers", "at least one", "Give a recording, or a map for each head.")
    most = max(len(one) for one in maps.values())
    side = max(0.35, min(0.9, 6.9 / (most + 1.5)))
    figure, axes = plt.subplots(
        len(maps), most, squeeze=False, layout="constrained", figsize=(side * most + 1.2, side * len(maps) + 0.5)
    )
    every = [one for layer in maps.values() for one in layer]
    colours, image = _colours(every, log), None
    for row, (name, layer) in zip(axes, maps.items(), strict=True):
        for i, ax in enumerate(row):
            ax.set(xticks=[], yticks=[])
            if i >= len(layer):
                ax.set_axis_off()
                continue
            image = ax.imshow(_shown(layer[i], log), interpolation="nearest", aspect="auto", **colours)
        row[0].set_ylabel(name, fontsize=_SMALL, rotation=0, ha="right", va="center")
    for i, ax in enumerate(axes[0]):
        ax.set_title(str(i), fontsize=_SMALL)
    figure.supylabel("layer", fontsize=_SMALL + 1)
    figure.suptitle("head", fontsize=_SMALL + 1)
    assert image is not None
    _label(figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02), what)
    return axes


def row(
    weights: Drawable,
    query: int,
    *,
    head: int | None = None,
    batch: int = 0,
    tokens: Sequence[str] | None = None,
    top: int | None = 16,
    ax: Axes | None = None,
) -> Axes:
    """What one query gives to its keys, as bars, and the mass up to each as a line.

    Args:
        weights, head, batch: As in `map`.
        query: Which.
        tokens: The text of each token; a recording knows its own.
        top: That many keys, strongest first; None: all keys in the order of the text.
        ax: Where to draw; a new figure one column wide by default.

    Raises:
        OptionError: a query that is not there, or `top` below 1.

    >>> import torch
    >>> ax = row(torch.tensor([[1.0, 0.0], [0.25, 0.75]]), 1, tokens=["the", "bank"])
    >>> [float(bar.get_width()) for bar in ax.patches], [label.get_text() for label in ax.get_yticklabels()]
    ([0.75, 0.25], ['1 bank', '0 the'])
    """
    source = map_source_of(weights, head, batch, tokens)
    if type(query) is not int or not 0 <= query < source.shape[0]:
        raise OptionError("query", repr(query), f"0 to {source.shape[0] - 1}", "Count from 0.")
    if top is not None and (type(top) is not int or top < 1):
        raise OptionError("top", repr(top), "1 or more keys, or None for all in order", "Leave it out for 16.")
    values = source.row(query)
    if top is None:
        ax = _axes((2 * COLUMN, COLUMN * 0.6)) if ax is None else ax
        step = -(-len(values) // _BARS)
        edges = np.minimum(np.arange(0, len(values) + step, step), len(values)) - 0.5
        greatest = np.maximum.reduceat(values, np.arange(0, len(values), step))
        ax.stairs(greatest, edges, fill=True, color=_BAR)
        ax.plot(np.arange(len(values)), np.cumsum(values), color=_LINE, linewidth=0.8, drawstyle="steps-mid")
        ax.set(xlim=(-0.5, len(values) - 0.5), ylim=(0, 1.02))
        of = "weight" if step == 1 else f"greatest of {step} weights"
        ax.set_ylabel(f"{of}\nline: mass so far", fontsize=_SMALL + 1)
        _ticks(ax.xaxis, range(len(values)), source.key_texts, "key", 90)
    else:
        order = np.argsort(-values, kind="stable")[:top]
        order = order[values[order] > 0]
        ax = _axes((COLUMN, 0.8 + 0.16 * len(order))) if ax is None else ax
        places = np.arange(len(order))
        ax.barh(places, values[order], color=_BAR, height=0.8)
        ax.plot(np.cumsum(values[order]), places, color=_LINE, linewidth=0.8, marker=".", markersize=3)
        ax.set(xlim=(0, 1.02), ylim=(len(order) - 0.4, -0.6))
        ax.set_xlabel("weight; line: mass so far", fontsize=_SMALL + 1)
        ax.set_yticks(places, [_token(int(key), source.key_texts) for key in order], fontsize=_SMALL)
        ax.set_ylabel("key", fontsize=_SMALL + 1)
    ax.set_title(f"weights of query {_token(query, source.query_texts)}", fontsize=_SMALL + 1)
    ax.tick_params(labelsize=_SMALL)
    return ax


_BAR, _LINE = "#31688e", "#d97550"  # of viridis and of the signed ramp: apart in lightness too
_BARS = 400


def _axes(size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1]


def _colours(maps: Sequence[ndarray], log: bool) -> dict[str, Any]:
    """The colours and the scale that all maps share."""
    high = max(float(np.nan_to_num(np.abs(one)).max()) for one in maps) or 1.0
    if any((one < 0).any() for one in maps):
        return {"cmap": colors.ListedColormap(signed() / 255), "norm": colors.Normalize(-high, high)}
    blank = plt.get_cmap("viridis").with_extremes(bad=(1, 1, 1, 0), under=(1, 1, 1, 0))
    if not log:
        return {"cmap": blank, "norm": colors.Normalize(0, high)}
    high = ceiling(maps) if high <= 1 else high
    return {"cmap": blank, "norm": colors.LogNorm(high / 10**DECADES, high)}


def _shown(values: ndarray, log: bool) -> ndarray:
    """The map, without what has no logarithm where that is drawn."""
    return np.ma.masked_equal(values, 0) if log and not (values < 0).any() else values


def _label(bar: Any, text: str) -> None:
    bar.set_label(text, fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_SMALL)


def _ticks(axis: Any, side: range, texts: Sequence[str] | None, what: str, turned: int) -> None:
    """Numbers along an axis, with the tokens that stand there: each of a few, some of many."""
    axis.set_label_text(what, fontsize=_SMALL + 1)
    if texts is None:
        axis.set_major_locator(MaxNLocator(6, integer=True) if len(side) > 1 else FixedLocator([side[0]]))
        axis.set_tick_params(labelsize=_SMALL)
        return
    few = len(side) <= READABLE
    places = [*side] if few else [*side[:: -(-len(side) // 8)]]
    names = [_plain(texts[i]) if few else _token(i, texts) for i in places]
    axis.set_ticks(places, names, fontsize=_SMALL, rotation=turned)


def _token(index: int, texts: Sequence[str] | None) -> str:
    return str(index) if texts is None else f"{index} {_plain(texts[index])}".strip()


def _plain(text: str) -> str:
    """A token's text as it is: no formula, no line break, not endless."""
    text = printable(text.strip(" ") or "␣" * len(text)).replace("\n", "↵").replace("\t", "⇥")
    return (text if len(text) <= 16 else f"{text[:15]}…").replace("$", "\\$")
