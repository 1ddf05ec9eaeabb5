"""Models of transformers on these kernels: ``attn_implementation="regard"``.

Importing this module registers an attention and a mask function under that name:

    import regard.huggingface
    model = AutoModel.from_pretrained(…, attn_implementation="regard")    # or, of one that is loaded,
    model.set_attn_implementation("regard")

Masks stay what they are, causal, a window, packed documents, padded keys: no tensor of n × n is built. (But
in a compiled graph, where nothing tells a window from another function, it is one of bools, as for SDPA.)
A query that may see nothing (padding on the left) gets zeros; eager attention spreads its weight evenly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, masking_utils
from transformers.utils import output_capturing

from regard.attend import attention, taken_over
from regard.errors import OptionError, ShapeError
from regard.masks import (
    Causal,
    Documents,
    Everything,
    Given,
    Mask,
    Where,
    Window,
    as_mask,
    dense,
    indices_of,
)
from regard.normalizers import Normalizer, Softmax
from regard.scores import Dot, Score
from regard.shapes import Sizes
from regard.weights import Weights

NAME = "regard"

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
    watched = not torch.compiler.is_compiling() and taken_over.get() is not None
    place = None
    if q_length == 1 and not allow_is_causal_skip and not watched:
        # A step on a static cache may be compiled: a number in its mask would be compiled anew each time.
        mask = _tabled(
            mask_function, 1, kv_length, q_offset, kv_offset, batch_size, use_vmap, device
        )
        return mask.table if padding is None else mask.table & padding.table
    if isinstance(q_offset, Tensor) and torch.compiler.is_compiling():
        mask = _tabled(
            mask_function, q_length, kv_length, q_offset, kv_offset, batch_size, use_vmap, device
        )
    else:
        offsets = int(q_offset), int(kv_offset)
        found = _named(mask_function, *offsets, kv_length)
        # A decoder that looks at its encoder stands at none of its keys.
        place = None if isinstance(found, Everything) else offsets
        if found is not None:
            mask = _simplest(found, q_length, kv_length)
        elif torch.compiler.is_compiling():
            mask = _tabled(
                mask_function, q_length, kv_length, *offsets, batch_size, use_vmap, device
            )
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
    indices = indices_of(range(batch), range(1), range(queries), range(keys), device)
    allowed = _asked(function, q_offset, kv_offset, one_by_one, *indices)
    return Given(allowed.expand(torch.broadcast_shapes(allowed.shape, (1, 1, queries, keys))))


def _asked(
    function: MaskFunction, q_offset: int | Tensor, kv_offset: int, one_by_one: bool,
    b: Tensor, h: Tensor, q: Tensor, k: Tensor,
) -> Tensor:  # fmt: skip
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
    if (
        torch.compiler.is_compiling()
        or getattr(function, "__module__", "") != masking_utils.__name__
    ):
        return "", {}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return function.__qualname__, {name: cell.cell_contents for name, cell in cells}


def _by_distance(mask: Mask | None) -> bool:
    return mask is not None and all(
        isinstance(part, Causal | Window | Everything) for part in mask.conjuncts()
    )


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


def attention_for(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | LazyMask | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls in each attention layer, by `transformers.AttentionInterface`.

    Args:
        query, key, value: (b, h, q, d), (b, g, k, d) and (b, g, k, dv).
        attention_mask: What `mask_for` made, a bool tensor, or one that is added to scores.
        softcap, s_aux: Gemma 2's bound of the scores; gpt-oss's sinks, (h,).
        position_bias: T5's, (1, h, q, k).
        output_attentions: Whether the weights are wanted too: the whole tensor, without gradients.

    Raises:
        OptionError: a keyword argument that is not known, and so might change what is computed.
    """
    documents = _understood(module, others)
    mask, bias = _mask_and_bias(module, query, key, attention_mask, is_causal)
    if documents is not None:
        mask = documents if mask is None else as_mask(mask) & documents
    if position_bias is not None:
        position_bias = position_bias[..., : key.shape[2]]
        bias = position_bias if bias is None else bias + position_bias
    score: Score = Dot(scaling, softcap)
    normalizer: Normalizer | None = None if s_aux is None else Softmax(s_aux)
    call: dict[str, Any] = {"mask": mask, "bias": bias, "score": score, "normalizer": normalizer}
    handler = None if torch.compiler.is_compiling() else taken_over.get()
    if handler is not None:
        place = attention_mask.place if isinstance(attention_mask, LazyMask) else None
        out = handler(query, key, value, **call, dropout=dropout, place=place)
    else:
        out = attention(query, key, value, **call, dropout=dropout)
    weights = None
    if output_attentions or _collected():
        weights = Weights.of(query, key, mask=mask, bias=bias, score=score, normalizer=normalizer)[
            :
        ]
        weights = weights.to(query.dtype)
    return out.transpose(1, 2), weights


