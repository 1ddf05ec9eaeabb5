"""A short way for calls of the native kernels that are like one before: for small ones, most of their time.

In a model, whose layers leave nothing of Python in the processor's caches, checks and values cost more than a
small call itself. Those of a call before are those of the same sizes, mask and score now.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from regard._native import core
from regard.backends import native
from regard.integrations.compat.torch_internals import forward_mode_active
from regard.lowering import canonical, tiles
from regard.problem import Problem
from regard.shapes import empty_with_layout_of
from regard.spec.masks import Mask
from regard.spec.scores import Dot
from regard.spec.values import readable

_PLAIN = (Tensor, Parameter)
_Sizes = tuple[int, int, int, int, int, int, int]


def lookup(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, score: Dot | None) -> Tensor | None:
    """The output of a call like one that `store` knows; None where there is none, or more than the output is needed."""
    known = _calls.get((q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, mask, score))
    if known is None or not (q.is_cpu and k.is_cpu and v.is_cpu) or _more_than_output(q, k, v):
        return None
    sizes, scale, softcap, lowered = known
    call = core.Call(
        canonical.DTYPE_CODES[q.dtype], sizes, canonical.view(q), canonical.view(k), canonical.view(v), scale, softcap
    )
    if lowered.spans_at is not None:
        call.set_spans(*lowered.spans_at)
    if lowered.tiles_at is not None:
        call.set_tiles(*lowered.tiles_at)
    out = empty_with_layout_of(q, sizes[3], sizes[6])
    return out if core.forward(call, canonical.view(out), 0, None, torch.get_num_threads()) else None


def store(problem: Problem, mask: Mask | None, score: Dot | None) -> None:
    """That a call with this mask and score and nothing else ran as this problem, if these kernels run it."""
    q, k, v, sizes = problem.q, problem.k, problem.v, problem.sizes
    if _more_than_output(q, k, v) or not problem.mask.plain() or 0 in sizes[:7] or native.why_not(problem):
        return
    assert isinstance(problem.score, Dot)
    dot = problem.score.scaled(sizes.d)
    assert dot.scale is not None
    if len(_calls) >= _MOST_CALLS:
        _calls.clear()
    key = q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, mask, score
    _calls[key] = sizes[:7], dot.scale, dot.softcap or 0.0, tiles.lower_mask(problem.mask, sizes)


_calls: dict[Any, tuple[_Sizes, float, float, tiles.LoweredMask]] = {}
_MOST_CALLS = 256


def _more_than_output(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether gradients are recorded, or the tensors are not plain ones in memory."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return True
    if type(q) not in _PLAIN or type(k) not in _PLAIN or type(v) not in _PLAIN:
        return True
    if q.is_neg() or k.is_neg() or v.is_neg() or not readable(q):
        return True
    return forward_mode_active()
