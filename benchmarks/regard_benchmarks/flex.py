"""FlexAttention on a CPU, compiled, where it can."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard_benchmarks.cases import ALIBI, CAUSAL, DOCUMENTS, FULL, SOFTCAP, WINDOW, Case
from regard_benchmarks.inputs import CAP, Inputs, slopes
from regard_benchmarks.methods import Call, Method

BLOCK = 128
"""Of its block mask. torch 2.13 reads past the end on a CPU where the keys do not fill their last block:
observed as NaN at 40 positions, not every time."""

LONGEST = 8192
"""The most positions for which its block mask is computed, which evaluates every pair."""


def why_not(case: Case) -> str | None:
    """Why FlexAttention cannot run a case on this CPU, or None.

    >>> why_not(Case("plain", (1, 2, 64, 8), passes="forward + backward"))
    'has no backward pass on a CPU'
    """
    if case.backward:
        return "has no backward pass on a CPU"
    if case.twist not in ("", SOFTCAP, ALIBI):
        return f"is not implemented for this case here: {case.twist}"
    if case.shape[2] % BLOCK:
        return f"is wrong on a CPU where the length is not a multiple of {BLOCK}"
    if case.mask != FULL and case.shape[2] > LONGEST:
        return f"evaluates every pair for its block mask: past {LONGEST} positions that takes too long"
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return "compiles C++ for each variant, and there is no C++ compiler here"
    return None


def prepare(inputs: Inputs) -> Call:
    """Compile it for the case, which takes seconds and is not timed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by torch about torch's own code
        compiled, options = _compile(inputs)
        i = inputs

        def call() -> tuple[Tensor, ...]:
            return (compiled(i.q, i.k, i.v, **options),)

        with torch.no_grad():
            call()
    return call


def _compile(inputs: Inputs) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    import torch._inductor.config as inductor  # pyright: ignore[reportMissingImports]
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    inductor.compile_threads = 1  # no pool of processes beside the measurement
    n, mask_mod = inputs.case.shape[2], _mask_mod(inputs.case)
    mask = mask_mod and create_block_mask(mask_mod, None, None, n, n, device="cpu")
    # Without code compiled for other cases, whose guards would be checked at each call.
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    return compiled, {"score_mod": _score_mod(inputs.case), "block_mask": mask}


def _mask_mod(case: Case) -> Callable[..., Tensor] | None:
    span = case.span
    return {
        FULL: None,
        CAUSAL: lambda b, h, i, j: i >= j,
        WINDOW: lambda b, h, i, j: (i >= j) & (i - j <= span),
        DOCUMENTS: lambda b, h, i, j: i // span == j // span,
    }[case.pattern]


def _score_mod(case: Case) -> Callable[..., Tensor] | None:
    if case.twist == SOFTCAP:
        return lambda score, b, h, i, j: CAP * torch.tanh(score / CAP)
    if case.twist == ALIBI:
        slope = slopes(case.shape[1])
        return lambda score, b, h, i, j: score - slope[h] * (i - j).abs()
    return None


FLEX = Method("FlexAttention", prepare, why_not)
