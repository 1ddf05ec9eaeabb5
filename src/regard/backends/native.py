"""The C++ core as a backend: exact attention on processors, forward and backward, in linear memory.

Kernels see work, not names. A call is first brought to a canonical form by a few differentiable operations:
a dot product, one table for all biases by distance and one tensor for all others, spans or tiles for the
mask (`lowering/canonical.py`, `native/kernel.h`). Running that is one step of autograd, which keeps its inputs, the
output and three numbers for each row.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from regard._native import core
from regard.backends import chunked
from regard.backends import statistics as observation
from regard.backends.planner import plan
from regard.backends.prepared import Memory, Prepared, thin
from regard.integrations.compat.torch_internals import forward_mode_active
from regard.lowering import tiles
from regard.lowering.canonical import (
    DTYPE_CODES,
    CanonicalCall,
    CanonicalTensors,
    canonicalize,
    resolve_negation,
    shared_view,
    view,
)
from regard.lowering.reductions import KINDS, Buffers, Kind, Reductions, finish, lower_observers, row_of
from regard.problem import Answer, Problem
from regard.shapes import Box, empty_with_layout_of
from regard.spec.normalizers import Sigmoid, Softmax
from regard.spec.observers import LogSumExp, Observer, TopK
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
_BLOCK = 64, 256  # queries and keys whose scores a thread has in memory


@functools.cache
def available() -> str | None:
    """Why this backend cannot run on this machine, or None."""
    isa = os.environ.get("REGARD_ISA")
    try:
        if isa:
            core.use(isa)
    except ValueError as error:
        return f"REGARD_ISA={isa}: {error}"
    return None


def why_not(problem: Problem) -> str | None:
    """Why this backend cannot run the call, or None."""
    reason = available()
    if reason is not None:
        return reason
    q, sizes = problem.q, problem.sizes
    components = problem.score.components(sizes.d)
    if not q.is_cpu:
        return f"the kernels run on processors, not on {sizes.device.type}; chunked runs anywhere"
    if q.dtype not in DTYPE_CODES:
        return f"the kernels compute in float32; chunked computes in {str(q.dtype).removeprefix('torch.')}"
    if components is None:
        kind = type(problem.score).__name__
        return f"the score {kind} is no dot product; chunked runs any score"
    if problem.bias.by_block():
        return "a bias that is computed for each pair would be in memory whole; chunked computes it by blocks"
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
        if row_of(observer) is None:
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
    if forward_mode_active():
        return "the kernels have no forward-mode derivative; chunked has"
    if sizes.b * sizes.h * sizes.q * sizes.k > 8 * MOST_BITS:
        needed = tiles.bitmap_bytes(problem.mask, sizes)
        if needed > MOST_BITS:
            return (
                f"the mask may need {needed / 2**30:.3g} GiB of bits, more than {MOST_BITS >> 30}; "
                "chunked evaluates it block by block"
            )
    return None


def prepare(problem: Problem, lse: Tensor | None = None, recorded: bool = False) -> Prepared:
    """One call, lowered when it is first needed."""
    if 0 in problem.sizes[:7]:
        return chunked.prepare(problem, lse)  # nothing to multiply: only shapes matter
    return PreparedCall(problem, lse, recorded=recorded)


class PreparedCall:
    """A call for the kernels: its canonical form, and three numbers of each row once a forward pass ran."""

    def __init__(
        self,
        problem: Problem,
        lse: Tensor | None = None,
        canonical: CanonicalCall | None = None,
        rows: Tensor | None = None,
        recorded: bool = False,
    ) -> None:
        self.problem = problem
        self._given_lse, self._given_canonical, self._given_rows = lse, canonical, rows
        self._recorded = recorded

    def forward(self) -> Answer:
        """Output and statistics, as one step of autograd."""
        return self._run(None)

    def save(self) -> tuple[Tensor, Tensor]:
        """The output and, for the backward pass, three numbers of each row, (3, b, h, q); without autograd."""
        with torch.no_grad():
            result = _forward(canonicalize(self.problem), None) or _with_non_finite(self.problem, None, False)
            if result is None or result.rows is None:
                return chunked.prepare(self.problem).save()
            return result.out.to(self.problem.q.dtype), result.rows

    def resume(self, out: Tensor, rows: Tensor) -> Answer:
        """`forward`, from what `save` returned for the same problem, unless it was rounded since."""
        return self._run(None if self.problem.finite()[1] is not None else ForwardResult(out, rows, {}))

    def statistics(self, observers: Sequence[Observer[Any]]) -> tuple[Any, ...]:
        """The result of each observer, without gradients: from a pass over the keys, or from the rows' log-sum-exp."""
        problem = thin(self.problem).observing(*observers)
        refused = why_not(problem) is not None
        passing, second = plan(problem.observers, problem.sizes, self._recorded)
        if refused and why_not(replace(problem, observers=second)) is not None:
            passing, second = problem.observers, ()
        tensors: dict[Observer[Any], tuple[Tensor, ...]] = {}
        with torch.no_grad():
            if second:
                _, top, share = self.rows
                reductions = lower_observers(second, self._canonical.form.sizes)
                call, sizes = self._canonical.core_call(), self._canonical.form.sizes
                buffers = observation.second_pass(reductions, call, sizes, top, share)
                tensors |= zip(second, finish(reductions, self.lse(), buffers), strict=True)
            if passing:
                rest = replace(problem, observers=passing)
                prepared = chunked.prepare(rest) if refused else PreparedCall(rest, None, self._thin_canonical)
                tensors |= zip(passing, prepared.forward().observed, strict=True)
        return tuple(observer.result(*tensors[observer]) for observer in problem.observers)

    def weights(self, box: Box) -> Tensor:
        """The weights of a box, in time that its size alone decides."""
        with torch.no_grad():
            return observation.weights(self._canonical.core_call(), box, *self.rows[1:])

    def memory(self) -> Memory:
        """Queries that are computed together, and the bytes of scores in memory at a time."""
        sizes = self.problem.sizes
        rows, keys = _BLOCK
        everything = 4 * sizes.b * sizes.h * sizes.q * sizes.k
        return Memory(rows, min(4 * rows * keys * torch.get_num_threads(), everything))

    def part(self, b: range, h: range, q: range) -> PreparedCall:
        """Some batch rows, heads and queries (from a multiple of 64) as a call of their own, at their own cost."""
        with torch.no_grad():
            canonical = self._canonical.part(b, h, q, self._tabled_mask)
            rows = self.rows[:, b.start : b.stop, h.start : h.stop, q.start : q.stop].contiguous()
            return PreparedCall(canonical.problem(), None, canonical, rows)

    def reach(self, queries: range) -> range:
        """The keys from the first to the last that any of some queries may see."""
        return self._canonical.form.lowered_mask.reach(queries, self.problem.sizes.k)

    def canonical(self) -> CanonicalCall:
        """The canonical form, without gradients."""
        return self._canonical

    @functools.cached_property
    def _canonical(self) -> CanonicalCall:
        """Computed once: masks of long texts take longer than a part."""
        if self._given_canonical is not None:
            return self._given_canonical
        with torch.no_grad():
            return canonicalize(self.problem)

    @functools.cached_property
    def rows(self) -> Tensor:
        """Of each row: log-sum-exp, the score that weights are relative to, a weight of 1's share: (3, b, h, q)."""
        if self._given_rows is not None:
            return self._given_rows
        lse = self._given_lse
        if lse is None:
            return self.save()[1]
        with torch.no_grad():
            sees = lse > -torch.inf
            top = torch.where(sees, lse * math.log2(math.e) / self._canonical.core_call().unit, 0)
            return torch.stack((lse, top, torch.where(lse.isnan(), lse, sees))).float()

    def lse(self) -> Tensor:
        """The log-sum-exp of each row of scores, (b, h, q)."""
        return self.rows[0]

    @functools.cached_property
    def _tabled_mask(self) -> tiles.Tabled:
        return self._canonical.tabled_mask()

    @property
    def _thin_canonical(self) -> CanonicalCall:
        """The canonical form with one column of the values."""
        form, tensors = self._canonical
        return CanonicalCall(form._replace(sizes=form.sizes._replace(dv=1)), tensors._replace(v=tensors.v[..., :1]))

    def _run(self, result: ForwardResult | None) -> Answer:
        problem = self.problem
        call = self._given_canonical or canonicalize(problem)
        learns = torch.is_grad_enabled() and call.tensors.need_gradient
        reductions = lower_observers(problem.observers, call.form.sizes) if problem.observers else None
        if result is None or result.out.dtype != call.tensors.q.dtype:
            result = _forward(call, reductions, learns or reductions is not None)
        if result is None:
            result = _with_non_finite(problem, reductions, learns)
            if result is None:
                return chunked.prepare(problem).forward()
        if learns:
            kinds = [kind for kind in KINDS if kind.differentiable and kind in result.buffers]
            statistics = [result.buffers[kind][0] for kind in kinds]
            out, rows, *statistics = _Attention.apply(
                call, reductions, kinds, (result.out, result.rows, *statistics), *call.tensors
            )
            differentiable = {kind: (tensor,) for kind, tensor in zip(kinds, statistics, strict=True)}
            result = ForwardResult(out, rows, {**result.buffers, **differentiable})
        out = result.out if result.out.dtype == problem.q.dtype else result.out.to(problem.q.dtype)
        if reductions is None:
            return Answer(out, ())
        assert result.rows is not None, "rows are computed where statistics are"
        return Answer(out, finish(reductions, result.rows[0], result.buffers))


