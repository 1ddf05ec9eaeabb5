"""The C++ core as a backend: exact attention on processors, forward and backward, in linear memory.

Kernels see work, not names. A call is first brought to a normal form by a few differentiable operations:
a dot product, one table for all biases by distance and one tensor for all others, spans or tiles for the
mask (`native/kernel.h`). Running that is one step of autograd, which keeps its inputs, the output and
three numbers for each row.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn import functional as F

from regard import tiles
from regard._native import core
from regard.backends import chunked
from regard.biases import Bias, Dense, Nothing, Relative, Sum
from regard.masks import Mask
from regard.normalizers import Sigmoid, Softmax
from regard.observers import LogSumExp
from regard.problem import Answer, Problem
from regard.scores import Dot
from regard.shapes import Sizes, laid_like
from regard.values import readable

name = "native"

MOST_COMPONENTS = 256
"""The largest head size that the kernels take."""

MOST_BITS = 4 << 30
"""Bytes of bitmaps that a mask may need; a mask that is a few spans in each row needs none."""

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_PLAIN = (Tensor, Parameter)
_BLOCK = 64, 256  # queries and keys whose scores a thread holds


@functools.cache
def here() -> str | None:
    """Why this backend cannot run on this machine, or None."""
    wanted = os.environ.get("REGARD_ISA")
    try:
        if wanted:
            core.use(wanted)
    except ValueError as error:
        return f"REGARD_ISA={wanted}: {error}"
    return None


def why_not(problem: Problem) -> str | None:
    """Why this backend cannot run the call, or None."""
    reason = here()
    if reason is not None:
        return reason
    q, sizes = problem.q, problem.sizes
    components = problem.score.components(sizes.d)
    if not q.is_cpu:
        return f"the kernels run on processors, not on {sizes.device.type}; chunked runs anywhere"
    if q.dtype not in _TYPES:
        return f"the kernels compute in float32; chunked computes in {_name(q.dtype)}"
    if components is None:
        kind = type(problem.score).__name__
        return f"the score {kind} is no dot product; chunked runs any score"
    if components > MOST_COMPONENTS or sizes.dv > MOST_COMPONENTS:
        return (f"a head size of {max(components, sizes.dv)} is above {MOST_COMPONENTS}, the kernels' most; "
                "chunked takes any")  # fmt: skip
    normalizer = type(problem.normalizer)
    if normalizer is not Softmax and normalizer is not Sigmoid:
        return f"the kernels know Softmax and Sigmoid, not {normalizer.__name__}; chunked runs it"
    for observer in problem.observers:
        if type(observer) is not LogSumExp:
            kind = type(observer).__name__
            return (
                f"the kernels give LogSumExp and no other statistic yet, not {kind}; chunked does"
            )
        if normalizer is Sigmoid:
            return "the kernels give LogSumExp with Softmax only; chunked gives it with any"
    if sizes.k >= 2**31:
        return f"the kernels count at most {2**31 - 1} keys, not {sizes.k}; chunked takes any"
    if type(q) not in _PLAIN or type(problem.k) not in _PLAIN or type(problem.v) not in _PLAIN:
        return "the kernels read plain tensors, not those of a subclass; chunked takes any"
    if not readable(q):
        return "numbers cannot be read inside a trace or a torch.func transform; chunked needs none"
    if forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
        return "the kernels have no forward-mode derivative; chunked has"
    if sizes.b * sizes.h * sizes.q * sizes.k > 8 * MOST_BITS:
        needed = tiles.bits(problem.mask, sizes)
        if needed > MOST_BITS:
            return (f"the mask may need {needed / 2**30:.3g} GiB of bits, more than {MOST_BITS >> 30}; "
                    "chunked asks it block by block")  # fmt: skip
    return None


def held(problem: Problem) -> tuple[int, int]:
    """Queries that are taken together, and the bytes of the scores that are held at a time."""
    sizes = problem.sizes
    rows, keys = _BLOCK
    everything = 4 * sizes.b * sizes.h * sizes.q * sizes.k
    return rows, min(4 * rows * keys * torch.get_num_threads(), everything)


def run(problem: Problem, done: tuple[Tensor, Tensor] | None = None) -> Answer:
    """Attention by the kernels.

    `done` is what `forward` gave for the same problem: only the step of autograd is made then, unless it
    was rounded since.
    """
    if 0 in problem.sizes[:7]:
        return chunked.run(problem)  # nothing to multiply: only shapes matter
    form, tensors = _normal(problem)
    learns = torch.is_grad_enabled() and _learns(tensors)
    exact = done is not None and done[0].dtype == tensors.q.dtype
    made = done if exact else _forward(form, tensors, learns or bool(problem.observers))
    if made is None:
        made = _with_what_is_not_finite(problem, learns)
        if made is None:
            return chunked.run(problem)
    out, rows = made
    if learns:
        out, rows = _Attention.apply(form, (out, rows), *tensors)
    if out.dtype != problem.q.dtype:
        out = out.to(problem.q.dtype)
    if problem.observers:
        assert rows is not None, "rows were asked for"
        return Answer(out, ((rows[0],),))
    return Answer(out, ())


@torch.no_grad()
def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """The output and, for the backward pass, three numbers of each row, (3, b, h, q); without autograd."""
    made = _forward(*_normal(problem)) or _with_what_is_not_finite(problem, False)
    if made is None or made[1] is None:
        return chunked.run(problem).out, torch.zeros((3, *problem.q.shape[:3]))
    return made[0].to(problem.q.dtype), made[1]


@torch.no_grad()
def _with_what_is_not_finite(problem: Problem, learns: bool) -> tuple[Tensor, Tensor | None] | None:
    """The output and rows of a call whose numbers are not all finite, or lead to some that are not.

    None where chunked must run it, which knows the gradients of what is left, and who sees what under a
    sigmoid.
    """
    clean, *bad = problem.finite()
    if bad[0] is not None and (learns or isinstance(problem.normalizer, Sigmoid)):
        return None
    return _forward(*_normal(clean), bad=bad)


class _Form(NamedTuple):
    """What of a call in its normal form is no tensor."""

    sizes: Sizes
    dot: Dot
    shift: float | None
    """Of a sigmoid."""
    mask: Mask
    seen: tiles.Lowered
    dropout: float
    seed: int


class _Tensors(NamedTuple):
    """The tensors of a call in its normal form, each of a dtype that the kernels read."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor | None
    pairs: Tensor | None
    sink: Tensor | None


