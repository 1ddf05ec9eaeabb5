"""PyTorch's own attention functions, carried out by regard where the meaning is the same.

`torch_functions` takes over `scaled_dot_product_attention`, and with it `nn.MultiheadAttention` and
`nn.TransformerEncoder`, for a block of code or for good. What it leaves to PyTorch it counts, with reasons.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from regard.attend import attention
from regard.integrations.compat.torch_internals import (
    NEED_WEIGHTS,
    function_modes,
    in_dispatch_mode,
    without_function_modes,
)
from regard.problem import DTYPES
from regard.spec.masks import Causal, Mask
from regard.spec.scores import Dot
from regard.spec.values import readable

_SDPA = F.scaled_dot_product_attention
_MHA = F.multi_head_attention_forward
_PLAIN = (Tensor, Parameter)

WEIGHTS = (
    "need_weights=True asks for all n × n weights, which PyTorch makes: "
    "pass need_weights=False, and look with regard.observe"
)


class torch_functions(TorchFunctionMode):
    """Carries out PyTorch's attention functions by `regard.attention`, where the meaning is the same.

    ``with torch_functions() as calls:`` does so in a block of code, for the thread that runs it. It catches
    `scaled_dot_product_attention` under every name that it was imported by, and `nn.MultiheadAttention`,
    whose fast path is then not taken. A mode of PyTorch looks at each operation, which costs some µs each.

    ``torch_functions().install()`` does so for all threads until `remove`, and costs nothing elsewhere: it
    replaces the functions in `torch.nn.functional` and turns the fast path of `nn.MultiheadAttention` off.
    What imported them by name before, or scripts with TorchScript while installed, escapes it.

    `taken` counts calls that went to regard, `left` those that stayed, by reason; printed, it says so. In a
    compiled graph calls are taken but not counted: counting would be part of the graph.

    The meaning is PyTorch's: causal masks put the first query at the first key, dropout is applied whenever
    asked for, masks and leading dimensions broadcast, autocast casts. Numbers agree to rounding, and dropout
    drops other weights. A row that may see nothing gives zeros and zero gradients, where PyTorch gives zeros
    or NaN.

    >>> from torch.nn.functional import scaled_dot_product_attention
    >>> q, k, v = torch.randn(3, 2, 4, 100, 32).unbind()
    >>> with torch_functions() as calls:
    ...     out = scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> torch.allclose(out, scaled_dot_product_attention(q, k, v, is_causal=True), atol=1e-5)
    True
    >>> print(calls)
    1 call of PyTorch's attention went to regard, none stayed
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        self._left: dict[str, int] = {}

    @property
    def left(self) -> dict[str, int]:
        """How many calls stayed with PyTorch, by reason."""
        return dict(self._left)

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _SDPA:
            return self._sdpa(*args, **kwargs)
        if func is _MHA or func is multi_head_attention_forward:
            return self._mha(types, args, kwargs)
        if func in _BACKWARD and all(kind in _PLAIN for kind in types):  # a checkpoint in it calls attention again
            with self:
                return _BACKWARD[func](*args, **kwargs)
        return func(*args, **kwargs)

    def install(self) -> Self:
        """Take over for all threads, until `remove`."""
        with _LOCK:
            if not _installed:
                _before.append(torch.backends.mha.get_fastpath_enabled())
                torch.backends.mha.set_fastpath_enabled(False)
                F.scaled_dot_product_attention = scaled_dot_product_attention
                F.multi_head_attention_forward = multi_head_attention_forward
            if self not in _installed:
                _installed.append(self)
        return self

    def remove(self) -> None:
        """Give back what `install` took; where others are installed, they go on."""
        with _LOCK:
            if self in _installed:
                _installed.remove(self)
                if not _installed:
                    F.scaled_dot_product_attention = _SDPA
                    F.multi_head_attention_forward = _MHA
                    torch.backends.mha.set_fastpath_enabled(_before.pop())

    def __str__(self) -> str:
        stayed = sum(self._left.values())
        calls = f"{self.taken} call{'s' * (self.taken != 1)}"
        lines = [f"{calls} of PyTorch's attention went to regard, {stayed or 'none'} stayed"]
        lines += [f"{count:>6}  {reason}" for reason, count in self._left.items()]
        return "\n".join(lines)

    __repr__ = __str__

    def _sdpa(self, *args: Any, **kwargs: Any) -> Tensor:
        call = _call(*args, **kwargs)
        if isinstance(call, str):
            self._count(call)
            return _SDPA(*args, **kwargs)
        self._count(None)
        return call()

    def _mha(self, types: Iterable[type], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """PyTorch's layer, whose attention is taken or left as any other."""
        needs = args[NEED_WEIGHTS] if len(args) > NEED_WEIGHTS else kwargs.get("need_weights", True)
        reason = WEIGHTS if needs else None
        for kind in types:
            if kind not in _PLAIN:
                reason = _kind(kind)
        if reason is not None:
            self._count(reason)
            return _MHA(*args, **kwargs)
        if torch.compiler.is_compiling():
            return _layer(*args, **kwargs)
        with self:
            return _layer(*args, **kwargs)

    def _count(self, reason: str | None) -> None:
        if torch.compiler.is_compiling():
            return
        with _LOCK:
            if reason is None:
                self.taken += 1
            else:
                self._left[reason] = self._left.get(reason, 0) + 1


_LOCK = threading.Lock()
_installed: list[torch_functions] = []
_before: list[bool] = []


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What stands in `torch.nn.functional` while a `torch_functions` is installed."""
    run = _SDPA if not _installed or _in_block() else _installed[-1]._sdpa  # pyright: ignore[reportPrivateUsage]
    return run(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


def multi_head_attention_forward(*args: Any, **kwargs: Any) -> Any:
    """What stands in `torch.nn.functional` while a `torch_functions` is installed."""
    if not _installed or _in_block():
        return _MHA(*args, **kwargs)
    return _installed[-1]._mha((), args, kwargs)  # pyright: ignore[reportPrivateUsage]


def _in_block() -> bool:
    """Whether a block of this thread takes the call: it counts it, then."""
    if torch.compiler.is_compiling():
        return False
    return any(isinstance(mode, torch_functions) for mode in function_modes())


def _in_graph(*args: Any, **kwargs: Any) -> Tensor:
    """What PyTorch's layer calls; in a graph no block could catch it."""
    call = _call(*args, **kwargs) if torch.compiler.is_compiling() else ""
    return _SDPA(*args, **kwargs) if isinstance(call, str) else call()


_layer = without_function_modes(_MHA, scaled_dot_product_attention=_in_graph)
_tensor: Any = Tensor
_BACKWARD = {
    function: without_function_modes(function)
    for function in (_tensor.backward, torch.autograd.backward, torch.autograd.grad)
}


def _kind(kind: type) -> str:
    return f"{kind.__name__} is a tensor of a kind of its own: PyTorch asks it how to attend"


def _elsewhere(tensors: Sequence[object]) -> str | None:
    """Why a call with these tensors, here, is not regard's, whatever its other arguments are."""
    for t in tensors:
        if type(t) not in _PLAIN:
            return _kind(type(t))
        t = cast("Tensor", t)
        if t.is_nested:
            return "nested tensors: regard takes several lengths as one with Padding or Documents"
        if t.device.type != "cpu":
            return f"tensors on {t.device.type}, for which PyTorch has kernels of its own"
    if torch.compiler.is_compiling():
        return None
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "torch.jit.trace, which would write down numbers instead of the call"
    if in_dispatch_mode():
        return "a dispatch mode (make_fx, fake tensors, FLOP counters), which knows PyTorch's operators"
    return None


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Callable[[], Tensor] | str:
    """The same call as one of regard's, or why it stays with PyTorch."""
    masks = () if attn_mask is None else (attn_mask,)
    reason = _elsewhere((query, key, value, *masks))
    if reason is not None:
        return reason
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (_cast(t) for t in (query, key, value))
    if query.dtype not in DTYPES or not query.dtype == key.dtype == value.dtype:
        return "dtypes that PyTorch refuses"
    for mask in masks:
        if mask.dtype not in (torch.bool, torch.float32, query.dtype):
            return "a dtype of attn_mask that PyTorch refuses"
        if is_causal:
            return "attn_mask and is_causal=True together, which PyTorch takes for some inputs only"
    if not 0 <= dropout_p < 1:
        return "dropout_p that is not 0 ≤ p < 1"
    if dropout_p and not readable(query) and not torch.compiler.is_compiling():
        return "dropout in a torch.func transform, where PyTorch rules over randomness"
    if scale is not None and not math.isfinite(scale):
        return "a scale that is not finite"
    lead = _lead(query, key, value, enable_gqa)
    if lead is None or not all(_spreads(mask, (*lead, query.shape[-2], key.shape[-2])) for mask in masks):
        return "shapes that do not fit together"
    return partial(
        _attend, query, key, value, attn_mask, lead, dropout_p, Causal(offset=0) if is_causal else None, scale
    )


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    lead: tuple[int, ...],
    dropout: float,
    mask: Mask | None,
    scale: float | None,
) -> Tensor:
    """Any number of leading dimensions as a batch and heads, and back."""
    *batch, heads = (1,) * (2 - len(lead)) + lead
    many = math.prod(batch)
    groups = max(key.shape[-3] if key.ndim > 2 else 1, value.shape[-3] if value.ndim > 2 else 1)

    def four(t: Tensor, heads: int) -> Tensor:
        if t.ndim == 4 and t.shape[0] == many and t.shape[1] == heads:
            return t
        return t.expand(*batch, heads, *t.shape[-2:]).reshape(many, heads, *t.shape[-2:])

    if table is not None and len(batch) > 1:
        table = table[(None,) * (len(batch) + 3 - table.ndim)]
        if any(size > 1 for size in table.shape[: len(batch)]):
            table = table.expand(*batch, *table.shape[-3:])
        table = table.flatten(0, len(batch) - 1)
    added = table is not None and table.dtype != torch.bool
    out = attention(
        four(query, heads),
        four(key, groups),
        four(value, groups),
        mask=mask if added or table is None else table,
        bias=table if added else None,
        score=None if scale is None else Dot(scale=float(scale)),
        dropout=dropout,
    )
    return out if len(lead) == 2 else out.reshape(*lead, *out.shape[-2:])