class ForwardResult(NamedTuple):
    """What a forward pass computed."""

    out: Tensor
    rows: Tensor | None
    """(3, b, h, q): log-sum-exp, the score that weights are relative to, the share of a weight of 1."""
    buffers: Buffers


@torch.no_grad()
def _with_non_finite(problem: Problem, reductions: Reductions | None, learns: bool) -> ForwardResult | None:
    """The result of a call whose numbers are not all finite, or lead to some that are not.

    None where chunked must run it, which knows the gradients of what is left, and which rows see what under a
    sigmoid.
    """
    clean, *bad = problem.finite()
    if bad[0] is not None and (learns or isinstance(problem.normalizer, Sigmoid)):
        return None
    return _forward(canonicalize(clean), reductions, bad=bad)


def _forward(
    call: CanonicalCall, reductions: Reductions | None, keep: bool = True, bad: Sequence[Tensor | None] | None = None
) -> ForwardResult | None:
    """The output, with `keep` the rows, and the reductions over the weights.

    None where a number is not finite, unless `bad` says which are not.
    """
    with torch.no_grad():
        sizes, tensors = call.form.sizes, call.tensors
        out = empty_with_layout_of(tensors.q, sizes.q, sizes.dv)
        rows = None
        if keep:
            rows = torch.empty((3, sizes.b, sizes.h, sizes.q), dtype=torch.float32)
        lowered = call.core_call()
        if bad is not None:
            bad = tuple(None if t is None else t.contiguous() for t in bad)
            lowered.set_non_finite(*(0 if t is None else t.data_ptr() for t in bad))
        lse = 0 if rows is None else rows.data_ptr()
        buffers: Buffers = {}
        statistics = None
        if reductions is not None and reductions.forward_kinds:
            buffers = observation.allocate(reductions, sizes)
            statistics = observation.attach(reductions, buffers)
        if not core.forward(lowered, view(out), lse, statistics, torch.get_num_threads()):
            return None
        if reductions is not None and reductions.second_pass:
            assert rows is not None, "rows are computed where statistics are"
            _, top, share = rows
            buffers |= observation.second_pass(reductions, lowered, sizes, top, share)
        return ForwardResult(out, rows, buffers)


