"""Attention as one operator with a name, which graphs can hold: `torch.compile`, `torch.export`.

A graph holds tensors and constants. A call's specification becomes a list of its tensors and its serialized text
(`Value.serialize`); the operator ``regard::attention`` deserializes it and runs the usual call, with its checks and its
choice of a backend. Its gradient is an operator too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from regard.backends import prepare
from regard.errors import OptionError
from regard.integrations.compat.torch_internals import below_autograd
from regard.problem import Problem, sizes_of
from regard.shapes import empty_with_layout_of
from regard.spec.attention_spec import AttentionSpec
from regard.spec.values import deserialize

_CALL = "Tensor q, Tensor k, Tensor v, Tensor[] tensors, str spec, float dropout, Tensor? seed, str backend"


def attention_in_graph(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, backend: str) -> Tensor | None:
    """The call as an operator in the graph; None where a value cannot be serialized: it holds a Python function."""
    # Dropout is an argument of its own: a rate that changes is a symbol while Dynamo traces, which has no text.
    text = AttentionSpec(*spec.parts).serialize()
    if text is None:
        return None
    seed = torch.randint(2**31, ()) if spec.dropout else None
    return torch.ops.regard.attention(q, k, v, list(spec.tensors()), text, spec.dropout, seed, backend)[0]


def _problem(
    q: Tensor, k: Tensor, v: Tensor, tensors: Sequence[Tensor], text: str, dropout: float, seed: Tensor | None
) -> Problem:
    values = cast("AttentionSpec", deserialize(text, iter(tensors)))
    spec = AttentionSpec.of(*values.parts, dropout)
    return Problem.bound(q, k, v, spec, seed=None if seed is None else int(seed))


@torch.library.custom_op("regard::attention", mutates_args=(), schema=f"({_CALL}) -> (Tensor, Tensor)")
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: Sequence[Tensor],
    spec: str,
    dropout: float,
    seed: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The output, and what the native backward needs of each row."""
    with torch.no_grad():
        out, rows = prepare(_problem(q, k, v, tensors, spec, dropout, seed), backend).save()
        return _laid(out, _empty(q, k, v)[0]), rows


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty(q, k, v)


def _empty(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if not q.ndim == k.ndim == v.ndim == 4:
        sizes_of(q, k, v)  # raises, as the call itself would
    rows = q.new_empty((3, *q.shape[:3]), dtype=torch.float32)
    return empty_with_layout_of(q, q.shape[2], v.shape[3]), rows


def _laid(tensor: Tensor, target: Tensor) -> Tensor:
    """With the strides that the graph expects."""
    return tensor if tensor.stride() == target.stride() else target.copy_(tensor)


# A library of our own for the backward: its kernel uses autograd, so nothing may be excluded before it.
_library = torch.library.Library("regard", "FRAGMENT")
_library.define(
    f"attention_backward(Tensor out_grad, Tensor out, Tensor rows, bool[] needed, {_CALL}) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _backward(
    out_grad: Tensor,
    out: Tensor,
    rows: Tensor,
    needed: Sequence[bool],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: Sequence[Tensor],
    spec: str,
    dropout: float,
    seed: Tensor | None,
    backend: str,
) -> list[Tensor]:
    """The gradients of those of q, k, v and the specification's tensors that need one."""
    inputs = (q, k, v, *tensors)
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)]
        problem = _problem(leaves[0], leaves[1], leaves[2], leaves[3:], spec, dropout, seed)
        answer = prepare(problem, backend).resume(out.detach(), rows.detach())
    differentiated = [leaf for leaf, n in zip(leaves, needed, strict=True) if n]
    grads = torch.autograd.grad(answer.out, differentiated, out_grad, materialize_grads=True)
    targets = _backward_fake(out_grad, out, rows, needed, q, k, v, tensors)
    return [_laid(grad, target) for grad, target in zip(grads, targets, strict=True)]


def _backward_fake(
    out_grad: Tensor,
    out: Tensor,
    rows: Tensor,
    needed: Sequence[bool],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: Sequence[Tensor],
    *rest: Any,
) -> list[Tensor]:
    grads = [empty_with_layout_of(t, t.shape[2], t.shape[3]) for t in (q, k, v)]
    grads += [t.new_empty(t.shape) for t in tensors]
    return [t for t, n in zip(grads, needed, strict=True) if n]


def _once(keys: Any, *arguments: Any) -> list[Tensor]:
    """On to the kernel, unless its result is to be differentiated a second time: that would give 0."""
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments):
        raise OptionError(
            "create_graph",
            "True, for a call in a compiled graph",
            "False there",
            "Take second derivatives of regard.attention outside of the graph.",
        )
    operator = torch.ops.regard.attention_backward.default
    return operator.redispatch(below_autograd(keys), *arguments)


_library.impl("attention_backward", _backward, "CompositeExplicitAutograd")
_library.impl("attention_backward", _once, "Autograd", with_keyset=True)
torch.library.register_fake("regard::attention_backward", _backward_fake, lib=_library)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tensors, ctx.spec, ctx.dropout, seed, ctx.backend = inputs
    ctx.save_for_backward(q, k, v, seed, *output, *tensors)


def _differentiate(ctx: Any, out_grad: Tensor, rows_grad: Tensor | None) -> tuple[Any, ...]:
    q, k, v, seed, out, rows, *tensors = ctx.saved_tensors
    of_q, of_k, of_v, of_tensors, *_ = ctx.needs_input_grad
    needed = [of_q, of_k, of_v, *of_tensors]
    call = q, k, v, tensors, ctx.spec, ctx.dropout, seed, ctx.backend
    result = iter(torch.ops.regard.attention_backward(out_grad, out, rows, needed, *call))
    grads = [next(result) if n else None for n in needed]
    return *grads[:3], grads[3:], None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
