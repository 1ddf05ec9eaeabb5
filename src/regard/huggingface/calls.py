"""What transformers calls in each attention layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from regard.attend import attention, attention_handler
from regard.errors import OptionError, ShapeError
from regard.huggingface.masks import LazyMask
from regard.integrations.compat.transformers_internals import (
    attention_implementations,
    attentions_collected,
    restore_attention_implementations,
)
from regard.spec.attention_spec import AttentionSpec
from regard.spec.masks import Causal, Documents, Mask, as_mask
from regard.spec.normalizers import Normalizer, Softmax
from regard.spec.scores import Dot, Score
from regard.weights import Weights

NAME = "regard"


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
        attention_mask: What `mask_for` returned, a bool tensor, or one that is added to scores.
        softcap, s_aux: Gemma 2's bound of the scores; gpt-oss's sinks, (h,).
        position_bias: T5's, (1, h, q, k).
        output_attentions: Whether to return the weights too: the whole tensor, without gradients.

    Raises:
        OptionError: a keyword argument that is not known, and so might change what is computed.
    """
    documents = _documents(module, others)
    mask, bias = _mask_and_bias(module, query, key, attention_mask, is_causal)
    if documents is not None:
        mask = documents if mask is None else as_mask(mask) & documents
    if position_bias is not None:
        position_bias = position_bias[..., : key.shape[2]]
        bias = position_bias if bias is None else bias + position_bias
    score: Score = Dot(scaling, softcap)
    normalizer: Normalizer | None = None if s_aux is None else Softmax(s_aux)
    handler = None if torch.compiler.is_compiling() else attention_handler.get()
    if handler is not None:
        position = attention_mask.position if isinstance(attention_mask, LazyMask) else None
        spec = AttentionSpec.of(mask, bias, score, normalizer, dropout)
        out = handler(query, key, value, spec, position=position)
    else:
        out = attention(query, key, value, mask=mask, bias=bias, score=score, normalizer=normalizer, dropout=dropout)
    weights = None
    if output_attentions or (not torch.compiler.is_compiling() and attentions_collected()):
        weights = Weights.of(query, key, mask=mask, bias=bias, score=score, normalizer=normalizer)[:]
        weights = weights.to(query.dtype)
    return out.transpose(1, 2), weights


def _mask_and_bias(
    module: nn.Module, query: Tensor, key: Tensor, given: Tensor | LazyMask | None, is_causal: bool | None
) -> tuple[Mask | Tensor | None, Tensor | None]:
    queries, keys = query.shape[2], key.shape[2]
    if given is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        return (Causal(offset=0) if queries > 1 and causal else None), None
    if given.shape[-1] < keys:
        raise ShapeError(
            "attention_mask",
            f"{given.shape[-1]} keys",
            f"at least the {keys} of the call",
            "Make the mask for all keys, those of the cache included.",
        )
    if isinstance(given, LazyMask):
        return (given.mask if given.shape[-1] == keys else given[..., :keys]), None
    given = given[..., :keys]
    return (given, None) if given.dtype == torch.bool else (None, given)


_WITHOUT_EFFECT = frozenset(
    {
        "position_ids",
        "sliding_window",
        "use_cache",
        "cache_position",
        "output_hidden_states",
        "return_dict",
        "deterministic",
        "max_length_q",
        "max_length_k",
        "layer_idx",
        "num_items_in_batch",
        "past_key_values",
    }
)
"""Arguments that change nothing here: the mask has the window, and the keys are those of the cache."""


def _documents(module: nn.Module, others: dict[str, Any]) -> Documents | None:
    """The documents that arguments describe; an error for an argument of which we cannot know what it does."""
    first, second = (others.pop(f"cu_seq_lens_{side}", None) for side in "qk")
    for name, given in others.items():
        if name not in _WITHOUT_EFFECT and given is not None and given is not False:
            raise OptionError(
                f"{type(module).__name__}({name}=…)",
                f"a {type(given).__name__}",
                "arguments whose meaning regard knows",
                "It may change what is computed: leave it out, or use attn_implementation='eager'.",
            )
    if first is None:
        return None
    if second is not None and not torch.equal(first, second):
        raise OptionError(
            "cu_seq_lens_k",
            "other documents than cu_seq_lens_q",
            "the same for both",
            "Attend to packed documents of the same lengths.",
        )
    lengths = first.diff()
    return Documents(torch.repeat_interleave(torch.arange(len(lengths), device=first.device), lengths))


@contextmanager
def attending(model: PreTrainedModel) -> Iterator[None]:
    """Have a model attend by regard, and by what it did before when the context ends."""
    implementations = attention_implementations(model)
    try:
        if any(name != NAME for _, name in implementations):
            model.set_attn_implementation(NAME)
        yield
    finally:
        restore_attention_implementations(implementations)
