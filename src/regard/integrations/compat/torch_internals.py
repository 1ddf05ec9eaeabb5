"""What of torch has no public name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, TypeVar, cast

import torch
from torch._compile import _disable_dynamo  # pyright: ignore[reportPrivateUsage]
from torch.autograd import forward_ad

Function = TypeVar("Function", bound=Callable[..., Any])

_C: Any = torch._C  # pyright: ignore[reportPrivateUsage]
_forward_ad: Any = forward_ad

NEED_WEIGHTS = 15
"""The place of need_weights among the positional arguments of `multi_head_attention_forward`."""


def functorch_active() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp) runs, in which tensors have no data to read."""
    return _C._are_functorch_transforms_active()


def forward_mode_active() -> bool:
    """Whether forward-mode differentiation runs (`torch.autograd.forward_ad.dual_level`)."""
    return _forward_ad._current_level >= 0


def in_backward() -> bool:
    """Whether this thread runs a backward pass, in which checkpoints recompute their forward pass."""
    return _C._current_graph_task_id() != -1


def in_dispatch_mode() -> bool:
    """Whether a dispatch mode is on: make_fx, fake tensors, FLOP counters."""
    return _C._len_torch_dispatch_stack() > 0


def function_modes() -> Sequence[object]:
    """The `TorchFunctionMode`s that are on in this thread, the innermost last."""
    overrides: Any = torch.overrides
    return overrides._get_current_function_mode_stack()


def below_autograd(keys: Any) -> Any:
    """Of a set of dispatch keys those below autograd, to which its kernel of an operator redispatches."""
    return keys & _C._after_autograd_keyset


def exclude_from_graphs(function: Function) -> Function:
    """`torch.compiler.disable`, which imports Dynamo only where something is compiled: that takes 1.4 s."""
    return cast("Function", _disable_dynamo(function))


def dynamo_imported() -> bool:
    """Whether anything can be compiled so far in this process."""
    return "torch._dynamo" in sys.modules


def without_function_modes(function: Any, **names: Any) -> Any:
    """A copy of a Python function of torch that does not offer itself to function modes: they see what it calls.

    `names` replace globals that it refers to.
    """
    names = {**function.__globals__, "has_torch_function": _false, "has_torch_function_unary": _false, **names}
    del names["__name__"]  # Dynamo would look names up in the module of that name
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _false(tensors: object) -> bool:
    del tensors
    return False
