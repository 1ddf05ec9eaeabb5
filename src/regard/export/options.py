"""What of a recording an offline page contains: layers and heads, the dtype of its numbers, and coarse maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regard.analysis.layers import Layer
from regard.analysis.map_tiles import Check, head_cells
from regard.analysis.open_recording import OpenRecording
from regard.analysis.pyramid import Pyramid
from regard.errors import OptionError
from regard.recording import DTYPES, Rounding, sampled_rows
from regard.spec.normalizers import Softmax
from regard.spec.observers import LogSumExp, Rows
from regard.weights import Weights

MOST_DIRECT = 1 << 22
"""Weights of a head up to which the page computes the whole map itself."""

LEAST_CELL, MOST_CELLS = 32, 512
"""Weights along a cell of a coarse map, at least, and cells along the map, at most."""


@dataclass(frozen=True)
class ExportOptions:
    """What of a recording a page contains; None is all of it."""

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    """Of each layer."""
    dtype: str | None = None
    """Of queries, keys and values; None is as recorded while the page is small, else float16."""
    values: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise OptionError("dtype", repr(self.dtype), ", ".join(DTYPES), "Choose one of them.")

    def heads_of(self, layer: Layer) -> list[int]:
        """The heads of a layer that are included."""
        return _select("head", self.heads, layer.heads)

    def layers_of(self, opened: OpenRecording) -> list[int]:
        """The layers of a recording that are included."""
        return _select("layer", self.layers, len(opened.layers))


def _select(what: str, given: tuple[int, ...] | None, count: int) -> list[int]:
    if given is None:
        return [*range(count)]
    for number in given:
        if not 0 <= number < count:
            raise OptionError(what, number, f"0 to {count - 1}", f"{what.capitalize()}s are counted from 0.")
    if not given:
        raise OptionError(what, "none", f"0 to {count - 1}", f"Name a {what}, or leave it out for all.")
    return sorted({*given})


def canonical_weights(layer: Layer, number: int) -> Weights:
    """A layer's weights in canonical form, of the first batch row.

    Raises:
        OptionError: its weights do not follow from a canonical form.
    """
    recorded = layer.recorded
    normalizer = recorded.normalizer
    weights = layer.whole if isinstance(normalizer, Softmax) else None
    if weights is None:
        reason = normalizer if not isinstance(normalizer, Softmax) else recorded.score
        raise OptionError(
            "page",
            f"layer {number}, {recorded.name}, of {type(reason).__name__} weights",
            "layers whose weights are a softmax of dot products: a page computes those",
            "Name the others (--layer); regard explore shows all.",
        )
    return weights


def estimate_bytes(layer: Layer, options: ExportOptions) -> int:
    """The size of a layer's largest arrays in a page, in the dtype in which they were recorded."""
    recorded, heads = layer.recorded, options.heads_of(layer)
    q, k, v = recorded.q, recorded.k, recorded.v if options.values else None
    groups = len({head // (q.shape[1] // k.shape[1]) for head in heads})
    width = q.shape[3] * q.element_size()
    total = len(heads) * layer.queries * (width + 8) + groups * layer.keys * (width + 4)
    total += 0 if v is None else groups * layer.keys * v.shape[3] * v.element_size()
    return total * 4 // 3  # in base64


def choose_dtype(recorded: torch.dtype, options: ExportOptions, small: bool, tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype of a layer's queries, keys and values in the page."""
    if options.dtype is None and (small or recorded.itemsize == 2):
        return recorded
    dtype = DTYPES[options.dtype or "float16"]
    if dtype != torch.float16 or recorded == dtype:
        return dtype
    most = max(float(tensor.abs().amax()) for tensor in tensors)
    if most <= torch.finfo(dtype).max or not math.isfinite(most):
        return dtype
    if options.dtype is None:
        return torch.bfloat16
    raise OptionError(
        "dtype",
        f"float16, for numbers up to {most:.3g}",
        f"float16 up to {torch.finfo(dtype).max:.0f}, bfloat16, float32",
        "Take bfloat16, or leave it out.",
    )


def rounding_error(weights: Weights, dtype: torch.dtype, heads: Sequence[int]) -> tuple[Tensor, Rounding]:
    """The log-sum-exp of rounded queries and keys, and the difference of their weights from the recorded ones."""
    sampled = sampled_rows(weights.problem.sizes)
    rows = Rows(*sampled)
    _, before = weights.statistics((LogSumExp(), rows))
    lse, after = weights.rounded(dtype).statistics((LogSumExp(), rows))
    difference = (after.double() - before.double()).abs()[:, [*heads]]
    return lse, Rounding(float(difference.amax()), float(difference.square().mean().sqrt()), len(sampled))


def describe_rounding(rounding: Sequence[Rounding]) -> str:
    """The error of numbers that were rounded for the page, as text."""
    greatest = max(layer.greatest for layer in rounding)
    rms = max(layer.rms for layer in rounding)
    rows = min(layer.rows for layer in rounding)
    return (
        f"rounded for this page: weights within {greatest:.1e} of the recording's, at most {rms:.1e} "
        f"root mean square, in {rows} rows of each head"
    )


def cell_of(layer: Layer) -> int:
    """Weights along the side of a cell of a coarse map; 0 where none is needed."""
    if layer.queries * layer.keys <= MOST_DIRECT:
        return 0
    cell = LEAST_CELL
    while -(-max(layer.queries, layer.keys) // cell) > MOST_CELLS:
        cell *= 2
    return cell


def coarse_map(layer: Layer, head: int, how: str, cell: int, pyramid: Pyramid, check: Check) -> np.ndarray:
    """A head's map in cells of `cell` × `cell` weights, the last row and column what is left."""
    rows, cols = (-(-n // cell) for n in (layer.queries, layer.keys))
    if pyramid.cell:
        level = (cell // pyramid.cell).bit_length() - 1
        return pyramid.level(head, level, 0 if how == "max" else 1, range(rows), range(cols))
    return head_cells(layer, head, how, cell, check)
