"""The methods that run a case: PyTorch's own, the plain formula, and regard's backends.

A method is prepared first: masks are built and kernels compiled. Only the call that this returns is timed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from regard import attend
from regard._native import core
from regard.backends import native
from regard.problem import Problem
from regard.system.hardware import free_memory
from regard_benchmarks.cases import ASCENDING, CAUSAL, DROPOUT, PENALTY, RELATIVE, SINKS, SOFTCAP, WIDE, Case
from regard_benchmarks.inputs import CAP, Inputs
from regard_benchmarks.statistics import observers, statistics_in_pytorch

Result = tuple[Tensor, ...]
"""The output, then the statistics, then the gradients, where the case has them."""

Call = Callable[[], Result]


@dataclass(frozen=True)
class Method:
    """A way to compute a case."""

    name: str
    prepare: Callable[[Inputs], Call]
    """Does what need not be done for each call, and returns the call."""
    why_not: Callable[[Case], str | None]
    """One sentence why this method cannot run the case, or None."""

    def call(self, inputs: Inputs) -> Call:
        """The call, with gradients where the case has a backward pass."""
        forward = self.prepare(inputs)

        def run() -> Result:
            with torch.set_grad_enabled(inputs.case.backward):
                result = forward()
            if inputs.case.backward:
                penalty = (result[1].mean(),) if inputs.case.seen == PENALTY else ()
                result += torch.autograd.grad(
                    (result[0], *penalty), inputs.differentiable, (inputs.grad_output, *(None for _ in penalty))
                )
            return result

        return run


@dataclass(frozen=True)
class Baseline(Method):
    """A method on a simpler case: the cost of a feature or of statistics is relative to it."""

    simplify: Callable[[Case], Case] = Case.plain

    def call(self, inputs: Inputs) -> Call:
        return super().call(Inputs.of(self.simplify(inputs.case)))


def sdpa(inputs: Inputs) -> Call:
    """`scaled_dot_product_attention`, as fast as the case lets it be."""
    i = inputs
    causal = i.case.mask == CAUSAL
    attn_mask = None if causal else i.visible()
    if i.case.twist and i.parameter is None and attn_mask is None:
        attn_mask = i.bias_map()

    def call() -> Result:
        mask = i.bias_map() if i.parameter is not None else attn_mask
        return (
            functional.scaled_dot_product_attention(
                i.q, i.k, i.v, attn_mask=mask, dropout_p=i.dropout, is_causal=causal
            ),
        )

    return call


def _why_not_sdpa(case: Case) -> str | None:
    if case.twist in (SOFTCAP, SINKS):
        return {SOFTCAP: "never caps scores", SINKS: "never has sinks"}[case.twist]
    if case.mask != "full" and case.twist not in ("", DROPOUT, WIDE, ASCENDING):
        return "takes a causal mask or a bias, not both"
    if case.span and case.shape[2] > 8192:
        size = case.shape[2] ** 2 / 2**30
        return f"has no window: it would need a mask of {size:.0f} GiB and compute every pair"
    return exceeds_memory(5 * case.map_bytes if case.twist in (RELATIVE, DROPOUT) else 0)


def eager(inputs: Inputs) -> Call:
    """The formula as the textbooks write it, all scores at once."""
    i = inputs
    visible, statistics = i.visible(), statistics_in_pytorch(i.case)
    repeat = i.q.shape[1] // i.k.shape[1]

    def call() -> Result:
        k, v = (t.repeat_interleave(repeat, 1) if repeat > 1 else t for t in (i.k, i.v))
        scores = i.q @ k.mT * i.q.shape[3] ** -0.5
        if i.softcap:
            scores = CAP * torch.tanh(scores / CAP)
        bias = i.bias_map()
        if bias is not None:
            scores = scores + bias
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        weights = _softmax(scores, i)
        del scores
        out = functional.dropout(weights, i.dropout) @ v if i.dropout else weights @ v
        return (out, *statistics(weights))

    return call


def _softmax(scores: Tensor, inputs: Inputs) -> Tensor:
    if inputs.case.twist != SINKS or inputs.parameter is None:
        return scores.softmax(-1)
    sink = inputs.parameter[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sink), -1).softmax(-1)[..., :-1]


def _why_not_eager(case: Case) -> str | None:
    pairs = case.map_bytes // case.dtype.itemsize
    if case.dtype != torch.float32 and pairs > 2**25:
        return f"would take minutes a call in {case.kind} at this size"
    return exceeds_memory((5 if case.backward else 3) * case.map_bytes)  # score matrices alive at a time


def exceeds_memory(needed: int) -> str | None:
    """Why so many bytes do not fit into free memory, or None."""
    available = free_memory()
    if available is None or needed < 0.7 * available:
        return None
    return f"needs {needed / 2**30:.1f} GiB, here are {available / 2**30:.1f}"


def regard(backend: str) -> Callable[[Inputs], Call]:
    """How to prepare this library's attention on a backend."""

    def prepare(inputs: Inputs) -> Call:
        i, options, statistics = inputs, inputs.options(), observers(inputs.case)

        def plain() -> Result:
            return (attend.attention(i.q, i.k, i.v, **options, backend=backend),)

        def observed() -> Result:
            seen = attend.observe(i.q, i.k, i.v, *statistics, **options, backend=backend)
            results = (seen[observer] for observer in statistics)
            parts = (part if isinstance(part, tuple) else (part,) for part in results)
            return (seen.out, *itertools.chain.from_iterable(parts))

        return observed if statistics else plain

    return prepare


def why_not_native(case: Case) -> str | None:
    """Why the native backend cannot run a case, found with a small case like it."""
    if reason := native.available():
        return reason
    i = Inputs.of(case.small(64))
    return native.why_not(Problem.of(i.q, i.k, i.v, observers(i.case), **i.options()))


SDPA = Method("SDPA", sdpa, _why_not_sdpa)
EAGER = Method("eager", eager, _why_not_eager)
NATIVE = Method("regard native", regard("native"), why_not_native)
CHUNKED = Method("regard chunked", regard("chunked"), lambda case: None)
NATIVE_PLAIN = Baseline("native, plain", NATIVE.prepare, lambda case: why_not_native(case.plain()))
SDPA_PLAIN = Baseline("SDPA, plain", SDPA.prepare, lambda case: None)
NATIVE_UNOBSERVED = Baseline(NATIVE_PLAIN.name, NATIVE.prepare, why_not_native, Case.unobserved)
SDPA_UNOBSERVED = Baseline(SDPA.name, SDPA.prepare, _why_not_sdpa, Case.unobserved)


@dataclass(frozen=True)
class ForcedInstructionSet(Method):
    """The native kernels of one instruction set; the core's own choice is restored after each call."""

    isa: str

    def call(self, inputs: Inputs) -> Call:
        run = super().call(inputs)

        def forced() -> Result:
            before = core.isa()
            core.use(self.isa)
            try:
                return run()
            finally:
                core.use(before)

        return forced


def methods_by_isa() -> tuple[Method, ...]:
    """SDPA, and the native kernels of every instruction set that this machine can run.

    >>> methods_by_isa()[0].name
    'SDPA'
    """
    isas = core.kernels() if native.available() is None else ()
    forced = (ForcedInstructionSet(f"native {isa}", NATIVE.prepare, why_not_native, isa) for isa in isas)
    return (SDPA, *forced) if isas else (SDPA, NATIVE)
