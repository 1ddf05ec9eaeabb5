"""The names and the storage of attention weights in other libraries: one `Layout` for each family."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PROJECTIONS = "query", "key", "value", "output"


@dataclass(frozen=True)
class Part:
    """One tensor of a layout, and the names of our tensors that it contains, concatenated by rows."""

    name: str
    holds: tuple[str, ...]
    needed: bool = True

    def split(self, tensor: Tensor, rows: Sequence[int], heads: int) -> Sequence[Tensor]:
        """Our tensors, of these numbers of rows; views, no copies."""
        del heads
        ends = itertools.accumulate(rows)
        return [tensor.narrow(0, end - n, n) for n, end in zip(rows, ends, strict=True)]

    def join(self, ours: Sequence[Tensor], heads: int) -> Tensor:
        """The tensor of the layout, from ours."""
        del heads
        return torch.cat(list(ours)) if len(ours) > 1 else ours[0]

    def shape(self, shape: Sequence[Any]) -> tuple[Any, ...]:
        """The shape of the layout's tensor from that of our joined tensors, or the reverse."""
        return tuple(shape)


class Transposed(Part):
    """Stored as (inputs, outputs), as GPT-2's Conv1D does."""

    def split(self, tensor: Tensor, rows: Sequence[int], heads: int) -> Sequence[Tensor]:
        return super().split(tensor.mT, rows, heads)

    def join(self, ours: Sequence[Tensor], heads: int) -> Tensor:
        return super().join(ours, heads).mT.contiguous()

    def shape(self, shape: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(reversed(shape))


class ByHead(Part):
    """The rows of each head's query, key and value side by side: (heads, 3, head size) rows."""

    def split(self, tensor: Tensor, rows: Sequence[int], heads: int) -> Sequence[Tensor]:
        apart = tensor.reshape(heads, len(rows), -1, *tensor.shape[1:])
        return [apart.select(1, i).flatten(0, 1) for i in range(len(rows))]

    def join(self, ours: Sequence[Tensor], heads: int) -> Tensor:
        return torch.stack([part.unflatten(0, (heads, -1)) for part in ours], 1).flatten(0, 2)


@dataclass(frozen=True)
class Layout:
    """How one family names and stores the weights of an attention layer."""

    name: str
    parts: tuple[Part, ...]
    beside: tuple[str, ...] = ()
    """Prefixes of names that are no weights of attention: `read` ignores them."""

    def names(self) -> str:
        """Its names as text, optional ones in brackets."""
        return ", ".join(part.name if part.needed else f"[{part.name}]" for part in self.parts)


def _linear(theirs: str, *ours: str, weight: type[Part] = Part, bias: type[Part] = Part) -> tuple[Part, ...]:
    """The weight of a projection, or of several that are stored as one, and its bias if it has one."""
    return (
        weight(f"{theirs}.weight", tuple(f"{name}.weight" for name in ours)),
        bias(f"{theirs}.bias", tuple(f"{name}.bias" for name in ours), needed=False),
    )


def _separate(query: str, key: str, value: str, output: str) -> tuple[Part, ...]:
    names = zip((query, key, value, output), PROJECTIONS, strict=True)
    return tuple(part for theirs, ours in names for part in _linear(theirs, ours))


_QKV = PROJECTIONS[:3]
_NORMS = tuple(
    Part(f"{theirs}.{what}", (f"{ours}.{what}",), needed=False)
    for theirs, ours in (("q_norm", "query_norm"), ("k_norm", "key_norm"))
    for what in ("weight", "bias")
)
_IN_BIAS = Part("in_proj_bias", tuple(f"{name}.bias" for name in _QKV), needed=False)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "torch",
        (Part("in_proj_weight", tuple(f"{name}.weight" for name in _QKV)), _IN_BIAS, *_linear("out_proj", "output")),
    ),
    Layout(
        "torch-cross",
        (
            *(Part(f"{name[0]}_proj_weight", (f"{name}.weight",)) for name in _QKV),
            _IN_BIAS,
            *_linear("out_proj", "output"),
        ),
    ),
    Layout("timm", (*_linear("qkv", *_QKV), *_NORMS, *_linear("proj", "output"))),
    Layout("bert", _separate("self.query", "self.key", "self.value", "output.dense"), beside=("output.LayerNorm.",)),
    Layout("vit", _separate("attention.query", "attention.key", "attention.value", "output.dense")),
    Layout(
        "gpt2",
        (*_linear("c_attn", *_QKV, weight=Transposed), *_linear("c_proj", "output", weight=Transposed)),
        beside=("bias", "masked_bias"),  # the causal mask, in old files
    ),
    Layout("llama", (*_separate("q_proj", "k_proj", "v_proj", "o_proj"), *_NORMS), beside=("rotary_emb.",)),
    Layout("bart", _separate("q_proj", "k_proj", "v_proj", "out_proj")),
    Layout(
        "t5", (*_separate("q", "k", "v", "o"), Part("relative_attention_bias.weight", ("bias.table",), needed=False))
    ),
    Layout(
        "neox",
        (*_linear("query_key_value", *_QKV, weight=ByHead, bias=ByHead), *_linear("dense", "output")),
        beside=("bias", "masked_bias", "rotary_emb."),
    ),
    Layout("phi3", (*_linear("qkv_proj", *_QKV), *_linear("o_proj", "output")), beside=("rotary_emb.",)),
)