def _normal(problem: Problem) -> tuple[_Form, _Tensors]:
    """The same call as a dot product, a table, a tensor and a sink; differentiably."""
    q, k, v, sizes = problem.q, problem.k, problem.v, problem.sizes
    score, bias, normalizer = problem.score, problem.bias, problem.normalizer
    table, pairs, sink, shift = None, None, None, None
    if type(score) is not Dot:
        score = score.cast(torch.float32)
    q, k, dot = score.as_dot(q, k)
    if q.dtype != v.dtype:
        v = v.to(q.dtype)
    if q.shape[3] != sizes.d:
        sizes = sizes._replace(d=q.shape[3])
    q, k, v = _readable_as_stored(q), _readable_as_stored(k), _readable_as_stored(v)
    if type(bias) is not Nothing:
        # A table is short, so it and its gradient, a sum over many pairs, are made in float64.
        table, pairs = bias.cast(torch.float64).lowered(sizes)
        if table is not None:
            table = table.contiguous()
        if pairs is not None:
            pairs = pairs if pairs.dtype in _TYPES else pairs.to(torch.float32)
            pairs = _readable_as_stored(pairs[(None,) * (4 - pairs.ndim)])
    if isinstance(normalizer, Sigmoid):
        shift = normalizer.shift
    elif isinstance(normalizer, Softmax) and normalizer.sink is not None:
        sink = normalizer.sink.to(torch.float32).contiguous()
    seen = tiles.lower(problem.mask, sizes)
    form = _Form(sizes, dot, shift, problem.mask, seen, problem.dropout, problem.seed)
    return form, _Tensors(q, k, v, table, pairs, sink)


def _learns(tensors: _Tensors) -> bool:
    q, k, v, *rest = tensors
    if (
        q.requires_grad or k.requires_grad or v.requires_grad
    ):  # asked in every call, so in few steps
        return True
    return any(t is not None and t.requires_grad for t in rest)


def _readable_as_stored(t: Tensor) -> Tensor:
    return t.resolve_neg() if t.is_neg() else t


def _forward(
    form: _Form,
    tensors: _Tensors,
    keep: bool = True,
    bad: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor | None] | None:
    """The output and, to keep, the rows (3, b, h, q).

    None where a number is not finite, unless `bad` says which are not.
    """
    sizes = form.sizes
    out = laid_like(tensors.q, sizes.q, sizes.dv)
    rows = None
    if keep:
        rows = torch.empty((3, sizes.b, sizes.h, sizes.q), dtype=torch.float32)
    call = _call(form, tensors)
    if bad is not None:
        bad = tuple(None if t is None else t.contiguous() for t in bad)
        call.set_spoilt(*(0 if t is None else t.data_ptr() for t in bad))
    lse = 0 if rows is None else rows.data_ptr()
    if core.forward(call, _view(out), lse, torch.get_num_threads()):
        return out, rows
    return None


def _call(form: _Form, tensors: _Tensors) -> core.Call:
    q, k, v, table, pairs, sink = tensors
    sizes, dot, shift, _, seen, dropout, seed = form
    assert dot.scale is not None
    views = _view(q), _view(k), _view(v)
    call = core.Call(_TYPES[q.dtype], sizes[:7], *views, dot.scale, dot.softcap or 0.0)
    if shift is not None:
        call.set_sigmoid(shift)
    if sink is not None:
        call.set_sink(sink.data_ptr())
    if seen.spans_at is not None:
        call.set_spans(*seen.spans_at)
    if seen.tiles_at is not None:
        call.set_tiles(*seen.tiles_at)
    if table is not None:
        call.set_table(table.data_ptr(), table.stride(0) if table.shape[0] > 1 else 0)
    if pairs is not None:
        call.set_bias(_shared_view(pairs), _TYPES[pairs.dtype])
    if dropout:
        call.set_dropout(seed, int(dropout * 2**32), 1 / (1 - dropout))
    return call


