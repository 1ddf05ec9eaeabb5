"""The C++ core as a backend: exact attention on processors, forward and backward, in linear memory.

Kernels see work, not names. A call is first brought to a normal form by a few differentiable operations:
a dot product, one table for all biases by distance and one tensor for all others, spans or tiles for the
mask (`native/kernel.h`). Running that is one step of autograd, which keeps its inputs, the output and
three numbers for each row.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from regard._native import core
from regard.backends import chunked
from regard.backends import statistics as observation
from regard.lowering import canonical, tiles
from regard.lowering.canonical import Form, Tensors
from regard.lowering.reductions import DIFFERENTIABLE, KINDS, again, lower, results
from regard.problem import Answer, Problem
from regard.shapes import Box, laid_like
from regard.spec.normalizers import Sigmoid, Softmax
from regard.spec.observers import LogSumExp, TopK
from regard.spec.values import Aligned, readable

name = "native"

MOST_COMPONENTS = 256
"""The largest head size that the kernels take."""

MOST_BITS = 4 << 30
"""Bytes of bitmaps that a mask may need; a mask that is a few spans in each row needs none."""

MOST_TOP = 256
"""The most keys of a query that the kernels keep in order."""

MOST_PLACES = 2**30
"""The most keys, queries or offsets that statistics of distances count with."""

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
    if q.dtype not in canonical.TYPES:
        return f"the kernels compute in float32; chunked computes in {str(q.dtype).removeprefix('torch.')}"
    if components is None:
        kind = type(problem.score).__name__
        return f"the score {kind} is no dot product; chunked runs any score"
    if problem.bias.by_block():
        return "a bias that is made for each pair would lie in memory whole; chunked makes it by blocks"
    if components > MOST_COMPONENTS or sizes.dv > MOST_COMPONENTS:
        return (
            f"a head size of {max(components, sizes.dv)} is above {MOST_COMPONENTS}, the kernels' most; "
            "chunked takes any"
        )
    normalizer = type(problem.normalizer)
    if normalizer is not Softmax and normalizer is not Sigmoid:
        return f"the kernels know Softmax and Sigmoid, not {normalizer.__name__}; chunked runs it"
    for observer in problem.observers:
        kind = type(observer).__name__
        if type(observer) not in KINDS:
            return f"the kernels know no {kind}; chunked runs any observer"
        if normalizer is Sigmoid:
            return f"the kernels observe Softmax only, no Sigmoid as {kind} would; chunked observes any"
        if isinstance(observer, TopK) and observer.count > MOST_TOP:
            return f"the kernels keep at most {MOST_TOP} keys in order, not {observer.count}; chunked any"
        if isinstance(observer, Aligned) and max(sizes.q, sizes.k, abs(observer.shift)) >= MOST_PLACES:
            return f"the kernels count distances up to {MOST_PLACES}; chunked counts any"
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
            return (
                f"the mask may need {needed / 2**30:.3g} GiB of bits, more than {MOST_BITS >> 30}; "
                "chunked asks it block by block"
            )
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
    form, tensors = canonical.form(problem)
    learns = torch.is_grad_enabled() and canonical.learns(tensors)
    if done is not None and done[0].dtype == tensors.q.dtype:
        made = _Made(*done, {})
    else:
        made = _forward(form, tensors, learns or bool(problem.observers))
    if made is None:
        made = _with_what_is_not_finite(problem, learns)
        if made is None:
            return chunked.run(problem)
    if learns:
        names = [name for name in DIFFERENTIABLE if name in made.found]
        seen = [made.found[name] for name in names]
        out, rows, *seen = _Attention.apply(form, names, (made.out, made.rows, *seen), *tensors)
        made = _Made(out, rows, {**made.found, **dict(zip(names, seen, strict=True))})
    out = made.out if made.out.dtype == problem.q.dtype else made.out.to(problem.q.dtype)
    if form.asked is None:
        return Answer(out, ())
    assert made.rows is not None, "rows were asked for"
    return Answer(out, results(form.asked, made.rows[0], made.found))


@torch.no_grad()
def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """The output and, for the backward pass, three numbers of each row, (3, b, h, q); without autograd."""
    made = _forward(*canonical.form(problem)) or _with_what_is_not_finite(problem, False)
    if made is None or made.rows is None:
        return chunked.run(problem).out, torch.zeros((3, *problem.q.shape[:3]))
    return made.out.to(problem.q.dtype), made.rows


@torch.no_grad()
def rows_of(problem: Problem, lse: Tensor) -> Tensor:
    """What `forward` would leave of the rows, (3, b, h, q), from their log-sum-exp alone."""
    sees = lse > -torch.inf
    top = torch.where(sees, lse * math.log2(math.e) / canonical.call(*canonical.form(problem)).unit, 0)
    return torch.stack((lse, top, torch.where(lse.isnan(), lse, sees))).float()


Formed = tuple[Form, Tensors]
"""A problem in its normal form: for those who ask more than once."""


@torch.no_grad()
def revisit(problem: Problem, rows: Tensor, formed: Formed | None = None) -> observation.Found:
    """What a problem's observers ask of the final weights, from what `forward` left of the rows."""
    form, tensors = canonical.form(problem) if formed is None else formed
    asked = lower(problem.observers, form.sizes)
    _, top, share = rows
    return observation.revisit(asked, canonical.call(form, tensors), form.sizes, top, share)


