"""The canonical form in which the kernels take a call.

A dot product, one table for all biases by distance, one tensor for all others, a sink, and spans or tiles for the mask.
Every weight follows from it: ``exp(softcap(q·k · scale) + table + bias − lse)`` where the mask allows the pair.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from regard._native import core
from regard.lowering.tiles import SIDE, LoweredMask, Tabled, lower_mask
from regard.problem import Problem
from regard.shapes import Sizes
from regard.spec.attention_spec import AttentionSpec
from regard.spec.biases import Bias, Dense, Nothing, Relative, Sum
from regard.spec.masks import Mask
from regard.spec.normalizers import Sigmoid, Softmax
from regard.spec.observers import Observer
from regard.spec.scores import Dot

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The dtypes that the kernels read, and their numbers in the core."""


class CanonicalTensors(NamedTuple):
    """The tensors of a canonical call, each of a dtype that the kernels read."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor | None
    """(h or 1, q + k − 1): biases by distance, the farthest key first."""
    bias: Tensor | None
    """All other biases, broadcasting to (b, h, q, k)."""
    sink: Tensor | None

    @property
    def need_gradient(self) -> bool:
        """Whether any of them requires a gradient."""
        q, k, v, *rest = self
        # On the path of every call, so in few steps.
        if q.requires_grad or k.requires_grad or v.requires_grad:
            return True
        return any(t is not None and t.requires_grad for t in rest)


class CanonicalForm(NamedTuple):
    """What of a canonical call is no tensor."""

    sizes: Sizes
    dot: Dot
    shift: float | None
    """Of a sigmoid."""
    mask: Mask
    lowered_mask: LoweredMask
    dropout: float
    seed: int


class CanonicalCall(NamedTuple):
    """A call in its canonical form."""

    form: CanonicalForm
    tensors: CanonicalTensors

    def core_call(self) -> core.Call:
        """The same for the core, which keeps none of the tensors alive."""
        q, k, v, table, bias, sink = self.tensors
        sizes, dot, shift, _, mask, dropout, seed = self.form
        assert dot.scale is not None
        views = view(q), view(k), view(v)
        call = core.Call(DTYPE_CODES[q.dtype], sizes[:7], *views, dot.scale, dot.softcap or 0.0)
        if shift is not None:
            call.set_sigmoid(shift)
        if sink is not None:
            call.set_sink(sink.data_ptr())
        if mask.spans_at is not None:
            call.set_spans(*mask.spans_at)
        if mask.tiles_at is not None:
            call.set_tiles(*mask.tiles_at)
        if table is not None:
            call.set_table(table.data_ptr(), table.stride(0) if table.shape[0] > 1 else 0)
        if bias is not None:
            call.set_bias(shared_view(bias), DTYPE_CODES[bias.dtype])
        if dropout:
            call.set_dropout(seed, int(dropout * 2**32), 1 / (1 - dropout))
        return call

    def problem(self, observers: tuple[Observer[Any], ...] = ()) -> Problem:
        """The same call as a problem."""
        q, k, v, table, pairs, sink = self.tensors
        form, sizes = self.form, self.form.sizes
        bias: Bias = Nothing() if pairs is None else Dense(pairs)
        if table is not None:
            most = max(sizes.q, sizes.k) - 1
            table = table.expand(sizes.h, -1)
            padded = F.pad(table, (most - sizes.k + 1, most - sizes.q + 1))
            bias = Sum(Relative(padded, offset=0), bias)
        normalizer = Softmax(sink) if form.shift is None else Sigmoid(form.shift)
        spec = AttentionSpec(form.mask, bias, form.dot, normalizer, form.dropout)
        return Problem(q, k, v, spec, form.seed, observers, sizes)

    def tabled_mask(self) -> Tabled:
        """Its mask as spans and tiles."""
        mask = self.form.mask
        return mask if isinstance(mask, Tabled) else Tabled.of(mask, self.form.sizes)

    def part(self, b: range, h: range, q: range, mask: Tabled) -> CanonicalCall:
        """Some batch rows, heads and queries as a call of their own, of the values one column.

        The queries begin where tiles of masks do, at a multiple of 64. `mask` is `tabled_mask`, computed once.
        """
        assert q.start % SIDE == 0, "parts begin where tiles do"
        sizes, tensors = self.form.sizes, self.tensors
        repeats = sizes.h // sizes.g
        g = range(h.start // repeats, (h.stop - 1) // repeats + 1)
        own = sizes._replace(b=len(b), h=len(h), g=len(g), q=len(q), dv=1)
        k = _part(tensors.k, b, g)
        table, bias, sink = tensors.table, tensors.bias, tensors.sink
        if table is not None:
            table = _part(table, h)[:, q.start : q.stop + sizes.k - 1].contiguous()
        parts = CanonicalTensors(
            _part(tensors.q, b, h, q),
            k,
            k[..., :1],
            table,
            None if bias is None else _part(bias, b, h, q),
            None if sink is None else _part(sink, h),
        )
        tiles = range(q.start // SIDE, -(-q.stop // SIDE))
        runs, kinds = (
            None if whole is None else _part(whole, b, h, rows).contiguous()
            for whole, rows in ((mask.runs, q), (mask.kinds, tiles))
        )
        cut = Tabled(runs, kinds, mask.words)
        form = self.form._replace(sizes=own, mask=cut, lowered_mask=cut.lowered())
        return CanonicalCall(form, parts)


def canonicalize(problem: Problem) -> CanonicalCall:
    """The same call as a dot product, a table, a tensor and a sink; differentiably."""
    q, k, v, sizes = problem.q, problem.k, problem.v, problem.sizes
    mask, bias, score, normalizer = problem.spec.parts
    table, pairs, sink, shift = None, None, None, None
    if type(score) is Dot:
        dot = score.scaled(sizes.d)
    else:
        q, k, dot = score.cast(torch.float32).as_dot(q, k)
        v = v.to(q.dtype)
        sizes = sizes._replace(d=q.shape[3])
    q, k, v = resolve_negation(q), resolve_negation(k), resolve_negation(v)
    if type(bias) is not Nothing:
        # A table is short, so it and its gradient, a sum over many pairs, are computed in float64.
        table, pairs = bias.cast(torch.float64).lowered(sizes)
        if table is not None:
            table = table.contiguous()
        if pairs is not None:
            pairs = pairs if pairs.dtype in DTYPE_CODES else pairs.to(torch.float32)
            pairs = resolve_negation(pairs[(None,) * (4 - pairs.ndim)])
    if isinstance(normalizer, Sigmoid):
        shift = normalizer.shift
    elif isinstance(normalizer, Softmax) and normalizer.sink is not None:
        sink = normalizer.sink.to(torch.float32).contiguous()
    lowered = lower_mask(mask, sizes)
    form = CanonicalForm(sizes, dot, shift, mask, lowered, problem.dropout, problem.seed)
    return CanonicalCall(form, CanonicalTensors(q, k, v, table, pairs, sink))


def resolve_negation(t: Tensor) -> Tensor:
    """Without PyTorch's mark that a tensor's numbers are to be negated: the kernels read memory as it is."""
    return t.resolve_neg() if t.is_neg() else t


def view(t: Tensor) -> core.View:
    """The address and strides of a tensor."""
    return t.data_ptr(), *t.stride()  # pyright: ignore[reportReturnType]


def shared_view(t: Tensor) -> core.View:
    """The same of a tensor that is shared along its dimensions of size 1."""
    strides = (stride if n > 1 else 0 for stride, n in zip(t.stride(), t.shape, strict=True))
    return t.data_ptr(), *strides  # pyright: ignore[reportReturnType]


def _part(tensor: Tensor, *sides: range) -> Tensor:
    """A part of each of the first dimensions, or all of one that is shared."""
    for dim, side in enumerate(sides):
        if tensor.shape[dim] != 1:
            tensor = tensor.narrow(dim, side.start, len(side))
    return tensor