def _lead(query: Tensor, key: Tensor, value: Tensor, grouped: bool) -> tuple[int, ...] | None:
    """The leading dimensions of the output; None where the shapes do not fit together."""
    least = 3 if grouped else 2
    if min(query.ndim, key.ndim, value.ndim) < least or 0 in (query.shape[-1], value.shape[-1]):
        return None
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        return None
    if not grouped:
        if (same := query.shape[:-2]) == key.shape[:-2] == value.shape[:-2]:
            return tuple(same)
        return _spread(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    h, g = query.shape[-3], key.shape[-3]
    if g != value.shape[-3] or g == 0 or h % g:
        return None
    batch = _spread(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    return None if batch is None else (*batch, h)


def _spread(*shapes: Sequence[int]) -> tuple[int, ...] | None:
    """The shape that all of them broadcast to."""
    found: list[int] = []
    for sizes in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        widest = 1
        for size in sizes:
            if size != 1:
                if widest not in (1, size):
                    return None
                widest = size
        found.append(widest)
    return tuple(reversed(found))


def _spreads(mask: Tensor, shape: tuple[int, ...]) -> bool:
    return 2 <= mask.ndim <= len(shape) and _spread(mask.shape, shape) == shape


def _cast(t: Tensor) -> Tensor:
    """As autocast would."""
    eligible = t.is_floating_point() and t.dtype != torch.float64
    return t.to(torch.get_autocast_dtype("cpu")) if eligible else t