@torch.no_grad()
def weights(problem: Problem, rows: Tensor, box: Box, formed: Formed | None = None) -> Tensor:
    """The weights of a box, from what `forward` left of the rows."""
    form, tensors = canonical.form(problem) if formed is None else formed
    _, top, share = rows
    return observation.weights(canonical.call(form, tensors), box, top, share)


class _Made(NamedTuple):
    """What a forward pass made."""

    out: Tensor
    rows: Tensor | None
    """(3, b, h, q): log-sum-exp, the score that weights are relative to, the share of a weight of 1."""
    found: observation.Found


@torch.no_grad()
def _with_what_is_not_finite(problem: Problem, learns: bool) -> _Made | None:
    """The output and rows of a call whose numbers are not all finite, or lead to some that are not.

    None where chunked must run it, which knows the gradients of what is left, and who sees what under a
    sigmoid.
    """
    clean, *bad = problem.finite()
    if bad[0] is not None and (learns or isinstance(problem.normalizer, Sigmoid)):
        return None
    return _forward(*canonical.form(clean), bad=bad)


def _forward(
    form: Form, tensors: Tensors, keep: bool = True, bad: Sequence[Tensor | None] | None = None
) -> _Made | None:
    """The output, to keep the rows, and what is asked of the weights.

    None where a number is not finite, unless `bad` says which are not.
    """
    sizes, asked = form.sizes, form.asked
    out = laid_like(tensors.q, sizes.q, sizes.dv)
    rows = None
    if keep:
        rows = torch.empty((3, sizes.b, sizes.h, sizes.q), dtype=torch.float32)
    call = canonical.call(form, tensors)
    if bad is not None:
        bad = tuple(None if t is None else t.contiguous() for t in bad)
        call.set_spoilt(*(0 if t is None else t.data_ptr() for t in bad))
    lse = 0 if rows is None else rows.data_ptr()
    found: observation.Found = {}
    statistics = None
    if asked is not None and asked.first_pass:
        found = observation.room(asked, sizes)
        statistics = observation.statistics(asked, found)
    if not core.forward(call, canonical.view(out), lse, statistics, torch.get_num_threads()):
        return None
    if asked is not None and asked.second_pass:
        assert rows is not None, "what is observed has its rows kept"
        _, top, share = rows
        found |= observation.revisit(asked, call, sizes, top, share)
    return _Made(out, rows, found)