class _Attention(torch.autograd.Function):
    """A call in its normal form, which has run already, as one step of autograd."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, form: _Form, made: tuple[Tensor, Tensor], *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*tensors, *made)
        ctx.form = form
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *saved, out, rows = ctx.saved_tensors
        tensors, needed = _Tensors(*saved), ctx.needs_input_grad[2:]
        out_grad, rows_grad = grads
        lse_grad = None if rows_grad is None else rows_grad[0]
        if out_grad is None and lse_grad is None:
            found = [None] * len(needed)
        elif torch.is_grad_enabled():  # a backward that will be differentiated again
            found = _differentiable_gradients(ctx.form, tensors, out_grad, lse_grad, needed)
        else:
            found = _gradients(ctx.form, tensors, out, rows, out_grad, lse_grad, needed)
        return None, None, *found


def _gradients(
    form: _Form,
    tensors: _Tensors,
    out: Tensor,
    rows: Tensor,
    out_grad: Tensor | None,
    lse_grad: Tensor | None,
    needed: Sequence[bool],
) -> Sequence[Tensor | None]:
    """The gradient of each tensor that needs one."""
    q, k, v, table, pairs, sink = tensors
    sizes, lse = form.sizes, rows[0]
    if out_grad is None:
        out_grad = torch.zeros((), dtype=out.dtype).expand(out.shape)
    if lse_grad is not None:  # a row that sees nothing stays −∞, whatever it is asked
        lse_grad = torch.where(lse == -torch.inf, 0, lse_grad).contiguous()
    out_grad = _readable_as_stored(out_grad)
    of_q, of_k, of_v = (laid_like(t, t.shape[2], t.shape[3]) for t in (q, k, v))
    of_table = of_pairs = of_sink = None
    if table is not None and needed[3]:
        of_table = torch.empty((sizes.h, sizes.q + sizes.k - 1), dtype=torch.float32)
    if pairs is not None and needed[4]:
        of_pairs = torch.zeros(pairs.shape, dtype=torch.float32)
    delta = torch.empty(lse.shape, dtype=torch.float32)
    core.backward(
        _call(form, tensors),
        _view(out),
        _view(out_grad),
        rows.data_ptr(),
        0 if lse_grad is None else lse_grad.data_ptr(),
        delta.data_ptr(),
        _view(of_q),
        _view(of_k),
        _view(of_v),
        0 if of_table is None else of_table.data_ptr(),
        None if of_pairs is None else _shared_view(of_pairs),
        torch.get_num_threads(),
    )
    if table is not None and of_table is not None:
        of_table = of_table if table.shape[0] == sizes.h else of_table.sum(0, keepdim=True)
    if pairs is not None and of_pairs is not None:
        of_pairs = of_pairs.to(pairs.dtype)
    if sink is not None and needed[5]:
        # A sink is a key whose value is 0; delta is Σ out · out_grad − lse_grad.
        weight = torch.where(lse == -torch.inf, 0, torch.exp(sink[:, None] - lse))
        of_sink = -(weight * delta).sum((0, 2))
    return [
        g if n else None
        for g, n in zip((of_q, of_k, of_v, of_table, of_pairs, of_sink), needed, strict=True)
    ]


def _differentiable_gradients(
    form: _Form,
    tensors: _Tensors,
    out_grad: Tensor | None,
    lse_grad: Tensor | None,
    needed: Sequence[bool],
) -> Sequence[Tensor | None]:
    """The same by the chunked backend, whose backward can be differentiated."""
    answer = chunked.run(_problem(form, tensors))
    made = [(answer.out, out_grad)]
    made += [(one, lse_grad) for (one,) in answer.observed]
    outputs, grads = zip(*((o, g) for o, g in made if g is not None), strict=True)
    wanted = [t for t, n in zip(tensors, needed, strict=True) if n and t is not None]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if n else None for n in needed]


def _problem(form: _Form, tensors: _Tensors) -> Problem:
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
    observers = (LogSumExp(),) if form.shift is None else ()
    return Problem(
        q, k, v, form.dot, form.mask, bias, normalizer, form.dropout, form.seed, observers, sizes
    )


def _view(t: Tensor) -> core.View:
    return t.data_ptr(), *t.stride()  # pyright: ignore[reportReturnType]


def _shared_view(t: Tensor) -> core.View:
    strides = (stride if n > 1 else 0 for stride, n in zip(t.stride(), t.shape, strict=True))
    return t.data_ptr(), *strides  # pyright: ignore[reportReturnType]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