def _mask_and_bias(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    given: Tensor | LazyMask | None,
    is_causal: bool | None,
) -> tuple[Mask | Tensor | None, Tensor | None]:
    queries, keys = query.shape[2], key.shape[2]
    if given is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        return (Causal(offset=0) if queries > 1 and causal else None), None
    if given.shape[-1] < keys:
        raise ShapeError("attention_mask", f"{given.shape[-1]} keys", f"at least the {keys} of the call",
                         "Make the mask for all keys, those of the cache included.")  # fmt: skip
    if isinstance(given, LazyMask):
        return (given.mask if given.shape[-1] == keys else given[..., :keys]), None
    given = given[..., :keys]
    return (given, None) if given.dtype == torch.bool else (None, given)


def _collected() -> bool:
    """Whether the model's caller wants its attentions; not every model hands that on to its layers."""
    collector = getattr(output_capturing, "_active_collector", None)
    if collector is None or torch.compiler.is_compiling():
        return False
    return any("attentions" in wanted for wanted in collector.get() or ())


_ASIDE = frozenset({
    "position_ids", "sliding_window", "use_cache", "cache_position", "output_hidden_states", "return_dict",
    "deterministic", "max_length_q", "max_length_k", "layer_idx", "num_items_in_batch", "past_key_values",
})  # fmt: skip
"""Arguments that change nothing here: the mask has the window, and the keys are those of the cache."""


def _understood(module: nn.Module, others: dict[str, Any]) -> Documents | None:
    """The documents that arguments tell of; an error for an argument of which we cannot know what it does."""
    first, second = (others.pop(f"cu_seq_lens_{side}", None) for side in "qk")
    for name, given in others.items():
        if name not in _ASIDE and given is not None and given is not False:
            raise OptionError(
                f"{type(module).__name__}({name}=…)", f"a {type(given).__name__}",
                "arguments whose meaning regard knows",
                "It may change what is computed: leave it out, or use attn_implementation='eager'.",
            )  # fmt: skip
    if first is None:
        return None
    if second is not None and not torch.equal(first, second):
        raise OptionError("cu_seq_lens_k", "other documents than cu_seq_lens_q", "the same for both",
                          "Attend to packed documents of the same lengths.")  # fmt: skip
    lengths = first.diff()
    return Documents(
        torch.repeat_interleave(torch.arange(len(lengths), device=first.device), lengths)
    )


@contextmanager
def attending(model: PreTrainedModel) -> Iterator[None]:
    """Have a model attend by regard, and by what it did before when the context ends."""
    before = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    others = [(config, config._attn_implementation) for config in before.values()]
    try:
        if any(name != NAME for _, name in others):
            model.set_attn_implementation(NAME)
        yield
    finally:
        for config, name in others:
            config._attn_implementation_internal = name


AttentionInterface.register(NAME, attention_for)
AttentionMaskInterface.register(NAME, mask_for)
