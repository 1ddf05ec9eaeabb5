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
from regard.shapes import Box, Sizes
from regard.spec.masks import Causal, Documents, Everything, Given, Mask, Where, Window, dense

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LazyMask:
    """A mask on its way through a model: it looks like a tensor (b, 1, q, k) and holds a value."""

    mask: Mask
    shape: tuple[int, int, int, int]
    place: tuple[int, int] | None
    """The positions of the first query and the first key in the text, where they are known."""
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
    **_: Any,
) -> LazyMask | Tensor:
    """What transformers asks for in place of a mask of n × n: the same pairs, as a value.

    The arguments are those of `transformers.AttentionMaskInterface`; `attention_mask`, (b, keys so far), is
    True or 1 where a key is no padding. For a step on a static cache the answer is a tensor, of one query.
    """
    if isinstance(attention_mask, LazyMask):
        return attention_mask  # made before: what `generate` made for all layers comes back
    shape, device = (batch_size, 1, q_length, kv_length), torch.device(device)
    padding = _real_keys(attention_mask, kv_length, kv_offset)
    watched = not torch.compiler.is_compiling() and attention_handler.get() is not None
    place = None
    if q_length == 1 and not allow_is_causal_skip and not watched:
        # A step on a static cache may be compiled: a number in its mask would be compiled anew each time.
        mask = _tabled(mask_function, 1, kv_length, q_offset, kv_offset, batch_size, use_vmap, device)
        return mask.table if padding is None else mask.table & padding.table
    if isinstance(q_offset, Tensor) and torch.compiler.is_compiling():
        mask = _tabled(mask_function, q_length, kv_length, q_offset, kv_offset, batch_size, use_vmap, device)
    else:
        offsets = int(q_offset), int(kv_offset)
        found = _named(mask_function, *offsets, kv_length)
        # A decoder that looks at its encoder stands at none of its keys.
        place = None if isinstance(found, Everything) else offsets
        if found is not None:
            mask = _simplest(found, q_length, kv_length)
        elif torch.compiler.is_compiling():
            mask = _tabled(mask_function, q_length, kv_length, *offsets, batch_size, use_vmap, device)
        else:
            mask = Where(functools.partial(_asked, mask_function, *offsets, use_vmap))
    if padding is not None:
        mask = padding if isinstance(mask, Everything) else mask & padding
    return LazyMask(mask, shape, place, device)


def _real_keys(attention_mask: Tensor | None, kv_length: int, kv_offset: int) -> Given | None:
    """The keys that are no padding, (b, 1, 1, k); None where all are known to be real."""
    if attention_mask is None:
        return None
    real = attention_mask.bool()
    missing = kv_length + kv_offset - real.shape[-1]
    if missing > 0:  # the places of a static cache that hold nothing yet
        real = nn.functional.pad(real, (0, missing))
    real = real[:, kv_offset : kv_offset + kv_length]
    if not torch.compiler.is_compiling() and bool(real.all()):
        return None
    return Given(real[:, None, None, :])


def _tabled(
    function: MaskFunction,
    queries: int,
    keys: int,
    q_offset: int | Tensor,
    kv_offset: int,
    batch: int,
    one_by_one: bool,
    device: torch.device,
) -> Given:
    """The mask of few queries, or of a function without a name in a graph, as a tensor."""
    indices = Box(range(batch), range(1), range(queries), range(keys)).indices(device)
    allowed = _asked(function, q_offset, kv_offset, one_by_one, *indices)
    return Given(allowed.expand(torch.broadcast_shapes(allowed.shape, (1, 1, queries, keys))))


def _asked(
    function: MaskFunction,
    q_offset: int | Tensor,
    kv_offset: int,
    one_by_one: bool,
    b: Tensor,
    h: Tensor,
    q: Tensor,
    k: Tensor,
) -> Tensor:
    """A mask function of transformers, asked about the pairs that `Where` asks about."""
    q, k = q + q_offset, k + kv_offset
    if not one_by_one:
        return function(b, h, q, k)
    for index in reversed(range(4)):
        dims = tuple(0 if other == index else None for other in range(4))
        function = torch.vmap(function, in_dims=dims)
    return function(*(index.reshape(-1) for index in (b, h, q, k)))


def _named(function: Any, q_offset: int, kv_offset: int, keys: int) -> Mask | None:
    """A mask function that transformers itself made, as a value; None where it is another."""
    shift = q_offset - kv_offset  # the key at which the first query stands
    if function is masking_utils.causal_mask_function:
        return Causal(offset=shift)
    if function is masking_utils.bidirectional_mask_function:
        return Everything()
    name, held = _closure(function)
    match name:
        case "and_masks.<locals>.and_mask" | "or_masks.<locals>.or_mask":
            parts = [_named(part, q_offset, kv_offset, keys) for part in held["mask_functions"]]
            if any(part is None for part in parts):
                return None
            known = [part for part in parts if part is not None]
            join = Mask.__and__ if name.startswith("and") else Mask.__or__
            return functools.reduce(join, known)
        case "sliding_window_overlay.<locals>.inner_mask":
            return Window(held["sliding_window"] - 1, ahead=_FAR, offset=shift)
        case "sliding_window_bidirectional_overlay.<locals>.inner_mask":
            return Window(*(held["sliding_window"],) * 2, offset=shift)
        case "chunked_overlay.<locals>.inner_mask":
            places = torch.arange(keys, device=held["left_padding"].device) + kv_offset
            chunks = (places - held["left_padding"].reshape(-1, 1)) // held["chunk_size"]
            return Documents(chunks, offset=shift)
        case "packed_sequence_mask_function.<locals>.inner_mask":
            return Documents(held["packed_sequence_mask"], offset=shift)
        case "remap_positions_for_packed_sequence.<locals>.inner_mask":
            # It comes with the mask of the sequences, in each of which positions rise by 1: what looks at
            # distances only says the same of indices.
            inner = _named(held["mask_function"], q_offset, kv_offset, keys)
            return inner if _by_distance(inner) else None
        case _:
            return None


_FAR = 1 << 30


def _closure(function: Any) -> tuple[str, dict[str, Any]]:
    """The name of a function inside a function of `masking_utils`, and what it holds; "" for any other."""
    if torch.compiler.is_compiling() or getattr(function, "__module__", "") != masking_utils.__name__:
        return "", {}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return function.__qualname__, {name: cell.cell_contents for name, cell in cells}


def _by_distance(mask: Mask | None) -> bool:
    return mask is not None and all(isinstance(part, Causal | Window | Everything) for part in mask.conjuncts())


def _simplest(mask: Mask, queries: int, keys: int) -> Mask:
    """The same mask without the parts that forbid nothing, so that decoding need not ask them."""
    kept: list[Mask] = []
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
        kept.append(part)
    return functools.reduce(Mask.__and__, kept) if kept else Everything()
