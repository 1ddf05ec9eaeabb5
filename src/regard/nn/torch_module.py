"""PyTorch's attention module as arguments and weights of a `MultiHeadAttention`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regard import convert
from regard.errors import DtypeError, OptionError
from regard.spec.normalizers import Softmax


def converted_arguments(module: nn.MultiheadAttention) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """The arguments of a `MultiHeadAttention` that computes what the module does, and its weights.

    `add_zero_attn` is one more key that scores 0 and has no value: a sink. `add_bias_kv` is a learned key
    and value, which `MultiHeadAttention` does not have.
    """
    if not isinstance(module, nn.MultiheadAttention):
        raise DtypeError(
            "module",
            f"a {type(module).__name__}",
            "an nn.MultiheadAttention",
            "regard.convert.read takes state dicts of other layers.",
        )
    if module.bias_k is not None or module.bias_v is not None:
        raise OptionError(
            "module",
            "one with add_bias_kv=True",
            "one without a learned key and value",
            "Append bias_k and bias_v to the projected keys and values, and call regard.attention.",
        )
    if module.kdim != module.vdim:
        raise OptionError(
            "module",
            f"kdim={module.kdim} and vdim={module.vdim}",
            "the same width for both",
            "MultiHeadAttention projects both from one context: project one of them first.",
        )
    heads = module.num_heads
    layout = "torch" if module.in_proj_weight is not None else "torch-cross"
    with torch.enable_grad():  # so that `requires_grad` of each parameter is kept
        state = convert.read(module.state_dict(keep_vars=True), layout, heads=heads)
    options: dict[str, Any] = convert.sizes(state, heads=heads)
    options["dropout"] = module.dropout
    if module.add_zero_attn:
        sink = torch.zeros(heads)
        options["normalizer"] = Softmax(sink)
        state["normalizer.sink"] = sink
    return options, state
