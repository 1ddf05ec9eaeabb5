"""The ways to run a case: PyTorch's own, the plain formula, and regard's backends.

An arm is made ready first, where masks are built and kernels compiled; only the call that comes out is timed.
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
from regard_benchmarks.statistics import in_pytorch, observers

Result = tuple[Tensor, ...]
"""The output, after it the statistics, and then the gradients, where the case asks for them."""

Call = Callable[[], Result]


@dataclass(frozen=True)
class Arm:
    """One way to run a case."""

    name: str
    ready: Callable[[Inputs], Call]
    """Prepares what need not be done for each call, and gives the call."""
    why_not: Callable[[Case], str | None]
    """One sentence why this arm cannot run the case, or None."""

    def call(self, inputs: Inputs) -> Call:
        """The call, with gradients where the case asks for them."""
        forward = self.ready(inputs)

        def once() -> Result:
            with torch.set_grad_enabled(inputs.case.backward):
                result = forward()
            if inputs.case.backward:
                lowered = (result[1].mean(),) if inputs.case.seen == PENALTY else ()
                result += torch.autograd.grad(
                    (result[0], *lowered), inputs.learned, (inputs.upstream, *(None for _ in lowered))
                )
            return result

        return once


@dataclass(frozen=True)
class PlainArm(Arm):
    """Another arm on a plainer case: what a feature, or what it costs to see, is compared with."""

    plainer: Callable[[Case], Case] = Case.plain

    def call(self, inputs: Inputs) -> Call:
        return super().call(Inputs.of(self.plainer(inputs.case)))


def sdpa(inputs: Inputs) -> Call:
    """`scaled_dot_product_attention`, as fast as the case lets it be."""
    i = inputs
    causal = i.case.mask == CAUSAL
    fixed = None if causal else i.visible()
    if i.case.twist and i.part is None and fixed is None:
        fixed = i.bias_map()

    def call() -> Result:
        bias = i.bias_map() if i.part is not None else fixed
        return (
            functional.scaled_dot_product_attention(
                i.q, i.k, i.v, attn_mask=bias, dropout_p=i.dropout, is_causal=causal
            ),
        )

    return call


def _sdpa_not(case: Case) -> str | None:
    if case.twist in (SOFTCAP, SINKS):
        return {SOFTCAP: "never caps scores", SINKS: "never has sinks"}[case.twist]
    if case.mask != "full" and case.twist not in ("", DROPOUT, WIDE, ASCENDING):
        return "takes a causal mask or a bias, not both"
    if case.span and case.shape[2] > 8192:
        size = case.shape[2] ** 2 / 2**30
        return f"has no window: it would need a mask of {size:.0f} GiB and visit every pair"
    return too_much(5 * case.map_bytes if case.twist in (RELATIVE, DROPOUT) else 0)


def eager(inputs: Inputs) -> Call:
    """The formula as the textbooks write it, all scores at once."""
    i = inputs
    visible, statistics = i.visible(), in_pytorch(i.case)
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
    if inputs.case.twist != SINKS or inputs.part is None:
        return scores.softmax(-1)
    sink = inputs.part[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sink), -1).softmax(-1)[..., :-1]


def _eager_not(case: Case) -> str | None:
    pairs = case.map_bytes // case.dtype.itemsize
    if case.dtype != torch.float32 and pairs > 2**25:
        return f"would take minutes a call in {case.kind} at this size"
    return too_much((5 if case.backward else 3) * case.map_bytes)  # maps alive at a time


def too_much(needed: int) -> str | None:
    """Whether so many bytes are more than fits here."""
    available = free_memory()
    if available is None or needed < 0.7 * available:
        return None
    return f"needs {needed / 2**30:.1f} GiB, here are {available / 2**30:.1f}"


def regard(backend: str) -> Callable[[Inputs], Call]:
    """This library, by the name of a backend."""

    def ready(inputs: Inputs) -> Call:
        i, options, asked = inputs, inputs.options(), observers(inputs.case)

        def plain() -> Result:
            return (attend.attention(i.q, i.k, i.v, **options, backend=backend),)

        def seeing() -> Result:
            seen = attend.observe(i.q, i.k, i.v, *asked, **options, backend=backend)
            results = (seen[one] for one in asked)
            parts = (part if isinstance(part, tuple) else (part,) for part in results)
            return (seen.out, *itertools.chain.from_iterable(parts))

        return seeing if asked else plain

    return ready


def native_not(case: Case) -> str | None:
    """Why the native backend cannot run a case, asked with a small one like it."""
    if reason := native.here():
        return reason
    i = Inputs.of(case.small(64))
    return native.why_not(Problem.of(i.q, i.k, i.v, observers(i.case), **i.options()))


SDPA = Arm("SDPA", sdpa, _sdpa_not)
EAGER = Arm("eager", eager, _eager_not)
NATIVE = Arm("regard native", regard("native"), native_not)
CHUNKED = Arm("regard chunked", regard("chunked"), lambda case: None)
NATIVE_PLAIN = PlainArm("native, plain", NATIVE.ready, lambda case: native_not(case.plain()))
SDPA_PLAIN = PlainArm("SDPA, plain", SDPA.ready, lambda case: None)
NATIVE_BLIND = PlainArm(NATIVE_PLAIN.name, NATIVE.ready, native_not, Case.blind)
SDPA_BLIND = PlainArm(SDPA.name, SDPA.ready, _sdpa_not, Case.blind)


@dataclass(frozen=True)
class ForcedArm(Arm):
    """The native kernels of one instruction set; the core's own choice is left as it was."""

    isa: str

    def call(self, inputs: Inputs) -> Call:
        once = super().call(inputs)

        def forced() -> Result:
            usual = core.isa()
            core.use(self.isa)
            try:
                return once()
            finally:
                core.use(usual)

        return forced


def forced_arms() -> tuple[Arm, ...]:
    """SDPA, and the native kernels of every instruction set that this machine can run.

    >>> forced_arms()[0].name
    'SDPA'
    """
    isas = core.kernels() if native.here() is None else ()
    forced = (ForcedArm(f"native {isa}", NATIVE.ready, native_not, isa) for isa in isas)
    return (SDPA, *forced) if isas else (SDPA, NATIVE)
