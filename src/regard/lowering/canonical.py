"""The normal form in which the kernels take a call.

A dot product, a table for all biases by distance, one tensor for all others, a sink, spans or tiles for
the mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from regard._native import core
from regard.lowering import tiles
from regard.lowering.reductions import Asked, lower
from regard.problem import Problem
from regard.shapes import Sizes
from regard.spec.biases import Bias, Dense, Nothing, Relative, Sum
from regard.spec.masks import Mask
from regard.spec.normalizers import Sigmoid, Softmax
from regard.spec.observers import Observer
from regard.spec.scores import Dot

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""What the kernels read, and what they call it."""


class Form(NamedTuple):
    """What of a call in its normal form is no tensor."""

    sizes: Sizes
    dot: Dot
    shift: float | None
    """Of a sigmoid."""
    mask: Mask
    seen: tiles.Lowered
    dropout: float
    seed: int
    asked: Asked | None
    """Of the weights; None: nothing."""


class Tensors(NamedTuple):
    """The tensors of a call in its normal form, each of a dtype that the kernels read."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor | None
    pairs: Tensor | None
    sink: Tensor | None


def form(problem: Problem) -> tuple[Form, Tensors]:
    """The same call as a dot product, a table, a tensor and a sink; differentiably."""
    q, k, v, sizes = problem.q, problem.k, problem.v, problem.sizes
    score, bias, normalizer = problem.score, problem.bias, problem.normalizer
    table, pairs, sink, shift = None, None, None, None
    if type(score) is Dot:
        dot = score.scaled(sizes.d)
    else:
        q, k, dot = score.cast(torch.float32).as_dot(q, k)
        v = v.to(q.dtype)
        sizes = sizes._replace(d=q.shape[3])
    q, k, v = readable_as_stored(q), readable_as_stored(k), readable_as_stored(v)
    if type(bias) is not Nothing:
        # A table is short, so it and its gradient, a sum over many pairs, are made in float64.
        table, pairs = bias.cast(torch.float64).lowered(sizes)
        if table is not None:
            table = table.contiguous()
        if pairs is not None:
            pairs = pairs if pairs.dtype in TYPES else pairs.to(torch.float32)
            pairs = readable_as_stored(pairs[(None,) * (4 - pairs.ndim)])
    if isinstance(normalizer, Sigmoid):
        shift = normalizer.shift
    elif isinstance(normalizer, Softmax) and normalizer.sink is not None:
        sink = normalizer.sink.to(torch.float32).contiguous()
    seen = tiles.lower(problem.mask, sizes)
    asked = lower(problem.observers, sizes) if problem.observers else None
    made = Form(sizes, dot, shift, problem.mask, seen, problem.dropout, problem.seed, asked)
    return made, Tensors(q, k, v, table, pairs, sink)


def learns(tensors: Tensors) -> bool:
    """Whether any of them has a gradient."""
    q, k, v, *rest = tensors
    # Asked in every call, so in few steps.
    if q.requires_grad or k.requires_grad or v.requires_grad:
        return True
    return any(t is not None and t.requires_grad for t in rest)


def readable_as_stored(t: Tensor) -> Tensor:
    """Without PyTorch's mark that a tensor's numbers are to be negated."""
    return t.resolve_neg() if t.is_neg() else t


def call(form: Form, tensors: Tensors) -> core.Call:
    """The same for the core, which keeps none of the tensors alive."""
    q, k, v, table, pairs, sink = tensors
    sizes, dot, shift, _, seen, dropout, seed, _ = form
    assert dot.scale is not None
    views = view(q), view(k), view(v)
    made = core.Call(TYPES[q.dtype], sizes[:7], *views, dot.scale, dot.softcap or 0.0)
    if shift is not None:
        made.set_sigmoid(shift)
    if sink is not None:
        made.set_sink(sink.data_ptr())
    if seen.spans_at is not None:
        made.set_spans(*seen.spans_at)
    if seen.tiles_at is not None:
        made.set_tiles(*seen.tiles_at)
    if table is not None:
        made.set_table(table.data_ptr(), table.stride(0) if table.shape[0] > 1 else 0)
    if pairs is not None:
        made.set_bias(shared_view(pairs), TYPES[pairs.dtype])
    if dropout:
        made.set_dropout(seed, int(dropout * 2**32), 1 / (1 - dropout))
    return made


def problem(form: Form, tensors: Tensors, observers: tuple[Observer[Any], ...]) -> Problem:
    """A call in its normal form as a problem again."""
    q, k, v, table, pairs, sink = tensors
    sizes = form.sizes
    bias: Bias = Nothing() if pairs is None else Dense(pairs)
    if table is not None:
        most = max(sizes.q, sizes.k) - 1
        table = table.expand(sizes.h, -1)
        padded = F.pad(table, (most - sizes.k + 1, most - sizes.q + 1))
        bias = Sum(Relative(padded, offset=0), bias)
    normalizer = Softmax(sink) if form.shift is None else Sigmoid(form.shift)
    return Problem(q, k, v, form.dot, form.mask, bias, normalizer, form.dropout, form.seed, observers, sizes)


def view(t: Tensor) -> core.View:
    """Where a tensor lies."""
    return t.data_ptr(), *t.stride()  # pyright: ignore[reportReturnType]


def shared_view(t: Tensor) -> core.View:
    """The same of a tensor that is shared along its dimensions of size 1."""
    strides = (stride if n > 1 else 0 for stride, n in zip(t.stride(), t.shape, strict=True))
    return t.data_ptr(), *strides  # pyright: ignore[reportReturnType]