class _Attention(torch.autograd.Function):
    """A call in its normal form, which has run already, as one step of autograd.

    What was made is the output, its rows, and the statistics of `names`.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, form: Form, names: list[str], made: tuple[Tensor, ...], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors, *made)
        ctx.form, ctx.names = form, names
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        count = len(needed)
        tensors, (out, rows, *seen) = Tensors(*saved[:count]), saved[count:]
        out_grad, rows_grad, *rest = grads
        given = _Given(out_grad, None if rows_grad is None else rows_grad[0], dict(zip(ctx.names, rest, strict=True)))
        if all(grad is None for grad in grads):
            found = [None] * count
        elif torch.is_grad_enabled():  # a backward that will be differentiated again
            found = _differentiable_gradients(ctx.form, tensors, given, needed)
        else:
            made = _Made(out, rows, dict(zip(ctx.names, seen, strict=True)))
            found = _gradients(ctx.form, tensors, made, given, needed)
        return None, None, None, *found


class _Given(NamedTuple):
    """Gradients of what was made."""

    out: Tensor | None
    lse: Tensor | None
    found: dict[str, Tensor | None]


def _gradients(
    form: Form, tensors: Tensors, made: _Made, given: _Given, needed: Sequence[bool]
) -> Sequence[Tensor | None]:
    """The gradient of each tensor that needs one."""
    q, k, v, table, pairs, sink = tensors
    out, rows, _ = made
    assert rows is not None, "what learns keeps its rows"
    sizes, lse = form.sizes, rows[0]
    sees = lse > -torch.inf
    out_grad, lse_grad = given.out, given.lse
    if out_grad is None:
        out_grad = torch.zeros((), dtype=out.dtype).expand(out.shape)
    if lse_grad is not None:  # a row that sees nothing stays −∞, whatever it is asked
        lse_grad = torch.where(sees, lse_grad, 0).contiguous()
    # What of each row's mass a sink takes, and what is left for keys.
    taken = torch.zeros_like(lse) if sink is None else torch.exp(sink[:, None] - lse)
    taken, mass = torch.where(sees, taken, 0), torch.where(sees, 1 - taken, 0)
    statistics, shift = None, lse_grad
    pulled = form.asked and observation.gradients(form.asked, sizes, sees, given.found)
    if form.asked and pulled:
        statistics, kept = pulled
        see = functools.partial(_see, form, tensors)
        along = observation.along(form.asked, sizes, kept, made.found, mass, see)
        shift = -along if lse_grad is None else lse_grad - along
    out_grad = canonical.readable_as_stored(out_grad)
    of_q, of_k, of_v = (laid_like(t, t.shape[2], t.shape[3]) for t in (q, k, v))
    of_table = of_pairs = of_sink = None
    if table is not None and needed[3]:
        of_table = torch.empty((sizes.h, sizes.q + sizes.k - 1), dtype=torch.float32)
    # A bias that is shared along the keys moves whole rows of scores: its gradient follows from theirs.
    by_row = pairs is not None and pairs.shape[3] == 1 and form.shift is None
    if pairs is not None and needed[4] and not by_row:
        of_pairs = torch.zeros(pairs.shape, dtype=torch.float32)
    delta = torch.empty(lse.shape, dtype=torch.float32)
    core.backward(
        canonical.call(form, tensors),
        canonical.view(out),
        canonical.view(out_grad),
        rows.data_ptr(),
        0 if shift is None else shift.data_ptr(),
        delta.data_ptr(),
        canonical.view(of_q),
        canonical.view(of_k),
        canonical.view(of_v),
        0 if of_table is None else of_table.data_ptr(),
        None if of_pairs is None else canonical.shared_view(of_pairs),
        statistics,
        torch.get_num_threads(),
    )
    if table is not None and of_table is not None:
        of_table = of_table if table.shape[0] == sizes.h else of_table.sum(0, keepdim=True)
    if pairs is not None and needed[4] and by_row:
        whole = delta.double() * taken + (0 if lse_grad is None else lse_grad)
        of_pairs = whole[..., None].sum_to_size(pairs.shape)
    if pairs is not None and of_pairs is not None:
        of_pairs = of_pairs.to(pairs.dtype)
    if sink is not None and needed[5]:
        # A sink is a key whose value is 0; delta is Σ weight · its gradient − lse_grad.
        of_sink = -(taken * delta).sum((0, 2))
    return [g if n else None for g, n in zip((of_q, of_k, of_v, of_table, of_pairs, of_sink), needed, strict=True)]


def _see(form: Form, tensors: Tensors, statistics: core.Statistics) -> None:
    """A forward pass for statistics alone: of the values, one column."""
    sizes = form.sizes._replace(dv=1)
    call = canonical.call(form._replace(sizes=sizes), tensors._replace(v=tensors.v[..., :1]))
    out = torch.empty((sizes.b, sizes.h, sizes.q, 1), dtype=tensors.q.dtype)
    core.forward(call, canonical.view(out), 0, statistics, torch.get_num_threads())


def _differentiable_gradients(
    form: Form, tensors: Tensors, given: _Given, needed: Sequence[bool]
) -> Sequence[Tensor | None]:
    """The same by the chunked backend, whose backward can be differentiated."""
    asked = [] if form.asked is None else again(form.asked, given.found)
    if given.lse is not None:
        asked.append((LogSumExp(), given.lse))
    answer = chunked.run(canonical.problem(form, tensors, tuple(one for one, _ in asked)))
    made = [] if given.out is None else [(answer.out, given.out)]
    made += [(one, grad) for (one,), (_, grad) in zip(answer.observed, asked, strict=True)]
    outputs, grads = zip(*made, strict=True)
    wanted = [t for t, n in zip(tensors, needed, strict=True) if n and t is not None]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if n else None for n in needed]
