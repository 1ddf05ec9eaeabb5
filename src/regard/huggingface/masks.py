"""What transformers asks for in place of a mask of n × n: the same pairs, as a value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import masking_utils

from regard.attend import attention_handler
from regard.errors import OptionError
from regard.integrations.compat.transformers_internals import mask_function_closure
from regard.shapes import Box, Sizes
from regard.spec.masks import Causal, Documents, Everything, Given, Mask, Where, Window, dense

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_WITHOUT_EFFECT = frozenset({"local_size", "allow_is_bidirectional_skip", "dtype", "config", "cache_position"})
"""Arguments that change nothing here: `mask_function` has the window, and a mask as a value has no dtype."""


@dataclass(frozen=True, eq=False)
class LazyMask:
    """A mask on its way through a model: to the model a tensor (b, 1, q, k), to regard a value."""

    mask: Mask
    shape: tuple[int, int, int, int]
    position: tuple[int, int] | None
    """Where the first query and the first key stand in the text, where that is known."""
    device: torch.device

    @property
    def ndim(self) -> int:
        return 4

    @property
    def dtype(self) -> torch.dtype:
        return torch.bool

    def contiguous(self) -> LazyMask:
        return self

    def to(self, *_: Any, **__: Any) -> LazyMask:
        return self

    def dense(self) -> Tensor:
        """All of it, for a model that cuts its mask: b · q · k bytes."""
        b, h, q, k = self.shape
        return dense(self.mask, Sizes(b, h, h, q, k, 1, 1, self.device))

    def __getitem__(self, index: Any) -> Tensor:
        return self.dense()[index]


def mask_for(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Any = masking_utils.causal_mask_function,
    attention_mask: Tensor | LazyMask | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **others: Any,
) -> LazyMask | Tensor:
    """What transformers asks for in place of a mask of n × n: the same pairs, as a value.

    The arguments are those of `transformers.AttentionMaskInterface`; `attention_mask`, (b, keys so far), is
    True or 1 where a key is no padding. For a step on a static cache the answer is a tensor, of one query.

    Raises:
        OptionError: a keyword argument that is not known, and so might change the mask.
    """
    for name, given in others.items():
        if name not in _WITHOUT_EFFECT and given is not None and given is not False:
            raise OptionError(
                f"mask_for({name}=…)",
                f"a {type(given).__name__}",
                "arguments whose meaning regard knows",
                "It may change the mask: leave it out, or use attn_implementation='eager'.",
            )
    if isinstance(attention_mask, LazyMask):
        return attention_mask  # `generate` passes the one that it has for all layers
    shape, device = (batch_size, 1, q_length, kv_length), torch.device(device)
    padding = _real_keys(attention_mask, kv_length, kv_offset)
    intercepted = not torch.compiler.is_compiling() and attention_handler.get() is not None
    position = None
    if q_length == 1 and not allow_is_causal_skip and not intercepted:
        # A step on a static cache may be compiled: a number in its mask would be compiled anew each time.
        mask = _as_table(mask_function, 1, kv_length, q_offset, kv_offset, batch_size, use_vmap, device)
        return mask.table if padding is None else mask.table & padding.table
    if isinstance(q_offset, Tensor) and torch.compiler.is_compiling():
        mask = _as_table(mask_function, q_length, kv_length, q_offset, kv_offset, batch_size, use_vmap, device)
    else:
        offsets = int(q_offset), int(kv_offset)
        value = _value_of(mask_function, *offsets, kv_length)
        # A decoder that looks at its encoder stands at none of its keys.
        position = None if isinstance(value, Everything) else offsets
        if value is not None:
            mask = _simplify(value, q_length, kv_length)
        elif torch.compiler.is_compiling():
            mask = _as_table(mask_function, q_length, kv_length, *offsets, batch_size, use_vmap, device)
        else:
            mask = Where(functools.partial(_evaluate, mask_function, *offsets, use_vmap))
    if padding is not None:
        mask = padding if isinstance(mask, Everything) else mask & padding
    return LazyMask(mask, shape, position, device)


def _real_keys(attention_mask: Tensor | None, kv_length: int, kv_offset: int) -> Given | None:
    """The keys that are no padding, (b, 1, 1, k); None where all are known to be real."""
    if attention_mask is None:
        return None
    real = attention_mask.bool()
    missing = kv_length + kv_offset - real.shape[-1]
    if missing > 0:  # the slots of a static cache that are still empty
        real = nn.functional.pad(real, (0, missing))
    real = real[:, kv_offset : kv_offset + kv_length]
    if not torch.compiler.is_compiling() and bool(real.all()):
        return None
    return Given(real[:, None, None, :])


def _as_table(
    function: MaskFunction,
    queries: int,
    keys: int,
    q_offset: int | Tensor,
    kv_offset: int,
    batch: int,
    use_vmap: bool,
    device: torch.device,
) -> Given:
    """The mask of few queries, or of a function without a name in a graph, as a tensor."""
    indices = Box(range(batch), range(1), range(queries), range(keys)).indices(device)
    allowed = _evaluate(function, q_offset, kv_offset, use_vmap, *indices)
    return Given(allowed.expand(torch.broadcast_shapes(allowed.shape, (1, 1, queries, keys))))


def _evaluate(
    function: MaskFunction,
    q_offset: int | Tensor,
    kv_offset: int,
    use_vmap: bool,
    b: Tensor,
    h: Tensor,
    q: Tensor,
    k: Tensor,
) -> Tensor:
    """A mask function of transformers, of the pairs of which `Where` calls it."""
    q, k = q + q_offset, k + kv_offset
    if not use_vmap:
        return function(b, h, q, k)
    for index in reversed(range(4)):
        dims = tuple(0 if other == index else None for other in range(4))
        function = torch.vmap(function, in_dims=dims)
    return function(*(index.reshape(-1) for index in (b, h, q, k)))


def _value_of(function: Any, q_offset: int, kv_offset: int, keys: int) -> Mask | None:
    """A mask function of transformers' own, as a value; None where it is another."""
    shift = q_offset - kv_offset  # the key at which the first query stands
    if function is masking_utils.causal_mask_function:
        return Causal(offset=shift)
    if function is masking_utils.bidirectional_mask_function:
        return Everything()
    name, cells = ("", {}) if torch.compiler.is_compiling() else mask_function_closure(function)
    match name:
        case "and_masks.<locals>.and_mask" | "or_masks.<locals>.or_mask":
            parts = [_value_of(part, q_offset, kv_offset, keys) for part in cells["mask_functions"]]
            if any(part is None for part in parts):
                return None
            known = [part for part in parts if part is not None]
            join = Mask.__and__ if name.startswith("and") else Mask.__or__
            return functools.reduce(join, known)
        case "sliding_window_overlay.<locals>.inner_mask":
            return Window(cells["sliding_window"] - 1, ahead=_FAR, offset=shift)
        case "sliding_window_bidirectional_overlay.<locals>.inner_mask":
            return Window(*(cells["sliding_window"],) * 2, offset=shift)
        case "chunked_overlay.<locals>.inner_mask":
            positions = torch.arange(keys, device=cells["left_padding"].device) + kv_offset
            chunks = (positions - cells["left_padding"].reshape(-1, 1)) // cells["chunk_size"]
            return Documents(chunks, offset=shift)
        case "packed_sequence_mask_function.<locals>.inner_mask":
            return Documents(cells["packed_sequence_mask"], offset=shift)
        case "remap_positions_for_packed_sequence.<locals>.inner_mask":
            # It comes with the mask of the sequences, in each of which positions rise by 1: what looks at
            # distances only says the same of indices.
            inner = _value_of(cells["mask_function"], q_offset, kv_offset, keys)
            return inner if _by_distance(inner) else None
        case _:
            return None


_FAR = 1 << 30


def _by_distance(mask: Mask | None) -> bool:
    return mask is not None and all(isinstance(part, Causal | Window | Everything) for part in mask.conjuncts())


def _simplify(mask: Mask, queries: int, keys: int) -> Mask:
    """The same mask without the parts that exclude nothing, so that decoding need not evaluate them."""
    parts: list[Mask] = []
    for part in mask.conjuncts():
        match part:
            case Everything():
                continue
            case Causal(offset=int(first)) if first >= keys - 1:
                continue
            case Window(back=back, ahead=ahead, offset=int(first)) if (
                first + queries - 1 <= back and keys - 1 - first <= ahead
            ):
                continue
        parts.append(part)
    return functools.reduce(Mask.__and__, parts) if parts else Everything()
