"""Attention as one operator with a name, which graphs can hold: `torch.compile`, `torch.export`.

A graph holds tensors and constants. A call's values become a list of their tensors and a string of words
(`Value.spelled`); the operator ``regard::attention`` puts them together again and runs the usual call, with
its checks and its choice of a backend. Its gradient is an operator too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.backends import choose, native
from regard.errors import OptionError
from regard.problem import Answer, Problem, sizes_of
from regard.shapes import laid_like
from regard.spec.biases import Bias, as_bias
from regard.spec.masks import Mask, as_mask
from regard.spec.normalizers import Normalizer, as_normalizer
from regard.spec.scores import Score, as_score
from regard.spec.values import read

_CALL = "Tensor q, Tensor k, Tensor v, Tensor[] held, str[] words, float dropout, Tensor? seed, str backend"
_PARTS = "mask", "bias", "score", "normalizer"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | Tensor | None,
    bias: Bias | Tensor | None,
    score: Score | Any | None,
    normalizer: Normalizer | None,
    dropout: float,
    backend: str,
) -> Tensor | None:
    """The call as an operator in the graph; None where a value has no words: it holds a Python function."""
    values = (as_mask(mask), as_bias(bias), as_score(score), as_normalizer(normalizer))
    words: list[str] = []
    held: list[Tensor] = []
    for value in values:
        spelled = value.spelled()
        if spelled is None:
            return None
        words.append(spelled)
        held.extend(value.tensors())
    seed = torch.randint(2**31, ()) if dropout else None
    return torch.ops.regard.attention(q, k, v, held, words, dropout, seed, backend)[0]


def _problem(
    q: Tensor, k: Tensor, v: Tensor, held: Sequence[Tensor], words: Sequence[str], dropout: float, seed: Tensor | None
) -> Problem:
    tensors = iter(held)
    parts: dict[str, Any] = {name: read(text, tensors) for name, text in zip(_PARTS, words, strict=True)}
    number = None if seed is None else int(seed)
    return Problem.of(q, k, v, **parts, dropout=dropout, seed=number)


@torch.library.custom_op("regard::attention", mutates_args=(), schema=f"({_CALL}) -> (Tensor, Tensor)")
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    held: Sequence[Tensor],
    words: Sequence[str],
    dropout: float,
    seed: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The output, and what the native backward needs of each row."""
    with torch.no_grad():
        problem = _problem(q, k, v, held, words, dropout, seed)
        chosen, _ = choose(problem, backend)
        told, rows = _empty(q, k, v)
        if chosen is native and 0 not in problem.sizes[:7]:
            out, rows = native.forward(problem)
        else:
            out, rows = chosen.run(problem).out, rows.zero_()
        return _laid(out, told), rows


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty(q, k, v)


def _empty(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if not q.ndim == k.ndim == v.ndim == 4:
        sizes_of(q, k, v)  # raises, as the call itself would
    rows = q.new_empty((3, *q.shape[:3]), dtype=torch.float32)
    return laid_like(q, q.shape[2], v.shape[3]), rows


def _laid(made: Tensor, into: Tensor) -> Tensor:
    """Stored as the graph was told that it would be."""
    return made if made.stride() == into.stride() else into.copy_(made)


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
    held: Sequence[Tensor],
    words: Sequence[str],
    dropout: float,
    seed: Tensor | None,
    backend: str,
) -> list[Tensor]:
    """The gradients of those of q, k, v and the held tensors that need one."""
    given = (q, k, v, *held)
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(n) for t, n in zip(given, needed, strict=True)]
        problem = _problem(leaves[0], leaves[1], leaves[2], leaves[3:], words, dropout, seed)
        answer = _again(problem, backend, out.detach(), rows.detach())
    wanted = [leaf for leaf, n in zip(leaves, needed, strict=True) if n]
    found = torch.autograd.grad(answer.out, wanted, out_grad, materialize_grads=True)
    targets = _backward_fake(out_grad, out, rows, needed, q, k, v, held)
    return [_laid(grad, target) for grad, target in zip(found, targets, strict=True)]


def _again(problem: Problem, backend: str, out: Tensor, rows: Tensor) -> Answer:
    """The call once more, for its gradients; what the kernels did is not done again."""
    chosen, _ = choose(problem, backend)
    if chosen is native and problem.finite()[1] is None:
        return native.run(problem, (out, rows))
    return chosen.run(problem)


def _backward_fake(
    out_grad: Tensor,
    out: Tensor,
    rows: Tensor,
    needed: Sequence[bool],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    held: Sequence[Tensor],
    *rest: Any,
) -> list[Tensor]:
    made = [laid_like(t, t.shape[2], t.shape[3]) for t in (q, k, v)]
    made += [t.new_empty(t.shape) for t in held]
    return [t for t, n in zip(made, needed, strict=True) if n]


def _once(keys: Any, *given: Any) -> list[Tensor]:
    """On to the kernel, unless its result is to be differentiated again: that would come out as 0."""
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in given):
        raise OptionError(
            "create_graph",
            "True, for a call in a compiled graph",
            "False there",
            "Take second derivatives of regard.attention outside of the graph.",
        )
    operator = torch.ops.regard.attention_backward.default
    return operator.redispatch(keys & torch._C._after_autograd_keyset, *given)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType]


_library.impl("attention_backward", _backward, "CompositeExplicitAutograd")
_library.impl("attention_backward", _once, "Autograd", with_keyset=True)
torch.library.register_fake("regard::attention_backward", _backward_fake, lib=_library)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, held, *ctx.rest = inputs
    *words, seed, backend = ctx.rest
    ctx.rest = *words, backend
    ctx.save_for_backward(q, k, v, seed, *output, *held)


def _differentiate(ctx: Any, out_grad: Tensor, rows_grad: Tensor | None) -> tuple[Any, ...]:
    q, k, v, seed, out, rows, *held = ctx.saved_tensors
    words, dropout, backend = ctx.rest
    of_q, of_k, of_v, of_held, *_ = ctx.needs_input_grad
    needed = [of_q, of_k, of_v, *of_held]
    call = q, k, v, held, words, dropout, seed, backend
    found = iter(torch.ops.regard.attention_backward(out_grad, out, rows, needed, *call))
    grads = [next(found) if n else None for n in needed]
    return *grads[:3], grads[3:], None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