class _Attention(torch.autograd.Function):
    """A canonical call, which has run already, as one step of autograd.

    Its outputs are the output, the rows, and the differentiable buffers.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        call: CanonicalCall,
        reductions: Reductions | None,
        kinds: list[Kind],
        outputs: tuple[Tensor, ...],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors, *outputs)
        ctx.form, ctx.reductions, ctx.kinds = call.form, reductions, kinds
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[4:]
        count = len(needed)
        (out, rows, *statistics) = saved[count:]
        call = CanonicalCall(ctx.form, CanonicalTensors(*saved[:count]))
        out_grad, rows_grad, *rest = grads
        output_grads = OutputGradients(
            out_grad, None if rows_grad is None else rows_grad[0], dict(zip(ctx.kinds, rest, strict=True))
        )
        if all(grad is None for grad in grads):
            gradients: Sequence[Tensor | None] = [None] * count
        elif torch.is_grad_enabled():  # a backward that will be differentiated again
            gradients = _differentiable_gradients(call, ctx.reductions, output_grads, needed)
        else:
            buffers: Buffers = {kind: (tensor,) for kind, tensor in zip(ctx.kinds, statistics, strict=True)}
            gradients = _gradients(call, ctx.reductions, ForwardResult(out, rows, buffers), output_grads, needed)
        return None, None, None, None, *gradients


class OutputGradients(NamedTuple):
    """Gradients of what a forward pass computed."""

    out: Tensor | None
    lse: Tensor | None
    buffers: dict[Kind, Tensor | None]


def _gradients(
    call: CanonicalCall,
    reductions: Reductions | None,
    result: ForwardResult,
    output_grads: OutputGradients,
    needed: Sequence[bool],
) -> Sequence[Tensor | None]:
    """The gradient of each tensor that needs one."""
    q, k, v, table, bias, sink = call.tensors
    out, rows, _ = result
    assert rows is not None, "rows are computed where gradients are"
    sizes, lse = call.form.sizes, rows[0]
    sees = lse > -torch.inf
    out_grad, lse_grad = output_grads.out, output_grads.lse
    if out_grad is None:
        out_grad = torch.zeros((), dtype=out.dtype).expand(out.shape)
    if lse_grad is not None:  # a row that sees nothing stays −∞
        lse_grad = torch.where(sees, lse_grad, 0).contiguous()
    # What of each row's mass a sink takes, and what is left for keys.
    sink_share = torch.zeros_like(lse) if sink is None else torch.exp(sink[:, None] - lse)
    sink_share, mass = torch.where(sees, sink_share, 0), torch.where(sees, 1 - sink_share, 0)
    statistics, shift = None, lse_grad
    observed = reductions and observation.gradients(reductions, sizes, sees, output_grads.buffers)
    alive: list[Tensor] = []
    if reductions and observed:
        statistics, buffer_grads, alive = observed
        run = functools.partial(_statistics_only, call)
        weighted = observation.weighted_gradients(reductions, sizes, buffer_grads, result.buffers, mass, run)
        shift = -weighted if lse_grad is None else lse_grad - weighted
    out_grad = resolve_negation(out_grad)
    of_q, of_k, of_v = (empty_with_layout_of(t, t.shape[2], t.shape[3]) for t in (q, k, v))
    of_table = of_bias = of_sink = None
    if table is not None and needed[3]:
        of_table = torch.empty((sizes.h, sizes.q + sizes.k - 1), dtype=torch.float32)
    # A bias that is shared along the keys moves whole rows of scores: its gradient follows from theirs.
    by_row = bias is not None and bias.shape[3] == 1 and call.form.shift is None
    if bias is not None and needed[4] and not by_row:
        of_bias = torch.zeros(bias.shape, dtype=torch.float32)
    delta = torch.empty(lse.shape, dtype=torch.float32)
    core.backward(
        call.core_call(),
        view(out),
        view(out_grad),
        rows.data_ptr(),
        0 if shift is None else shift.data_ptr(),
        delta.data_ptr(),
        view(of_q),
        view(of_k),
        view(of_v),
        0 if of_table is None else of_table.data_ptr(),
        None if of_bias is None else shared_view(of_bias),
        statistics,
        torch.get_num_threads(),
    )
    del alive
    if table is not None and of_table is not None:
        of_table = of_table if table.shape[0] == sizes.h else of_table.sum(0, keepdim=True)
    if bias is not None and needed[4] and by_row:
        whole = delta.double() * sink_share + (0 if lse_grad is None else lse_grad)
        of_bias = whole[..., None].sum_to_size(bias.shape)
    if bias is not None and of_bias is not None:
        of_bias = of_bias.to(bias.dtype)
    if sink is not None and needed[5]:
        # A sink is a key whose value is 0; delta is Σ weight · its gradient − lse_grad.
        of_sink = -(sink_share * delta).sum((0, 2))
    return [g if n else None for g, n in zip((of_q, of_k, of_v, of_table, of_bias, of_sink), needed, strict=True)]


def _statistics_only(call: CanonicalCall, statistics: core.Statistics) -> None:
    """A forward pass for statistics alone: of the values, one column."""
    form, tensors = call
    sizes = form.sizes._replace(dv=1)
    lowered = CanonicalCall(form._replace(sizes=sizes), tensors._replace(v=tensors.v[..., :1])).core_call()
    out = torch.empty((sizes.b, sizes.h, sizes.q, 1), dtype=tensors.q.dtype)
    core.forward(lowered, view(out), 0, statistics, torch.get_num_threads())


def _differentiable_gradients(
    call: CanonicalCall, reductions: Reductions | None, output_grads: OutputGradients, needed: Sequence[bool]
) -> Sequence[Tensor | None]:
    """The same by the chunked backend, whose backward can be differentiated."""
    pairs: list[tuple[Observer[Any], Tensor]] = []
    if reductions is not None:
        for kind, grad in output_grads.buffers.items():
            pairs += [] if grad is None else kind.observers(reductions, grad)
    if output_grads.lse is not None:
        pairs.append((LogSumExp(), output_grads.lse))
    answer = chunked.prepare(call.problem(tuple(observer for observer, _ in pairs))).forward()
    outputs = [] if output_grads.out is None else [(answer.out, output_grads.out)]
    outputs += [(statistic, grad) for (statistic,), (_, grad) in zip(answer.observed, pairs, strict=True)]
    tensors, grads = zip(*outputs, strict=True)
    leaves = [t for t, n in zip(call.tensors, needed, strict=True) if n and t is not None]
    result = iter(torch.autograd.grad(tensors, leaves, grads, create_graph=True, allow_unused=True))
    return [next(result) if n else None for n in needed]
